"""Pearson's correlation of each image's points, with what is only rounding left aside."""

from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.core import Images, Scalars
from whence.errors import ShapeError

__all__ = ["POINTS", "pearson", "rounding", "summed"]

POINTS: Final = 3
"""A correlation of fewer points says nothing: two always lie on a line."""


def summed(
    ranked: Float[Tensor, "b n"], labels: Int[Tensor, "b n"]
) -> tuple[Bool[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Return which segments there are, and a map's sum over each of them.

    Raises:
        ShapeError: If an image has fewer than three, which no correlation can be drawn from.
    """
    most = int(labels.max()) + 1
    sums = ranked.new_zeros(len(ranked), most).scatter_add_(1, labels, ranked)
    sizes = torch.zeros_like(sums).scatter_add_(1, labels, torch.ones_like(ranked))
    present = sizes > 0
    few = present.sum(dim=1) < POINTS
    if bool(few.any()):
        k = int(few.nonzero()[0, 0])
        msg = (
            f"A correlation needs at least {POINTS} segments per image; {int(few.sum())} of "
            f"{len(few)} images have fewer, first image {k} with {int(present[k].sum())}. Take "
            f"smaller segments."
        )
        raise ShapeError(msg)
    return present, sums


def rounding(images: Images, whole: Tensor, found: Tensor) -> Scalars:
    """Return the size below which changes of the value are rounding, per image."""
    size = torch.maximum(whole.abs().amax(dim=1), found.abs().amax(dim=1))
    return 16 * torch.finfo(images.dtype).eps * size


def pearson(
    first: Float[Tensor, "b k"],
    second: Float[Tensor, "b k"],
    present: Bool[Tensor, "b k"],
    least: Float[Tensor, " b"],
) -> Scalars:
    """Return the correlation of each row's present points.

    NaN where the first points are equal but for rounding, or the second within ``least``.
    """
    count = present.sum(dim=1, keepdim=True)
    centred = []
    for points in (first, second):
        mean = (points * present).sum(dim=1, keepdim=True) / count
        centred.append((points - mean) * present)
    one, two = centred
    sizes = one.square().sum(dim=1).sqrt() * two.square().sum(dim=1).sqrt()
    found = ((one * two).sum(dim=1) / sizes).clamp(-1, 1)
    flat = one.abs().amax(dim=1) <= 1e-12 * (first.abs() * present).amax(dim=1)
    still = two.abs().amax(dim=1) <= least
    return found.masked_fill(flat | still, torch.nan)
