"""Convolutions and linear layers as linear maps with transposes, and relevance through them."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor
from torch.nn import grad

from whence.network import Place

__all__ = [
    "LEDGER",
    "LayerRule",
    "Ledger",
    "LinearMap",
    "Weighed",
    "layer_function",
    "note",
    "stable",
    "unzero",
]

TINY = 1e-30
"""What stands for a value of exactly zero where relevance is divided by it and multiplied again."""

Ledger = list[tuple[Place, Tensor]]
"""The relevance that biases took: operations, and ``(b, ...)`` for each."""

LEDGER: ContextVar[Ledger | None] = ContextVar("LEDGER", default=None)
"""Where operations note what biases take, if anybody asked."""


def note(ledger: Ledger | None, place: Place, taken: Tensor) -> None:
    """Note the relevance that biases took, shaped like the operation's value, if anybody asked."""
    if ledger is not None:
        rows = taken if place.batch is None else place.batch.to_front(taken)
        ledger.append((place, rows.flatten(1).sum(dim=1)))


def stable(values: Tensor, epsilon: float) -> Tensor:
    """Return values moved away from zero by epsilon, each to its own side."""
    step = torch.tensor(epsilon, dtype=values.dtype)
    return torch.copysign(step, values).add_(values)


def unzero(values: Tensor) -> Tensor:
    """Return values of which those that are exactly zero became tiny.

    Relevance travels as a multiplier of a value, which a value of zero would lose. Rules such as
    flat give relevance to zeros; as a multiplier of this it arrives.
    """
    tiny = max(TINY, torch.finfo(values.dtype).tiny)
    return torch.where(values == 0, tiny, values)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LinearMap:
    """What a layer does to its input, apart from its bias.

    Args:
        operation: The operation, such as ``aten.conv2d.default``.
        settings: Its arguments after input, weight and bias: stride, padding, dilation, groups.
        shape: The shape of the input.
    """

    operation: Callable[..., Tensor]
    settings: tuple[Any, ...]
    shape: torch.Size

    def __call__(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the layer's output without bias."""
        return self.operation(inputs, weight, None, *self.settings)

    def transposed(self, outputs: Tensor, weight: Tensor) -> Tensor:
        """Return what the transposed layer makes of a tensor shaped like its output."""
        if weight.ndim == 2:  # noqa: PLR2004 - the matrix of a linear layer
            return outputs @ weight
        name = getattr(self.operation, "overloadpacket", self.operation).__name__
        back = {"conv1d": grad.conv1d_input, "conv2d": grad.conv2d_input}.get(name)
        if back is None or any(isinstance(setting, str) for setting in self.settings):
            zeros = outputs.new_zeros(self.shape)
            pull = torch.func.vjp(lambda inputs: self(inputs, weight), zeros)[1]
            return pull(outputs)[0]  # type: ignore[no-any-return]
        return back(self.shape, weight, outputs, *self.settings)  # type: ignore[no-any-return,no-untyped-call]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Weighed:
    """A layer in its backward pass, as a rule sees it.

    Args:
        layer: The linear map.
        inputs: What went in.
        weight: The layer's weight.
        bias: Its bias, broadcastable over its output; None if it has none or it is to be ignored.
        values: What came out, without the bias if it is to be ignored.
        relevance: The relevance of what came out.
    """

    layer: LinearMap
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    values: Tensor
    relevance: Tensor


@runtime_checkable
class LayerRule(Protocol):
    """How a convolution or linear layer hands relevance down.

    Implementations are frozen dataclasses, and say what they do as attributes:

    * ``conserves``: whether the inputs receive what the outputs had, apart from biases;
    * ``passes``: the cost in passes, if every layer followed the rule.
    """

    @property
    def conserves(self) -> bool:
        """Whether the inputs receive what the outputs had, apart from biases."""
        ...

    @property
    def passes(self) -> float:
        """The cost in passes, if every layer followed the rule."""
        ...

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input, and what the biases took of each output.

        The relevance of an input is the input times its multiplier.
        """
        ...


def layer_function(rule: LayerRule, place: Place, *, bias: bool) -> Callable[..., Tensor]:
    """Return the function that stands for a layer under a rule; see :class:`whence.network.Rule`.

    Args:
        rule: How the layer hands relevance down.
        place: Where it stands.
        bias: Whether the bias takes its share; otherwise the inputs receive that too.
    """

    def ruled(
        operation: Callable[..., Tensor],
        inputs: Tensor,
        weight: Tensor,
        offset: Tensor | None = None,
        *settings: Any,  # noqa: ANN401 - stride, padding, dilation, groups
    ) -> Tensor:
        return Ruled.apply(  # type: ignore[no-any-return,no-untyped-call]
            inputs, weight, offset, operation, settings, rule, place, bias
        )

    return ruled


class Ruled(torch.autograd.Function):
    """A layer whose backward pass follows a rule."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own type is untyped
        inputs: Tensor,
        weight: Tensor,
        offset: Tensor | None,
        operation: Callable[..., Tensor],
        settings: tuple[Any, ...],
        rule: LayerRule,
        place: Place,
        takes: bool,  # noqa: FBT001 - apply() knows no keywords
    ) -> Tensor:
        values = operation(inputs, weight, offset, *settings)
        ctx.save_for_backward(inputs, weight, offset, values)
        ctx.layer = LinearMap(operation=operation, settings=settings, shape=inputs.shape)
        ctx.rule, ctx.place, ctx.takes, ctx.ledger = rule, place, takes, LEDGER.get()
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight, offset, values = ctx.saved_tensors
        relevance = unzero(values) * gradients[0]
        bias = None if offset is None else offset.view(-1, *[1] * max(0, weight.ndim - 2))
        if bias is not None and not ctx.takes:
            values, bias = values - bias, None
            # nothing but the bias made outputs that are zero without it
            note(ctx.ledger, ctx.place, relevance * (values == 0))
        at = Weighed(
            layer=ctx.layer,
            inputs=inputs,
            weight=weight,
            bias=bias,
            values=values,
            relevance=relevance,
        )
        multiplier, taken = ctx.rule(at)
        if taken is not None:
            note(ctx.ledger, ctx.place, taken)
        return (multiplier, *[None] * 7)
