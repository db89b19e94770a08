r"""Routes: what can be changed in a model to make it scale with its images.

A route changes a copy of the model in place and says what it did. Where it meets nothing of its
kind it does nothing. What a model calls as a function, without a module that could be exchanged,
is changed in its graph.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.fx import Node

from whence.convert.change import Change
from whence.convert.surgery import Surgery, aten
from whence.network.layout import shape_of
from whence.network.operations import name_of

__all__ = [
    "ChannelScale",
    "ReplaceActivations",
    "ScaleOnlyBatchNorms",
    "StripBiases",
    "UncentredBatchNorm",
    "UncentredBatchNorms",
]

LAYERS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)  # noqa: SLF001 - the base of all convolutions
BATCH_NORMS = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the base of all batch norms
ACTIVATIONS = (
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Softplus,
    nn.ReLU6,
)
"""What stands where a ReLU could; gates (sigmoid, hard sigmoid) are no such thing."""


PRODUCTS = {"addmm": aten.mm.default, "baddbmm": aten.bmm.default, "addcmul": aten.mul.Tensor}
"""Products to which something is added, and the products alone."""

BIASES = {
    **dict.fromkeys(("conv1d", "conv2d", "conv_transpose2d", "linear"), 2),
    **dict.fromkeys(PRODUCTS, 0),
}
"""The place of the bias among an operation's arguments."""


SMOOTH = frozenset({"gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "softplus", "tanh"})
"""The same in a graph."""


@final
@dataclass(frozen=True, kw_only=True)
class StripBiases:
    """Linear layers and convolutions lose their biases.

    References:
        Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
        section 3.2.
    """

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Remove the biases."""
        changes: list[Change] = []
        for path, module in model.named_modules():
            bias = module.bias if isinstance(module, LAYERS) else None
            if isinstance(bias, Tensor):
                module.register_parameter("bias", None)
                what = f"{type(module).__name__} lost its bias"
                changes.append(Change(path=path, what=what, parameters=bias.numel()))
        return tuple(changes)

    def on_graph(self, surgery: Surgery) -> None:
        """Remove the biases of layers that are called as functions."""
        for node, row in surgery.offenders():
            place = BIASES.get(row.operation)
            if place is None:
                continue
            bias = node.args[place] if place < len(node.args) else node.kwargs.get("bias")
            lost = 0 if (held := surgery.stored(bias)) is None else held.numel()
            what = f"{row.operation} lost its bias"
            if row.operation in PRODUCTS:
                new = surgery.call(node, PRODUCTS[row.operation], *node.args[1:3])
                surgery.replace(node, new, what, lost)
            else:
                node.args = tuple(None if k == place else a for k, a in enumerate(node.args))
                node.kwargs = {k: v for k, v in node.kwargs.items() if k != "bias"}
                surgery.note(node, what, lost)


@final
class ChannelScale(nn.Module):
    r"""Multiplies each channel by a learned factor: what a batch norm is without its shift.

    .. math:: y_c = s_c\, x_c, \qquad s = \gamma / \sqrt{\sigma^2 + \epsilon}

    Args:
        scale: One factor per channel.
    """

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale)

    def forward(self, values: Tensor) -> Tensor:
        """Return the scaled values ``(b, c, ...)``."""
        return values * self.scale.view(1, -1, *[1] * (values.ndim - 2))


@final
@dataclass(frozen=True, kw_only=True)
class ScaleOnlyBatchNorms:
    """Batch norms become one factor per channel: mean and bias go, the deviation stays.

    A batch norm without running statistics divides by the size of its input and is left alone.
    """

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Replace the batch norms."""
        return replaced(model, scaling)

    def on_graph(self, surgery: Surgery) -> None:
        """Take the shift from batch norms that are called as functions."""
        for node, row in surgery.offenders():
            if row.operation == "batch_norm":
                unshifted(surgery, node)


def unshifted(surgery: Surgery, node: Node) -> None:
    """Replace a batch norm in a graph by a scale."""
    gamma, beta, mean, variance = (surgery.stored(a) for a in node.args[1:5])
    if variance is None:
        return
    with torch.no_grad():
        scale = (variance + float(str(node.args[7]))).rsqrt()
        scale = scale if gamma is None else scale * gamma
    sides = len(shape_of(node)) - 2
    weight = surgery.given(node, "scale", scale.view(1, -1, *[1] * sides))
    new = surgery.call(node, aten.mul.Tensor, node.args[0], weight)
    lost = sum(t.numel() for t in (beta, mean) if t is not None)
    surgery.replace(node, new, "batch_norm became a scale per channel, without mean and bias", lost)


@final
class UncentredBatchNorm(nn.Module):
    r"""A batch norm that divides by the deviation and subtracts nothing.

    .. math:: y_c = \gamma_c\, x_c / \sqrt{\sigma_c^2 + \epsilon}

    In eval mode :math:`\sigma` is the running deviation and this is a scale per channel, of degree
    1. In train mode it is the batch's, so that training keeps what batch norm is good for; the
    network is then of degree 0, as with any batch norm, and its images see each other.

    Args:
        weight: :math:`\gamma`.
        variance: The running variance.
        eps: Added to the variance.
        momentum: Share of a batch in the running variance.

    References:
        Böhle, Singh, Fritz and Schiele (2024), "B-cos Alignment for Inherently Interpretable CNNs
        and Vision Transformers", section 3.2.
    """

    running_var: Tensor

    def __init__(self, weight: Tensor, variance: Tensor, eps: float, momentum: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_buffer("running_var", variance)
        self.eps = eps
        self.momentum = momentum

    def forward(self, values: Tensor) -> Tensor:
        """Return the divided values ``(b, c, ...)``."""
        variance = self.running_var
        if self.training:
            axes = [axis for axis in range(values.ndim) if axis != 1]
            variance = values.var(dim=axes, unbiased=False)
            with torch.no_grad():
                self.running_var.lerp_(variance.to(self.running_var), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return values * scale.view(1, -1, *[1] * (values.ndim - 2))


@final
@dataclass(frozen=True, kw_only=True)
class UncentredBatchNorms:
    """Batch norms keep dividing by the deviation but subtract no mean and add no bias.

    For further training; in eval mode the same function as :class:`ScaleOnlyBatchNorms`.
    """

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Replace the batch norms."""
        return replaced(model, uncentring)


def uncentring(module: nn.Module) -> tuple[nn.Module, str, int] | None:
    """Return what replaces a batch norm, the words for it, and how many numbers are lost."""
    if not isinstance(module, BATCH_NORMS) or module.running_var is None:
        return None
    variance = module.running_var.detach().clone()
    weight = module.weight.detach().clone() if module.affine else torch.ones_like(variance)
    momentum = 0.1 if module.momentum is None else module.momentum
    new = UncentredBatchNorm(weight, variance, module.eps, momentum)
    lost = len(variance) * (2 if module.affine else 1)
    return new, f"{type(module).__name__} became uncentred, without mean and bias", lost


def scaling(module: nn.Module) -> tuple[nn.Module, str, int] | None:
    """Return what replaces a batch norm, the words for it, and how many numbers are lost."""
    if not isinstance(module, BATCH_NORMS) or module.running_var is None:
        return None
    with torch.no_grad():
        scale = (module.running_var + module.eps).rsqrt()
        if module.affine:
            scale = scale * module.weight
    lost = len(scale) * (2 if module.affine else 1)
    what = f"{type(module).__name__} became a scale per channel, without mean and bias"
    return ChannelScale(scale.clone()), what, lost


@final
@dataclass(frozen=True, kw_only=True)
class ReplaceActivations:
    """Smooth and capped activations become ReLUs; ReLU, leaky ReLU and PReLU stay."""

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Replace the activations that are modules."""
        return replaced(model, rectifying)

    def on_graph(self, surgery: Surgery) -> None:
        """Replace the activations that are called as functions."""
        for node, row in surgery.offenders():
            if row.operation in SMOOTH or rectifies(node):
                new = surgery.call(node, aten.relu.default, node.args[0])
                surgery.replace(node, new, f"{row.operation} became ReLU")


def rectifies(node: Node) -> bool:
    """Return whether a node bounds its input by zero below and by something above."""
    name = name_of(node)
    return name == "relu6" or (name in ("hardtanh", "clamp") and list(node.args[1:2]) == [0])


def rectifying(module: nn.Module) -> tuple[nn.Module, str, int] | None:
    """Return what replaces an activation, and the words for it."""
    if not isinstance(module, ACTIVATIONS):
        return None
    return nn.ReLU(), f"{type(module).__name__} became ReLU", 0


Replacement = Callable[[nn.Module], tuple[nn.Module, str, int] | None]


def replaced(model: nn.Module, replacement: Replacement) -> tuple[Change, ...]:
    """Replace modules wherever they stand; one that stands in several places stays one."""
    made: dict[int, tuple[nn.Module, nn.Module, str, int]] = {}
    changes: list[Change] = []
    for path, parent, name, child in list(places(model)):
        if id(child) not in made:
            found = replacement(child)
            if found is None:
                continue
            new, what, lost = found
            new.training = child.training
            made[id(child)] = (child, new, what, lost)
            changes.append(Change(path=path, what=what, parameters=lost))
        setattr(parent, name, made[id(child)][1])
    return tuple(changes)


def places(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Yield every place of a module: its path, its parent, its name there, and itself."""
    for path, parent in model.named_modules():
        for name, child in vars(parent)["_modules"].items():
            if child is not None:
                yield f"{path}.{name}".lstrip("."), parent, name, child
