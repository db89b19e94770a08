"""Layout: where the batch is inside a tensor, and where the image plane is."""

from dataclasses import dataclass
from typing import final

import torch
from torch import SymInt, Tensor
from torch.fx import Graph, Node

from whence.network.operations import name_of, tensor_inputs
from whence.network.rewrite import depends_on_images

__all__ = ["BatchAxis", "Plane", "batch_axes", "plane_of", "shape_of"]

RESHAPES = frozenset({"view", "reshape", "reshape_as", "view_as", "flatten", "unflatten"})
"""Operations that regroup axes but keep the order of elements."""


@final
@dataclass(frozen=True)
class BatchAxis:
    """The batch is axis ``axis``, of size ``outer * b * inner``.

    Windowed attention folds windows into the batch (``inner``); attention that keeps the sequence
    first and flattens it has the positions outside (``outer``).
    """

    axis: int
    outer: int = 1
    inner: int = 1

    def to_front(self, value: Tensor) -> Tensor:
        """Return the tensor as ``(b, ...)``, the batch first and the rest behind it."""
        shape = value.shape
        count = shape[self.axis] // (self.outer * self.inner)
        split = value.reshape(
            *shape[: self.axis], self.outer, count, self.inner, *shape[self.axis + 1 :]
        )
        return split.movedim(self.axis + 1, 0)


@final
@dataclass(frozen=True)
class Plane:
    """How an activation holds an image plane.

    Args:
        kind: ``"bchw"``, ``"bhwc"`` or ``"tokens"`` (``(b, prefix + h * w, k)``).
        height: Rows of the plane.
        width: Columns of the plane.
        prefix: Class, distillation and register tokens in front of the patch tokens.
    """

    kind: str
    height: int
    width: int
    prefix: int = 0

    def maps(self, activation: Tensor) -> Tensor:
        """Return the activation as ``(b, k, h, w)``: linear, and differentiable."""
        match self.kind:
            case "bchw":
                return activation
            case "bhwc":
                return activation.permute(0, 3, 1, 2)
            case _:
                patches = activation[:, self.prefix :]
                channels = patches.transpose(1, 2)
                return channels.reshape(*channels.shape[:2], self.height, self.width)


def shape_of(node: Node) -> tuple[int | SymInt, ...]:
    """Return the shape recorded for a node's value; empty for lists and numbers."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def multiple_of_batch(size: int | SymInt) -> int:
    """Return ``m`` if the size is ``m * b`` for every batch size ``b``, else 0."""
    if not isinstance(size, SymInt):
        return 0
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    if len(symbols) != 1:
        return 0
    at = [int(expression.subs(symbols[0], b)) for b in (6, 10)]
    return at[0] // 6 if at[0] % 6 == 0 and at[0] // 6 * 10 == at[1] else 0


def batch_axes(graph: Graph) -> dict[Node, BatchAxis]:
    """Return where the batch is in every image-dependent tensor of the graph."""
    moving = depends_on_images(graph)
    found: dict[Node, BatchAxis] = {}
    for node in graph.nodes:
        if node in moving and shape_of(node):
            axis = batch_axis(node, found)
            if axis is not None:
                found[node] = axis
        elif node in moving:
            first = next((n for n in tensor_inputs(node) if n in found), None)
            if first is not None:
                found[node] = found[first]
    return found


def batch_axis(node: Node, known: dict[Node, BatchAxis]) -> BatchAxis | None:
    """Return where the batch is in a node's tensor."""
    shape = shape_of(node)
    at = next((i for i, size in enumerate(shape) if multiple_of_batch(size)), None)
    if at is None:
        return None
    count = multiple_of_batch(shape[at])
    if count == 1:
        return BatchAxis(at)
    source = next((n for n in tensor_inputs(node) if n in known), None)
    if source is None:
        return None
    before = known[source]
    if name_of(node) in RESHAPES and shape_of(source):
        left = product(shape_of(source)[: before.axis]) * before.outer
        outer = left // product(shape[:at])
        return BatchAxis(at, outer, count // outer) if outer and count % outer == 0 else None
    if before.outer * before.inner == count:
        return BatchAxis(at, before.outer, before.inner)
    return None


def product(sizes: tuple[int | SymInt, ...]) -> int:
    """Return the product of sizes, none of which depends on the batch."""
    result = 1
    for size in sizes:
        result *= int(size) if not isinstance(size, SymInt) else 1
    return result


def plane_of(node: Node, image: tuple[int, int]) -> Plane | None:
    """Return how a node's value holds an image plane of more than one pixel, if it does.

    Args:
        node: A node of the graph.
        image: Height and width of the images; a plane must have their aspect, nearly.
    """
    shape = shape_of(node)
    if not shape or multiple_of_batch(shape[0]) != 1:
        return None
    sizes = [size if isinstance(size, int) else 0 for size in shape[1:]]
    if len(sizes) == 3:  # noqa: PLR2004 - channels, height and width
        for kind, (h, w) in (("bchw", sizes[1:]), ("bhwc", sizes[:2])):
            if h * w > 1 and like_image(h, w, image) and not attention_like(node):
                return Plane(kind, h, w)
        return None
    if len(sizes) == 2 and sizes[0] > 1:  # noqa: PLR2004 - tokens and features
        return token_plane(node, sizes[0], image)
    return None


def attention_like(node: Node) -> bool:
    """Return whether a four-axis value is heads by tokens rather than an image plane."""
    return name_of(node) in ("scaled_dot_product_attention", "softmax", "matmul")


def like_image(height: int, width: int, image: tuple[int, int]) -> bool:
    """Return whether a plane has the images' aspect, up to rounding of its size by one."""
    full_height, full_width = image
    return (
        0 < height <= full_height
        and 0 < width <= full_width
        and abs(height * full_width - width * full_height) <= max(full_height, full_width)
    )


def token_plane(node: Node, tokens: int, image: tuple[int, int]) -> Plane | None:
    """Return the grid of a token sequence, from the last feature map that it came from.

    Of several sizes the one that leaves the fewest tokens over counts: heads by features, in the
    middle of an attention, may look like a small grid.
    """
    most_prefix = 16
    seen: set[Node] = set()
    pending = [node]
    best: Plane | None = None
    best_key = (-most_prefix - 1, -1)
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    while pending:
        current = pending.pop()
        for source in tensor_inputs(current):
            if source in seen:
                continue
            seen.add(source)
            pending.append(source)
            plane = plane_of(source, image) if len(shape_of(source)) == 4 else None  # noqa: PLR2004
            if plane is None:
                continue
            prefix = tokens - plane.height * plane.width
            if 0 <= prefix <= most_prefix and (-prefix, order[source]) > best_key:
                best = Plane("tokens", plane.height, plane.width, prefix)
                best_key = (-prefix, order[source])
    return best


def zero_positions(maps: Tensor) -> Tensor:
    """Return which positions of maps ``(b, k, h, w)`` are zero for every image and channel."""
    return (maps == 0).all(dim=1).all(dim=0) if maps.numel() else torch.ones(0)
