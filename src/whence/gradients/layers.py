"""Layers: an input and the gradient of an output become a weight's and a bias's blocks."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from whence.gradients.blocks import Block, DirectBlock, FactoredBlock
from whence.gradients.patches import Patches
from whence.gradients.routes import LayerUse
from whence.network import BatchAxis
from whence.network.twice import plain_batch_norm

__all__ = ["layer_blocks"]


def layer_blocks(
    use: LayerUse, source: Tensor, gradient: Tensor, statistics: tuple[Tensor, ...]
) -> dict[str, Block]:
    """Return the blocks of a layer's weight and bias, under the names of these values.

    Args:
        use: The layer.
        source: Its input.
        gradient: The gradient of its output.
        statistics: Running mean and variance, for batch norm.
    """
    match use.operation:
        case "conv2d":
            return conv_blocks(use, source, gradient)
        case "linear":
            return linear_blocks(use, source, gradient)
        case _:
            return norm_blocks(use, source, gradient, statistics)


def conv_blocks(use: LayerUse, source: Tensor, gradient: Tensor) -> dict[str, Block]:
    """Return the blocks of a convolution, its input unfolded into patches."""
    shape, stride, padding, dilation, groups = convolution_settings(use.settings)
    found: dict[str, Block] = {}
    outputs = gradient.flatten(2)
    if use.weight is not None:
        if shape[2:] == (1, 1) and not any(padding):
            source, stride = source[:, :, :: stride[0], :: stride[1]], (1, 1)
        patches = Patches(
            source=source,
            kernel=(shape[2], shape[3]),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )
        alone = use.axis.outer * use.axis.inner == 1
        found[use.weight] = FactoredBlock(
            output=merged(split(outputs, 1, groups), use.axis),
            input=patches if alone else merged(patches.unfolded(), use.axis),
            shape=shape,
        )
    if use.bias is not None:
        summed = use.axis.to_front(outputs.sum(dim=2)).sum(dim=(1, 2))
        found[use.bias] = DirectBlock(values=summed, shape=(shape[0],))
    return found


def merged(values: Tensor, axis: BatchAxis) -> Tensor:
    """Return ``(outer * b * inner, g, c, t)`` as ``(b, g, c, outer * inner * t)``."""
    if axis.outer * axis.inner == 1:
        return values
    return axis.to_front(values).flatten(1, 2).permute(0, 2, 3, 1, 4).flatten(3)


def split(values: Tensor, axis: int, parts: int) -> Tensor:
    """Return a tensor with an axis cut into ``parts`` by the rest."""
    shape = values.shape
    return values.reshape(*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])


def convolution_settings(
    settings: tuple[Any, ...],
) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int, int, int], tuple[int, int], int]:
    """Return weight shape, stride, padding (left, right, top, bottom), dilation and groups."""
    shape, *rest = settings
    given = [*rest, *([None] * (4 - len(rest)))]
    stride, (rows, columns), dilation = (
        pair(value, default) for value, default in zip(given[:3], (1, 0, 1), strict=True)
    )
    padding = (columns, columns, rows, rows)
    if given[1] == "same":  # the larger half of an odd padding is behind
        high, wide = ((size - 1) * d for size, d in zip(shape[2:], dilation, strict=True))
        padding = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    return tuple(shape), stride, padding, dilation, int(given[3] or 1)


def pair(value: Any, default: int) -> tuple[int, int]:  # noqa: ANN401 - as ATen writes it
    """Return two integers for what ATen takes as one, two or none."""
    if value is None or isinstance(value, str):
        return default, default
    if isinstance(value, int):
        return value, value
    values = list(value)
    return int(values[0]), int(values[-1])


def linear_blocks(use: LayerUse, source: Tensor, gradient: Tensor) -> dict[str, Block]:
    """Return the blocks of a linear layer."""
    shape = tuple(use.settings[0])
    inputs = use.axis.to_front(source).flatten(1, -2)
    outputs = use.axis.to_front(gradient).flatten(1, -2)
    found: dict[str, Block] = {}
    if use.weight is not None:
        found[use.weight] = FactoredBlock(
            output=outputs.transpose(1, 2)[:, None],
            input=inputs.transpose(1, 2)[:, None],
            shape=shape,
        )
    if use.bias is not None:
        found[use.bias] = DirectBlock(values=outputs.sum(dim=1), shape=shape[:1])
    return found


def norm_blocks(
    use: LayerUse, source: Tensor, gradient: Tensor, statistics: tuple[Tensor, ...]
) -> dict[str, Block]:
    """Return the blocks of a normalisation's scale and shift."""
    channels = source.shape[1]
    match use.operation:
        case "batch_norm":
            mean, variance = statistics
            eps = use.settings[0]
            if torch.is_grad_enabled() and source.requires_grad:
                normal = plain_batch_norm(
                    source, None, None, mean, variance, training=False, momentum=0.0, eps=eps
                )
            else:
                normal = functional.batch_norm(source, mean, variance, eps=eps)
        case "group_norm":
            normal = functional.group_norm(source, use.settings[0], eps=epsilon(use.settings))
        case _:
            normal = functional.layer_norm(source, use.settings[0], eps=epsilon(use.settings))
    if use.operation == "layer_norm":
        shape = tuple(use.settings[0])
        summed = [
            use.axis.to_front(v).flatten(1, -1 - len(shape)).sum(dim=1).flatten(1)
            for v in (gradient * normal, gradient)
        ]
    else:
        shape = (channels,)
        summed = [
            use.axis.to_front(v.reshape(len(v), channels, -1)).sum(dim=(1, 2, 4))
            for v in (gradient * normal, gradient)
        ]
    names = (use.weight, use.bias)
    return {
        name: DirectBlock(values=values, shape=shape)
        for name, values in zip(names, summed, strict=True)
        if name is not None
    }


def epsilon(settings: tuple[Any, ...]) -> float:
    """Return the epsilon of a layer or group norm."""
    return float(settings[1]) if len(settings) > 1 else 1e-5
