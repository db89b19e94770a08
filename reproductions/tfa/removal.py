"""Removal: train again without what was found, and see whether the errors go."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reproductions.tfa.maps import Case, of, ordinary
from reproductions.tfa.networks import accuracy, at, fitted, predictions
from reproductions.tfa.queries import Queries
from reproductions.tfa.tasks import Task, marked_with
from whence.attribution import LRP, Gradient
from whence.core import Margin, Shuffled, TensorData
from whence.evaluation import random_order
from whence.evaluation.training_maps import precision_at
from whence.influence import (
    GradCos,
    GradDot,
    Influence,
    RepresentationSimilarity,
    Scorer,
    influence,
)
from whence.network import Network
from whence.training_features import map_named

__all__ = ["without_images", "without_pixels"]

Train = Callable[[Task, int], nn.Module]
"""From a task and a seed to a network trained on it."""

SHARE = 0.1
"""Share of the pixels of each training image that are replaced."""


def trainer(make: Callable[[], nn.Module], *, epochs: int, rate: float) -> Train:
    """Return what trains a network anew."""

    def train(task: Task, seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = make()
        return at(model, fitted(model, task, None, epochs=epochs, seed=seed, rate=rate)[1.0])

    return train


def summed(task: Task, model: nn.Module, images: Tensor, label: int, scorer: Scorer) -> Influence:
    """Return the scores of all training images, summed over queries."""
    network = Network.read(model, task.images[:2])
    train = TensorData(images=task.images, labels=task.labels)
    asked = Margin(torch.full((len(images),), label))
    scores = influence(network, train, images, asked, scorer=scorer, memory=4 * 2**30)
    return scores.combined(torch.ones(len(images)))


def misled(task: Task, model: nn.Module) -> Tensor:
    """Return the test images that are mistaken as the mislabelled training images are."""
    if task.confused is None:
        return task.tests[:0]
    true, given = task.confused
    return task.tests[(task.truths == true) & (predictions(model, task.tests) == given)]


def without_images(
    task: Task, model: nn.Module, train: Train, seed: int, more: Task | None = None
) -> dict[str, Any]:
    """Return the share of errors that go when harmful images are left out of the training.

    The errors on more test images judge, if there are any; else half of the errors are used to
    find images, and the other half judges.
    """
    if task.confused is None:
        return {}
    true, given = task.confused
    used = misled(task, model)
    used, judged = (used[::2], used[1::2]) if more is None else (used, misled(more, model))
    count = int(task.flipped.sum())
    generator = torch.Generator().manual_seed(seed)
    same = (task.labels == given).nonzero()[:, 0]
    arms: dict[str, Tensor] = {
        "nothing (trained again)": torch.zeros(0).long(),
        "random images": torch.randperm(len(task.labels), generator=generator)[:count],
        "random images of the label": same[torch.randperm(len(same), generator=generator)[:count]],
    }
    scorers: dict[str, Scorer] = {
        "Grad-Cos": GradCos(),
        "Grad-Dot": GradDot(),
        "features": RepresentationSimilarity(),
    }
    for name, scorer in scorers.items():
        found = summed(task, model, used, given, scorer)
        arms[f"first by {name}"] = found.proponents(count).indices[0]
    arms["all mislabelled images"] = task.flipped.nonzero()[:, 0]
    rows = {}
    for name, gone in arms.items():
        left = torch.ones(len(task.labels), dtype=torch.bool)
        left[gone] = False
        again = train(task.only(left.nonzero()[:, 0]), seed + 100)
        rows[name] = {
            "left out": len(gone),
            "mislabelled among them": float(precision_at(gone[None], task.flipped)[0])
            if len(gone)
            else float("nan"),
            "errors repaired": float((predictions(again, judged) == true).float().mean()),
            "accuracy": accuracy(again, task.tests, task.truths),
        }
    return {"removal": rows, "errors": [len(used), len(judged)]}


def without_pixels(task: Task, model: nn.Module, train: Train, seed: int) -> dict[str, Any]:
    """Return how often the square still misleads when what maps show of it is painted over.

    In every training image of the square's class the highest pixels of a map are replaced by
    other pixels of the image; the network is trained again. Maps are for the sum of some queries
    that fell for the square; others judge.
    """
    if task.shortcut is None:
        return {}
    others = (task.truths != task.shortcut).nonzero()[:, 0]
    marked = marked_with(task.tests[others], task.red)
    caught = marked[predictions(model, marked) == task.shortcut][:16]
    scores = summed(task, model, caught, task.shortcut, GradCos())
    own = (task.labels == task.shortcut).nonzero()[:, 0]
    queries = Queries(images=caught[:1], labels=torch.tensor([task.shortcut]), kinds=("shortcut",))
    maps = painted_by(task, model, scores, own)
    rows = {"nothing (trained again)": judged(task, train(task, seed + 100), queries)}
    for name, values in maps.items():
        again = train(painted(task, own, values), seed + 100)
        rows[name] = judged(task, again, queries)
        count = max(1, round(SHARE * values.shape[2] * values.shape[3]))
        high = highest(values, count)[task.marked[own]]
        covered = (high & task.square).flatten(1).sum(dim=1).double()
        rows[name]["of the square painted over"] = float(covered.mean() / task.square.sum())
    return {"pixels": rows}


def judged(task: Task, model: nn.Module, queries: Queries) -> dict[str, float]:
    """Return how often the square misleads a network, and its accuracy without squares."""
    others = task.truths != task.shortcut
    marked = marked_with(task.tests[others], task.red)
    misled = predictions(model, marked) == int(queries.labels[0])
    return {
        "misled by the square": float(misled.float().mean()),
        "accuracy": accuracy(model, task.tests, task.truths),
    }


def painted_by(
    task: Task, model: nn.Module, scores: Influence, own: Tensor
) -> Mapping[str, Tensor]:
    """Return the maps of the class's training images by name."""
    case = Case(
        network=scores.recorder.network,
        model=model,
        influence=scores,
        fresh=scores,
        images=task.images,
        labels=task.labels,
        neutral=None,
    )
    found: dict[str, list[Tensor]] = {}
    for rows in torch.split(own, 32):
        for name in ("tfa", "influence-lrp", "shared-evidence"):
            found.setdefault(name, []).append(of(scores, 0, rows, map_named(name), case))
        for name, method in (("2: saliency", Gradient()), ("2: LRP", LRP())):
            found.setdefault(name, []).append(ordinary(method, case, 0, rows))
    every = {name: torch.cat(parts) for name, parts in found.items()}
    every["random pixels"] = random_order(task.images[own], seed=0)
    every["the square itself"] = task.square.float().expand(len(own), -1, -1, -1)
    return every


def highest(values: Tensor, count: int) -> Tensor:
    """Return where the highest values of each map are, ``(b, 1, h, w)``."""
    flat = values.flatten(1)
    places = flat.topk(count, dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, places, value=True).view_as(values)


def painted(task: Task, own: Tensor, values: Tensor) -> Task:
    """Return the task with the highest pixels of some training images replaced."""
    count = max(1, round(SHARE * values.shape[2] * values.shape[3]))
    images = task.images.clone()
    some = images[own]
    images[own] = torch.where(highest(values, count), Shuffled()(some), some)
    return replace(task, images=images)
