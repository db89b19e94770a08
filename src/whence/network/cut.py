"""Cutting a network at a node into a head and a tail."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from whence.core import Images, Logits
from whence.errors import SettingError
from whence.network import rewrite
from whence.network.layout import Plane, multiple_of_batch, plane_of, zero_positions
from whence.network.operations import holds_tensor, module_path, name_of

__all__ = ["Cut"]

NO_CUT = frozenset(
    {"split", "chunk", "unbind", "split_with_sizes", "adaptive_avg_pool2d", "avg_pool2d"}
)
"""Lists of tensors, and averages of the map that is wanted."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A network in two parts; ``tail(*head(images))`` are its logits.

    Args:
        node: The name of the node at which it was cut.
        path: The module that computed the node.
        plane: How the activation holds the image plane.
        head_module: From images to the values that the tail needs, the activation first.
        tail_module: From these values to logits.
    """

    node: str
    path: str
    plane: Plane
    head_module: GraphModule
    tail_module: GraphModule

    def head(self, images: Images) -> tuple[Tensor, ...]:
        """Return the values that pass the cut; the first is the activation."""
        return self.head_module(images)  # type: ignore[no-any-return]

    def tail(self, *values: Tensor) -> Logits:
        """Return the logits from the values that pass the cut."""
        return self.tail_module(*values)  # type: ignore[no-any-return]

    def maps(self, activation: Tensor) -> Tensor:
        """Return an activation, or its gradient, as maps ``(b, k, h, w)``.

        Class, distillation and register tokens are dropped and the token grid is restored.
        """
        return self.plane.maps(activation)


@torch.inference_mode(mode=False)
def find_cut(module: GraphModule, example: Tensor, where: str | None) -> Cut:
    """Cut a network at a named node, a named module, or the default place."""
    graph, _ = rewrite.copied(module.graph)
    rewrite.functional(graph)
    size = (example.shape[2], example.shape[3])
    node = default_node(module, graph, example) if where is None else named_node(graph, where)
    plane = plane_of(node, size)
    if plane is None:
        shape = tuple(node.meta["val"].shape[1:]) if hasattr(node.meta.get("val"), "shape") else ()
        msg = (
            f"The value of {node.name!r} has shape (b, {', '.join(map(str, shape))}), which holds "
            f"no image plane. Choose a feature map; network.describe() lists them."
        )
        raise SettingError(msg)
    head, tail = split(module, graph, node)
    return Cut(
        node=node.name,
        path=module_path(node),
        plane=plane,
        head_module=head,
        tail_module=tail,
    )


def named_node(graph: Graph, where: str) -> Node:
    """Return the node of this name, or the last node of the module of this path."""
    moving = rewrite.depends_on_images(graph)
    for node in graph.nodes:
        if node.name == where and node in moving:
            return node  # type: ignore[no-any-return]
    inside = [
        n
        for n in graph.nodes
        if n in moving and (module_path(n) == where or module_path(n).startswith(f"{where}."))
    ]
    if not inside:
        paths = sorted({module_path(n) for n in graph.nodes if n in moving and module_path(n)})
        msg = (
            f"The network has no node or module {where!r}. Modules: {', '.join(paths[:12])}"
            f"{', ...' if len(paths) > 12 else ''}. network.describe() lists all."  # noqa: PLR2004
        )
        raise SettingError(msg)
    return inside[-1]  # type: ignore[no-any-return]


def default_node(module: GraphModule, graph: Graph, example: Tensor) -> Node:
    """Return the last feature map that everything passes through and all pixels influence.

    Every path from the images to the logits runs through it (a bottleneck of the graph), it has
    an image plane of more than one pixel, and the gradient of the logits reaches every position
    of it. In a network that reads a class token, the last block's patch tokens fail the last
    condition, and the block before it is taken.
    """
    size = (example.shape[2], example.shape[3])
    candidates = [n for n in bottlenecks(graph) if plane_of(n, size) is not None]
    for node in reversed(candidates):
        plane = plane_of(node, size)
        if plane is not None and is_reached(module, graph, node, plane, example):
            return node
    msg = (
        "No feature map was found that all predictions pass through. Name one: "
        "cut(node='layer4') takes a node's name or a module's path; network.describe() lists them."
    )
    raise SettingError(msg)


def is_reached(
    module: GraphModule, graph: Graph, node: Node, plane: Plane, example: Tensor
) -> bool:
    """Return whether the logits' gradient reaches a map, and each of its tokens if it has some.

    Asked with random parameters, so that a head which was initialised with zeros hides nothing.
    """
    head, tail = split(module, graph, node)
    with torch.no_grad():
        first, *rest = head(example)
    names = dict(tail.named_parameters())
    rewrite.with_parameters_as_input(tail.graph, names)
    tail = rewrite.compiled(tail, tail.graph)
    generator = torch.Generator().manual_seed(0)
    drawn = {
        name: (torch.randn(p.shape, generator=generator) / max(p.shape[1:].numel(), 1) ** 0.5).to(p)
        for name, p in names.items()
    }
    with torch.enable_grad():
        leaf = torch.zeros_like(first, requires_grad=True)
        logits = tail(drawn, first + leaf, *rest)
        weights = torch.randn(logits.shape, generator=generator).to(logits)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    if gradient is None:
        return False
    zero = zero_positions(plane.maps(gradient))
    return not bool((zero.any() if plane.kind == "tokens" else zero.all()).item())


def bottlenecks(graph: Graph) -> list[Node]:
    """Return the tensors that every path from images to logits runs through, in order."""
    moving = rewrite.depends_on_images(graph)
    order = {node: i for i, node in enumerate(graph.nodes)}
    found: list[Node] = []
    furthest = -1
    for node in graph.nodes:
        if node.op == "output" or node not in moving:
            continue
        if furthest <= order[node] and holds_tensor(node) and node.op != "placeholder":
            found.append(node)
        users = [order[u] for u in node.users if u in moving or u.op == "output"]
        furthest = max([furthest, *users])
    return [n for n in found if name_of(n) not in NO_CUT]


def split(module: GraphModule, graph: Graph, node: Node) -> tuple[GraphModule, GraphModule]:
    """Return head and tail of the graph at a node."""
    order = {n: i for i, n in enumerate(graph.nodes)}
    moving = rewrite.depends_on_images(graph)
    alive, inside = [node], set[Node]()
    pending = [next(n for n in graph.nodes if n.op == "output")]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source in inside or source in alive or is_batch_size(source):
                inside.add(source)
            elif source in moving and order[source] < order[node]:
                alive.append(source)
            else:
                inside.add(source)
                pending.append(source)
    head, places = rewrite.copied(graph)
    output = next(n for n in head.nodes if n.op == "output")
    output.args = (tuple(places[n] for n in alive),)
    return rewrite.compiled(module, head), rewrite.compiled(module, tail_of(graph, alive, inside))


def tail_of(graph: Graph, alive: list[Node], inside: set[Node]) -> Graph:
    """Return the graph from the values that pass a cut to the logits."""
    tail = Graph()
    new: dict[Node, Node] = {}
    for old in alive:
        new[old] = tail.placeholder(old.name)
        new[old].meta = dict(old.meta)
    for old in graph.nodes:
        if old in new or not (old in inside or old.op == "output"):
            continue
        if is_batch_size(old):
            new[old] = tail.call_function(torch.ops.aten.sym_size.int, (new[alive[0]], 0))
            new[old].meta = dict(old.meta)
        else:
            new[old] = tail.node_copy(old, lambda n: new[n])
    return tail


def is_batch_size(node: Node) -> bool:
    """Return whether the node reads the number of images off a tensor's first axis."""
    return (
        node.op == "call_function"
        and name_of(node) == "sym_size"
        and multiple_of_batch(node.meta.get("val", 0)) == 1
    )
