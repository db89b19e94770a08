"""Scales: how large activations are before and after a conversion, layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.fx import Node

from whence.convert.refit import goal_of, scale_behind
from whence.core import Images
from whence.network import Network
from whence.network.operations import module_path, name_of

__all__ = ["LayerScale", "diverging", "layer_scales"]

LAYERS = frozenset({"conv1d", "conv2d", "conv_transpose2d", "linear"})
"""Operations whose outputs are compared: they are there before and after."""

FACTOR = 30.0
"""Activations this many times larger, or smaller, than they were are worth a warning."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerScale:
    """The root mean square of a layer's output before and after a conversion.

    Args:
        path: The module.
        before: In the original model; NaN if the layer is not there.
        after: In the converted one.
    """

    path: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        """How many times larger it became; infinite where it was zero or is not finite."""
        if self.before == self.after:
            return 1.0
        if not self.after < float("inf"):
            return float("inf")
        return self.after / self.before if self.before else float("inf")


def layer_scales(
    before: Network, after: Network, images: Images, seen: Tensor
) -> tuple[LayerScale, ...]:
    """Return the scale of every layer that both networks have: a forward pass of each.

    Args:
        before: The original.
        after: The converted.
        images: What the original takes.
        seen: What the converted takes.
    """
    old, new = sizes(before, images), sizes(after, seen)
    shared = zip_by_path(old, new)
    return tuple(LayerScale(path=path, before=a, after=b) for path, a, b in shared)


def sizes(network: Network, images: Images) -> list[tuple[str, float]]:
    """Return the root mean square behind every layer and the norm that follows, and the logits'."""
    layers = [node for node in network.graph.nodes if name_of(node) in LAYERS]
    ends = [normed(node) for node in layers]
    run = network.function(taps=[node.name for node in ends])
    with torch.inference_mode(mode=False), torch.no_grad():
        logits, values = run(network.parameters, images.clone())
    names = [module_path(node) or node.name for node in layers]
    found = [(name, size_of(value)) for name, value in zip(names, values, strict=True)]
    return [*found, ("logits", size_of(logits))]


def normed(node: Node) -> Node:
    """Return the batch norm, or the scale, behind a layer, or the layer itself."""
    return next(iter(node.users)) if scale_behind(node) is not None else goal_of(node)


def size_of(values: Tensor) -> float:
    """Return a root mean square."""
    return float(values.double().square().mean().sqrt())


def zip_by_path(
    old: Sequence[tuple[str, float]], new: Sequence[tuple[str, float]]
) -> list[tuple[str, float, float]]:
    """Pair the layers: by order where both have as many, else by their module."""
    if len(old) == len(new):
        return [(a[0], a[1], b[1]) for a, b in zip(old, new, strict=True)]
    later = dict(new)
    return [(path, size, later[path]) for path, size in old if path in later]


def diverging(scales: Sequence[LayerScale]) -> tuple[LayerScale, ...]:
    """Return the layers whose activations explode or vanish."""
    return tuple(s for s in scales if not 1 / FACTOR <= s.ratio <= FACTOR)
