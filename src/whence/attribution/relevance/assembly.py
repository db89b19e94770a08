"""From a composite to rules for every operation of a network."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

from whence.attribution.relevance import signals
from whence.attribution.relevance.composites import Assignment, Composite
from whence.attribution.relevance.first import Flat, Pass, Square, ZBox
from whence.attribution.relevance.layers import LayerRule, layer_function
from whence.attribution.relevance.signs import simplified
from whence.errors import SettingError
from whence.network import Network, Place, Rule, everywhere, places
from whence.network.operations import VIEWS

__all__ = ["blocked_rules", "layer_rules", "under_composite"]

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"})

SHOWN = 12
"""How many module paths an error names."""

CURVES = frozenset(
    [
        *("silu", "gelu", "mish", "hardswish", "elu", "selu", "celu", "tanh", "relu6", "hardtanh"),
        *("softsign", "tanhshrink", "hardshrink", "softshrink", "square", "sqrt", "pow"),
        *("clamp", "clamp_min", "clamp_max"),
    ]
)
"""Element-wise functions; relevance passes them."""

RECTIFIERS = frozenset({"relu", "leaky_relu"})
"""Element-wise functions whose gradient passes relevance on already."""

GATES = frozenset({"sigmoid", "hardsigmoid", "softmax"})
"""Functions whose result says how much of another signal to let through."""

LINEAR = frozenset(
    [
        *VIEWS,
        *RECTIFIERS,
        *GATES,
        *("add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "cat", "stack", "clone", "to"),
        *("_to_copy", "type_as", "lift_fresh_copy", "dropout", "feature_dropout", "prelu", "abs"),
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d"),
        *("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d"),
        *("amax", "amin", "max", "maximum", "minimum", "norm", "linalg_vector_norm"),
        *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "interpolate"),
        *(
            "roll",
            "flip",
            "rot90",
            "repeat",
            "tile",
            "repeat_interleave",
            "movedim",
            "swapaxes",
            "t",
            "mT",
            "T",
            "numpy_T",
            "narrow",
            "index",
            "index_select",
        ),
        *("gather", "where", "masked_fill", "pad", "constant_pad_nd", "im2col", "col2im"),
        *("unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tril", "triu"),
        *("diagonal", "mul", "div", "matmul", "mm", "bmm", "addcmul", "addmm", "einsum"),
        *("gt", "ge", "lt", "le", "eq", "ne", "sym_size", "argmax", "zeros_like", "ones_like"),
        *("new_zeros", "new_ones", "new_full", "full_like", "with_contiguous_gradient"),
    ]
)
"""Operations whose gradient hands relevance on as it should: what they do is linear in their
signal, or picks from it. Products of two signals among them have rules of their own."""

OWN = frozenset(
    {"scaled_dot_product_attention", "batch_norm", "layer_norm", "group_norm", "rms_norm"}
)
"""Operations with a rule of their own."""


def both(place: Place) -> bool:
    """Return whether the first two arguments depend on the images."""
    return len(place.sources) > 1 and bool(place.sources[0]) and bool(place.sources[1])


def gate_first(place: Place) -> bool:
    """Return whether the first factor is a gate for the second."""
    return both(place) and place.sources[0] in GATES and place.sources[1] not in GATES


def gate_second(place: Place) -> bool:
    """Return whether the second factor is a gate for the first."""
    return both(place) and place.sources[1] in GATES and place.sources[0] not in GATES


def second(place: Place) -> bool:
    """Return whether the second argument depends on the images."""
    return len(place.sources) > 1 and bool(place.sources[1])


def two_factors(place: Place) -> bool:
    """Return whether the second and third arguments depend on the images."""
    return len(place.sources) > 2 and all(place.sources[1:3])  # noqa: PLR2004 - sum and factors


def two_of_list(place: Place) -> bool:
    """Return whether two elements of the list in second place depend on the images."""
    return len(place.sources) > 1 and " " in place.sources[1]


def only_first(place: Place) -> bool:
    """Return whether the first argument depends on the images, and the second does not."""
    return len(place.sources) > 1 and bool(place.sources[0]) and not place.sources[1]


def follows(chosen: dict[Place, LayerRule], rule: LayerRule) -> Callable[[Place], bool]:
    """Return whether a layer was chosen to follow a rule."""
    return lambda place: chosen.get(place) == rule


def rule(
    operations: str,
    function: Callable[..., Any],
    where: Callable[[Place], bool] | None = None,
) -> Rule:
    """Return a rule for operations named in a text."""
    names = frozenset(operations.split())
    return (
        Rule(operations=names, function=function, optional=True)
        if where is None
        else Rule(operations=names, function=function, where=where, optional=True)
    )


def layer_rules(network: Network, composite: Composite) -> tuple[LayerRule, ...]:
    """Return the rule of each convolution and linear layer of a network, in order."""
    return tuple(
        composite.rule_at(place) for place in places(network.module) if place.name in LAYERS
    )


def under_composite(
    network: Network, composite: Composite, *, weights: bool, bias: bool
) -> Network:
    """Return a network whose operations hand relevance down.

    Args:
        network: The network, read or folded.
        composite: The rules of its layers.
        weights: Whether relevance flows through attention weights (AttnLRP).
        bias: Whether biases take their share.
    """
    found = places(network.module)
    layers = [place for place in found if place.name in LAYERS and not second(place)]
    check_fits(composite, layers)
    chosen = {place: composite.rule_at(place) for place in layers}
    made = [
        Rule(
            operations=LAYERS,
            function=partial(layer_function, each, bias=bias),
            where=follows(chosen, each),
            by_place=True,
            optional=True,
        )
        for each in dict.fromkeys(chosen.values())
    ]
    curves = CURVES if relu_decides(chosen) else CURVES | RECTIFIERS
    known = LINEAR | CURVES | OWN
    unknown = {p.name for p in found if p.name not in known and p.name not in LAYERS}
    rules = [
        *made,
        *signal_rules(weights=weights, bias=bias),
        Rule(operations=curves, function=signals.passed, optional=True),
        *blocked_rules(unknown),
    ]
    return simplified(network, network.under(rules), merge=relu_decides(chosen))


def relu_decides(chosen: dict[Place, LayerRule]) -> bool:
    """Return whether ReLUs may hand relevance on as they do gradients.

    Rules that look at no contribution give relevance to silent units too, which must pass.
    """
    return not any(
        isinstance(rule, (Flat, Square, ZBox, Pass)) and place.depth > 0
        for place, rule in chosen.items()
    )


def check_fits(composite: Composite, layers: Sequence[Place]) -> None:
    """Refuse an assignment that no layer fits, unless it is optional."""
    for assignment in composite.assignments:
        if assignment.optional or any(assignment.fits(place) for place in layers):
            continue
        known = list(dict.fromkeys(place.path for place in layers))
        close = get_close_matches(assignment.path, known, n=2, cutoff=0.4)
        named = assignment.path != "*" and assignment.path not in known
        hint = f" Did you mean {' or '.join(close)}?" if close and named else ""
        more = ", ..." if len(known) > SHOWN else ""
        depths, heights = ([getattr(p, axis) for p in layers] for axis in ("depth", "height"))
        msg = (
            f"{assignment.rule} is for layers {asked(assignment)}, and no layer fits.{hint} There "
            f"are {' and '.join(sorted({place.name for place in layers}))}, at depths "
            f"{min(depths, default=0)} to {max(depths, default=0)} and heights "
            f"{min(heights, default=0)} to {max(heights, default=0)}: {', '.join(known[:SHOWN])}"
            f"{more}. network.describe() lists all. Assignment(optional=True) lets it pass."
        )
        raise SettingError(msg)


def asked(assignment: Assignment) -> str:
    """Return which layers an assignment asks for, in words."""
    words = [] if assignment.path == "*" else [f"at {assignment.path!r}"]
    if assignment.operations is not None:
        words.append(f"of the operations {', '.join(sorted(assignment.operations))}")
    for name in ("depth", "height"):
        first, last = getattr(assignment, name)
        if first > 0 or last < float("inf"):
            words.append(f"of {name} {first:g} to {last:g}")
    return " and ".join(words)


def blocked_rules(unknown: set[str]) -> list[Rule]:
    """Return rules that refuse: unknown operations, and known ones where signals are weights."""
    table = [
        *((name, everywhere) for name in unknown),
        *((name, second) for name in LAYERS),
        ("addcmul", two_factors),
        ("addmm", two_factors),
        ("einsum", two_of_list),
    ]
    return [
        rule(name, signals.blocked_function(name), where)
        for name, where in sorted(table, key=lambda row: row[0])
    ]


def signal_rules(*, weights: bool, bias: bool) -> list[Rule]:
    """Return the rules of what is neither a layer nor an activation."""
    shifts: list[tuple[str, Callable[..., Any], Callable[[Place], bool]]] = [
        ("add", partial(signals.sum_function, 1), only_first),
        ("sub", partial(signals.sum_function, -1), only_first),
        ("batch_norm", signals.batch_norm_function, everywhere),
        ("layer_norm", signals.layer_norm_function, everywhere),
        ("group_norm", signals.group_norm_function, everywhere),
    ]
    made = [
        *(
            Rule(
                operations=frozenset({name}),
                function=partial(function, bias=bias),
                where=where,
                by_place=True,
                optional=True,
            )
            for name, function, where in shifts
        ),
        rule("mul", signals.product_with_gate(0), gate_first),
        rule("mul", signals.product_with_gate(1), gate_second),
        rule("mul", signals.product, both),
        rule("matmul mm bmm", signals.matrix_product, both),
        rule("div", signals.divided, second),
        rule("scaled_dot_product_attention", signals.attention(weights=weights)),
        rule("rms_norm", signals.rms_norm),
    ]
    return made if weights else [*made, rule("softmax _softmax", signals.constant)]
