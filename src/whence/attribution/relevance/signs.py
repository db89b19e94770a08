"""What a graph shows of signs, which saves layers under a rule memory and work."""

from dataclasses import replace

from torch import Tensor
from torch.fx import Graph, Node

from whence.attribution.relevance.layers import RuledLayer
from whence.network import Network, rewrite
from whence.network.operations import VIEWS, name_of, tensor_inputs

__all__ = ["frozen", "simplified"]

POSITIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "square", "abs", "exp"})
"""Operations whose values are never negative."""

KEEPING = VIEWS | frozenset(
    [
        *("max_pool1d", "max_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d", "amax"),
        *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "mean", "sum"),
        *("cat", "stack", "clone", "dropout", "feature_dropout", "upsample_nearest2d"),
    ]
)
"""Operations whose values are not negative if none of their inputs' values are."""


def simplified(network: Network, ruled: Network, *, merge: bool) -> Network:
    """Return a network under rules that makes use of what its graph shows.

    A layer whose only reader is a ReLU becomes one operation with it: what the ReLU lets through
    is then all that either keeps for the way back. Layers whose inputs cannot be negative know
    it.

    Args:
        network: The network.
        ruled: The same under rules, with the same names of nodes.
        merge: Whether ReLUs pass relevance as gradients do, so that layers may take them in.
    """
    before, _ = rewrite.copied(network.graph)
    rewrite.functional(before)
    positive = positive_names(before)
    pairs = rectified_names(before) if merge else {}
    graph, _ = rewrite.copied(ruled.graph)
    nodes = {node.name: node for node in graph.nodes}
    for node in list(graph.nodes):
        if not isinstance(node.target, RuledLayer):
            continue
        source = node.args[1]
        behind = pairs.get(node.name) if node.target.takes else None
        node.target = replace(
            node.target,
            rectified=behind is not None,
            positive=isinstance(source, Node) and source.name in positive,
        )
        if behind is not None:
            nodes[behind].replace_all_uses_with(node)
            graph.erase_node(nodes[behind])
            positive.add(node.name)
    return frozen(ruled.with_module(rewrite.compiled(ruled.module, graph)))


def frozen(network: Network) -> Network:
    """Return a network over the same memory whose parameters ask for no gradient.

    Nothing is then kept on the way for one.
    """
    graph, _ = rewrite.copied(network.graph)
    held = rewrite.attributes(network.module, graph)
    held = {k: v.detach() if isinstance(v, Tensor) else v for k, v in held.items()}
    return network.with_module(rewrite.compiled(held, graph))


def positive_names(graph: Graph) -> set[str]:
    """Return the names of the nodes whose values cannot be negative."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name, sources = name_of(node), tensor_inputs(node)
        if name in POSITIVE or (name in KEEPING and all(n.name in found for n in sources)):
            found.add(node.name)
    return found


def rectified_names(graph: Graph) -> dict[str, str]:
    """Return the ReLU behind each node that nothing else reads, by name."""
    return {
        node.name: reader.name
        for node in graph.nodes
        for reader in node.users
        if len(node.users) == 1 and reader.op == "call_function" and name_of(reader) == "relu"
    }
