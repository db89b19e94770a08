"""Folding: the same function in fewer operations."""

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from whence.network import rewrite
from whence.network.operations import name_of
from whence.network.twice import merged

__all__ = ["folded"]

FOLDABLE = frozenset({"conv2d", "conv1d", "linear"})


def folded(module: GraphModule) -> GraphModule:
    r"""Return the module with every batch norm folded into the convolution before it, if any.

    .. math:: w' = w \gamma / \sqrt{\sigma^2 + \epsilon}, \quad
              b' = (b - \mu) \gamma / \sqrt{\sigma^2 + \epsilon} + \beta

    A batch norm whose input is used elsewhere too, or does not come from a convolution or linear
    layer, stays: folding it forwards would be wrong under zero padding.
    """
    graph, _ = rewrite.copied(module.graph)
    rewrite.functional(graph)
    new: dict[str, nn.Parameter] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or name_of(node) != "batch_norm":
            continue
        layer = node.args[0]
        if not isinstance(layer, Node) or not foldable(layer, node):
            continue
        names = (f"folded_{len(new) // 2}_weight", f"folded_{len(new) // 2}_bias")
        weight, bias = values_of(module, layer, node)
        new.update({names[0]: nn.Parameter(weight), names[1]: nn.Parameter(bias)})
        fold_one(graph, layer, node, names)
    graph.eliminate_dead_code()
    return GraphModule({**rewrite.attributes(module, graph), **new}, graph)


def foldable(source: Node, norm: Node) -> bool:
    """Return whether a batch norm's input is a layer that nothing else reads."""
    return (
        source.op == "call_function"
        and name_of(source) in FOLDABLE
        and len(source.users) == 1
        and norm.args[5] is False
        and all(is_fetched(a) for a in (*source.args[1:3], *norm.args[1:5]))
    )


def is_fetched(argument: object) -> bool:
    """Return whether an argument is a stored tensor, or absent."""
    return argument is None or (isinstance(argument, Node) and argument.op == "get_attr")


def stored(module: GraphModule, argument: object) -> Tensor | None:
    """Return the stored tensor that an argument names."""
    return rewrite.stored(module, argument) if isinstance(argument, Node) else None


@torch.no_grad()
def values_of(module: GraphModule, layer: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer followed by a batch norm."""
    arguments = [*layer.args, None][:3]
    weight, bias = (stored(module, a) for a in arguments[1:])
    gamma, beta, mean, variance = (stored(module, a) for a in norm.args[1:5])
    if weight is None or mean is None or variance is None:
        message = "A batch norm in eval mode has running statistics, and a layer has a weight."
        raise TypeError(message)
    return merged(weight, bias, gamma, beta, mean, variance, float(norm.args[7]))  # type: ignore[arg-type]


def fold_one(graph: Graph, layer: Node, norm: Node, names: tuple[str, str]) -> None:
    """Replace a layer and its batch norm by one layer with the named weight and bias."""
    with graph.inserting_before(layer):
        weight, bias = (graph.get_attr(name) for name in names)
    rest = [*layer.args[3:]]
    layer.args = (layer.args[0], weight, bias, *rest)
    norm.replace_all_uses_with(layer)
    graph.erase_node(norm)
