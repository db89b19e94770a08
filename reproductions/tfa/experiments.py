"""The experiments: T1 to T7, on one network."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.tfa.maps import Case, made, makers, seconds, step
from reproductions.tfa.tasks import Task, marked_with
from whence.attribution import GradCAM, SmoothGrad
from whence.core import Logit, Margin, ModelScalar, Noise, Shuffled, TensorData
from whence.evaluation import PointingGame, RelevanceRank, Spearman, reinitialised
from whence.evaluation.ranking import average_precision
from whence.evaluation.training_maps import (
    Concentration,
    KeptPixels,
    MapStability,
    RegionFidelity,
    precision_at,
)
from whence.influence import GradCos, Influence, influence
from whence.network import Network
from whence.training_features import influence_fn, neutral

__all__ = ["Table", "costs", "run"]

FRACTIONS = (0.05, 0.1, 0.2, 0.4)
TOP = 5


@dataclass(eq=False)
class Table:
    """Values by map and measure, one for each pair of query and training image."""

    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, name: str, measure: str, values: Tensor) -> None:
        """Note some values."""
        own = self.rows.setdefault(name, {}).setdefault(measure, [])
        own += [round(v, 5) for v in values.double().tolist()]


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Which queries are asked.

    Args:
        images: ``(q, c, h, w)``.
        labels: The labels asked about.
        kinds: What each is for: ``shortcut``, ``contrast``, ``object`` or ``harmful``.
    """

    images: Tensor
    labels: Tensor
    kinds: tuple[str, ...]

    def of(self, kind: str) -> list[int]:
        """Return the places of the queries of a kind."""
        return [i for i, k in enumerate(self.kinds) if k == kind]


def queries_of(
    task: Task, predicted: Tensor, model: nn.Module, sizes: tuple[int, int, int]
) -> Queries:
    """Return the queries of a task: so many for the shortcut, for objects, and harmful ones."""
    found: list[tuple[str, Tensor, Tensor]] = []
    if task.name == "shapes":
        others = (task.truths != 0).nonzero()[:, 0]
        planted = marked_with(task.tests[others], task.red)
        with torch.no_grad():
            caught = planted[model(planted).argmax(dim=1) == 0][: sizes[0]]
        plain = task.tests[(task.truths == 0) & (predicted == 0)][: len(caught)]
        wrong = task.tests[(task.truths == 1) & (predicted == 2)][: sizes[2]]
        found.append(("shortcut", caught, torch.zeros(len(caught)).long()))
        found.append(("contrast", plain, torch.zeros(len(plain)).long()))
        found.append(("harmful", wrong, torch.full((len(wrong),), 2)))
        right = (task.truths != 0) & (predicted == task.truths)
    elif task.name == "scenes":
        odd = task.groups != task.truths
        caught = (odd & (predicted != task.truths)).nonzero()[:, 0][: sizes[0]]
        object_ = (odd & (predicted == task.truths)).nonzero()[:, 0]
        pairs = [object_[predicted[object_] == k] for k in predicted[caught]]
        taken = torch.stack([own[i % len(own)] for i, own in enumerate(pairs)])
        found.append(("shortcut", task.tests[caught], predicted[caught]))
        found.append(("contrast", task.tests[taken], predicted[taken]))
        right = odd & (predicted == task.truths)
    else:
        right = predicted == task.truths
    plain_rows = right.nonzero()[:, 0]
    spread = plain_rows[torch.linspace(0, len(plain_rows) - 1, sizes[1]).round().long()]
    found.append(("object", task.tests[spread], predicted[spread]))
    return Queries(
        images=torch.cat([images for _, images, _ in found]),
        labels=torch.cat([labels for _, _, labels in found]),
        kinds=tuple(kind for kind, images, _ in found for _ in range(len(images))),
    )


def run(
    task: Task, model: nn.Module, sizes: tuple[int, int, int], *, ablate: bool
) -> dict[str, Any]:
    """Return the tables of one network."""
    with torch.no_grad():
        predicted = torch.cat([model(part) for part in task.tests.split(200)]).argmax(dim=1)
    queries = queries_of(task, predicted, model, sizes)
    train = TensorData(images=task.images, labels=task.labels)
    network = Network.read(model, task.images[:2])
    asked = Margin(queries.labels)
    scores = influence(network, train, queries.images, asked, scorer=GradCos(), memory=4 * 2**30)
    top = scores.proponents(TOP).indices
    fresh = fresh_scores(task, model, queries, top)
    case = Case(
        network=network,
        influence=scores,
        fresh=fresh,
        images=task.images,
        labels=task.labels,
        neutral=neutral(scores, train, samples=32),
    )
    table = Table()
    facts: dict[str, float] = {"test accuracy": float((predicted == task.truths).float().mean())}
    shortcut(task, case, queries, top, table, facts)
    objects(task, case, queries, top, table)
    harmful(task, case, queries, top, table, facts)
    if ablate:
        noise(case, queries, top, table)
    return {"rows": table.rows, "facts": facts}


def costs(task: Task, model: nn.Module, count: int = 16) -> dict[str, float]:
    """Return the CPU time of each map of a batch, in training steps of the same batch."""
    train = TensorData(images=task.images[:64], labels=task.labels[:64])
    network = Network.read(model, task.images[:2])
    asked = Margin(task.truths[:1])
    scores = influence(network, train, task.tests[:1], asked, scorer=GradCos())
    case = Case(
        network=network,
        influence=scores,
        fresh=scores,
        images=task.images[:64],
        labels=task.labels[:64],
        neutral=neutral(scores, train, samples=2),
    )
    rows = torch.arange(count)
    unit = seconds(lambda: step(case, rows))
    return {
        name: seconds(partial(make, case, 0, rows)) / unit
        for name, make in makers(case.neutral).items()
    }


def fresh_scores(task: Task, model: nn.Module, queries: Queries, top: Tensor) -> Influence:
    """Return scores of the network with weights drawn anew, of the training images wanted."""
    other = Network.read(reinitialised(model, seed=1), task.images[:2])
    places = top.unique()

    class Wanted:
        """The training data, of which only some are gone over."""

        title, classes, skipped = "wanted", tuple(map(str, range(int(task.labels.max()) + 1))), ()

        def __len__(self) -> int:
            return len(task.labels)

        def name(self, index: int) -> str:
            return str(index)

        def label(self, index: int) -> int:
            return int(task.labels[index])

        def batches(self, size: int, indices: Any = None) -> Iterator[Any]:  # noqa: ANN401
            data = TensorData(images=task.images, labels=task.labels)
            yield from data.batches(size, places.tolist() if indices is None else indices)

        def fingerprint(self) -> str:
            return ""

    return influence(other, Wanted(), queries.images, Margin(queries.labels), scorer=GradCos())


def shortcut(
    task: Task,
    case: Case,
    queries: Queries,
    top: Tensor,
    table: Table,
    facts: dict[str, float],
) -> None:
    """T1 and T2: is the shortcut lit, and only where the query has it?"""
    pairs = list(zip(queries.of("shortcut"), queries.of("contrast"), strict=False))
    if not pairs:
        return
    square = torch.zeros(1, 1, *task.images.shape[2:], dtype=torch.bool)
    square[..., 2:7, 2:7] = True
    carrying, found = [], []
    rank, mass, hit = RelevanceRank(), Concentration(), PointingGame()
    for query, other in pairs:
        carries = task.marked if task.name == "shapes" else task.scenes == task.labels
        rows = top[query]
        carrying.append(carries[rows].double().mean())
        if task.name == "shapes":
            found.append(average_precision(case.influence.scores[:, query], task.marked))
        rows = rows[carries[rows]][:3]
        if not len(rows):
            continue
        region = square.expand(len(rows), -1, -1, -1)
        if task.masks is not None and task.name != "shapes":
            region = ~task.masks[rows]
        maps, others = (made(case, q, rows) for q in (query, other))
        for name, values in maps.items():
            table.add(name, "T1 rank", rank(values, region))
            table.add(name, "T1 mass", mass(values, region))
            table.add(name, "T1 hit", hit(values, region))
            table.add(name, "T2 rank", rank(values, region) - rank(others[name], region))
            table.add(name, "T2 mass", mass(values, region) - mass(others[name], region))
            table.add(name, "T2 alike", Spearman()(values, others[name]))
    facts["carrying the shortcut among the first 5"] = float(torch.stack(carrying).mean())
    if found:
        facts["AUPRC of images with the square"] = sum(found) / len(found)
        facts["base rate of the square"] = float(task.marked.double().mean())
    seen = torch.tensor([q for q, _ in pairs])
    if task.name == "shapes":
        f = ModelScalar(case.network, Logit(queries.labels[seen]))
        cam = GradCAM()(f, queries.images[seen])
        region = square.expand(len(seen), -1, -1, -1)
        facts["Grad-CAM of the test image: mass in the square over area"] = float(
            mass(cam, region).nanmean()
        )
        facts["Grad-CAM of the test image: rank accuracy"] = float(rank(cam, region).mean())


def objects(
    task: Task,
    case: Case,
    queries: Queries,
    top: Tensor,
    table: Table,
) -> None:
    """T3, T4 and T6: the object, insertion and deletion of training pixels, fidelity."""
    rank, mass, kept = (
        RelevanceRank(),
        Concentration(),
        KeptPixels(fractions=FRACTIONS, fills=(Shuffled(), Noise()), batch_size=32),
    )
    fidelity = RegionFidelity(regions=16, fill=Shuffled(), batch_size=32)
    for query in queries.of("object"):
        rows = top[query][:2]
        whole = influence_fn(case.influence, query, case.labels[rows])
        falls = fidelity.falls(whole, case.images[rows])
        for name, values in made(case, query, rows).items():
            if task.masks is not None:
                masks = widened(task.masks[rows])
                some = masks.flatten(1).double().mean(dim=1) < 0.6
                if some.any():
                    table.add(name, "T3 rank", rank(values[some], masks[some]))
                    table.add(name, "T3 mass", mass(values[some], masks[some]))
            ends = kept.curves(whole, case.images[rows], values)
            only, without = (part.mean(dim=(1, 2)) for part in ends)
            table.add(name, "T4 kept", only)
            table.add(name, "T4 gone", without)
            table.add(name, "T4 gap", only - without)
            table.add(name, "T6", fidelity.compared(values, falls))


def widened(masks: Tensor) -> Tensor:
    """Return masks widened by a pixel, as edges belong to what they bound."""
    return functional.max_pool2d(masks.float(), 3, 1, 1) > 0


def harmful(
    task: Task,
    case: Case,
    queries: Queries,
    top: Tensor,
    table: Table,
    facts: dict[str, float],
) -> None:
    """T5: are the images behind an error found, and is what misled shown on them?"""
    places = queries.of("harmful")
    if not places or task.masks is None:
        return
    found = precision_at(top[torch.tensor(places)], task.flipped)
    facts["precision of flipped labels among the first 5"] = float(found.mean())
    facts["base rate of flipped labels"] = float(task.flipped.double().mean())
    rank, mass = RelevanceRank(), Concentration()
    for query in places:
        rows = top[query]
        rows = rows[task.flipped[rows]][:2]
        if not len(rows):
            continue
        masks = widened(task.masks[rows])
        for name, values in made(case, query, rows).items():
            table.add(name, "T5 rank", rank(values, masks))
            table.add(name, "T5 mass", mass(values, masks))


def noise(case: Case, queries: Queries, top: Tensor, table: Table) -> None:
    """T7 and the ablation of noise count and sigma of the paper's smoothed map."""
    kept = KeptPixels(fractions=FRACTIONS, fills=(Shuffled(),), batch_size=32)
    for query in queries.of("object")[:4]:
        rows = top[query][:1]
        whole = influence_fn(case.influence, query, case.labels[rows])
        for samples, sigma in ((4, 0.05), (4, 0.1), (4, 0.2), (16, 0.05), (16, 0.1), (16, 0.2)):
            maps = torch.stack(
                [
                    SmoothGrad(samples=samples, sigma=sigma, seed=seed)(whole, case.images[rows])
                    .abs()
                    .amax(dim=1, keepdim=True)
                    for seed in range(2)
                ]
            )
            name = f"tfa-smoothed, n = {samples}, sigma = {sigma}"
            table.add(name, "T7", MapStability()(maps))
            table.add(name, "T4 gap", kept(whole, case.images[rows], maps[0]))
