r"""Convolutions whose gradient at the input has a fast derivative of its own.

The loss with a prior differentiates a gradient: at each convolution :math:`y = W * x` the pass
back, :math:`g_x = W^\top * g_y`, is differentiated for the weights. PyTorch has one formula for
all of it, which correlates whole images with each other as if one of them were a kernel: up to
three times as slow as it need be. For a direction :math:`u` at :math:`g_x` the derivative for the
weights is that of :math:`\langle W * u, g_y \rangle`, an ordinary gradient at the weights, with
:math:`u` in the place of the input.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["FastConvolutions"]

convolution_backward = torch.ops.aten.convolution_backward.default
CALLS = (functional.conv2d, torch.ops.aten.conv2d.default)
"""A convolution as a module calls it, and as the graph of a network does."""

AXES = 4

Settings: TypeAlias = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups."""

Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
"""At input, weight and bias; None where it is not wanted."""

Slopes: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""The latest gradient at a convolution's output, and its input."""


@final
class FastConvolutions(TorchFunctionMode):
    """While it is entered, convolutions of images are those whose gradient differentiates fast.

    Values and gradients are the same, up to rounding. Under autocast or a function transform, and
    where a padding is a word, they stay PyTorch's own.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - any function of torch
        """Call the function, or ours in its place."""
        del types
        if func in CALLS:
            found = convolved(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def convolved(
    input: Tensor,  # noqa: A002 - as torch calls it
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    """Return a convolution by our function, or None where PyTorch's is to be taken."""
    if (
        isinstance(padding, str)
        or input.ndim != AXES
        or not torch.is_grad_enabled()
        or torch.is_autocast_enabled(input.device.type)
        or torch._C._are_functorch_transforms_active()  # noqa: SLF001 - torch asks it, too
        or not (input.requires_grad and weight.requires_grad)
    ):
        return None
    settings = (two(stride), two(padding), two(dilation), groups)
    slopes: Slopes = {}
    parts = Parameters.apply(weight, bias, slopes, settings)  # type: ignore[no-untyped-call]
    return Convolution.apply(input, *parts, weight, slopes, settings)  # type: ignore[no-untyped-call, no-any-return]


def two(value: int | Sequence[int]) -> list[int]:
    """Return one number for each axis."""
    if isinstance(value, int):
        return [value, value]
    return [int(v) for v in value] * (2 // len(value))


class Parameters(Function):
    """Weight and bias as they are; their gradients are computed if somebody asks for them.

    A function of Python cannot know which of its gradients are wanted, and the gradient at the
    weight costs as much as a forward pass. So :class:`Convolution` leaves here what is needed for
    it, and this function, which is only run if a gradient of a parameter is wanted, computes it.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        weight: Tensor,
        bias: Tensor | None,
        slopes: Slopes,
        settings: Settings,
    ) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias."""
        ctx.save_for_backward(weight)
        ctx.slopes, ctx.settings, ctx.biased = slopes, settings, bias is not None
        return weight.view_as(weight), None if bias is None else bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *places: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        """Return the gradients for weight and bias."""
        del places
        (weight,) = ctx.saved_tensors
        slope, values = ctx.slopes.pop("latest")
        wanted = (False, ctx.needs_input_grad[0], ctx.biased and ctx.needs_input_grad[1])
        _, at_weight, at_bias = backward(slope, values, weight, ctx.settings, wanted)
        return at_weight, at_bias, None, None


class Convolution(Function):
    """A convolution; its backward is differentiable, and fast to differentiate."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        original: Tensor,
        slopes: Slopes,
        settings: Settings,
    ) -> Tensor:
        """Return the convolution; ``original`` is the weight before :class:`Parameters`."""
        ctx.save_for_backward(values, original)
        ctx.slopes, ctx.settings, ctx.biased = slopes, settings, bias is not None
        return functional.conv2d(values, weight, bias, *settings)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        """Return the gradient for the values, and empty places for those of the parameters."""
        values, weight = ctx.saved_tensors
        gradient = InputGradient.apply(slope, weight, values.detach(), ctx.settings)  # type: ignore[no-untyped-call]
        ctx.slopes["latest"] = (slope, values)
        empty = slope.new_zeros(())
        at_bias = empty.expand(len(weight)) if ctx.biased else None
        return gradient, empty.expand_as(weight), at_bias, None, None, None


class InputGradient(Function):
    """The gradient of a convolution at its input, as a function of the output's and the weight."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        slope: Tensor,
        weight: Tensor,
        like: Tensor,
        settings: Settings,
    ) -> Tensor | None:
        """Return the gradient at the input, shaped ``like`` it."""
        ctx.save_for_backward(slope, weight)
        ctx.settings = settings
        found, _, _ = backward(slope, like, weight, settings, (True, False, False))
        return found

    @staticmethod
    def backward(ctx: Any, direction: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        """Return the gradients for slope and weight: the direction stands where the input did."""
        slope, weight = ctx.saved_tensors
        need = ctx.needs_input_grad
        at_slope = at_weight = None
        if need[0]:
            at_slope = functional.conv2d(direction, weight, None, *ctx.settings)
        if need[1]:
            _, at_weight, _ = backward(slope, direction, weight, ctx.settings, (False, True, False))
        return at_slope, at_weight, None, None


def backward(
    slope: Tensor,
    values: Tensor,
    weight: Tensor,
    settings: Settings,
    wanted: tuple[bool, bool, bool],
) -> Gradients:
    """Return the gradients of a convolution that are wanted: at input, weight and bias."""
    stride, padding, dilation, groups = settings
    found: Gradients = convolution_backward(
        slope,
        values,
        weight,
        bias_sizes=[len(weight)] if wanted[2] else None,
        stride=stride,
        padding=padding,
        dilation=dilation,
        transposed=False,
        output_padding=[0, 0],
        groups=groups,
        output_mask=list(wanted),
    )
    return found
