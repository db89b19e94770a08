"""Two stages: what parameters alone decide, and the rest.

Work on parameters (merging batch norms, normalising weights, tables of positions) is done once,
and the second stage runs on its results as often as needed.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn
from torch.fx import Graph, Node

from whence.core import Images, Logits
from whence.network import rewrite
from whence.network.operations import holds_tensor
from whence.network.twice import merged_norms, twice_differentiable

__all__ = ["Staged", "staged"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Staged:
    """A network in two stages, both of which can be differentiated twice.

    ``run(prepare(parameters), images)`` are its logits, up to rounding.
    """

    prepare_module: Callable[[Mapping[str, Tensor]], Any]
    run_module: Callable[[Sequence[Tensor], Tensor], Any]

    def prepare(self, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return every value made of parameters alone that the images meet."""
        return tuple(self.prepare_module(parameters))

    def run(self, values: Sequence[Tensor], images: Images) -> Logits:
        """Return the logits."""
        return self.run_module(values, images)  # type: ignore[no-any-return]


def staged(module: nn.Module, graph: Graph, parameters: Sequence[str]) -> Staged:
    """Split a graph into its two stages."""
    whole, _ = rewrite.copied(graph)
    rewrite.functional(whole)
    twice_differentiable(whole)
    merged_norms(whole)
    whole.eliminate_dead_code()
    tied = tied_to_images(whole)
    made = made_of(whole, set(parameters))
    border = [
        n
        for n in whole.nodes
        if n in made and n not in tied and any(u in tied or u.op == "output" for u in n.users)
    ]
    first = Graph()
    held = rewrite.ancestors(border)
    new: dict[Node, Node] = {}
    for node in whole.nodes:
        if node in held:
            new[node] = first.node_copy(node, lambda n: new[n])
    first.output(tuple(new[n] for n in border))
    rewrite.with_parameters_as_input(first, parameters)
    second, places = rewrite.copied(whole)
    start = next(iter(second.nodes))
    with second.inserting_before(start):
        values = second.placeholder("values")
    for i, node in enumerate(border):
        old = places[node]
        with second.inserting_after(values):
            item = second.call_function(operator.getitem, (values, i))
        item.meta = dict(node.meta)
        old.replace_all_uses_with(item)
    return Staged(
        prepare_module=rewrite.compiled(module, first),
        run_module=rewrite.compiled(module, second),
    )


def tied_to_images(graph: Graph) -> set[Node]:
    """Return the nodes that depend on the images, be it only on how many there are."""
    tied: set[Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(n in tied for n in node.all_input_nodes):
            tied.add(node)
    return tied


def made_of(graph: Graph, names: set[str]) -> set[Node]:
    """Return the nodes that depend on the named parameters and hold tensors."""
    made: set[Node] = set()
    for node in graph.nodes:
        fetched = node.op == "get_attr" and str(node.target) in names
        if fetched or any(n in made for n in node.all_input_nodes):
            made.add(node)
    return {n for n in made if n.op == "get_attr" or holds_tensor(n) or "val" not in n.meta}
