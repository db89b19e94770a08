r"""Cures: what takes the place of an operation that breaks homogeneity, in a graph.

Each new weight starts where the network is closest to what it was on the calibration images; a
fine-tune does the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, final

from torch import Tensor, nn
from torch.fx import Node

from whence.convert.change import Change
from whence.convert.surgery import GUARD, Calibration, Surgery, aten
from whence.network import Offence
from whence.network.layout import batch_axes, shape_of
from whence.network.operations import name_of, nodes_in, value_inputs

__all__ = ["ClampGuards", "ScaleOnlyNorms", "SizedConstants", "UnitAttention", "UnitGates"]

TINY = 1e-6
"""The largest number whose sum with a value is taken for the guard of a division."""

JOINS = "It joins parts"
GATES = frozenset({"relu", "silu", "gelu"})
"""Activations that may gate another branch (GLU and its like)."""

THROUGH = frozenset(
    {"add", "sub", "mul", "div", "view", "reshape", "masked_fill", "where", "clone", "contiguous"}
    | {"unsqueeze", "squeeze", "expand", "to", "_to_copy"}
)
"""Operations that may stand between the product of queries and keys and its softmax."""


@final
@dataclass(frozen=True, kw_only=True)
class UnitAttention:
    r"""Attention compares queries and keys of unit length.

    .. math:: \mathrm{softmax}\big(\tau\, \hat Q \hat K^\top + M\big) V, \qquad
              \hat Q = Q / \|Q\|,\; \hat K = K / \|K\|

    The weights have degree 0, so attention has the degree of its values. The temperature
    :math:`\tau` is learned, one for each head; it starts at the mean product of the lengths.

    References:
        Henry, Dachapally, Pawar and Chen (2020), "Query-Key Normalization for Transformers",
        section 3.
    """

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change nothing: attention is found in the graph."""
        del model
        return ()

    def on_graph(self, surgery: Surgery) -> None:
        """Normalise the queries and keys of every attention."""
        for node, row in surgery.offenders():
            if row.operation == "scaled_dot_product_attention":
                fused(surgery, node)
            elif row.operation == "softmax":
                spelled_out(surgery, node)


def fused(surgery: Surgery, node: Node) -> None:
    """Normalise the queries and keys of a fused attention."""
    query, key = (nodes_in([node.args[k]])[0] for k in (0, 1))
    width = shape_of(query)[-1]
    given = node.kwargs.get("scale")
    factor = float(given) if isinstance(given, (int, float)) else int(width) ** -0.5
    unit_query, unit_key = with_unit_length(surgery, node, (query, key), (-1, -1), factor)
    node.args = (unit_query, unit_key, *node.args[2:])
    node.kwargs = {**node.kwargs, "scale": 1.0}
    surgery.note(node, "attention compares queries and keys of unit length")


def spelled_out(surgery: Surgery, node: Node) -> None:
    """Normalise the queries and keys of which the input of a softmax is the product."""
    product = product_before(nodes_in(node.args[:1])[0])
    if product is None:
        return
    left, right = (nodes_in([product.args[k]])[0] for k in (0, 1))
    unit_left, unit_right = with_unit_length(surgery, product, (left, right), (-1, -2), 1.0)
    product.args = (unit_left, unit_right, *product.args[2:])
    surgery.note(node, "attention compares queries and keys of unit length")


def product_before(node: Node) -> Node | None:
    """Return the matrix product that a softmax's input comes from, if there is just one."""
    while name_of(node) in THROUGH:
        moving = [n for n in nodes_in(node.args) if comes_from_images(n)]
        if len(moving) != 1:
            return None
        node = moving[0]
    factors = nodes_in(node.args[:2]) if name_of(node) in ("matmul", "bmm") else []
    return node if len([n for n in factors if comes_from_images(n)]) == 2 else None  # noqa: PLR2004


def comes_from_images(node: Node) -> bool:
    """Return whether a node's value depends on the images."""
    pending, seen = [node], {node}
    while pending:
        source = pending.pop()
        if source.op == "placeholder":
            return True
        new = [n for n in value_inputs(source) if n not in seen]
        seen.update(new)
        pending.extend(new)
    return False


def with_unit_length(
    surgery: Surgery, node: Node, pair: tuple[Node, Node], axes: tuple[int, int], factor: float
) -> tuple[Node, Node]:
    """Return queries and keys of unit length, the queries times a learned temperature."""
    (unit, size), (other, other_size) = (
        surgery.unit(node, values, (axis,)) for values, axis in zip(pair, axes, strict=True)
    )
    shape = shape_of(pair[0])
    heads = shape[1] if len(shape) == 4 and isinstance(shape[1], int) else 1  # noqa: PLR2004 - b h n d
    each = (int(heads), 1, 1) if len(shape) > 3 else (1,) * (len(shape) - 1)  # noqa: PLR2004

    def temperature(left: Tensor, right: Tensor) -> Tensor:
        if each[0] == 1:
            return factor * left.mean() * right.mean()
        means = [v.transpose(0, 1).flatten(1).mean(dim=1) for v in (left, right)]
        return factor * (means[0] * means[1])[:, None, None]

    chosen = Calibration(probes=(size, other_size), value=temperature)
    learned = surgery.weight(node, "temperature", each, chosen)
    return surgery.call(node, aten.mul.Tensor, unit, learned), other


@final
@dataclass(frozen=True, kw_only=True)
class UnitGates:
    r"""Gates look at values of a fixed size.

    .. math:: \sigma\!\left(\tau\, z / \mathrm{rms}(z)\right)

    in place of :math:`\sigma(z)`: a gate of degree 0, which leaves the degree of what it
    multiplies. The factor :math:`\tau` is learned and starts at the mean size of ``z``. The size
    is taken over everything but the batch.
    """

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change nothing: gates are found in the graph."""
        del model
        return ()

    def on_graph(self, surgery: Surgery) -> None:
        """Change the input of every gate, and of every gate that multiplies a branch."""
        for node, row in surgery.offenders():
            if row.operation in ("sigmoid", "hardsigmoid"):
                fixed_size(surgery, node, row.operation)
        verdict = surgery.verdict()
        offences = [row.offence for row in verdict.offenders]
        if not any(isinstance(o, Offence) and JOINS in o.reason for o in offences):
            return
        degrees = {row.node: row.degree for row in verdict.operations}
        for node in list(surgery.graph.nodes):
            factors = nodes_in(node.args) if name_of(node) == "mul" else []
            if len(factors) != 2 or any(degrees.get(f.name) != 1 for f in factors):  # noqa: PLR2004
                continue
            gate = next((f for f in factors if name_of(f) in GATES), None)
            if gate is not None:
                fixed_size(surgery, gate, f"{name_of(gate)}, which multiplies another branch,")


def fixed_size(surgery: Surgery, node: Node, called: str) -> None:
    """Give an activation an input of a fixed size."""
    values = nodes_in(node.args[:1])[0]
    size = root_mean_square(surgery, node, values)
    guarded = surgery.call(node, aten.clamp_min.default, size, GUARD)
    unit = surgery.call(node, aten.div.Tensor, values, guarded)
    chosen = Calibration(probes=(size,), value=Tensor.mean)
    learned = surgery.weight(node, "gain", (), chosen)
    node.replace_input_with(values, surgery.call(node, aten.mul.Tensor, unit, learned))
    surgery.note(node, f"{called} looks at values of a fixed size")


def root_mean_square(surgery: Surgery, before: Node, values: Node) -> Node:
    """Insert the root mean square of each image's values, kept as a tensor of ones' sizes."""
    axes = image_axes(surgery, values)
    length = surgery.length(before, values, axes)
    count = 1
    for axis in axes:
        size = shape_of(values)[axis]
        count *= size if isinstance(size, int) else 1
    return surgery.call(before, aten.mul.Tensor, length, count**-0.5)


def image_axes(surgery: Surgery, values: Node) -> tuple[int, ...]:
    """Return the axes of a value that lie within one image: all but the batch, or the last."""
    place = batch_axes(surgery.graph).get(values)
    count = len(shape_of(values))
    if place is None or (place.axis, place.outer, place.inner) != (0, 1, 1):
        return (count - 1,)
    return tuple(range(1, count))


@final
@dataclass(frozen=True, kw_only=True)
class ScaleOnlyNorms:
    r"""Layer, group, instance and RMS norms become a scale: they no longer divide by a size.

    .. math:: y = s \odot (x - \bar x), \qquad s = \gamma / \bar\sigma

    The mean over channels is still subtracted, where the norm did, since that is linear. The scale
    is learned and starts at the norm's own over the mean deviation on the calibration images.
    """

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change nothing: norms are found in the graph."""
        del model
        return ()

    def on_graph(self, surgery: Surgery) -> None:
        """Replace every norm."""
        for node, row in surgery.offenders():
            if row.operation in ("layer_norm", "rms_norm"):
                over_last_axes(surgery, node)
            elif row.operation in ("group_norm", "instance_norm"):
                over_groups(surgery, node)


def over_last_axes(surgery: Surgery, node: Node) -> None:
    """Replace a layer norm or RMS norm."""
    values = nodes_in(node.args[:1])[0]
    shape = [int(str(size)) for size in sizes_in(node.args[1])]
    axes = list(range(-len(shape), 0))
    gamma, beta = [*node.args[2:4], None, None][:2]
    if name_of(node) == "rms_norm":
        beta = None
    else:
        values = less_mean(surgery, node, values, axes)
    finished(surgery, node, values, shape, gamma, beta)


def over_groups(surgery: Surgery, node: Node) -> None:
    """Replace a group norm or instance norm; the mean of each group is still subtracted."""
    values = nodes_in(node.args[:1])[0]
    sizes = [size if isinstance(size, int) else -1 for size in shape_of(values)]
    grouped = name_of(node) == "group_norm"
    groups = int(str(node.args[1])) if grouped else sizes[1]
    gamma, beta = [*node.args[2 if grouped else 1 :], None, None][:2]
    rows = [-1, groups, prod(sizes[1:]) // groups]
    flat = surgery.call(node, aten.reshape.default, values, rows)
    centred = less_mean(surgery, node, flat, [-1])
    back = surgery.call(node, aten.reshape.default, centred, sizes)
    finished(surgery, node, back, (sizes[1], *[1] * (len(sizes) - 2)), gamma, beta)


def less_mean(surgery: Surgery, node: Node, values: Node, axes: Sequence[int]) -> Node:
    """Insert values less their mean over some axes."""
    mean = surgery.call(node, aten.mean.dim, values, list(axes), True)  # noqa: FBT003 - keepdim
    return surgery.call(node, aten.sub.Tensor, values, mean)


def finished(
    surgery: Surgery,
    node: Node,
    values: Node,
    shape: Sequence[int],
    gamma: object,
    beta: object,
) -> None:
    """Put scaled values in the place of a norm."""
    own = surgery.stored(gamma)
    factor = None if own is None else own.detach().clone().reshape(*shape)

    def start(seen: Tensor) -> Tensor:
        one = seen.new_ones(tuple(shape)) if factor is None else factor
        return one / seen.square().mean().sqrt().clamp_min(GUARD)

    learned = surgery.weight(node, "scale", shape, Calibration(probes=(values,), value=start))
    new = surgery.call(node, aten.mul.Tensor, values, learned)
    lost = 0 if (offset := surgery.stored(beta)) is None else offset.numel()
    surgery.replace(node, new, f"{name_of(node)} became a scale that does not look at sizes", lost)


def sizes_in(argument: object) -> list[object]:
    """Return the sizes in a list of them."""
    return list(argument) if isinstance(argument, (list, tuple)) else [argument]


@final
@dataclass(frozen=True, kw_only=True)
class SizedConstants:
    r"""Positions, tokens and offsets take the size of what they are added to.

    .. math:: x + c \;\to\; x + c\, \frac{\mathrm{rms}(x)}{r}

    with ``r`` the mean size on the calibration images, where nothing changes. The share of the
    attribution that goes through the size is spread by the energy of the activations.

    Args:
        keep: With False constants are left out instead: nothing is then spread by energy, but a
            transformer no longer knows where its patches are.
    """

    keep: bool = True

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change nothing: constants are found in the graph."""
        del model
        return ()

    def on_graph(self, surgery: Surgery) -> None:
        """Change every sum and concatenation of constants."""
        for node, row in surgery.offenders():
            if row.operation in ("add", "sub", "rsub", "cat", "stack"):
                self.cure(surgery, node)

    def cure(self, surgery: Surgery, node: Node) -> None:
        """Change the constants of one operation."""
        listed = name_of(node) in ("cat", "stack")
        first = node.args[0]
        parts = list(first) if listed and isinstance(first, (list, tuple)) else list(node.args[:2])
        moving = [p for p in parts if isinstance(p, Node) and comes_from_images(p)]
        if not moving:
            return
        like = moving[0]
        new: list[Any] = [p if p in moving else self.sized(surgery, node, p, like) for p in parts]
        if listed:
            node.args = (new, *node.args[1:])
        else:
            node.args = (*new, *node.args[2:])
        what = "take the size of the values" if self.keep else "are gone"
        surgery.note(node, f"{name_of(node)}: constants {what}")

    def sized(self, surgery: Surgery, node: Node, constant: object, values: Node) -> object:
        """Return a constant times the size of the values, or nothing."""
        if not self.keep:
            zero = isinstance(constant, Node)
            return surgery.call(node, aten.zeros_like.default, constant) if zero else 0.0
        size = root_mean_square(surgery, node, values)

        def start(seen: Tensor) -> Tensor:
            return seen.mean().clamp_min(GUARD).reciprocal()

        chosen = Calibration(probes=(size,), value=start)
        ratio = surgery.call(node, aten.mul.Tensor, size, surgery.weight(node, "ratio", (), chosen))
        return surgery.call(node, aten.mul.Tensor, ratio, constant)


@final
@dataclass(frozen=True, kw_only=True)
class ClampGuards:
    """Divisions are guarded by a lower bound instead of a small sum."""

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change nothing: guards are found in the graph."""
        del model
        return ()

    def on_graph(self, surgery: Surgery) -> None:
        """Replace every sum with a tiny number."""
        for node, row in surgery.offenders():
            guard = node.args[1] if len(node.args) > 1 else None
            if row.operation == "add" and isinstance(guard, float) and 0 < guard <= TINY:
                new = surgery.call(node, aten.clamp_min.default, node.args[0], guard)
                surgery.replace(node, new, "a division is guarded by a bound, not by a sum")
