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
from whence.evaluation.metric import MetricCard, mean_ranks, membership, numbered, pixel_map

__all__ = [
    "AreaIoU",
    "EnergyPointing",
    "MapAUC",
    "PointingGame",
    "RelevanceMass",
    "RelevanceRank",
    "ThresholdIoU",
    "box_masks",
    "mask_share",
]

CORNERS = ("left", "top", "right", "bottom")

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


@final
@dataclass(frozen=True, kw_only=True)
class EnergyPointing:
    r"""The energy-based pointing game, corrected for the size of the box.

    .. math:: \frac{\sum_{i \in M} a^+_i}{\sum_i a^+_i} \Big/ \frac{|M|}{n}

    How many times denser the positive attribution is inside than on the whole image. Without the
    correction, as in the paper, it is :class:`RelevanceMass` of the box, and large boxes score
    well for being large. NaN where nothing is positive.

    References:
        Wang et al. (2020), "Score-CAM", section 4.4 (energy-based pointing game).
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=torch.inf,
        chance="1, of masks of any size",
        reference="Wang et al. (2020), arXiv:1910.01279, section 4.4, over the box's share",
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one ratio per image."""
        return RelevanceMass()(values, masks) / mask_share(masks).to(values)


@final
@dataclass(frozen=True, kw_only=True)
class AreaIoU:
    r"""Intersection over union of the mask and the ``|M|`` highest pixels of the map.

    .. math:: \frac{|\,\mathrm{top}_{|M|}(a) \cap M\,|}{|\,\mathrm{top}_{|M|}(a) \cup M\,|}

    At the mask's own area, so that no threshold favours a method. Pixels that tie for the last
    places share them.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="s / (2 - s) of a constant map, where s is " + AREA,
        reference="Jaccard (1912), at the area of the mask",
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one value per image."""
        both = RelevanceRank()(values, masks)
        return both / (2 - both)


@final
@dataclass(frozen=True, kw_only=True)
class ThresholdIoU:
    r"""Intersection over union of the mask and the pixels over a share of the map's maximum.

    .. math:: \frac{|T \cap M|}{|T \cup M|}, \qquad T = \{i : a_i \ge \tau \max_j a_j\}

    It depends on the map's scale within an image, not between images; a constant map takes the
    whole image. NaN where nothing is positive.

    Args:
        threshold: The share of the maximum, over 0 and at most 1.
    """

    threshold: float = 0.5

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="that of the controls: it depends on how many pixels pass the threshold",
        reference="Zhou et al. (2016), Learning Deep Features for Discriminative Localization",
    )

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not 0 < self.threshold <= 1:
            msg = f"threshold is a share of the maximum, over 0 and at most 1; got {self.threshold}"
            raise SettingError(msg + ".")

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one value per image."""
        ranked = pixel_map(values)
        chosen = inside(masks, values).to(ranked.dtype)
        highest = ranked.amax(dim=1, keepdim=True)
        over = (ranked >= self.threshold * highest).to(ranked.dtype)
        both = (over * chosen).sum(dim=1)
        found = both / (over.sum(dim=1) + chosen.sum(dim=1) - both)
        return found.masked_fill(highest[:, 0] <= 0, torch.nan)


@final
@dataclass(frozen=True, kw_only=True)
class MapAUC:
    r"""The area under the ROC curve of the map as a detector of the mask's pixels.

    .. math:: P(a_i > a_j) + \tfrac12 P(a_i = a_j), \qquad i \in M,\; j \notin M

    Exact, by mean ranks; it sees the whole ranking and no scale. NaN where the mask is the whole
    image, which leaves no pixel outside.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="0.5",
        reference="Mann and Whitney (1947); Fawcett (2006), An Introduction to ROC Analysis",
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one area per image."""
        ranked = pixel_map(values)
        chosen = inside(masks, values).double()
        within = chosen.sum(dim=1)
        total = (mean_ranks(ranked) * chosen).sum(dim=1)
        pairs = within * (chosen.shape[1] - within)
        return ((total - within * (within + 1) / 2) / pairs).to(values.dtype)


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks ``(b, 1, h, w)`` of boxes, true inside.

    Args:
        boxes: ``(b, 4)``, one box per image, or ``(b, k, 4)``, whose union is taken: left, top,
            right and bottom in pixels of the image, right and bottom exclusive. A box whose
            right is not over its left, or bottom over top, is padding and left out.
        size: Rows and columns of the images.

    Raises:
        ShapeError: If the boxes are not rows of four numbers.
        DataError: If no pixel of an image lies in its boxes.
    """
    if boxes.ndim not in (2, 3) or boxes.shape[-1] != len(CORNERS):
        msg = (
            f"Boxes must be (b, 4) or (b, k, 4) with {', '.join(CORNERS)} in pixels; got "
            f"{tuple(boxes.shape)}."
        )
        raise ShapeError(msg)
    left, top, right, bottom = boxes.view(len(boxes), -1, 4)[..., None].unbind(dim=2)
    rows, columns = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    down = (rows > top) & (rows < bottom)
    across = (columns > left) & (columns < right)
    masks = (down[..., :, None] & across[..., None, :]).any(dim=1, keepdim=True)
    empty = (~masks.flatten(1).any(dim=1)).nonzero()
    if len(empty):
        msg = (
            f"No pixel of image {int(empty[0, 0])} of {size} lies in its boxes. Give left, top, "
            f"right and bottom in pixels of the preprocessed image."
        )
        raise DataError(msg)
    return masks


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
    empty = chosen.sum(dim=1) == 0
    if bool(empty.any()):
        one = int(empty.sum()) == 1
        msg = (
            f"The {'mask' if one else 'masks'} of {numbered(empty)} {'is' if one else 'are'} "
            f"empty, so there is nowhere to point to. Leave such images out: judge() does, and "
            f"counts them."
        )
        raise DataError(msg)
    return chosen
