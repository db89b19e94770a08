r"""Differences through operations that pick: maxima, minima, and one of two by a condition."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from whence.attribution.relevance.differences import multiplied, paired

__all__ = ["adaptive_pool", "extreme_function", "filled", "larger_function", "max_pool", "where"]

aten = torch.ops.aten

Picked = tuple[Tensor, Tensor]
"""Values, and where each was found: positions in the flattened last axes of the input."""


def max_pool(
    operation: Callable[..., Tensor],
    values: Tensor,
    *settings: Any,  # noqa: ANN401 - size, stride, padding, dilation, rounding
) -> Tensor:
    """Pool by the maximum over one or two axes."""
    flat = getattr(operation, "overloadpacket", operation).__name__ == "max_pool1d"
    pool = aten.max_pool1d_with_indices if flat else aten.max_pool2d_with_indices
    return picked(lambda maps: pool(maps, *settings), values, 1 if flat else 2)[0]


def adaptive_pool(operation: Callable[..., Picked], values: Tensor, size: Sequence[int]) -> Picked:
    """Pool by the maximum to a given size; also return where the maxima are."""
    return picked(lambda maps: operation(maps, size), values, len(size))


def extreme_function(*, largest: bool) -> Callable[..., Tensor]:
    """Return the maximum, or minimum, over axes."""

    def extreme(
        operation: Callable[..., Tensor],
        values: Tensor,
        axes: Sequence[int] = (),
        keepdim: bool = False,  # noqa: FBT001, FBT002 - the operation's signature
    ) -> Tensor:
        del operation
        along = sorted(axis % values.ndim for axis in (axes or range(values.ndim)))
        last = list(range(values.ndim - len(along), values.ndim))
        pick = torch.max if largest else torch.min

        def of_all(maps: Tensor) -> Picked:
            found, at = pick(maps.flatten(last[0]), dim=-1, keepdim=True)
            return found, at

        result = picked(of_all, values.movedim(along, last), len(along))[0].squeeze(-1)
        if keepdim:
            for axis in along:
                result = result.unsqueeze(axis)
        return result

    return extreme


def picked(pick: Callable[[Tensor], Picked], values: Tensor, axes: int) -> Picked:
    """Return what is picked of the last axes; a rise belongs to the image's winner.

    A fall belongs to what was the baseline's winner.
    """
    found = paired(values)
    with torch.no_grad():
        results, winners = pick(values)
        if found is None:
            return results, winners
        (other,) = found
        front = values.ndim - axes
        before, winners_before = pick(other)
        rise = results - before
        change = (values.detach() - other).flatten(front)
        at = torch.where(rise > 0, winners, winners_before).flatten(front)
        moved = change.gather(front, at)
        rate = torch.where(rise.flatten(front) == 0, 0, rise.flatten(front).div(moved))
        shape = change.shape
        del change, moved, before, winners_before

    def back(gradient: Tensor) -> tuple[Tensor]:
        spread = gradient.new_zeros(shape)
        spread.scatter_add_(front, at, gradient.flatten(front) * rate)
        return (spread.view(values.shape),)

    return multiplied(results, back, values), winners


def where(
    operation: Callable[..., Tensor], condition: Tensor, one: Tensor | float, other: Tensor | float
) -> Tensor:
    r"""Choose by a condition, element by element.

    Where image and baseline choose the same, its difference counts; where they do not, both
    receive :math:`\Delta y / (\Delta a + \Delta b)`, which is the rescale rule for an activation
    that is written as a condition.
    """
    like = one if isinstance(one, Tensor) else other
    if not isinstance(like, Tensor):
        return operation(condition, one, other)
    first, second = (v if isinstance(v, Tensor) else like.new_tensor(v) for v in (one, other))
    found = paired(condition, first, second)
    with torch.no_grad():
        results = torch.where(condition, first, second)
        if found is None:
            return results
        before = torch.where(found[0], found[1], found[2])
        changes = [first.detach() - found[1], second.detach() - found[2]]
        total = changes[0] + changes[1]
        shared = torch.where(total == 0, 0, (results - before) / total)
        same = condition == found[0]
        rates = [torch.where(same, condition.to(total), shared)]
        rates.append(torch.where(same, (~condition).to(total), shared))

    def back(gradient: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(rates, changes, strict=True)
        return tuple((gradient * rate).sum_to_size(change.shape) for rate, change in pairs)

    return multiplied(results, back, first, second)


def filled(
    operation: Callable[..., Tensor], values: Tensor, mask: Tensor, value: Tensor | float
) -> Tensor:
    """Fill a number in where a mask says so."""
    del operation
    return where(torch.where, mask, value, values)


def larger_function(*, largest: bool) -> Callable[..., Tensor]:
    """Return the larger, or smaller, of two tensors, element by element."""

    def larger(operation: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
        del operation
        condition = (one >= other) if largest else (one <= other)
        return where(torch.where, condition, one, other)

    return larger
