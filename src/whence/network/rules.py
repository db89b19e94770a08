"""Rules: the backward pass of chosen operations is replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from whence.errors import SettingError
from whence.network import rewrite
from whence.network.layout import BatchAxis, batch_axes
from whence.network.operations import module_path, name_of, nodes_in

__all__ = [
    "DECONVOLUTION",
    "GUIDED_BACKPROPAGATION",
    "LAYERS",
    "Place",
    "Rule",
    "everywhere",
    "places",
    "under",
]

SHOWN = 12
"""How many module paths an error names."""

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear"})
"""Operations with a weight, which count for how deep an operation stands."""


@final
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an operation stands, for rules that depend on it.

    Args:
        name: The operation, ``conv2d``.
        path: The module that called it, ``layer1.0.conv1``.
        first: Whether no operation of this name comes before it.
        depth: The most convolutions and linear layers on a way from the images to it; 0 for a
            layer that reads the images.
        height: The most convolutions and linear layers on a way from it to the logits; 0 for the
            last layer.
        sources: For each argument, the operation that made it, or ``""`` where the argument does
            not depend on the images; for a list, those of its elements with spaces between.
        batch: Where the batch is in its value; filled in for rules that are made by place.
    """

    name: str
    path: str
    first: bool
    depth: int = 0
    height: int = 0
    sources: tuple[str, ...] = ()
    batch: BatchAxis | None = None


def everywhere(place: Place) -> bool:
    """Accept every operation."""
    del place
    return True


@final
@dataclass(frozen=True, kw_only=True)
class Rule:
    """Another backward pass for some operations.

    Args:
        operations: Plain names of operations, ``{"relu"}``.
        function: Called as ``function(operation, *args)`` in place of ``operation(*args)``. It
            must return the same value; what autograd does with it is the rule.
        where: Which of these operations; all by default.
        by_place: Whether ``function`` is first called with the place of each operation, and
            returns the function to call there.
        optional: Whether a network in which the rule fits no operation is taken as it is;
            otherwise that is an error, since the result would be another method's.
    """

    operations: frozenset[str]
    function: Callable[..., Any]
    where: Callable[[Place], bool] = field(default=everywhere)
    by_place: bool = False
    optional: bool = False


def under(module: GraphModule, rules: Sequence[Rule]) -> GraphModule:
    """Return the module with the first fitting rule applied to each operation.

    The nodes keep their names, so that the network can be cut at the same ones.

    Raises:
        SettingError: If a rule that is not optional fits no operation.
    """
    graph, _ = rewrite.copied(module.graph)
    rewrite.functional(graph)
    axes = batch_axes(graph) if any(rule.by_place for rule in rules) else {}
    found = placed(graph)
    useless = [rule for rule in rules if not rule.optional]
    for node, place in found.items():
        fitting = next((rule for rule in rules if fits(rule, place)), None)
        if fitting is None:
            continue
        function, name = fitting.function, node.name
        if fitting.by_place:
            function = function(replace(place, batch=axes.get(node)))
        rewrite.replaced(graph, node, function, node.target).name = name
        useless = [rule for rule in useless if rule is not fitting and not fits(rule, place)]
    if useless:
        raise SettingError(fits_nowhere(useless[0], tuple(found.values())))
    return rewrite.compiled(module, graph)


def fits(rule: Rule, place: Place) -> bool:
    """Return whether a rule is for the operation at a place."""
    return place.name in rule.operations and rule.where(place)


def fits_nowhere(rule: Rule, found: Sequence[Place]) -> str:
    """Say that a rule fits no operation, and which there are."""
    wanted = ", ".join(sorted(rule.operations))
    there = [place for place in found if place.name in rule.operations]
    if there:
        paths = list(dict.fromkeys(place.path or "the forward" for place in there))
        more = ", ..." if len(paths) > SHOWN else ""
        why = f"`where` accepts none of the {len(there)} places: {', '.join(paths[:SHOWN])}{more}."
    else:
        names = sorted({place.name for place in found})
        close = [k for name in rule.operations for k in get_close_matches(name, names, n=2)]
        hint = f" Did you mean {' or '.join(dict.fromkeys(close))}?" if close else ""
        why = f"the network has none; it has {', '.join(names)}.{hint}"
    return (
        f"A rule for {wanted} fits no operation of the network, so that it would change nothing: "
        f"{why} network.describe() lists all operations. Rule(..., optional=True) is for rules "
        f"that need not fit."
    )


PLACES: WeakKeyDictionary[GraphModule, tuple[Place, ...]] = WeakKeyDictionary()
"""Where the operations of a module stand, for as long as it lives."""


def places(module: GraphModule) -> tuple[Place, ...]:
    """Return where each image-dependent operation stands, in order; a second time at no cost."""
    found = PLACES.get(module)
    if found is None:
        graph, _ = rewrite.copied(module.graph)
        rewrite.functional(graph)
        found = PLACES[module] = tuple(placed(graph).values())
    return found


def placed(graph: Graph) -> dict[Node, Place]:
    """Return where each image-dependent operation stands."""
    moving = rewrite.depends_on_images(graph)
    nodes = [node for node in graph.nodes if node in moving and node.op == "call_function"]
    depths: dict[Node, int] = {}
    heights: dict[Node, int] = {}
    for node in nodes:
        depths[node] = max((after(n, depths) for n in node.all_input_nodes), default=0)
    for node in reversed(nodes):
        heights[node] = max((after(n, heights) for n in node.users), default=0)
    seen: set[str] = set()
    found: dict[Node, Place] = {}
    for node in nodes:
        name = name_of(node)
        found[node] = Place(
            name=name,
            path=module_path(node),
            first=name not in seen,
            depth=depths[node],
            height=heights[node],
            sources=tuple(source_of(argument, moving) for argument in node.args),
        )
        seen.add(name)
    return found


def after(node: Node, counts: dict[Node, int]) -> int:
    """Return how many layers lie on the way including this node."""
    return counts.get(node, 0) + (node in counts and name_of(node) in LAYERS)


def source_of(argument: object, moving: set[Node]) -> str:
    """Return the operation that made an argument, or those of a list, if they see the images."""
    return " ".join(name_of(node) for node in nodes_in([argument]) if node in moving)


class PositiveGradient(torch.autograd.Function):
    """An activation through which only positive gradients return, where it was active."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, activated: Tensor) -> Tensor:  # noqa: ANN401 - torch's own type is untyped
        """Return the activated values."""
        ctx.save_for_backward(values)
        return activated.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - as above
        """Return the positive gradients of the active units."""
        (values,) = ctx.saved_tensors
        (gradient,) = gradients
        return gradient.clamp(min=0) * (values > 0), None


def guided(operation: Callable[..., Tensor], values: Tensor, *rest: object) -> Tensor:
    """Apply an activation; its backward pass is guided."""
    with torch.no_grad():
        activated = operation(values, *rest)
    return PositiveGradient.apply(values, activated)  # type: ignore[no-any-return,no-untyped-call]


GUIDED_BACKPROPAGATION = Rule(operations=frozenset({"relu"}), function=guided)
"""Only positive gradients pass a ReLU, and only where it was active.

References:
    Springenberg et al. (2015), "Striving for Simplicity", section 3.4.
"""


class RectifiedGradient(torch.autograd.Function):
    """An activation through which only positive gradients return, whether it was active or not."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, activated: Tensor) -> Tensor:  # noqa: ANN401 - as above
        """Return the activated values."""
        del ctx, values
        return activated.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401 - as above
        """Return the positive gradients."""
        del ctx
        return gradients[0].clamp(min=0), None


def deconvolved(operation: Callable[..., Tensor], values: Tensor, *rest: object) -> Tensor:
    """Apply an activation; its backward pass is an activation of the gradient."""
    with torch.no_grad():
        activated = operation(values, *rest)
    return RectifiedGradient.apply(values, activated)  # type: ignore[no-any-return,no-untyped-call]


DECONVOLUTION = Rule(operations=frozenset({"relu"}), function=deconvolved)
"""Only positive gradients pass a ReLU, be it active or not.

References:
    Zeiler and Fergus (2014), "Visualizing and Understanding Convolutional Networks", section 2.1.
"""
