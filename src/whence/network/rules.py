"""Rules: the backward pass of chosen operations is replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from whence.network import rewrite
from whence.network.operations import module_path, name_of

__all__ = ["GUIDED_BACKPROPAGATION", "Place", "Rule", "everywhere"]


@final
@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an operation stands, for rules that depend on it.

    Args:
        name: The operation, ``conv2d``.
        path: The module that called it, ``layer1.0.conv1``.
        first: Whether no operation of this name comes before it.
    """

    name: str
    path: str
    first: bool


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
    """

    operations: frozenset[str]
    function: Callable[..., Any]
    where: Callable[[Place], bool] = field(default=everywhere)


def under(module: GraphModule, rules: Sequence[Rule]) -> GraphModule:
    """Return the module with the first fitting rule applied to each operation."""
    graph, _ = rewrite.copied(module.graph)
    rewrite.functional(graph)
    moving = rewrite.depends_on_images(graph)
    seen: set[str] = set()
    for node in list(graph.nodes):
        if node not in moving or node.op != "call_function":
            continue
        place = place_of(node, seen)
        for rule in rules:
            if place.name in rule.operations and rule.where(place):
                rewrite.replaced(graph, node, rule.function, node.target)
                break
    return rewrite.compiled(module, graph)


def place_of(node: Node, seen: set[str]) -> Place:
    """Return where a node stands, and note that its operation has been seen."""
    name = name_of(node)
    place = Place(name=name, path=module_path(node), first=name not in seen)
    seen.add(name)
    return place


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
