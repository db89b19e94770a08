"""Degrees: how each operation's value scales when what goes into it is scaled.

For every operation a judge maps the degrees of the inputs to the degree of the value. Where there
is none, it says why and what to do, and returns the degree that the value would have if cured.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isinf
from typing import final

from torch import nn
from torch.fx import Node

from whence.network import rewrite
from whence.network.operations import VIEWS, name_of, nodes_in

__all__ = ["Constants", "Offence", "judge"]

KEEPS = frozenset(
    [
        *("relu", "leaky_relu", "prelu", "rrelu", "abs", "neg", "clone", "to", "type_as"),
        *("max_pool1d", "max_pool2d", "adaptive_max_pool2d", "amax", "amin", "sum", "mean", "std"),
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "cumsum"),
        *("linalg_vector_norm", "norm", "roll", "flip", "repeat", "movedim", "t", "index"),
        *("upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "im2col", "col2im"),
        *("_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
        *("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tril", "triu", "diagonal"),
        *("_to_copy", "lift_fresh_copy", "dropout", "repeat_interleave", "unfold"),
        "with_contiguous_gradient",  # ours, put in on reading
        *VIEWS,
    ]
)
MULTIPLIES = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0, "var": 2.0, "sign": 0}
"""Operations whose value has this multiple of their input's degree."""

ZEROS = frozenset({"zeros", "zeros_like", "new_zeros"})
PASSES_ON = VIEWS | {"clone", "to", "_to_copy", "repeat", "lift_fresh_copy"}
"""Operations through which zeros stay zeros."""

RECTIFY = "Replace it with ReLU and fine-tune."
UNGATE = "Gate on a value of unit length, or drop the gate, and fine-tune."
CURVED = {
    **dict.fromkeys(
        ("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "softplus", "tanh"), RECTIFY
    ),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), UNGATE),
    "softmax": "Normalise queries and keys to unit length, so that its input has degree 0.",
    "exp": "Give it an input of degree 0.",
    "log": "Give it an input of degree 0.",
}
BOUNDED = frozenset({"sigmoid", "hardsigmoid", "softmax", "exp"})
"""Curved operations whose value would have degree 0 if they were cured."""

GUARD = 1e-6
"""A lower bound of at most this protects a division; values that matter are not under it."""


@final
@dataclass(frozen=True, kw_only=True)
class Offence:
    """Why an operation breaks homogeneity, and what cures it."""

    reason: str
    cure: str


@final
@dataclass(frozen=True, kw_only=True)
class Constants:
    """The stored tensors of a network, and which of them a proof takes to be zero.

    Args:
        module: Holds them.
        zeros: Names of the tensors that were asked for and found to be zero.
    """

    module: nn.Module
    zeros: set[str] = field(default_factory=set)

    def zero(self, node: Node) -> bool:
        """Return whether the tensor that a node fetches is zero everywhere."""
        if bool(rewrite.stored(self.module, node).any()):
            return False
        self.zeros.add(str(node.target))
        return True


Verdict = tuple[float, Offence | None]
Degrees = Mapping[Node, float]
"""The degrees of the image-dependent nodes so far."""


def judge(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Return an operation's degree; for an offender the degree that it would have if cured."""
    given = degrees_in((*node.args, *node.kwargs.values()), degrees)
    if all(degree == 0 for degree in given):
        return 0.0, None
    name = name_of(node)
    if name in KEEPS:
        return given[0], None
    if name in MULTIPLIES:
        return given[0] * MULTIPLIES[name], None
    if name in CURVED:
        after = 0.0 if name in BOUNDED else given[0]
        reason = "It is curved: twice the input does not give twice the value."
        return after, Offence(reason=reason, cure=CURVED[name])
    if name in JUDGES:
        return JUDGES[name](node, degrees, constants)
    reason = "Its degree is not known."
    return given[0], Offence(reason=reason, cure="Replace it with an operation of known degree.")


def degrees_in(arguments: Iterable[object], degrees: Degrees) -> list[float]:
    """Return the degrees of the image-dependent arguments, each as often as it stands there."""
    return [degrees[node] for node in nodes_in(arguments) if node in degrees]


def total(arguments: Iterable[object], degrees: Degrees) -> float:
    """Return the degree of a product."""
    return float(sum(degrees_in(arguments, degrees)))


def argument(node: Node, place: int, name: str, default: object = None) -> object:
    """Return an argument given by place or by name."""
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def is_zero(value: object, constants: Constants) -> bool:
    """Return whether an argument is absent, zero, or a constant tensor of zeros."""
    if not isinstance(value, Node):
        return value is None or value == 0
    name = name_of(value)
    if name == "get_attr":
        return constants.zero(value)
    if name in ("full", "full_like", "new_full"):
        return is_zero(value.args[-1], constants)
    if name in PASSES_ON:
        return is_zero(value.args[0], constants)
    return name in ZEROS


def layer(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a convolution or linear layer: input, weight, bias."""
    return joined(total(node.args[:2], degrees), argument(node, 2, "bias"), degrees, constants)


def joined(degree: float, bias: object, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a value to which a bias is added."""
    if isinstance(bias, Node) and bias in degrees:
        return agreed([degree, degrees[bias]])
    if degree == 0 or is_zero(bias, constants):
        return degree, None
    reason = "It adds a bias, which does not scale with the image."
    return degree, Offence(reason=reason, cure="Remove it, or feed it from an extra input.")


def batch_norm(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a batch norm in eval mode: it scales and shifts."""
    degree = total(node.args[:1], degrees)
    if all(is_zero(constant, constants) for constant in node.args[2:4]):
        return degree, None
    reason = "It adds a shift (its mean and bias), which does not scale with the image."
    return degree, Offence(reason=reason, cure="Remove mean and bias and fine-tune.")


def forgets(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge an operation that divides by the size of its input."""
    del constants
    reason = "It divides by the size of its input: degree 0, so attributions sum to zero."
    cure = "Replace it with a scale, and fine-tune."
    return total(node.args[:1], degrees), Offence(reason=reason, cure=cure)


def agreed(given: list[float]) -> Verdict:
    """Judge parts that are added or joined: their degrees must agree."""
    if len(set(given)) == 1:
        return given[0], None
    reason = f"It joins parts of different degrees ({', '.join(f'{d:g}' for d in given)})."
    cure = "Give all parts one degree; a product of two branches (a gate) doubles it."
    return min(d for d in given if d > 0 or max(given) <= 0), Offence(reason=reason, cure=cure)


def combined(parts: Iterable[object], degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a sum, a choice or a concatenation of parts."""
    flat = [p for part in parts for p in (part if isinstance(part, (list, tuple)) else [part])]
    degree, offence = agreed(degrees_in(flat, degrees))
    fixed = [p for p in flat if not (isinstance(p, Node) and p in degrees)]
    if offence or degree == 0 or all(is_zero(p, constants) for p in fixed):
        return degree, offence
    small = [p for p in fixed if isinstance(p, (int, float)) and 0 < p <= GUARD]
    if len(small) == len(fixed):
        reason = f"It adds {small[0]:g}, which does not scale: the guard of a division."
        return degree, Offence(reason=reason, cure="Guard with clamp(min=...) instead.")
    reason = "It adds a constant (a token, a position or an offset): a bias."
    return degree, Offence(reason=reason, cure="Remove it, or feed it from an extra input.")


def added(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a sum, a difference, or the larger or smaller of two."""
    return combined(node.args[:2], degrees, constants)


def concatenated(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a concatenation."""
    return combined(node.args[:1], degrees, constants)


def chosen(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge ``where(condition, this, that)``."""
    if total(node.args[:1], degrees) != 0:
        return choice_scales(node.args[1:3], degrees)
    return combined(node.args[1:3], degrees, constants)


def choice_scales(parts: Iterable[object], degrees: Degrees) -> Verdict:
    """Judge a choice by a condition that changes with the image's scale."""
    reason = "Its condition is not of degree 0."
    given = degrees_in(parts, degrees)
    return max(given, default=0.0), Offence(reason=reason, cure="Compare values of one degree.")


def compared(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a comparison: its outcome does not scale if both sides do alike."""
    return 0.0, combined(node.args[:2], degrees, constants)[1]


def multiplied(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a product."""
    del constants
    return total(node.args, degrees), None


def product_added(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge ``addmm(bias, this, that)`` and its like."""
    return joined(total(node.args[1:3], degrees), node.args[0], degrees, constants)


def divided(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a quotient."""
    del constants
    degree = total(node.args[:1], degrees) - total(node.args[1:2], degrees)
    if argument(node, 2, "rounding_mode") is None:
        return degree, None
    return degree, Offence(reason="It rounds.", cure="Divide without rounding.")


def raised(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a power."""
    del constants
    exponent = node.args[1]
    if isinstance(exponent, (int, float)):
        return total(node.args[:1], degrees) * float(exponent), None
    reason = "Its exponent is not a number."
    return total(node.args[:1], degrees), Offence(reason=reason, cure="Use a fixed exponent.")


def clamped(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge a function with a lower and an upper bound; bounds of zero do no harm."""
    del constants
    name = name_of(node)
    low: object = None
    high: object = None
    if name in ("clamp", "clamp_min"):
        low = argument(node, 1, "min")
    if name in ("clamp", "clamp_max"):
        high = argument(node, 2 if name == "clamp" else 1, "max")
    if name == "hardtanh":
        low, high = argument(node, 1, "min_val", -1), argument(node, 2, "max_val", 1)
    if name == "relu6":
        low, high = 0, 6
    degree = total(node.args[:1], degrees)
    if scales(low, GUARD) and scales(high, 0.0):
        return degree, None
    bounds = " and ".join(f"{b:g}" for b in (low, high) if isinstance(b, (int, float)))
    reason = f"It is bounded by {bounds or 'a value'}, and bounds do not scale."
    return degree, Offence(reason=reason, cure="Replace it with ReLU and fine-tune.")


def scales(bound: object, guard: float) -> bool:
    """Return whether a bound is absent, infinite, zero, or no more than a guard."""
    if bound is None:
        return True
    return isinstance(bound, (int, float)) and (isinf(bound) or 0 <= bound <= guard)


def filled(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge padding, and filling by a mask."""
    degree = total(node.args[:1], degrees)
    value: object = argument(node, 2, "value", 0)
    if name_of(node) == "pad":
        value = argument(node, 3, "value") if argument(node, 2, "mode") == "constant" else 0
    if name_of(node) == "masked_fill" and total(node.args[1:2], degrees) != 0:
        return choice_scales(node.args[:1], degrees)
    if is_zero(value, constants) or (isinstance(value, float) and isinf(value)):
        return degree, None
    written = value if isinstance(value, (int, float)) else "that is not zero"
    return degree, Offence(reason=f"It writes a constant {written}.", cure="Write zeros.")


def attended(node: Node, degrees: Degrees, constants: Constants) -> Verdict:
    """Judge attention: it has the degree of its values, if its weights have degree 0."""
    del constants
    scores = total(node.args[:2], degrees)
    value = total(node.args[2:3], degrees)
    mask = argument(node, 3, "attn_mask")
    if scores == 0 and total([mask], degrees) == 0:
        return value, None
    reason = f"Its softmax takes products of degree {scores:g}."
    cure = "Normalise queries and keys to unit length (no bias), and fine-tune."
    return value, Offence(reason=reason, cure=cure)


JUDGES: dict[str, Callable[[Node, Degrees, Constants], Verdict]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv_transpose2d", "linear"), layer),
    "batch_norm": batch_norm,
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "rms_norm"), forgets),
    **dict.fromkeys(("add", "sub", "rsub", "maximum", "minimum"), added),
    **dict.fromkeys(("cat", "stack"), concatenated),
    "where": chosen,
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne"), compared),
    **dict.fromkeys(("mul", "matmul", "mm", "bmm", "einsum", "outer"), multiplied),
    **dict.fromkeys(("addmm", "baddbmm", "addcmul"), product_added),
    "div": divided,
    "pow": raised,
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"), clamped),
    **dict.fromkeys(("pad", "constant_pad_nd", "masked_fill"), filled),
    "scaled_dot_product_attention": attended,
}
