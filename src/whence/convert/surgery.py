"""Surgery: operations of a network's graph are exchanged, and new weights calibrated.

Where a model calls an operation as a function, or is built of classes of its own, no module can be
exchanged; its graph can be changed all the same. What comes out is a plain module whose weights
keep their names.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Interpreter, Node

from whence.convert.change import Change
from whence.core import Images
from whence.network import Homogeneity, Network, OperationDegree, rewrite
from whence.network.homogeneity import homogeneity
from whence.network.operations import module_path

__all__ = ["Calibration", "GraphRoute", "Surgery", "aten", "opened"]

aten = torch.ops.aten

GUARD = 1e-18
"""Below this a size is taken for zero."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How a new weight gets its value.

    Args:
        probes: Nodes whose values on the calibration images it depends on.
        value: Makes it of them.
    """

    probes: tuple[Node, ...]
    value: Callable[..., Tensor]


@final
@dataclass(kw_only=True, eq=False)
class Surgery:
    """A graph that is being changed.

    Args:
        graph: The functional graph, images in and logits out.
        held: What it fetches, by name.
        changes: What was done so far.
        calibrations: The new weights that have no value yet, by name.
    """

    graph: Graph
    held: dict[str, Any]
    changes: list[Change] = field(default_factory=list)
    calibrations: dict[str, Calibration] = field(default_factory=dict)

    def offenders(self) -> tuple[tuple[Node, OperationDegree], ...]:
        """Return the operations that break homogeneity now, in order."""
        by_name = {node.name: node for node in self.graph.nodes}
        return tuple((by_name[row.node], row) for row in self.verdict().offenders)

    def verdict(self) -> Homogeneity:
        """Return the degrees of the operations as they are now."""
        return homogeneity(self.graph, GraphModule(self.held, rewrite.copied(self.graph)[0]))

    def call(self, before: Node, function: Callable[..., Any], *arguments: object) -> Node:
        """Insert a call that has the shape of its first argument, and return it."""
        with self.graph.inserting_before(before):
            new = self.graph.call_function(function, arguments)  # type: ignore[arg-type]
        like = next((a for a in arguments if isinstance(a, Node)), before)
        new.meta = dict(like.meta) | {"nn_module_stack": before.meta.get("nn_module_stack")}
        return new

    def weight(
        self, before: Node, name: str, shape: Sequence[int], calibration: Calibration
    ) -> Node:
        """Insert a new trainable weight, to be calibrated, and return the node that fetches it."""
        path = module_path(before)
        full = f"{path}.{name}" if path else name
        base, count = full, 1
        while full in self.held or full in self.calibrations:
            count += 1
            full = f"{base}_{count}"
        tensors = (v for v in self.held.values() if isinstance(v, Tensor))
        like = next(v for v in tensors if v.is_floating_point())
        self.held[full] = nn.Parameter(like.new_ones(tuple(shape)))
        self.calibrations[full] = calibration
        with self.graph.inserting_before(before):
            return self.graph.get_attr(full)

    def given(self, before: Node, name: str, value: Tensor) -> Node:
        """Insert a new trainable weight of this value, and return the node that fetches it."""
        own = Calibration(probes=(), value=value.clone)
        node = self.weight(before, name, tuple(value.shape), own)
        self.held[str(node.target)].data = value.clone()
        return node

    def unit(self, before: Node, values: Node, axes: Sequence[int]) -> tuple[Node, Node]:
        """Insert ``values / |values|`` over the axes; return it and the length."""
        length = self.length(before, values, axes)
        guarded = self.call(before, aten.clamp_min.default, length, GUARD)
        return self.call(before, aten.div.Tensor, values, guarded), length

    def length(self, before: Node, values: Node, axes: Sequence[int]) -> Node:
        """Insert the Euclidean norm over the axes, which stay with size 1."""
        return self.call(
            before,
            aten.linalg_vector_norm.default,
            values,
            2,
            list(axes),
            True,  # noqa: FBT003 - the operation's keepdim has no name that a graph can use
        )

    def replace(self, node: Node, new: Node, what: str, lost: int = 0) -> None:
        """Let everything that uses a node use another, and note what was done."""
        node.replace_all_uses_with(new)
        self.graph.erase_node(node)
        self.note(node, what, lost)

    def note(self, node: Node, what: str, lost: int = 0) -> None:
        """Note what was done at a node."""
        self.changes.append(Change(path=module_path(node), what=what, parameters=lost))

    def stored(self, argument: object) -> Tensor | None:
        """Return the tensor that a node fetches; None for anything else."""
        if not isinstance(argument, Node) or argument.op != "get_attr":
            return None
        found: Tensor = self.held[str(argument.target)]
        return found

    def closed(self, images: Images, sizes: Mapping[Node, float] | None = None) -> GraphModule:
        """Return the changed network as a module in eval mode, its new weights calibrated.

        The calibration costs one forward pass: each weight is set as soon as its probes are
        known, so that later ones see what earlier ones made.

        Args:
            images: The calibration images.
            sizes: Root mean squares that the values of some nodes shall have, each a product with
                a weight; that weight is multiplied by what is missing.
        """
        self.graph.eliminate_dead_code()
        self.graph.lint()
        made = GraphModule(self.held, self.graph)
        for part in made.modules():
            part.training = False
        with torch.no_grad():
            Calibrating(made, self.calibrations, sizes or {}).run(images)
        return made


@final
class Calibrating(Interpreter):
    """Runs a graph and sets each new weight when the graph first fetches it."""

    def __init__(
        self,
        module: GraphModule,
        calibrations: dict[str, Calibration],
        sizes: Mapping[Node, float],
    ) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.calibrations = calibrations
        self.sizes = {node.name: size for node, size in sizes.items()}

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 - a node's value may be anything
        """Return the node's value."""
        found = super().run_node(n)
        chosen = self.calibrations.get(str(n.target)) if n.op == "get_attr" else None
        if chosen is not None:
            found.copy_(chosen.value(*(self.env[probe] for probe in chosen.probes)))
        if n.name in self.sizes:
            factor = self.sizes[n.name] / found.square().mean().sqrt().clamp_min(GUARD)
            for weight in weights_of(n):
                attrgetter(str(weight.target))(self.module).mul_(factor)
            found = found * factor
        return found


def weights_of(product: Node) -> list[Node]:
    """Return the one trainable weight that a value is multiplied by, with nothing else around."""
    moving = rewrite.depends_on_images(product.graph)
    constants = rewrite.ancestors(n for n in product.all_input_nodes if n not in moving)
    fetched = [n for n in constants if n.op == "get_attr"]
    return fetched if len(fetched) == 1 else []


def opened(network: Network) -> Surgery:
    """Return a network's graph, ready to be changed; its weights are the network's own."""
    graph, _ = rewrite.copied(network.graph)
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is rewrite.with_contiguous_gradient:
            node.replace_all_uses_with(node.all_input_nodes[0])
            graph.erase_node(node)
    rewrite.functional(graph)
    graph.eliminate_dead_code()
    return Surgery(graph=graph, held=rewrite.attributes(network.module, graph))


@runtime_checkable
class GraphRoute(Protocol):
    """Changes the graph of a model, where exchanging modules was not enough."""

    def on_graph(self, surgery: Surgery) -> None:
        """Change the graph; the surgery notes what was changed."""
        ...
