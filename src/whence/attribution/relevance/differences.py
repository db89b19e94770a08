r"""Differences: every operation shares out how far its value is from its value at a baseline.

A multiplier :math:`m_i` of an input says how much of the output's difference belongs to each unit
of the input's: :math:`\sum_i m_i \Delta x_i = \Delta y`. For a linear operation it is the
gradient. The baseline goes through the network first and leaves what it was at the operations
that are not linear on a tape; the images follow and read it there, operation by operation. So
neither the batch nor its layout changes, and only the images have a way back.
"""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from whence.errors import UnsupportedOperation

__all__ = [
    "TAPE",
    "Tape",
    "elementwise",
    "inverse",
    "length",
    "multiplied",
    "norm_function",
    "paired",
    "product",
    "quotient",
    "rectifier",
]


@final
@dataclass(kw_only=True)
class Tape:
    """What the baseline was at each operation, in the order of the operations."""

    entries: list[tuple[Tensor, ...]] = field(default_factory=list)
    replaying: bool = False
    position: int = 0

    def paired(self, *values: Tensor) -> tuple[Tensor, ...] | None:
        """Record values, or return those that were recorded in their place."""
        if not self.replaying:
            self.entries.append(tuple(value.detach() for value in values))
            return None
        found, self.entries[self.position] = self.entries[self.position], ()
        self.position += 1
        return found


TAPE: ContextVar[Tape | None] = ContextVar("TAPE", default=None)
"""The tape of the baseline that is being compared with, if any."""


def paired(*values: Tensor) -> tuple[Tensor, ...] | None:
    """Return the baseline's values in the place of these, unless it is the baseline's turn."""
    tape = TAPE.get()
    return None if tape is None else tape.paired(*values)


class Multiplied(torch.autograd.Function):
    """Values whose gradient reaches the inputs as a function says."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own type is untyped
        values: Tensor,
        back: Callable[[Tensor], tuple[Tensor | None, ...]],
        *inputs: Tensor,
    ) -> Tensor:
        ctx.back, ctx.count = back, len(inputs)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        return (None, None, *ctx.back(gradients[0]))


def multiplied(
    values: Tensor, back: Callable[[Tensor], tuple[Tensor | None, ...]], *inputs: Tensor
) -> Tensor:
    """Return values of which ``back`` makes the multipliers of the inputs."""
    return Multiplied.apply(values.detach(), back, *inputs)  # type: ignore[no-any-return,no-untyped-call]


def elementwise(
    operation: Callable[..., Tensor],
    values: Tensor,
    *rest: Any,  # noqa: ANN401 - any function's settings
    **more: Any,  # noqa: ANN401 - as above
) -> Tensor:
    r"""Apply an element-wise function by the rescale rule, :math:`m = \Delta y / \Delta x`.

    Where the difference is lost in rounding, the slope takes its place.
    """
    found = paired(values)
    if found is None:
        return operation(values, *rest, **more)
    (other,) = found
    with torch.no_grad():
        results = operation(values, *rest, **more)
        change = values.detach() - other
        least = (values.detach().abs() + other.abs()).mul_(torch.finfo(values.dtype).eps ** 0.75)
        close = change.abs() <= least
        del least
        rate = (results - operation(other, *rest, **more)).div_(change)
    whole = any(isinstance(setting, Tensor) for setting in rest)
    with torch.enable_grad():
        leaf = values.detach().clone() if whole else values.detach()[close]
        leaf.requires_grad_()
        (slope,) = torch.autograd.grad(operation(leaf, *rest, **more).sum(), leaf)
    rate = torch.where(close, slope, rate) if whole else rate.masked_scatter_(close, slope)
    return multiplied(results, lambda gradient: (gradient * rate,), values)


def rectifier(operation: Callable[..., Tensor], values: Tensor) -> Tensor:
    r"""Apply a ReLU by the rescale rule; its slope where image and baseline are equal."""
    found = paired(values)
    if found is None:
        return operation(values)
    (other,) = found
    with torch.no_grad():
        results = operation(values)
        change = values.detach() - other
        rate = results - other.clamp(min=0)
        rate = torch.where(change == 0, results.sign(), rate.div_(change))
    return multiplied(results, lambda gradient: (gradient * rate,), values)


def product(operation: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
    r"""Multiply two signals: :math:`\Delta(ab) = \Delta a\,\bar b + \bar a\,\Delta b`.

    With bars for the means of image and baseline. Exact, for elements and for matrices.
    """
    found = paired(one, other)
    if found is None:
        return operation(one, other)
    if not (one.requires_grad and other.requires_grad):
        msg = (
            "A signal is multiplied by one without a gradient, such as a comparison x > 0 or a "
            "detached value: what that one changes cannot be handed down, and the values would "
            "not add up. Write it as torch.relu or torch.where, or use a method that needs "
            "gradients only, such as IntegratedGradients."
        )
        raise UnsupportedOperation(msg)
    first, second = ((a.detach() + b).mul_(0.5) for a, b in zip((one, other), found, strict=True))
    elements = getattr(operation, "overloadpacket", operation).__name__ in ("mul", "multiply")

    def back(gradient: Tensor) -> tuple[Tensor | None, ...]:
        if elements:
            return (gradient * second).sum_to_size(first.shape), (gradient * first).sum_to_size(
                second.shape
            )
        return (
            torch.matmul(gradient, second.mT).sum_to_size(first.shape),
            torch.matmul(first.mT, gradient).sum_to_size(second.shape),
        )

    with torch.no_grad():
        results = operation(one, other)
    return multiplied(results, back, one, other)


def quotient(operation: Callable[..., Tensor], values: Tensor, divisor: Tensor) -> Tensor:
    """Divide one signal by another: multiply with its inverse, which follows the rescale rule."""
    del operation
    return product(torch.mul, values, elementwise(torch.reciprocal, divisor))


def inverse(operation: Callable[..., Tensor], values: Tensor | float, divisor: Tensor) -> Tensor:
    """Divide a constant by a signal, by the rescale rule."""
    del operation
    return values * elementwise(torch.reciprocal, divisor)


def norm_function(*, centred: bool, groups: bool = False) -> Callable[..., Tensor]:
    """Return a layer, root-mean-square or group norm in which every step is shared out exactly.

    Args:
        centred: Whether it takes the mean off.
        groups: Whether its first setting is a number of groups of channels.
    """

    def norm(
        operation: Callable[..., Tensor],
        values: Tensor,
        shape: Any,  # noqa: ANN401 - the last axes, or the number of groups
        weight: Tensor | None = None,
        *rest: Any,  # noqa: ANN401 - a bias if it is centred, then epsilon
    ) -> Tensor:
        bias, eps = (*rest, *(None, 1e-5)[len(rest) :])[:2] if centred else (None, *rest, None)[:2]
        eps = torch.finfo(values.dtype).eps if eps is None else eps
        found = paired(values)
        if found is None:
            return operation(values, shape, weight, *rest)
        whole = values.reshape(len(values), shape, -1) if groups else values
        other = found[0].view(whole.shape)
        axes = [2] if groups else list(range(-len(shape), 0))
        normal = standardised(whole, other, axes, eps, centred=centred).view(values.shape)
        if groups:
            place = (-1, *[1] * (values.ndim - 2))
            weight = None if weight is None else weight.view(place)
            bias = None if bias is None else bias.view(place)
        normal = normal if weight is None else normal * weight
        return normal if bias is None else normal + bias

    return norm


def standardised(
    values: Tensor, other: Tensor, axes: list[int], eps: float, *, centred: bool
) -> Tensor:
    """Return values over their deviation, with the multipliers of the difference to another."""
    with torch.no_grad():
        parts = []
        for each in (values.detach(), other):
            middle = each - each.mean(axes, keepdim=True) if centred else each
            parts.append((middle, (middle.square().mean(axes, keepdim=True) + eps).rsqrt()))
        (here, scale), (there, scale_other) = parts
        mean = (here + there) / 2
        # the slope of 1 / sqrt(u) between two points, in terms of its values there
        slope = -((scale * scale_other) ** 2) / (scale + scale_other)

    def back(gradient: Tensor) -> tuple[Tensor]:
        total = (gradient * mean).sum(axes, keepdim=True) * slope
        count = mean.numel() // total.numel()
        found = gradient * (scale + scale_other) / 2 + total * 2 * mean / count
        return (found - found.mean(axes, keepdim=True) if centred else found,)

    return multiplied(here * scale, back, values)


def length(
    operation: Callable[..., Tensor],
    values: Tensor,
    order: float,
    axes: Sequence[int] | None = None,
    *rest: Any,  # noqa: ANN401 - whether to keep the axes, a type
) -> Tensor:
    r"""Return Euclidean lengths: :math:`m = (x + x') / (\|x\| + \|x'\|)`, exact."""
    if order != 2:  # noqa: PLR2004 - the Euclidean norm
        msg = f"A norm of order {order:g} has no rule for differences yet; order 2 has."
        raise UnsupportedOperation(msg)
    found = paired(values)
    if found is None:
        return operation(values, order, axes, *rest)
    (other,) = found
    along = list(range(values.ndim)) if axes is None else list(axes)
    with torch.no_grad():
        results = operation(values, order, axes, *rest)
        total = values.square().sum(along, keepdim=True).sqrt()
        total = total + other.square().sum(along, keepdim=True).sqrt()
        rate = torch.where(total == 0, 0, (values.detach() + other) / total)
    return multiplied(results, lambda gradient: (gradient.reshape(total.shape) * rate,), values)
