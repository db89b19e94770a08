"""Readings: how a training-feature map becomes one number per pixel, and the maps by name."""

from dataclasses import dataclass
from typing import Literal, final

from jaxtyping import Float
from torch import Tensor

from whence.attribution import (
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
)
from whence.core import Attributions, Blur, Method
from whence.errors import SettingError
from whence.training_features.additive import Additive
from whence.training_features.complete import InfluenceXGradient
from whence.training_features.differences import AntitheticDifferences
from whence.training_features.relevance import InfluenceLRP
from whence.training_features.shared import SharedEvidence

__all__ = ["MAPS", "Reduction", "TrainingMap", "check_reduction", "map_named", "reduced"]

Reduction = Literal["absolute-maximum", "absolute-sum", "signed", "positive"]
"""How the channels of a pixel become one number."""

REDUCTIONS: tuple[Reduction, ...] = ("absolute-maximum", "absolute-sum", "signed", "positive")


def check_reduction(by: str) -> None:
    """Refuse an unknown reduction.

    Raises:
        SettingError: If there is none of this name.
    """
    if by not in REDUCTIONS:
        msg = f"Unknown reduction {by!r}. Choose one of: {', '.join(REDUCTIONS)}."
        raise SettingError(msg)


def reduced(values: Attributions, by: Reduction) -> Float[Tensor, "b h w"]:
    """Return one number per pixel, ``(b, h, w)``, never rescaled.

    Args:
        values: Attributions, ``(b, c, h, w)``.
        by: ``"absolute-maximum"``: the largest absolute value of the channels, for gradients,
            whose sign says little where the input's is unknown; ``"absolute-sum"``;
            ``"signed"``: the sum, which keeps what the map adds up to; ``"positive"``: what of
            the sum speaks for the influence.

    Raises:
        SettingError: If there is no such reduction.
    """
    check_reduction(by)
    match by:
        case "absolute-maximum":
            return values.abs().amax(dim=1)
        case "absolute-sum":
            return values.abs().sum(dim=1)
        case "signed":
            return values.sum(dim=1)
        case _:
            return values.sum(dim=1).clamp(min=0)


@final
@dataclass(frozen=True, kw_only=True)
class TrainingMap:
    """A training-feature map with everything that makes it.

    Args:
        name: Its name on the command line.
        method: What is applied to the influence.
        hold_weights: Whether the weights of training images are held constant.
        reduction: How it is read.
        says: What it shows.
    """

    name: str
    method: Method
    hold_weights: bool
    reduction: Reduction
    says: str


MAPS: tuple[TrainingMap, ...] = (
    TrainingMap(
        name="shared-evidence",
        method=SharedEvidence(),
        hold_weights=True,
        reduction="signed",
        says="evidence for the training image's label, where the query's gradient agrees",
    ),
    TrainingMap(
        name="influence-lrp",
        method=InfluenceLRP(),
        hold_weights=True,
        reduction="signed",
        says="the influence, handed down to the pixels by the rules of LRP",
    ),
    TrainingMap(
        name="tfa",
        method=Gradient(),
        hold_weights=False,
        reduction="absolute-maximum",
        says="the plain map of Bacha and George: the absolute slope of the score",
    ),
    TrainingMap(
        name="tfa-smoothed",
        method=SmoothGrad(samples=25, sigma=0.1),
        hold_weights=False,
        reduction="absolute-maximum",
        says="the smoothed map of Bacha and George: the mean slope over noisy copies",
    ),
    TrainingMap(
        name="input-x-gradient",
        method=InputXGradient(),
        hold_weights=True,
        reduction="signed",
        says="the first-order share of each pixel in the inner product of gradients",
    ),
    TrainingMap(
        name="integrated-gradients",
        method=IntegratedGradients(steps=16),
        hold_weights=True,
        reduction="signed",
        says="shares along the way from a blank image; they add up on smooth networks only",
    ),
    TrainingMap(
        name="occlusion",
        method=Occlusion(window=8, stride=4, fill=Blur()),
        hold_weights=True,
        reduction="signed",
        says="how much the influence falls where a window is blurred",
    ),
    TrainingMap(
        name="differences",
        method=AntitheticDifferences(pairs=64, cell=4),
        hold_weights=True,
        reduction="absolute-maximum",
        says="the slope of the score averaged over noise, its jumps included",
    ),
    TrainingMap(
        name="additive",
        method=Additive(),
        hold_weights=True,
        reduction="signed",
        says="where in the layers the influence arises; it adds up to the influence",
    ),
    TrainingMap(
        name="x-gradient",
        method=InfluenceXGradient(),
        hold_weights=True,
        reduction="signed",
        says="on an X-DNN the exact share of each pixel; it adds up to the influence",
    ),
)
"""The training-feature maps by name."""


def map_named(name: str) -> TrainingMap:
    """Return the map of this name.

    Raises:
        SettingError: If there is none.
    """
    for each in MAPS:
        if each.name == name:
            return each
    known = ", ".join(m.name for m in MAPS)
    msg = f"Unknown training-feature map {name!r}. Choose one of: {known}."
    raise SettingError(msg)
