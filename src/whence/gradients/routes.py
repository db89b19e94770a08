"""Routes: where each parameter enters the graph, and how its example gradients are formed there.

Every place where a value made of parameters meets a value that depends on the images is a *use*.
A layer (convolution, linear, normalisation) keeps its input and the gradient of its output. A
value that broadcasts over the batch (a token, a position, a scale) is spread over the images
first, so that autograd itself keeps one gradient per image. What fits neither is left to the
exact fall-back, ``vmap`` over ``grad``.
"""

from dataclasses import dataclass
from typing import Any, final

from torch import Tensor
from torch.fx import Graph, Node

from whence.network import BatchAxis, rewrite
from whence.network.layout import batch_axes, multiple_of_batch, shape_of
from whence.network.operations import name_of, tensor_inputs

__all__ = ["LayerUse", "SpreadUse", "Uses", "find_uses", "gathered", "spread"]

LAYERS = frozenset({"conv2d", "linear", "batch_norm", "layer_norm", "group_norm"})
BROADCASTS = frozenset({"add", "sub", "mul", "div", "addcmul", "scaled_dot_product_attention"})


@final
@dataclass(frozen=True, kw_only=True)
class LayerUse:
    """A layer whose weight or bias is made of parameters.

    Args:
        operation: ``conv2d``, ``linear``, ``batch_norm``, ``layer_norm`` or ``group_norm``.
        source: Index of its input among the recorded values.
        output: Index of its output among the recorded values.
        weight: Name of the value that is its weight, or None.
        bias: Name of the value that is its bias, or None.
        axis: Where the batch is in its input and output.
        settings: Its further arguments: stride, padding, epsilon, ...
        statistics: Indices of running mean and variance among the recorded values.
    """

    operation: str
    source: int
    output: int
    weight: str | None
    bias: str | None
    axis: BatchAxis
    settings: tuple[Any, ...]
    statistics: tuple[int, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class SpreadUse:
    """A value made of parameters, spread over the images.

    Args:
        value: The name of the value.
        output: Index of the spread value among the recorded values.
        axis: Where the batch is in the spread value.
    """

    value: str
    output: int
    axis: BatchAxis


@final
@dataclass(frozen=True, kw_only=True)
class Uses:
    """All uses of the chosen parameters in a graph.

    Args:
        graph: The functional graph, with spreading inserted.
        recorded: The nodes whose values the uses refer to by index.
        layers: Uses in layers.
        spreads: Uses by broadcasting.
        derived: For each value made of parameters: the node that makes it.
        left: Parameters that need the exact fall-back.
    """

    graph: Graph
    recorded: tuple[Node, ...]
    layers: tuple[LayerUse, ...]
    spreads: tuple[SpreadUse, ...]
    derived: dict[str, Node]
    left: tuple[str, ...]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Indices of the recorded values whose gradients are needed: layers, then spreads."""
        return (*(u.output for u in self.layers), *(u.output for u in self.spreads))


def find_uses(graph: Graph, names: frozenset[str]) -> Uses:
    """Find every use of the named parameters; the graph is changed by spreading."""
    rewrite.functional(graph)
    finder = Finder(graph, names)
    for node in list(graph.nodes):
        if node.op in ("call_function", "output"):
            finder.visit(node)
    left = finder.left()
    return Uses(
        graph=graph,
        recorded=tuple(finder.recorded),
        layers=tuple(u for u in finder.layers if not left & finder.origins(u.weight, u.bias)),
        spreads=tuple(u for u in finder.spreads if not left & finder.origins(u.value)),
        derived=finder.derived,
        left=tuple(sorted(left)),
    )


class Finder:
    """One walk over a graph, noting uses."""

    def __init__(self, graph: Graph, names: frozenset[str]) -> None:
        self.graph = graph
        self.names = names
        self.moving = rewrite.depends_on_images(graph)
        self.axes = batch_axes(graph)
        self.made = self.made_of_parameters()
        self.recorded: list[Node] = []
        self.layers: list[LayerUse] = []
        self.spreads: list[SpreadUse] = []
        self.derived: dict[str, Node] = {}
        self.refused: set[str] = set()
        self.spread_nodes: dict[Node, Node] = {}

    def made_of_parameters(self) -> dict[Node, frozenset[str]]:
        """Return the values made of chosen parameters alone, and of which."""
        made: dict[Node, frozenset[str]] = {}
        for node in self.graph.nodes:
            if node.op == "get_attr" and str(node.target) in self.names:
                made[node] = frozenset({str(node.target)})
            elif node.op == "call_function" and node not in self.moving:
                origins = [made[n] for n in tensor_inputs(node) if n in made]
                if origins:
                    made[node] = frozenset().union(*origins)
        return made

    def origins(self, *values: str | None) -> set[str]:
        """Return the parameters that the named values are made of."""
        found: set[str] = set()
        for value in values:
            if value is not None:
                found |= self.made[self.derived[value]]
        return found

    def left(self) -> set[str]:
        """Return the refused parameters, and all that share a use with one of them."""
        values = [(u.weight, u.bias) for u in self.layers] + [(u.value,) for u in self.spreads]
        together = [self.origins(*names) for names in values]
        left = set(self.refused)
        while grown := {n for names in together if names & left for n in names} - left:
            left |= grown
        return left

    def record(self, node: Node) -> int:
        """Return the index of a node among the recorded values."""
        if node not in self.recorded:
            self.recorded.append(node)
        return self.recorded.index(node)

    def derive(self, node: Node) -> str:
        """Note a value made of parameters; return its name."""
        name = str(node.target) if node.op == "get_attr" else f"derived:{node.name}"
        self.derived[name] = node
        return name

    def visit(self, node: Node) -> None:
        """Note the uses in one operation."""
        sources = [n for n in tensor_inputs(node) if n in self.made]
        if not sources:
            return
        if node not in self.moving and node.op != "output":
            if self.introduces_batch(node):
                self.visit_expansion(node, sources)
            return
        sources = [n for n in sources if not self.has_batch(n)]
        if not sources:
            return
        if name_of(node) in LAYERS and self.visit_layer(node):
            return
        if name_of(node) in BROADCASTS and all(self.visit_broadcast(node, s) for s in sources):
            return
        for source in sources:
            self.refused |= self.made[source]

    def has_batch(self, node: Node) -> bool:
        """Return whether a value made of parameters has a batch axis."""
        return any(multiple_of_batch(size) for size in shape_of(node))

    def introduces_batch(self, node: Node) -> bool:
        """Return whether the node gives a value made of parameters its batch axis."""
        return self.has_batch(node) and not any(
            self.has_batch(n) for n in tensor_inputs(node) if n in self.made
        )

    def visit_expansion(self, node: Node, sources: list[Node]) -> None:
        """Note a token that is expanded over the batch."""
        shape = shape_of(node)
        at = next(i for i, size in enumerate(shape) if multiple_of_batch(size))
        simple = name_of(node) in ("expand", "expand_as") and multiple_of_batch(shape[at]) == 1
        if not simple or len(sources) != 1:
            self.refused |= self.made[node]
            return
        self.spreads.append(
            SpreadUse(value=self.derive(sources[0]), output=self.record(node), axis=BatchAxis(at))
        )

    def visit_layer(self, node: Node) -> bool:
        """Note a layer; return whether it is of a known form."""
        name = name_of(node)
        source = node.args[0]
        if not isinstance(source, Node) or source not in self.axes or node not in self.axes:
            return False
        slots = (2, 3) if name in ("layer_norm", "group_norm") else (1, 2)
        arguments = [node.args[i] if len(node.args) > i else None for i in slots]
        others = [n for n in tensor_inputs(node) if n in self.made and n not in arguments]
        if others or any(isinstance(a, Node) and a in self.moving for a in arguments):
            return False
        if name in ("conv2d", "batch_norm", "group_norm") and self.axes[source].axis != 0:
            return False
        weight, bias = (
            self.derive(a) if isinstance(a, Node) and a in self.made else None for a in arguments
        )
        statistics: tuple[int, ...] = ()
        settings: tuple[Any, ...] = (node.args[1], *node.args[4:])
        if name == "batch_norm":
            statistics = tuple(self.record(n) for n in node.args[3:5] if isinstance(n, Node))
            settings = (node.args[7],)
        elif name in ("conv2d", "linear"):
            weight_shape = shape_of(node.args[1]) if isinstance(node.args[1], Node) else ()
            settings = (tuple(weight_shape), *node.args[3:])
        self.layers.append(
            LayerUse(
                operation=name,
                source=self.record(source),
                output=self.record(node),
                weight=weight,
                bias=bias,
                axis=self.axes[source],
                settings=settings,
                statistics=statistics,
            )
        )
        return True

    def visit_broadcast(self, node: Node, source: Node) -> bool:
        """Spread a value over the images before it broadcasts; return whether that is possible."""
        axis = self.axes.get(node)
        like = next((n for n in tensor_inputs(node) if n in self.moving), None)
        if axis is None or like is None or self.axes.get(like) != axis:
            return False
        missing = len(shape_of(like)) - len(shape_of(source))
        at = axis.axis - missing
        if missing < 0 or (at >= 0 and shape_of(source)[at] != 1):
            return False
        with self.graph.inserting_before(node):
            new = self.graph.call_function(spread, (source, like, axis.axis))
        new.meta = {"val": like.meta["val"], "nn_module_stack": node.meta.get("nn_module_stack")}
        node.replace_input_with(source, new)
        self.spreads.append(
            SpreadUse(value=self.derive(source), output=self.record(new), axis=axis)
        )
        return True


def spread(value: Tensor, like: Tensor, axis: int) -> Tensor:
    """Return a value with one copy per image, as broadcasting against ``like`` would make it."""
    value = value.reshape(*[1] * (like.ndim - value.ndim), *value.shape)
    sizes = list(value.shape)
    sizes[axis] = like.shape[axis]
    return value.expand(sizes)


def gathered(gradient: Tensor, axis: BatchAxis, shape: tuple[int, ...]) -> Tensor:
    """Return the gradient of a spread value as ``(b, *shape)``.

    Sums over what the value was broadcast over inside one image.
    """
    front = axis.to_front(gradient).sum(dim=(axis.axis + 1, axis.axis + 2))
    front = front.unsqueeze(axis.axis + 1)
    aligned = (1,) * (front.ndim - 1 - len(shape)) + tuple(shape)
    over = [i + 1 for i, size in enumerate(aligned) if size == 1 and front.shape[i + 1] != 1]
    if over:
        front = front.sum(dim=over, keepdim=True)
    return front.reshape(-1, *shape)
