"""The experiments T1 to T6, on one network."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.tfa.maps import Case, made
from reproductions.tfa.networks import accuracy
from reproductions.tfa.pictures import Picture, taken
from reproductions.tfa.queries import Queries, Sizes, case_of, queries_of
from reproductions.tfa.steps import OneStep
from reproductions.tfa.tasks import Task
from whence.attribution import GradCAM
from whence.core import Logit, ModelScalar, Noise, Shuffled
from whence.evaluation import PointingGame, RelevanceRank, Spearman
from whence.evaluation.ranking import average_precision
from whence.evaluation.training_maps import (
    Concentration,
    KeptPixels,
    RegionFidelity,
    precision_at,
)
from whence.training_features import influence_fn

__all__ = ["FRACTIONS", "TOP", "Table", "run", "widened"]

FRACTIONS = (0.05, 0.1, 0.2, 0.4)
TOP = 5
STEPS = 4
"""Pairs of query and training image for which steps are taken."""

STEPPED = (
    "tfa",
    "input-x-gradient",
    "additive",
    "influence-lrp",
    "shared-evidence",
    "shared-evidence, neutral",
    "2: saliency",
    "2: input x gradient",
    "2: LRP",
    "random pixels",
)
"""Maps whose insertion is measured in steps, too."""


@dataclass(eq=False)
class Table:
    """Values by map and measure, one for each pair of query and training image."""

    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def add(self, name: str, measure: str, values: Tensor) -> None:
        """Note some values."""
        own = self.rows.setdefault(name, {}).setdefault(measure, [])
        own += [round(v, 5) for v in values.double().tolist()]

    def curve(self, name: str, end: str, values: Tensor) -> None:
        """Note some curves over :data:`FRACTIONS`, ``(b, f, p)``; fills are averaged."""
        own = self.curves.setdefault(name, {}).setdefault(end, [])
        own += [[round(v, 5) for v in row] for row in values.mean(dim=1).tolist()]


def run(task: Task, model: nn.Module, sizes: Sizes) -> tuple[dict[str, Any], list[Picture]]:
    """Return the tables of one network, and pictures to look at."""
    queries = queries_of(task, model, sizes)
    case, top = case_of(task, model, queries, TOP)
    table = Table()
    table.facts["test accuracy"] = accuracy(model, task.tests, task.truths)
    shortcut(task, case, queries, top, table)
    objects(task, case, queries, top, table)
    stepped(case, queries, top, table)
    harmful(task, case, queries, top, table)
    row = {"rows": table.rows, "facts": table.facts, "curves": table.curves}
    return row, table.pictures


def shortcut(task: Task, case: Case, queries: Queries, top: Tensor, table: Table) -> None:
    """T1 and T2: is the shortcut lit, and only where the query has it?"""
    pairs = list(zip(queries.of("shortcut"), queries.of("contrast"), strict=False))
    if not pairs:
        return
    planted = task.shortcut is not None
    carries = task.marked if planted else task.scenes == task.labels
    rank, mass, hit = RelevanceRank(), Concentration(), PointingGame()
    for query, other in pairs:
        rows = top[query]
        rows = rows[carries[rows]][:3]
        if not len(rows):
            continue
        region = task.square.expand(len(rows), -1, -1, -1)
        if not planted and task.masks is not None:
            region = ~task.masks[rows]
        maps, others = (made(case, q, rows) for q in (query, other))
        for name, values in maps.items():
            table.add(name, "T1 rank", rank(values, region))
            table.add(name, "T1 mass", mass(values, region))
            table.add(name, "T1 hit", hit(values, region))
            table.add(name, "T2 rank", rank(values, region) - rank(others[name], region))
            table.add(name, "T2 mass", mass(values, region) - mass(others[name], region))
            table.add(name, "T2 alike", Spearman()(values, others[name]))
        table.pictures.append(taken("shortcut", task, case, queries, query, rows, maps))
        table.pictures.append(taken("contrast", task, case, queries, other, rows, others))
    seen = torch.tensor([q for q, _ in pairs])
    table.facts["carrying the shortcut among the first 5"] = float(
        carries[top[seen]].double().mean()
    )
    if planted:
        planted_facts(task, case, queries, seen, table)


def planted_facts(task: Task, case: Case, queries: Queries, seen: Tensor, table: Table) -> None:
    """Note how well the images with the square are found, and Grad-CAM on the test image."""
    found = [average_precision(case.influence.scores[:, q], task.marked) for q in seen.tolist()]
    table.facts["AUPRC of images with the square"] = sum(found) / len(found)
    table.facts["base rate of the square"] = float(task.marked.double().mean())
    f = ModelScalar(case.network, Logit(queries.labels[seen]))
    cam = GradCAM()(f, queries.images[seen])
    region = task.square.expand(len(seen), -1, -1, -1)
    table.facts["Grad-CAM of the test image: mass in the square over area"] = float(
        Concentration()(cam, region).nanmean()
    )
    table.facts["Grad-CAM of the test image: rank accuracy"] = float(
        RelevanceRank()(cam, region).mean()
    )


def objects(task: Task, case: Case, queries: Queries, top: Tensor, table: Table) -> None:
    """T3, T4 and T6: the object, insertion and deletion of training pixels, fidelity."""
    rank, mass = RelevanceRank(), Concentration()
    kept = KeptPixels(fractions=FRACTIONS, fills=(Shuffled(), Noise()), batch_size=32)
    fidelity = RegionFidelity(regions=16, fill=Shuffled(), batch_size=32)
    for query in queries.of("object"):
        rows = top[query][:2]
        whole = influence_fn(case.influence, query, case.labels[rows])
        falls = fidelity.falls(whole, case.images[rows])
        maps = made(case, query, rows)
        for name, values in maps.items():
            if task.masks is not None:
                masks = widened(task.masks[rows])
                some = masks.flatten(1).double().mean(dim=1) < 0.6
                if some.any():
                    table.add(name, "T3 rank", rank(values[some], masks[some]))
                    table.add(name, "T3 mass", mass(values[some], masks[some]))
            only, without = kept.curves(whole, case.images[rows], values)
            table.curve(name, "kept", only)
            table.curve(name, "gone", without)
            table.add(name, "T4 gap", (only - without).mean(dim=(1, 2)))
            table.add(name, "T6", fidelity.compared(values, falls))
        table.pictures.append(taken("object", task, case, queries, query, rows, maps))


def stepped(case: Case, queries: Queries, top: Tensor, table: Table) -> None:
    """T4 and T6 with the true change of the query's margin after one step, for a few pairs."""
    kept = KeptPixels(fractions=FRACTIONS, fills=(Shuffled(),), batch_size=32)
    fidelity = RegionFidelity(regions=16, fill=Shuffled(), batch_size=32)
    alike = []
    for query in queries.of("object")[:STEPS]:
        rows = top[query][:1]
        images, labels = case.images[rows], case.labels[rows]
        image, asked = queries.images[query : query + 1], int(queries.labels[query])
        step = OneStep.of(case.model, image, asked, labels, plain=False)
        plain = replace(step, plain=True)
        falls, plainly = (fidelity.falls(f, images) for f in (step, plain))
        said = fidelity.falls(influence_fn(case.influence, query, labels), images)
        alike.append(float(torch.corrcoef(torch.stack([said[:, 0], falls[:, 0]]))[0, 1]))
        for name, values in made(case, query, rows).items():
            table.add(name, "step T6", fidelity.compared(values, falls))
            table.add(name, "SGD T6", fidelity.compared(values, plainly))
            if name in STEPPED:
                table.add(name, "step T4", kept(step, images, values))
    if alike:
        table.facts["correlation of the score's falls with those of true steps"] = sum(alike) / len(
            alike
        )


def widened(masks: Tensor) -> Tensor:
    """Return masks widened by a pixel, as edges belong to what they bound."""
    return functional.max_pool2d(masks.float(), 3, 1, 1) > 0


def harmful(task: Task, case: Case, queries: Queries, top: Tensor, table: Table) -> None:
    """T5: are the images behind an error found, and is what misled shown on them?"""
    places = queries.of("harmful")
    if not places:
        return
    found = precision_at(top[torch.tensor(places)], task.flipped)
    table.facts["precision of flipped labels among the first 5"] = float(found.mean())
    table.facts["base rate of flipped labels"] = float(task.flipped.double().mean())
    rank, mass = RelevanceRank(), Concentration()
    for query in places:
        rows = top[query]
        rows = rows[task.flipped[rows]][:2]
        if not len(rows):
            continue
        maps = made(case, query, rows)
        table.pictures.append(taken("harmful", task, case, queries, query, rows, maps))
        if task.masks is None:
            continue
        masks = widened(task.masks[rows])
        for name, values in maps.items():
            table.add(name, "T5 rank", rank(values, masks))
            table.add(name, "T5 mass", mass(values, masks))
