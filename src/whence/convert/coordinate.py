r"""The homogeneous coordinate: an extra input that multiplies every bias.

.. math:: \tilde f(x, t) \quad\text{with}\quad \tilde f(x, 1) = f(x), \qquad
          \tilde f(kx, kt) = k \tilde f(x, t)

Exact, without any training, for networks of layers with biases, shifts and caps. The X-Gradient on
``(x, t)`` adds up to the logit, and its value at ``t`` is what biases account for.

The coordinate is an extra channel behind the image's own: ``t`` is its mean, so a channel of ones
is the original network, and every method of the library sees one more feature.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.fx import Node

from whence.convert.change import Change
from whence.convert.surgery import Surgery, aten, opened
from whence.core import Images
from whence.errors import UnsupportedOperation
from whence.network import Network, rewrite
from whence.network.layout import shape_of
from whence.network.operations import is_inplace, name_of

__all__ = ["HomogeneousCoordinate", "bias_mass", "with_coordinate"]


def with_coordinate(images: Images) -> Float[Tensor, "b d h w"]:
    """Return images with the coordinate 1 as an extra channel, ``(b, c + 1, h, w)``."""
    return torch.cat([images, torch.ones_like(images[:, :1])], dim=1)


def bias_mass(attributions: Tensor) -> Tensor:
    """Return what biases account for in attributions on ``(x, t)``: the last channel's sum."""
    return attributions[:, -1].flatten(1).sum(dim=1)


@final
@dataclass(frozen=True, kw_only=True)
class HomogeneousCoordinate:
    """Every bias, shift and cap is multiplied by an extra input; see :func:`with_coordinate`."""

    def wrapped(self, model: nn.Module, images: Images) -> tuple[nn.Module, Change]:
        """Return the network with an extra input channel.

        Raises:
            UnsupportedOperation: If an operation is curved, or the batch is not its first axis.
        """
        surgery = opened(Network.read(model, images))
        count = images.shape[1]
        multiplied = 0
        source = next(n for n in surgery.graph.nodes if n.op == "placeholder")
        whole, coordinate = split(surgery, source, count)
        for node, row in surgery.offenders():
            if node in (whole, coordinate):
                continue
            cure = CURES.get(row.operation)
            if cure is None or not cure(surgery, node, coordinate):
                reason = "" if row.offence is None else row.offence.reason
                msg = (
                    f"{row.path or 'forward'} ({row.operation}) cannot take a homogeneous "
                    f"coordinate. {reason} Replace it first (ReplaceActivations, ScaleOnlyNorms, "
                    f"UnitAttention), or use NormWrapper."
                )
                raise UnsupportedOperation(msg)
            multiplied += 1
        made = surgery.closed(self.images(images))
        what = f"{multiplied} operations take their constants times an extra input channel"
        return made, Change(path="", what=what, parameters=0)

    def images(self, images: Images) -> Float[Tensor, "b d h w"]:
        """Return the images with the coordinate 1."""
        return with_coordinate(images)


def split(surgery: Surgery, source: Node, count: int) -> tuple[Node, Node]:
    """Let the network read the first channels, and return its images and ``t``, ``(b,)``."""
    graph = surgery.graph
    after = source.next
    with graph.inserting_before(after):
        images = graph.call_function(aten.slice.Tensor, (source, 1, 0, count))
        rest = graph.call_function(aten.slice.Tensor, (source, 1, count, count + 1))
        mean = graph.call_function(aten.mean.dim, (rest, [1, 2, 3]))
    like = source.meta["val"]
    for node, value in ((images, like), (rest, like[:, :1]), (mean, like[:, 0, 0, 0])):
        node.meta = {"val": value}
    source.replace_all_uses_with(images, delete_user_cb=lambda user: user not in (images, rest))
    return images, mean


def times(surgery: Surgery, node: Node, coordinate: Node, constant: object, axes: int) -> Node:
    """Return ``t`` times a constant that is shaped like an image's value, with ``axes`` axes."""
    shape = [-1, *[1] * (axes - 1)]
    column = surgery.call(node, aten.reshape.default, coordinate, shape)
    return surgery.call(node, aten.mul.Tensor, column, constant)


def biased(surgery: Surgery, node: Node, coordinate: Node) -> bool:
    """Add a layer's bias behind it."""
    axes, channel = len(shape_of(node)), -1 if name_of(node) == "linear" else 1
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")  # noqa: PLR2004 - third
    if not isinstance(bias, Node) or not by_image(node):
        return False
    node.args = tuple(None if k == 2 else a for k, a in enumerate(node.args))  # noqa: PLR2004 - as above
    node.kwargs = {k: v for k, v in node.kwargs.items() if k != "bias"}
    add_behind(surgery, node, coordinate, bias, channel % axes)
    return True


def shifted(surgery: Surgery, node: Node, coordinate: Node) -> bool:
    """Split a batch norm into its scale, and its shift times the coordinate."""
    gamma, beta, mean, variance = (surgery.stored(a) for a in node.args[1:5])
    if mean is None or variance is None or not by_image(node):
        return False
    with torch.no_grad():
        scale = (variance + float(str(node.args[7]))).rsqrt()
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if beta is None else beta - mean * scale
    sides = [1] * (len(shape_of(node)) - 2)
    factor = surgery.given(node, "scale", scale.view(1, -1, *sides))
    constant = surgery.given(node, "shift", shift)
    new = surgery.call(node, aten.mul.Tensor, node.args[0], factor)
    node.replace_all_uses_with(new)
    surgery.graph.erase_node(node)
    add_behind(surgery, new, coordinate, constant, 1)
    return True


def add_behind(
    surgery: Surgery, node: Node, coordinate: Node, constant: Node, channel: int
) -> None:
    """Add a constant per channel, times the coordinate, to a value."""
    users = list(node.users)
    after = node.next
    sizes = [-1 if axis == channel else 1 for axis in range(len(shape_of(node)))]
    column = surgery.call(after, aten.reshape.default, constant, sizes)
    product = times(surgery, after, coordinate, column, len(sizes))
    total = surgery.call(after, aten.add.Tensor, node, product)
    for user in users:
        user.replace_input_with(node, total)


def offset(surgery: Surgery, node: Node, coordinate: Node) -> bool:
    """Multiply the constants in a sum."""
    moving = [a for a in node.args[:2] if isinstance(a, Node) and a in moving_nodes(surgery)]
    if is_inplace(node) or len(moving) != 1 or not by_image(node):
        return False
    axes = len(shape_of(node))
    node.args = (
        *(a if a in moving else times(surgery, node, coordinate, a, axes) for a in node.args[:2]),
        *node.args[2:],
    )
    return True


def capped(surgery: Surgery, node: Node, coordinate: Node) -> bool:
    """Bound a value by multiples of the coordinate."""
    bounds = {"relu6": (0.0, 6.0)}.get(name_of(node))
    if bounds is None:
        low, high = [*node.args[1:3], None, None][:2]
        if name_of(node) == "hardtanh":
            low, high = -1.0 if low is None else low, 1.0 if high is None else high
    else:
        low, high = bounds
    if not by_image(node):
        return False
    value, axes = node.args[0], len(shape_of(node))
    for bound, extreme in ((low, aten.maximum.default), (high, aten.minimum.default)):
        if bound is not None:
            limit = times(surgery, node, coordinate, bound, axes)
            value = surgery.call(node, extreme, value, limit)
    if isinstance(value, Node):
        node.replace_all_uses_with(value)
        surgery.graph.erase_node(node)
    return True


def moving_nodes(surgery: Surgery) -> set[Node]:
    """Return the nodes that depend on the images."""
    return rewrite.depends_on_images(surgery.graph)


def by_image(node: Node) -> bool:
    """Return whether a value's first axis is the batch."""
    shape = shape_of(node)
    source = next(n for n in node.graph.nodes if n.op == "placeholder")
    return bool(shape) and str(shape[0]) == str(shape_of(source)[0])


CURES = {
    **dict.fromkeys(("conv1d", "conv2d", "conv_transpose2d", "linear"), biased),
    "batch_norm": shifted,
    **dict.fromkeys(("add", "sub", "rsub"), offset),
    **dict.fromkeys(("relu6", "hardtanh", "clamp"), capped),
}
"""What multiplies the constants of an operation; False where it cannot."""
