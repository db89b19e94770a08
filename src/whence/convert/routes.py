r"""Routes: what can be changed in a model to make it scale with its images.

A route changes a copy of the model in place and says what it did. Where it meets nothing of its
kind it does nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = [
    "ROUTES",
    "Change",
    "ChannelScale",
    "ReplaceActivations",
    "Route",
    "ScaleOnlyBatchNorms",
    "StripBiases",
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


@final
@dataclass(frozen=True, kw_only=True)
class Change:
    """One change to a model.

    Args:
        path: The module, ``layer1.0.bn1``.
        what: What was done to it.
        parameters: Parameters and statistics, counted in numbers, that it no longer has.
    """

    path: str
    what: str
    parameters: int


@runtime_checkable
class Route(Protocol):
    """Changes a copy of a model in place."""

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change the model and say what was changed."""
        ...


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


ROUTES: tuple[Route, ...] = (StripBiases(), ScaleOnlyBatchNorms(), ReplaceActivations())
"""Everything that can be done by exchanging modules."""
