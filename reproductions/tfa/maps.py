"""The maps that are compared: of the influence, and of the retrieved image alone (two steps)."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from whence.attribution import LRP, GradCAM, Gradient, InputXGradient, Occlusion
from whence.core import Blur, Margin, Method, ModelScalar
from whence.evaluation import random_order
from whence.influence import Influence
from whence.network import Network
from whence.training_features import (
    InfluenceLRP,
    Neutral,
    SharedEvidence,
    TrainingMap,
    held_weights,
    influence_fn,
    map_named,
    reduced,
)

__all__ = ["BASELINES", "Case", "made"]

BASELINES: dict[str, Method] = {
    "2: saliency": Gradient(),
    "2: input x gradient": InputXGradient(),
    "2: occlusion": Occlusion(window=6, stride=3, fill=Blur()),
    "2: Grad-CAM": GradCAM(),
    "2: LRP": LRP(),
    "2: LRP, generalised gamma": LRP(composite="generalised-gamma"),
}
"""Ordinary attributions of the retrieved image for its own label: they know no query."""

OURS = ("tfa", "input-x-gradient", "occlusion", "additive", "influence-lrp", "shared-evidence")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network with its scores, and the same network with weights drawn anew.

    Args:
        network: The network.
        influence: Scores of its training images for all queries.
        fresh: Scores of the network with other weights, for the same queries.
        images: Training images.
        labels: Their labels.
        neutral: What queries have in common with an average image of each class.
    """

    network: Network
    influence: Influence
    fresh: Influence
    images: Tensor
    labels: Tensor
    neutral: Neutral


Maps = dict[str, Tensor]
Costs = dict[str, list[float]]


def made(case: Case, query: int, rows: Tensor, costs: Costs) -> Maps:
    """Return all maps ``(b, 1, h, w)`` of some training images for a query, and note their cost."""
    images, labels = case.images[rows], case.labels[rows]
    chosen = {name: map_named(name) for name in OURS}
    chosen["shared-evidence, neutral"] = TrainingMap(
        name="shared-evidence, neutral",
        method=SharedEvidence(neutral=case.neutral),
        hold_weights=True,
        reduction="signed",
        says="without what is common to the class",
    )
    found = {
        name: timed(
            costs, name, len(rows), lambda each=each: of(case.influence, query, rows, each, case)
        )
        for name, each in chosen.items()
    }
    for name, method in BASELINES.items():
        f = ModelScalar(case.network, Margin(labels))
        plain = "absolute-maximum" if isinstance(method, Gradient) else "signed"
        found[name] = timed(
            costs,
            name,
            len(rows),
            lambda method=method, f=f, plain=plain: reduced(method(f, images), plain)[:, None],
        )
    again = TrainingMap(
        name="", method=InfluenceLRP(), hold_weights=True, reduction="signed", says=""
    )
    found["random pixels"] = random_order(images, seed=query)
    found["tfa, re-initialised"] = of(case.fresh, query, rows, map_named("tfa"), case)
    found["influence-lrp, re-initialised"] = of(case.fresh, query, rows, again, case)
    found["shared-evidence, re-initialised"] = of(
        case.fresh, query, rows, map_named("shared-evidence"), case
    )
    return found


def of(influence: Influence, query: int, rows: Tensor, each: TrainingMap, case: Case) -> Tensor:
    """Return one training-feature map of some training images."""
    weights = held_weights(influence, rows) if each.hold_weights else None
    f = influence_fn(influence, query, case.labels[rows], weights)
    return reduced(each.method(f, case.images[rows]), each.reduction)[:, None]


def timed(costs: Costs, name: str, count: int, make: Callable[[], Tensor]) -> Tensor:
    """Return what a function makes, and note its CPU time for each image."""
    started = time.process_time()
    found = make().detach()
    costs.setdefault(name, []).append((time.process_time() - started) / count)
    return found


def step_time(case: Case) -> float:
    """Return the CPU time of a training step for each of 16 images: the unit of cost."""
    model = case.network
    images, labels = case.images[:16], case.labels[:16]
    started = time.process_time()
    for _ in range(4):
        with torch.enable_grad():
            loss = torch.nn.functional.cross_entropy(model(images), labels)
            torch.autograd.grad(loss, list(model.parameters.values()))
    return (time.process_time() - started) / 64
