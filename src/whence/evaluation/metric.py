"""What a metric says of itself, and the maps that metrics see."""

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.core import Attributions
from whence.errors import NumericsError, ShapeError

__all__ = ["MetricCard", "ascending", "mean_ranks", "membership", "pixel_map"]


@final
@dataclass(frozen=True, kw_only=True)
class MetricCard:
    """What to know before reading a metric's numbers.

    Args:
        better: Whether a higher or a lower value is better; ``neither`` if that depends.
        low: The lowest value that is possible.
        high: The highest value that is possible.
        chance: What attributions without any information get.
        reference: The paper and where in it.
    """

    better: Literal["higher", "lower", "neither"]
    low: float
    high: float
    chance: str
    reference: str


def pixel_map(values: Attributions) -> Float[Tensor, "b n"]:
    """Return one value per pixel, the sum over the channels.

    Raises:
        NumericsError: If a value is NaN or infinite.
        ShapeError: If the values are not ``(b, c, h, w)``.
    """
    check_maps(values)
    if not values.isfinite().all():
        wrong = ~values.isfinite()
        which = wrong.flatten(1).any(dim=1)
        msg = (
            f"{int(wrong.sum())} of {values.numel()} attributions are NaN or infinite, in "
            f"{numbered(which)}, and cannot be judged. Look for such values in weights and images, "
            f"or leave these images out: judge() does, and counts them."
        )
        raise NumericsError(msg)
    return values.sum(dim=1).flatten(1)


def check_maps(values: Attributions) -> None:
    """Refuse what is no batch of maps.

    Raises:
        ShapeError: If the values are not ``(b, c, h, w)``.
    """
    if values.ndim != 4 or not values.numel():  # noqa: PLR2004 - the four axes of a batch
        msg = (
            f"Attributions must have shape (b, c, h, w), with c = 1 or the image's channels; "
            f"got {tuple(values.shape)}."
        )
        raise ShapeError(msg)


def numbered(which: Bool[Tensor, " b"], most: int = 10) -> str:
    """Return which images of a batch these are, in words.

    Example:
        >>> numbered(torch.tensor([False, True, True]))
        'images 1 and 2 of the batch'
    """
    rows = [str(row) for row in which.nonzero()[:, 0].tolist()]
    if len(rows) == 1:
        return f"image {rows[0]} of the batch"
    if len(rows) > most:
        return f"images {', '.join(rows[:most])} and {len(rows) - most} more of the batch"
    return f"images {', '.join(rows[:-1])} and {rows[-1]} of the batch"


def membership(values: Float[Tensor, "b n"], counts: Float[Tensor, " b"]) -> Float[Tensor, "b n"]:
    """Return for each pixel how far it belongs to the ``counts`` highest (1 or more), 0 to 1.

    Pixels that tie for the last places share them, so that nothing depends on their order.
    """
    order = values.sort(dim=1, descending=True).values
    last = counts.long()[:, None] - 1
    threshold = order.gather(1, last)
    above: Bool[Tensor, "b n"] = values > threshold
    tied = values == threshold
    left = counts - above.sum(dim=1)
    share = left / tied.sum(dim=1)
    return torch.where(tied, share[:, None].to(values.dtype), above.to(values.dtype))


def mean_ranks(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Return the ranks from 1 to n of each row, in double precision; ties share their mean."""
    order = quickly_ordered(values)
    ranked = values.gather(1, order)
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    means = places + 1.0
    rises = ranked[:, 1:] > ranked[:, :-1]
    if not bool(rises.all()):  # where values tie, the first and the last place of each run
        edge = torch.ones_like(rises[:, :1])
        first = places.where(torch.cat([edge, rises], dim=1), 0).cummax(dim=1).values
        last = places.where(torch.cat([rises, edge], dim=1), values.shape[1])
        last = last.flip(1).cummin(dim=1).values.flip(1)
        means = (first + last) / 2 + 1
    return torch.empty_like(values, dtype=torch.float64).scatter_(1, order, means.double())


def ascending(values: Float[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Return the order of each row from the lowest; equal values keep the order that they have."""
    order = quickly_ordered(values)
    ranked = values.gather(1, order)
    tied = (ranked[:, 1:] == ranked[:, :-1]).any(dim=1)
    if bool(tied.any()):
        order[tied] = values[tied].argsort(dim=1, stable=True)
    return order


def quickly_ordered(values: Float[Tensor, "b n"]) -> Int[Tensor, "b n"]:
    """Return an order of each row from the lowest; on a CPU numpy finds one many times faster."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.argsort(dim=1)
    return torch.from_numpy(np.argsort(values.detach().numpy(), axis=1))
