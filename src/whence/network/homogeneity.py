r"""Homogeneity: does scaling the image scale the logits?

A function is homogeneous of degree ``d`` if :math:`f(kx) = k^d f(x)` for all ``k > 0``. A network
of degree 1 is an X-DNN: its input times gradient is axiomatic, in one pass.

Every operation maps the degrees of its inputs to the degree of its output. Where none exists, the
operation is an offender; the walk goes on as if it had been cured, so that all are found.

References:
    Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
    Definition 3.3 and Corollary 3.4.
"""

from dataclasses import dataclass
from typing import final

from torch import nn
from torch.fx import Graph, Node

from whence.network import rewrite
from whence.network.operations import module_path, name_of, tensor_inputs

__all__ = ["Homogeneity", "Offence", "OperationDegree"]

KEEPS = frozenset(
    """relu leaky_relu prelu rrelu abs max_pool2d max_pool1d avg_pool2d avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool1d adaptive_max_pool2d mean sum amax amin neg
    linalg_vector_norm norm roll flip pixel_shuffle pixel_unshuffle upsample_bilinear2d
    upsample_nearest2d upsample_bicubic2d clone to contiguous view reshape reshape_as view_as
    flatten unflatten squeeze unsqueeze transpose permute slice select expand expand_as split
    split_with_sizes chunk unbind getitem detach alias type_as dropout index constant_pad_nd
    repeat movedim t tril triu diagonal maximum minimum _to_copy lift_fresh_copy""".split()
)
FORGETS = frozenset(
    {"layer_norm", "group_norm", "instance_norm", "rms_norm", "native_layer_norm", "normalize"}
)
CAPPED = frozenset({"relu6", "hardtanh", "clamp", "clamp_max"})
CURVED = {
    "gelu": "Replace it with ReLU and fine-tune.",
    "silu": "Replace it with ReLU and fine-tune.",
    "mish": "Replace it with ReLU and fine-tune.",
    "hardswish": "Replace it with ReLU and fine-tune.",
    "elu": "Replace it with ReLU and fine-tune.",
    "selu": "Replace it with ReLU and fine-tune.",
    "celu": "Replace it with ReLU and fine-tune.",
    "softplus": "Replace it with ReLU and fine-tune.",
    "sigmoid": "Drop the gate, or gate on a normalised input and fine-tune.",
    "hardsigmoid": "Drop the gate, or gate on a normalised input and fine-tune.",
    "tanh": "Replace it with ReLU and fine-tune.",
    "softmax": "Normalise queries and keys to unit length, so that its input has degree 0.",
    "exp": "Give it an input of degree 0.",
    "log": "Give it an input of degree 0.",
}


@final
@dataclass(frozen=True, kw_only=True)
class Offence:
    """Why an operation breaks homogeneity, and what cures it."""

    reason: str
    cure: str


@final
@dataclass(frozen=True, kw_only=True)
class OperationDegree:
    """One operation with its degree, or with its offence."""

    node: str
    operation: str
    path: str
    degree: float | None
    offence: Offence | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Homogeneity:
    """The degrees of a network's operations.

    Args:
        degree: The degree of the logits; None if some operation has none.
        operations: Every operation that depends on the images, in order.
    """

    degree: float | None
    operations: tuple[OperationDegree, ...]

    @property
    def holds(self) -> bool:
        """Whether the network is an X-DNN: homogeneous of degree 1."""
        return self.degree == 1

    @property
    def offenders(self) -> tuple[OperationDegree, ...]:
        """The operations that break homogeneity of degree 1, first the first."""
        return tuple(o for o in self.operations if o.offence is not None)

    @property
    def first_offender(self) -> OperationDegree | None:
        """The first operation that breaks it."""
        return self.offenders[0] if self.offenders else None

    def __str__(self) -> str:
        """Return the verdict in a few lines."""
        if self.holds:
            return "Nonnegatively homogeneous of degree 1: an X-DNN."
        lines = [f"Not an X-DNN: {len(self.offenders)} operations break homogeneity."]
        for o in self.offenders[:20]:
            if o.offence is not None:
                where = o.path or "forward"
                lines.append(f"  {where} ({o.operation}): {o.offence.reason} {o.offence.cure}")
        if len(self.offenders) > 20:  # noqa: PLR2004 - a screenful
            lines.append(f"  ... and {len(self.offenders) - 20} more")
        return "\n".join(lines)


def homogeneity(graph: Graph, module: nn.Module) -> Homogeneity:
    """Return the degree of every operation that depends on the images."""
    moving = rewrite.depends_on_images(graph)
    degrees: dict[Node, float] = {}
    rows: list[OperationDegree] = []
    for node in graph.nodes:
        if node.op == "placeholder":
            degrees[node] = 1.0
        elif node in moving:
            degree, offence = judge(node, degrees, module)
            degrees[node] = degree
            rows.append(
                OperationDegree(
                    node=node.name,
                    operation=name_of(node),
                    path=module_path(node),
                    degree=None if offence else degree,
                    offence=offence,
                )
            )
    output = next(n for n in graph.nodes if n.op == "output")
    broken = any(row.offence for row in rows)
    return Homogeneity(
        degree=None if broken else degrees[output.all_input_nodes[0]], operations=tuple(rows)
    )


def judge(
    node: Node, degrees: dict[Node, float], module: nn.Module
) -> tuple[float, Offence | None]:
    """Return an operation's degree; for an offender the degree that it would have if cured."""
    name = name_of(node)
    inputs = [n for n in tensor_inputs(node) if n in degrees]
    given = [degrees[n] for n in inputs]
    first = given[0] if given else 0.0
    if name in ("conv2d", "conv1d", "linear", "conv_transpose2d"):
        return first, shifted(node, first, module, (2,), "a bias")
    if name == "batch_norm":
        return first, shifted(node, first, module, (2, 3), "a shift (its mean and bias)")
    if name in FORGETS:
        if first == 0:
            return 0.0, None
        reason = "It divides by the size of its input: degree 0, so attributions sum to zero."
        return first, Offence(reason=reason, cure="Replace it with a scale, and fine-tune.")
    if name in ("add", "sub", "cat", "stack", "maximum", "minimum", "addcmul", "where"):
        return summed(node, given, module)
    if name in ("mul", "matmul", "bmm", "einsum", "addmm", "mm"):
        return float(sum(given)), None
    if name == "div":
        return divided(node, degrees), None
    if name == "scaled_dot_product_attention":
        return attended(node, degrees)
    return elementwise(node, name, first)


def elementwise(node: Node, name: str, degree: float) -> tuple[float, Offence | None]:
    """Return the degree of an operation on one input."""
    if degree == 0 or name in KEEPS:
        return degree, None
    if name == "pow" and isinstance(node.args[1], (int, float)):
        return degree * float(node.args[1]), None
    if name == "sqrt":
        return degree / 2, None
    if name == "rsqrt":
        return -degree / 2, None
    if name in CAPPED:
        minimum_only = name == "clamp" and len(node.args) == 2 and node.args[1] == 0  # noqa: PLR2004
        if minimum_only:
            return degree, None
        reason = "It stops growing at a fixed value."
        return degree, Offence(reason=reason, cure="Replace it with ReLU and fine-tune.")
    if name in ("pad", "masked_fill"):
        value = node.args[-1] if len(node.args) > 2 else 0  # noqa: PLR2004 - input, where, value
        if value in (0, 0.0, None, "constant", "reflect", "replicate", "circular"):
            return degree, None
        return degree, Offence(reason=f"It writes the constant {value}.", cure="Write zeros.")
    if name in CURVED:
        after = 0.0 if name in ("sigmoid", "hardsigmoid", "tanh", "softmax", "exp") else degree
        return after, Offence(reason="It is not piecewise linear.", cure=CURVED[name])
    reason = "Its degree is not known."
    return degree, Offence(reason=reason, cure="Replace it with an operation of known degree.")


def shifted(
    node: Node, degree: float, module: nn.Module, places: tuple[int, ...], what: str
) -> Offence | None:
    """Return the offence of a layer that adds a constant which is not zero."""
    constants = [node.args[i] for i in places if i < len(node.args)]
    if degree == 0 or all(is_zero(c, module) for c in constants):
        return None
    reason = f"It adds {what}, which does not scale with the image."
    return Offence(reason=reason, cure="Remove it and fine-tune, or feed it from an extra input.")


def is_zero(argument: object, module: nn.Module) -> bool:
    """Return whether an argument is absent, or a stored tensor of zeros."""
    if argument is None:
        return True
    if isinstance(argument, Node) and argument.op == "get_attr":
        return not bool(rewrite.stored(module, argument).any())
    return False


def summed(
    node: Node, given: list[float], module: nn.Module
) -> tuple[float, Offence | None]:
    """Return the degree of a sum or concatenation: all parts must agree."""
    flat: list[object] = []
    for argument in node.args[:2]:
        flat.extend(argument if isinstance(argument, (list, tuple)) else [argument])
    constants = [
        a
        for a in flat
        if (isinstance(a, Node) and a in tensor_inputs(node) and not moves(a))
        or isinstance(a, (int, float))
    ]
    if name_of(node) in ("cat", "stack"):
        constants = [a for a in constants if isinstance(a, Node)]
    degree = given[0]
    if any(d != degree for d in given):
        reason = f"It joins parts of different degrees ({', '.join(f'{d:g}' for d in given)})."
        return max(given), Offence(reason=reason, cure="Give all parts the same degree.")
    nonzero = [c for c in constants if not (c == 0 or is_zero(c, module))]
    if degree != 0 and nonzero:
        reason = "It adds a constant (a token, a position or an offset): a bias."
        return degree, Offence(reason=reason, cure="Remove it, or feed it from an extra input.")
    return degree, None


def moves(node: Node) -> bool:
    """Return whether a node depends on the images."""
    return node in rewrite.depends_on_images(node.graph)


def divided(node: Node, degrees: dict[Node, float]) -> float:
    """Return the degree of a quotient."""
    above, below = node.args[0], node.args[1]
    top = degrees.get(above, 0.0) if isinstance(above, Node) else 0.0
    return top - (degrees.get(below, 0.0) if isinstance(below, Node) else 0.0)


def attended(node: Node, degrees: dict[Node, float]) -> tuple[float, Offence | None]:
    """Return the degree of attention: its values', if its weights have degree 0."""
    query, key, value = (degrees.get(a, 0.0) if isinstance(a, Node) else 0.0 for a in node.args[:3])
    if query + key == 0:
        return value, None
    reason = f"Its softmax takes products of degree {query + key:g}."
    cure = "Normalise queries and keys to unit length (no bias), and fine-tune."
    return value, Offence(reason=reason, cure=cure)
