r"""Relevance through everything that is neither a convolution nor a linear layer.

What is linear in the images without a bias needs no rule, because relevance travels as a
multiplier of values: a sum hands its multiplier to both parts, which is their share of the sum.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from whence.attribution.relevance.layers import LEDGER, bias_share, note, stable, unzero
from whence.errors import UnsupportedOperation
from whence.network import Place

__all__ = [
    "attention",
    "batch_norm_function",
    "blocked_function",
    "constant",
    "divided",
    "group_norm_function",
    "layer_norm_function",
    "matrix_product",
    "passed",
    "product",
    "product_with_gate",
    "rms_norm",
    "sum_function",
]

STABLE = 1e-6
"""What keeps a denominator from zero where the bias is to be ignored."""


class Passed(torch.autograd.Function):
    """An element-wise function whose input receives the relevance of its output."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own type is untyped
        values: Tensor,
        operation: Callable[..., Tensor],
        rest: tuple[Any, ...],
        more: dict[str, Any],
    ) -> Tensor:
        results = operation(values, *rest, **more)
        ctx.save_for_backward(values, results)
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        values, results = ctx.saved_tensors
        return unzero(results).div_(unzero(values)).mul_(gradients[0]), None, None, None


def passed(operation: Callable[..., Tensor], values: Tensor, *rest: Any, **more: Any) -> Tensor:  # noqa: ANN401 - any function's settings
    """Apply an element-wise function; relevance passes it unchanged."""
    return Passed.apply(values, operation, rest, more)  # type: ignore[no-any-return,no-untyped-call]


class Scaled(torch.autograd.Function):
    """The same values, the gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: float) -> Tensor:  # noqa: ANN401
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0] * ctx.factor, None


def scaled(values: Tensor, factor: float) -> Tensor:
    """Return values that receive this part of their relevance."""
    if factor == 1 or not values.requires_grad:
        return values
    return Scaled.apply(values, factor)  # type: ignore[no-any-return,no-untyped-call]


def product(operation: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
    """Multiply two signals, element by element.

    Half of the relevance goes to each; all of it to the larger where one multiplies whole
    channels or positions of it, as a gate does: the gate then counts as a constant.
    """
    if one.numel() < other.numel():
        one = one.detach()
    elif other.numel() < one.numel():
        other = other.detach()
    return matrix_product(operation, one, other)


def matrix_product(operation: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
    """Multiply two signals; half of the relevance goes to each, or all to the only signal."""
    result = operation(one, other)
    if not (one.requires_grad and other.requires_grad):
        return result
    return scaled(result, 0.5)


def product_with_gate(gate: int) -> Callable[..., Tensor]:
    """Return a product of which one factor (0 or 1) is a constant."""

    def gated(operation: Callable[..., Tensor], one: Tensor, other: Tensor) -> Tensor:
        return operation(one.detach(), other) if gate == 0 else operation(one, other.detach())

    return gated


def divided(
    operation: Callable[..., Tensor],
    values: Tensor,
    divisor: Tensor,
    **more: Any,  # noqa: ANN401 - how to round
) -> Tensor:
    """Divide by a signal, which counts as a constant."""
    return operation(values, divisor.detach(), **more)


def constant(operation: Callable[..., Tensor], *values: Any, **more: Any) -> Tensor:  # noqa: ANN401 - any arguments
    """Apply an operation whose result counts as a constant."""
    with torch.no_grad():
        return operation(*values, **more)


def blocked_function(name: str) -> Callable[..., Any]:
    """Return the function that stands for an operation through which no rule leads."""

    def blocked(
        operation: Callable[..., Any],
        *values: Any,  # noqa: ANN401 - any operation's arguments
        **more: Any,  # noqa: ANN401 - as above
    ) -> Any:  # noqa: ANN401 - as above
        result = operation(*values, **more)
        for part in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(part, Tensor) and part.requires_grad:
                part.register_hook(refuse)  # type: ignore[no-untyped-call]
        return result

    def refuse(gradient: Tensor) -> Tensor:
        if not gradient.any():
            return gradient
        msg = (
            f"Relevance arrives at the operation {name!r}, for which no rule is known. "
            f"Replace the operation, or use a method that needs gradients only, such as "
            f"IntegratedGradients."
        )
        raise UnsupportedOperation(msg)

    return blocked


class Shifted(torch.autograd.Function):
    """Values plus a shift, of which the shift takes its share of relevance, or none."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, shift: Tensor, place: Place, takes: bool) -> Tensor:  # noqa: ANN401, FBT001
        ctx.takes, ctx.place, ctx.ledger = takes, place, LEDGER.get()
        ctx.save_for_backward(*([shift] if takes else [values, shift]))
        return values + shift

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        (gradient,) = gradients
        if ctx.takes:
            (shift,) = ctx.saved_tensors
            if ctx.ledger is not None:
                note(ctx.ledger, ctx.place, gradient * shift)
            return gradient, None, None, None
        values, shift = ctx.saved_tensors
        note(ctx.ledger, ctx.place, gradient * shift * (values == 0))
        return gradient * (values + shift) / stable(values, STABLE), None, None, None


def shifted(values: Tensor, shift: Tensor | None, place: Place, *, takes: bool) -> Tensor:
    """Return values plus a shift, if there is one."""
    if shift is None:
        return values
    return Shifted.apply(values, shift, place, takes)  # type: ignore[no-any-return,no-untyped-call]


def sum_function(sign: int, place: Place, *, bias: bool) -> Callable[..., Tensor]:
    """Return a sum (1) or difference (-1) of a signal and a constant, which is a bias."""

    def with_constant(
        operation: Callable[..., Tensor],
        one: Tensor,
        other: Tensor | float,
        **more: Any,  # noqa: ANN401 - a factor of the second
    ) -> Tensor:
        if not isinstance(other, Tensor):
            other = one.new_tensor(other)
        if more or not one.requires_grad or one.shape != operation(one, other).shape:
            return operation(one, other, **more)
        return shifted(one, sign * other, place, takes=bias)

    return with_constant


def batch_norm_function(place: Place, *, bias: bool) -> Callable[..., Tensor]:
    """Return a batch norm that is a scale and a shift, and the shift a bias."""

    def batch_norm(
        operation: Callable[..., Tensor],
        values: Tensor,
        weight: Tensor | None,
        offset: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        training: bool,  # noqa: FBT001 - the operation's signature
        momentum: float,
        eps: float,
        *rest: Any,  # noqa: ANN401 - as above
    ) -> Tensor:
        del operation, training, momentum, rest
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if offset is None else offset - mean * scale
        axes = (-1, *[1] * (values.ndim - 2))
        return shifted(values * scale.view(axes), shift.view(axes), place, takes=bias)

    return batch_norm


class Normed(torch.autograd.Function):
    """A layer norm whose deviation counts as a constant, and whose shift takes its share."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own type is untyped
        values: Tensor,
        shape: Sequence[int],
        weight: Tensor | None,
        offset: Tensor | None,
        eps: float,
        place: Place,
    ) -> Tensor:
        result, _, scale = torch.native_layer_norm(values, shape, weight, offset, eps)
        ctx.save_for_backward(scale, weight, offset)
        ctx.place, ctx.ledger, ctx.axes = place, LEDGER.get(), list(range(-len(shape), 0))
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        scale, weight, offset = ctx.saved_tensors
        (gradient,) = gradients
        if offset is not None:
            several = offset.ndim > 1
            note(
                ctx.ledger,
                ctx.place,
                gradient * offset if several else bias_share(gradient, offset),
            )
        multiplier = gradient * scale if weight is None else (gradient * weight).mul_(scale)
        multiplier.sub_(multiplier.mean(ctx.axes, keepdim=True))
        return (multiplier, *[None] * 5)


def layer_norm_function(place: Place, *, bias: bool) -> Callable[..., Tensor]:
    """Return a layer norm whose deviation counts as a constant and whose shift is a bias."""

    def layer_norm(
        operation: Callable[..., Tensor],
        values: Tensor,
        shape: Sequence[int],
        weight: Tensor | None = None,
        offset: Tensor | None = None,
        eps: float = 1e-5,
        *rest: Any,  # noqa: ANN401 - the operation's signature
    ) -> Tensor:
        del operation, rest
        if bias or offset is None:
            return Normed.apply(values, shape, weight, offset, eps, place)  # type: ignore[no-any-return,no-untyped-call]
        normal = standardised(values, list(range(-len(shape), 0)), eps)
        normal = normal if weight is None else normal * weight
        return shifted(normal, offset, place, takes=bias)

    return layer_norm


def group_norm_function(place: Place, *, bias: bool) -> Callable[..., Tensor]:
    """Return a group norm whose deviation counts as a constant and whose shift is a bias."""

    def group_norm(
        operation: Callable[..., Tensor],
        values: Tensor,
        groups: int,
        weight: Tensor | None = None,
        offset: Tensor | None = None,
        eps: float = 1e-5,
        *rest: Any,  # noqa: ANN401 - the operation's signature
    ) -> Tensor:
        del operation, rest
        grouped = values.reshape(len(values), groups, -1)
        normal = standardised(grouped, [2], eps).view_as(values)
        axes = (-1, *[1] * (values.ndim - 2))
        normal = normal if weight is None else normal * weight.view(axes)
        return shifted(normal, None if offset is None else offset.view(axes), place, takes=bias)

    return group_norm


def standardised(values: Tensor, axes: list[int], eps: float) -> Tensor:
    """Return values less their mean, over a deviation that counts as a constant."""
    centred = values - values.mean(dim=axes, keepdim=True)
    with torch.no_grad():
        scale = (centred.square().mean(dim=axes, keepdim=True) + eps).rsqrt()
    return centred * scale


def rms_norm(
    operation: Callable[..., Tensor],
    values: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide by the root mean square, which counts as a constant."""
    del operation
    axes = list(range(-len(shape), 0))
    eps = torch.finfo(values.dtype).eps if eps is None else eps
    with torch.no_grad():
        scale = (values.square().mean(dim=axes, keepdim=True) + eps).rsqrt()
    return values * scale if weight is None else values * scale * weight


def attention(*, weights: bool) -> Callable[..., Tensor]:
    r"""Return attention that hands half of its relevance to the values and half to its weights.

    With the softmax's own gradient, and half for each factor of every product, a query and a key
    receive a quarter of their ordinary gradient and a value half of it: so the fused kernel
    serves, and the weights :math:`A` are never stored.

    Args:
        weights: Whether relevance flows through the attention weights (AttnLRP); otherwise they
            count as constants (CP-LRP).
    """

    def attended(
        operation: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *rest: Any,  # noqa: ANN401 - dropout, whether it is causal
        **more: Any,  # noqa: ANN401 - scale, whether queries are grouped
    ) -> Tensor:
        if not weights:
            query, key = query.detach(), key.detach()
            attn_mask = None if attn_mask is None else attn_mask.detach()
        masked = attn_mask is not None and attn_mask.requires_grad
        varies = query.requires_grad or key.requires_grad or masked
        of_weights = 0.5 if value.requires_grad else 1.0
        of_scores = of_weights * (0.5 if query.requires_grad and key.requires_grad else 1.0)
        if attn_mask is not None:
            attn_mask = scaled(attn_mask, of_weights)
        return operation(
            scaled(query, of_scores),
            scaled(key, of_scores),
            scaled(value, 0.5 if varies else 1.0),
            attn_mask,
            *rest,
            **more,
        )

    return attended
