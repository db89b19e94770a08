"""The maps that are compared: of the influence, and of the retrieved image alone (two steps)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

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

__all__ = ["BASELINES", "Case", "made", "makers", "of", "ordinary"]

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
        model: The same as a module.
        influence: Scores of its training images for all queries.
        fresh: Scores of the network with other weights, for the same queries.
        images: Training images.
        labels: Their labels.
        neutral: What queries have in common with an average image of each class; None where no
            map asks.
    """

    network: Network
    model: nn.Module
    influence: Influence
    fresh: Influence
    images: Tensor
    labels: Tensor
    neutral: Neutral | None = None


Maps = dict[str, Tensor]
Maker = Callable[[Case, int, Tensor], Tensor]
"""From a case, a query and some training images to their maps."""


def makers(neutral: Neutral | None) -> dict[str, Maker]:
    """Return what makes each map that is compared."""
    chosen = {name: map_named(name) for name in OURS}
    chosen["shared-evidence, neutral"] = TrainingMap(
        name="shared-evidence, neutral",
        method=SharedEvidence(neutral=neutral),
        hold_weights=True,
        reduction="signed",
        says="without what is common to the class",
    )
    chosen["shared-evidence, strict"] = TrainingMap(
        name="shared-evidence, strict",
        method=SharedEvidence(floor=0, agreement=InfluenceLRP()),
        hold_weights=True,
        reduction="signed",
        says="without a floor under the evidence, and with the finer gate",
    )
    ours = {name: partial(shared, each) for name, each in chosen.items()}
    return {**ours, **{name: partial(ordinary, method) for name, method in BASELINES.items()}}


def shared(each: TrainingMap, case: Case, query: int, rows: Tensor) -> Tensor:
    """Return a training-feature map."""
    return of(case.influence, query, rows, each, case)


def ordinary(method: Method, case: Case, query: int, rows: Tensor) -> Tensor:
    """Return an ordinary attribution of training images for their own labels."""
    del query
    f = ModelScalar(case.network, Margin(case.labels[rows]))
    plain = isinstance(method, Gradient)
    values = method(f, case.images[rows]).detach()
    return reduced(values, "absolute-maximum" if plain else "signed")[:, None]


def made(case: Case, query: int, rows: Tensor) -> Maps:
    """Return all maps ``(b, 1, h, w)`` of some training images for a query."""
    found = {name: make(case, query, rows) for name, make in makers(case.neutral).items()}
    found["random pixels"] = random_order(case.images[rows], seed=query)
    images = case.images[rows]
    found["contrast alone"] = (images - Blur()(images)).abs().sum(dim=1, keepdim=True)
    for name in ("tfa", "influence-lrp", "shared-evidence"):
        found[f"{name}, re-initialised"] = of(case.fresh, query, rows, map_named(name), case)
    return found


def of(influence: Influence, query: int, rows: Tensor, each: TrainingMap, case: Case) -> Tensor:
    """Return one training-feature map of some training images."""
    weights = held_weights(influence, rows) if each.hold_weights else None
    f = influence_fn(influence, query, case.labels[rows], weights)
    values = each.method(f, case.images[rows]).detach()
    return reduced(values, each.reduction)[:, None]
