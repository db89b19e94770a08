r"""Penalties that know where attributions may be: in a mask, or in a box.

Masks are those of the whole dataset, ``(n, 1, h, w)`` with 1 inside, or a single one for all
images; for a batch take ``penalty.at(indices)``. Where a penalty speaks of *the map* of an image,
that is the sum of its attributions over the channels, and :math:`A^+` what is positive of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence.core import Attributions, Custom, Labels, Target
from whence.errors import DataError, SettingError, ShapeError
from whence.priors.penalties import Scalar, share

__all__ = [
    "MaskCrossEntropy",
    "MaskEnergy",
    "MaskL1",
    "OutsideMask",
    "RightReasons",
    "all_log_probabilities",
    "box_masks",
]

CORNERS = 4
AXES = 4


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OutsideMask:
    r"""The share of the attribution's energy that lies outside the mask.

    .. math:: \Omega = \frac{1}{b} \sum_b
              \frac{\sum_{i \notin M_b} a_{bi}^2}{\sum_i a_{bi}^2}

    over all pixels and channels. A map of zeros counts as 0. It is :class:`RightReasons` relative
    to the whole, and so cannot be lowered by shrinking all gradients.

    Args:
        masks: Where attributions may be, ``(n, 1, h, w)``, true or 1 inside: one for each image
            of the dataset, or a single one for all.
    """

    masks: Tensor

    def __post_init__(self) -> None:
        """Check that the masks are masks."""
        check_masks(self.masks)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If there is neither one mask for all nor one for each image.
        """
        energy = values.square()
        outside = (energy * (1 - fitting(self.masks, values))).flatten(1).sum(dim=1)
        return share(outside, energy.flatten(1).sum(dim=1)).mean()

    def at(self, rows: Tensor) -> "OutsideMask":
        """Return the penalty with the masks of these images."""
        return OutsideMask(masks=picked(self.masks, rows))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RightReasons:
    r"""The bare energy outside the mask, as in "right for the right reasons".

    .. math:: \Omega = \frac{1}{b} \sum_b \sum_{i \notin M_b} a_{bi}^2

    The paper's loss takes the gradient of :func:`all_log_probabilities`::

        Prior(method=Gradient(), penalty=RightReasons(masks=m), target=all_log_probabilities)

    It is not relative to anything and can also be lowered by shrinking all gradients;
    :class:`OutsideMask` cannot.

    Args:
        masks: Where attributions may be, ``(n, 1, h, w)``: one for each image, or one for all.

    References:
        Ross, Hughes and Doshi-Velez (2017), "Right for the Right Reasons: Training Differentiable
        Models by Constraining their Explanations", section 3 (there summed over the images, with
        masks that are 1 *outside*).
    """

    masks: Tensor

    def __post_init__(self) -> None:
        """Check that the masks are masks."""
        check_masks(self.masks)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If there is neither one mask for all nor one for each image.
        """
        outside = values.square() * (1 - fitting(self.masks, values))
        return outside.flatten(1).sum(dim=1).mean()

    def at(self, rows: Tensor) -> "RightReasons":
        """Return the penalty with the masks of these images."""
        return RightReasons(masks=picked(self.masks, rows))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MaskEnergy:
    r"""The share of the positive attribution that lies outside the mask or box.

    .. math:: \Omega = 1 - \frac{1}{b} \sum_b
              \frac{\sum_{i \in M_b} A^+_{bi}}{\sum_i A^+_{bi}}

    One minus the energy pointing game. A map without a positive value counts as 1: nothing of it
    is inside.

    Args:
        masks: Where the evidence may be, ``(n, 1, h, w)``: one for each image, or one for all;
            :func:`box_masks` makes them of boxes.

    References:
        Rao et al. (2023), "Studying How to Efficiently and Effectively Guide Models with
        Explanations", section 3 (the energy loss).
    """

    masks: Tensor

    def __post_init__(self) -> None:
        """Check that the masks are masks."""
        check_masks(self.masks)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If there is neither one mask for all nor one for each image.
        """
        positive = evidence(values)
        inside = (positive * fitting(self.masks, values)).flatten(1).sum(dim=1)
        return (1 - share(inside, positive.flatten(1).sum(dim=1))).mean()

    def at(self, rows: Tensor) -> "MaskEnergy":
        """Return the penalty with the masks of these images."""
        return MaskEnergy(masks=picked(self.masks, rows))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MaskL1:
    r"""The mean distance of the positive map, its highest value 1, from the mask.

    .. math:: \Omega = \frac{1}{b n} \sum_{bi}
              \Big| \frac{A^+_{bi}}{\max_j A^+_{bj}} - M_{bi} \Big|

    Over ``n`` pixels. Fills the mask, where :class:`MaskEnergy` is content with one pixel in it:
    the one to take for overlap (intersection over union). A map without a positive value stays
    zero.

    Args:
        masks: What the map shall be, ``(n, 1, h, w)``: one for each image, or one for all.

    References:
        Rao et al. (2023), as above (the L1 loss).
    """

    masks: Tensor

    def __post_init__(self) -> None:
        """Check that the masks are masks."""
        check_masks(self.masks)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If there is neither one mask for all nor one for each image.
        """
        return (highest_one(values) - fitting(self.masks, values)).abs().mean()

    def at(self, rows: Tensor) -> "MaskL1":
        """Return the penalty with the masks of these images."""
        return MaskL1(masks=picked(self.masks, rows))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MaskCrossEntropy:
    r"""The cross-entropy of each pixel inside the mask with 1: per-pixel cross-entropy.

    .. math:: \Omega = -\frac{1}{b} \sum_b \frac{1}{|M_b|} \sum_{i \in M_b}
              \log \max\Big( \frac{A^+_{bi}}{\max_j A^+_{bj}},\, \varepsilon \Big)

    Says nothing of what is outside. A pixel whose share is below the floor has no gradient. An
    empty mask counts as 0.

    Args:
        masks: Where the map shall be high, ``(n, 1, h, w)``: one for each image, or one for all.
        floor: The least share that is told from zero, over 0 and below 1.

    References:
        Rao et al. (2023), as above (the per-pixel cross-entropy loss).
    """

    masks: Tensor
    floor: float = 1e-4

    def __post_init__(self) -> None:
        """Check masks and floor."""
        check_masks(self.masks)
        if not 0 < self.floor < 1:
            msg = f"floor must be over 0 and below 1; got {self.floor}."
            raise SettingError(msg)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If there is neither one mask for all nor one for each image.
        """
        inside = fitting(self.masks, values).expand(len(values), -1, -1, -1)
        nats = -highest_one(values).clamp_min(self.floor).log()
        sums = (nats * inside).flatten(1).sum(dim=1)
        return share(sums, inside.flatten(1).sum(dim=1)).mean()

    def at(self, rows: Tensor) -> "MaskCrossEntropy":
        """Return the penalty with the masks of these images."""
        return MaskCrossEntropy(masks=picked(self.masks, rows), floor=self.floor)


def all_log_probabilities(labels: Labels) -> Target:
    r"""Return the target :math:`\sum_k \log p_k`, over all classes, whatever the labels.

    What "right for the right reasons" takes the gradient of. For two classes, with
    :math:`z` the difference of their logits, it is :math:`2 \log \sigma(z) - z`.
    """
    del labels
    return Custom(summed_log_probabilities)


def summed_log_probabilities(logits: Tensor) -> Tensor:
    """Return the sum of the log-probabilities of all classes."""
    return logits.log_softmax(dim=1).sum(dim=1)


def box_masks(
    boxes: Sequence[Sequence[float]] | Tensor, size: tuple[int, int]
) -> Bool[Tensor, "n 1 h w"]:
    """Return masks that are true in a box.

    Args:
        boxes: ``(left, top, right, bottom)`` in pixels for each image, right and bottom
            exclusive. A pixel of which the box covers a part is inside.
        size: Rows and columns.

    Raises:
        ShapeError: If there are no boxes of four numbers.
        DataError: If a box is empty, or not within the image.

    Example:
        >>> box_masks([(0, 0, 2, 1)], (2, 3)).int().tolist()
        [[[[1, 1, 0], [0, 0, 0]]]]
    """
    corners = torch.as_tensor(boxes, dtype=torch.float64)
    if corners.ndim != 2 or corners.shape[1] != CORNERS or not len(corners):  # noqa: PLR2004 - n 4
        msg = (
            f"Boxes must be (left, top, right, bottom) for each image, shape (n, 4); got shape "
            f"{tuple(corners.shape)}."
        )
        raise ShapeError(msg)
    rows, columns = size
    left, top, right, bottom = corners.unbind(dim=1)
    fits = (left >= 0) & (top >= 0) & (left < right) & (top < bottom)
    wrong = ~(fits & (right <= columns) & (bottom <= rows))
    if wrong.any():
        first = int(wrong.nonzero()[0, 0])
        msg = (
            f"Box {first} is {tuple(corners[first].tolist())}; a box within {rows} rows and "
            f"{columns} columns was needed, with left < right and top < bottom. Scale boxes as the "
            f"images are scaled."
        )
        raise DataError(msg)
    across, down = torch.arange(columns), torch.arange(rows)
    wide = (across + 1 > left[:, None]) & (across < right[:, None])
    high = (down + 1 > top[:, None]) & (down < bottom[:, None])
    return (high[:, :, None] & wide[:, None, :])[:, None]


def check_masks(masks: Tensor) -> None:
    """Refuse what are no masks.

    Raises:
        ShapeError: If the shape is not ``(n, 1, h, w)``.
        DataError: If there are other values than 0 and 1.
    """
    if masks.ndim != AXES or masks.shape[1] != 1 or not masks.numel():
        msg = f"Masks must have shape (n, 1, h, w); got {tuple(masks.shape)}."
        raise ShapeError(msg)
    if not ((masks == 0) | (masks == 1)).all():
        msg = "Masks must hold 0 (outside) and 1 (inside). Threshold soft masks first."
        raise DataError(msg)


def fitting(masks: Tensor, values: Attributions) -> Float[Tensor, "n 1 h w"]:
    """Return masks as numbers of the attributions' type, if they are for these attributions.

    Raises:
        ShapeError: If there is neither one mask for all nor one for each image, or their size is
            another.
    """
    if len(masks) not in (1, len(values)) or masks.shape[2:] != values.shape[2:]:
        msg = (
            f"{len(values)} attributions of {tuple(values.shape[2:])} need as many masks of "
            f"that size, or one; got {len(masks)} of {tuple(masks.shape[2:])}. For a batch of "
            f"a dataset take penalty.at(indices)."
        )
        raise ShapeError(msg)
    return masks.to(values)


def picked(masks: Tensor, rows: Tensor) -> Tensor:
    """Return the masks of some images; a single one is for all."""
    if len(masks) == 1:
        return masks
    if int(rows.max()) >= len(masks):
        msg = (
            f"There are {len(masks)} masks, and image {int(rows.max())} was asked for. Give one "
            f"mask for each image of the dataset, in its order, or a single one."
        )
        raise ShapeError(msg)
    return masks[rows.to(masks.device)]


def evidence(values: Attributions) -> Float[Tensor, "b 1 h w"]:
    """Return what is positive of the attributions' sum over the channels."""
    return values.sum(dim=1, keepdim=True).relu()


def highest_one(values: Attributions) -> Float[Tensor, "b 1 h w"]:
    """Return the positive maps, each divided by its highest value; zeros stay zeros."""
    positive = evidence(values)
    highest = positive.amax(dim=(1, 2, 3), keepdim=True)
    return positive / torch.where(highest > 0, highest, torch.ones_like(highest))
