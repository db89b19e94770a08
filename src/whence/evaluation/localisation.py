r"""Localisation: does an attribution lie where the object (or the shortcut) is?

Masks are ``(b, 1, h, w)``, true or 1 inside. Only an attribution's positive part is evidence for
the explained value, so the masses are those of :math:`a^+_i = \max(\sum_c a_{ci}, 0)`.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from whence.core import Attributions, Scalars
from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation.metric import MetricCard, membership, pixel_map

__all__ = ["PointingGame", "RelevanceMass", "RelevanceRank", "mask_share"]

AREA = "the mask's share of the image, see mask_share()"


def mask_share(masks: Tensor) -> Scalars:
    """Return each mask's share of its image's area: the chance level of this room's metrics."""
    return inside(masks, masks).mean(dim=1)


@final
@dataclass(frozen=True, kw_only=True)
class RelevanceMass:
    r"""The share of the positive attribution that lies inside the mask.

    .. math:: \frac{\sum_{i \in M} a^+_i}{\sum_i a^+_i}

    NaN where nothing is positive.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance=AREA,
        reference="Arras, Osman and Samek (2022), CLEVR-XAI (mass accuracy)",
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one share per image."""
        positive = pixel_map(values).clamp(min=0)
        chosen = inside(masks, values).to(positive.dtype)
        return (positive * chosen).sum(dim=1) / positive.sum(dim=1)


@final
@dataclass(frozen=True, kw_only=True)
class RelevanceRank:
    r"""The share of the ``|M|`` highest pixels that lies inside the mask of ``|M|`` pixels.

    .. math:: \frac{|\,\mathrm{top}_{|M|}(a) \cap M\,|}{|M|}

    Pixels that tie for the last places share them, so a constant map gets the chance level.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance=AREA,
        reference="Arras, Osman and Samek (2022), CLEVR-XAI (rank accuracy)",
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one share per image."""
        ranked = pixel_map(values)
        chosen = inside(masks, values).to(ranked.dtype)
        counts = chosen.sum(dim=1)
        return (membership(ranked, counts) * chosen).sum(dim=1) / counts


@final
@dataclass(frozen=True, kw_only=True)
class PointingGame:
    """Whether the highest pixel lies in the mask: 1 or 0, averaged over pixels that tie for it.

    Args:
        tolerance: Pixels by which the mask is widened on every side, including diagonals.
    """

    tolerance: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance=AREA + " (of the widened mask)",
        reference="Zhang et al. (2018), Top-Down Neural Attention (pointing game)",
    )

    def __post_init__(self) -> None:
        """Check the tolerance."""
        if self.tolerance < 0:
            msg = f"tolerance is a number of pixels, 0 or more; got {self.tolerance}."
            raise SettingError(msg)

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one value per image."""
        ranked = pixel_map(values)
        chosen = inside(masks, values)
        if self.tolerance:
            grid = chosen.view(-1, 1, *values.shape[2:])
            window = 2 * self.tolerance + 1
            chosen = functional.max_pool2d(grid, window, 1, self.tolerance).flatten(1)
        highest = (ranked == ranked.amax(dim=1, keepdim=True)).to(ranked.dtype)
        return (highest * chosen.to(ranked.dtype)).sum(dim=1) / highest.sum(dim=1)


def inside(masks: Tensor, values: Tensor) -> Float[Tensor, "b n"]:
    """Return the masks as zeros and ones ``(b, n)``, checked to fit the attributions.

    Raises:
        DataError: If a mask is empty, or holds anything but zeros and ones.
        ShapeError: If the masks do not fit.
    """
    needed = (len(values), 1, *values.shape[2:])
    if masks.shape != needed:
        msg = (
            f"Masks must have shape {needed}, one channel per image and the size of the "
            f"attributions; got {tuple(masks.shape)}."
        )
        raise ShapeError(msg)
    flat = masks.to(values.device).flatten(1)
    chosen = flat.to(torch.get_default_dtype() if not flat.is_floating_point() else flat.dtype)
    if not ((chosen == 0) | (chosen == 1)).all():
        msg = "Masks must hold 0 (outside) and 1 (inside). Threshold soft masks first."
        raise DataError(msg)
    empty = (chosen.sum(dim=1) == 0).nonzero()
    if len(empty):
        msg = (
            f"The mask of image {int(empty[0, 0])} of the batch is empty, so there is nowhere to "
            f"point to. Leave such images out."
        )
        raise DataError(msg)
    return chosen
