"""Convolutions and linear layers as linear maps with transposes, and relevance through them."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
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
    "RuledLayer",
    "Weighed",
    "bias_share",
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
    tiny = torch.finfo(values.dtype).tiny
    if tiny < TINY:
        return values + TINY  # other values are too large to change by it
    return torch.where(values == 0, tiny, values)


def bias_share(per_unit: Tensor, bias: Tensor) -> Tensor:
    """Return what biases take, added up over a layer's features or over its positions.

    Args:
        per_unit: Relevance of each output per unit of what made it.
        bias: The bias, ``(k,)`` for the last axis or ``(k, 1, ...)`` for the second.
    """
    if bias.ndim == 1:
        return (per_unit @ bias).unsqueeze(-1)
    return per_unit.sum(dim=tuple(range(2, per_unit.ndim)), keepdim=True) * bias


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

    def __call__(self, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the layer's output, without bias unless one is given."""
        bias = None if bias is None else bias.reshape(-1)
        return self.operation(inputs, weight, bias, *self.settings)

    def transposed(self, outputs: Tensor, weight: Tensor) -> Tensor:
        """Return what the transposed layer makes of a tensor shaped like its output."""
        if weight.ndim == 2:  # noqa: PLR2004 - the matrix of a linear layer
            return outputs @ weight
        name = getattr(self.operation, "overloadpacket", self.operation).__name__
        back = {"conv1d": grad.conv1d_input, "conv2d": grad.conv2d_input}.get(name)
        if back is None or any(isinstance(setting, str) for setting in self.settings):
            with torch.enable_grad():
                zeros = outputs.new_zeros(self.shape, requires_grad=True)
                return torch.autograd.grad(self(zeros, weight.detach()), zeros, outputs)[0]
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
        incoming: The multiplier of what came out.
        rectified: Whether a ReLU follows that nothing but this layer feeds; ``values`` are then
            what it lets through, and only they have relevance.
        positive: Whether the graph shows that no input is negative.
    """

    layer: LinearMap
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    values: Tensor
    incoming: Tensor
    rectified: bool = False
    positive: bool = False

    @cached_property
    def relevance(self) -> Tensor:
        """The relevance of what came out."""
        return self.over(None)

    @cached_property
    def signed(self) -> bool:
        """Whether an input is negative."""
        return not self.positive and bool(self.inputs.min() < 0)

    def over(self, total: Tensor | None) -> Tensor:
        """Return the relevance of what came out, divided by a total, whose memory is taken."""
        values = self.values if self.rectified else unzero(self.values)
        if total is None:
            return values * self.incoming
        return torch.div(values, total, out=total).mul_(self.incoming)


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

        The relevance of an input is the input times its multiplier. What biases took may be
        added up over everything but the images; None if they took nothing.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RuledLayer:
    """Stands for a layer under a rule; see :class:`whence.network.Rule`.

    Args:
        rule: How the layer hands relevance down.
        place: Where it stands.
        takes: Whether the bias takes its share; otherwise the inputs receive that too.
        rectified: Whether a ReLU follows, which is then part of this.
        positive: Whether no input can be negative.
    """

    rule: LayerRule
    place: Place
    takes: bool
    rectified: bool = False
    positive: bool = False

    @property
    def __name__(self) -> str:
        """The operation's name, for the code that is generated of a graph."""
        return self.place.name

    def __call__(
        self,
        operation: Callable[..., Tensor],
        inputs: Tensor,
        weight: Tensor,
        offset: Tensor | None = None,
        *settings: Any,  # noqa: ANN401 - stride, padding, dilation, groups
    ) -> Tensor:
        """Return what the operation returns; its backward pass follows the rule."""
        return Ruled.apply(inputs, weight, offset, operation, settings, self)  # type: ignore[no-any-return,no-untyped-call]


def layer_function(rule: LayerRule, place: Place, *, bias: bool) -> RuledLayer:
    """Return the function that stands for a layer under a rule.

    Args:
        rule: How the layer hands relevance down.
        place: Where it stands.
        bias: Whether the bias takes its share; otherwise the inputs receive that too.
    """
    return RuledLayer(rule=rule, place=place, takes=bias)


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
        ruled: RuledLayer,
    ) -> Tensor:
        values = operation(inputs, weight, offset, *settings)
        if ruled.rectified:
            values.relu_()
        ctx.save_for_backward(inputs, weight, offset, values)
        ctx.layer = LinearMap(operation=operation, settings=settings, shape=inputs.shape)
        ctx.ruled, ctx.ledger = ruled, LEDGER.get()
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight, offset, values = ctx.saved_tensors
        ruled: RuledLayer = ctx.ruled
        (incoming,) = gradients
        bias = None if offset is None else offset.view(-1, *[1] * max(0, weight.ndim - 2))
        if bias is not None and not ruled.takes:
            # nothing but the bias made outputs that are zero without it
            relevance, values = unzero(values) * incoming, values - bias
            note(ctx.ledger, ruled.place, relevance * (values == 0))
            incoming, bias = torch.where(values == 0, 0, relevance / unzero(values)), None
        at = Weighed(
            layer=ctx.layer,
            inputs=inputs,
            weight=weight,
            bias=bias,
            values=values,
            incoming=incoming,
            rectified=ruled.rectified,
            positive=ruled.positive,
        )
        multiplier, taken = ruled.rule(at)
        if taken is not None:
            note(ctx.ledger, ruled.place, taken)
        return (multiplier, *[None] * 5)
