r"""Recorder: the gradients of every image of a batch, in one forward and one backward pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap
from torch.fx import Graph, GraphModule, Node

from whence.core import Images, Logits, Scalars, Target
from whence.errors import SettingError
from whence.gradients.blocks import Block, DirectBlock, FactoredBlock, products
from whence.gradients.layers import layer_blocks
from whence.gradients.routes import Uses, find_uses, gathered
from whence.network import Network, rewrite
from whence.network.operations import name_of
from whence.network.twice import plain_norms, twice_differentiable

__all__ = ["ExampleGradients", "Recorder"]


IMAGE_AXES = 4

WEIGHTED = frozenset({"conv2d", "linear", "batch_norm"})
"""Operations whose second and further arguments may be left out of a graph through the first."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ExampleGradients:
    """Named gradients for each image of a batch.

    Args:
        logits: The model's output for the batch, ``(b, k)``.
        blocks: For each parameter its blocks; a shared parameter has several, which add up.
    """

    logits: Logits
    blocks: Mapping[str, tuple[Block, ...]]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.logits)

    def materialise(self) -> dict[str, Tensor]:
        """Return the gradients in full: for each parameter ``(b, *shape)``."""
        return {
            name: combined(blocks).reshape(len(self), *blocks[0].shape)
            for name, blocks in self.blocks.items()
        }

    def dot(self, queries: Mapping[str, Tensor | Block]) -> Tensor:
        """Return inner products with queries, over all parameters: ``(b, q)``.

        Args:
            queries: For each parameter ``(q, *shape)``, or a block of ``q`` gradients.
        """
        count = next((len(q) for q in queries.values()), 0)
        total = self.logits.new_zeros(len(self), count)
        for name, blocks in self.blocks.items():
            query = queries[name]
            if isinstance(query, Tensor):
                query = DirectBlock(values=query.reshape(count, -1), shape=blocks[0].shape)
            for block in blocks:
                total = total + products(block, query)
        return total

    def settled(self, count: int) -> dict[str, Block]:
        """Return one block for each parameter, factored where that makes products cheaper.

        Args:
            count: How many such gradients will be multiplied at once with others.
        """
        found: dict[str, Block] = {}
        for name, blocks in self.blocks.items():
            first = blocks[0]
            if len(blocks) == 1 and isinstance(first, FactoredBlock) and first.favours_ghost(count):
                found[name] = first
            else:
                found[name] = DirectBlock(values=combined(blocks), shape=first.shape)
        return found

    def squared_norm(self) -> Scalars:
        """Return squared Euclidean norms over all parameters, ``(b,)``."""
        total = self.logits.new_zeros(len(self))
        for blocks in self.blocks.values():
            single = len(blocks) == 1
            total = total + (
                blocks[0].squared_norm() if single else combined(blocks).square().sum(dim=1)
            )
        return total

    def paired(self, queries: Mapping[str, Block]) -> tuple[Tensor, Scalars]:
        """Return products with queries ``(b, q)`` and squared norms ``(b,)``, at once.

        With a graph it is cheaper than both on their own, and can be differentiated once.
        """
        count = next((len(q) for q in queries.values()), 0)
        total = self.logits.new_zeros(len(self), count)
        squares = self.logits.new_zeros(len(self))
        for name, blocks in self.blocks.items():
            first, query = blocks[0], queries[name]
            if len(blocks) > 1:
                first = DirectBlock(values=combined(blocks), shape=first.shape)
            if isinstance(first, FactoredBlock) and first.kept and first.single:
                products_of, squares_of = first.paired(query)
            else:
                products_of, squares_of = products(first, query), first.squared_norm()
            total = total + products_of
            squares = squares + squares_of
        return total, squares

    def norm(self) -> Scalars:
        """Return Euclidean norms over all parameters, ``(b,)``."""
        return self.squared_norm().sqrt()


def combined(blocks: Sequence[Block]) -> Tensor:
    """Return the sum of several blocks of one parameter, ``(b, size)``."""
    total = blocks[0].materialise()
    for block in blocks[1:]:
        total = total + block.materialise()
    return total


@final
class Recorder:
    """Records example gradients of a network; made once, used for every batch.

    The cost is one forward pass, one backward pass without weight gradients, and one matrix
    product per layer when gradients are multiplied or formed.

    Args:
        network: The network.
        parameters: Names of the parameters to take gradients for; all by default.
    """

    def __init__(self, network: Network, parameters: Sequence[str] | None = None) -> None:
        self.network = network
        self.names = chosen(network, parameters)
        graph, _ = rewrite.copied(network.graph)
        uses = find_uses(graph, frozenset(self.names))
        self.uses = uses
        self.pulls = {name: pull(network, node) for name, node in uses.derived.items()}
        rewrite.with_outputs(graph, uses.recorded)
        second, _ = rewrite.copied(graph)
        twice_differentiable(second)
        plain_norms(second)
        self.once, self.twice = (self.finish(g) for g in (graph, second))
        self.staged = network.staged()
        self.weights = layer_weights(uses.graph)

    def finish(self, graph: Graph) -> Callable[[Mapping[str, Tensor], Tensor], Any]:
        """Compile a graph that returns logits and recorded values."""
        rewrite.with_parameters_as_input(graph, self.network.parameters)
        return rewrite.compiled(self.network.module, graph)

    @property
    def fallback(self) -> tuple[str, ...]:
        """Parameters whose gradients come from ``vmap`` over ``grad``: exact, but slower."""
        return self.uses.left

    @torch.inference_mode(mode=False)
    def record(
        self, images: Images, target: Target, *, create_graph: bool = False
    ) -> ExampleGradients:
        """Return the gradients of ``target(logits)`` of each image.

        Args:
            images: The batch, ``(b, c, h, w)``.
            target: Which number of the logits to differentiate.
            create_graph: Keep the graph, so that what is made of the gradients can be
                differentiated with respect to the images.
        """
        self.network.check(images)
        images = images.clone() if images.is_inference() else images
        with torch.enable_grad():
            images = side_by_side(images)
            parameters = {
                name: side_by_side(p).detach().requires_grad_()
                for name, p in self.network.parameters.items()
            }
            uses = self.uses
            logits, values = self.forward(parameters, images, create_graph=create_graph)
            wanted = [values[i] for i in uses.outputs]
            found = (
                torch.autograd.grad(
                    target(logits).sum(), wanted, create_graph=create_graph, materialize_grads=True
                )
                if wanted
                else ()
            )
        with torch.set_grad_enabled(create_graph):
            held = [v if create_graph else v.detach() for v in values]
            blocks = self.collect(uses, held, found, parameters)
            left = self.by_vmap(images, target, parameters)
        for name, value in left.items():
            shape = tuple(parameters[name].shape)
            direct = DirectBlock(values=value.reshape(len(value), -1), shape=shape)
            blocks.setdefault(name, []).append(direct)
        return ExampleGradients(
            logits=logits if create_graph else logits.detach(),
            blocks={name: tuple(blocks[name]) for name in self.names if name in blocks},
        )

    def forward(
        self, parameters: Mapping[str, Tensor], images: Tensor, *, create_graph: bool
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Return logits and recorded values, with a graph down to what is differentiated.

        Where the images carry the graph, layers' weights are left out of it: convolutions would
        work out a weight's second derivative that nobody asked for.
        """
        if not create_graph:
            return self.once(parameters, images)  # type: ignore[no-any-return]
        if images.requires_grad:
            held = {n: p.detach() if n in self.weights else p for n, p in parameters.items()}
            logits, values = self.twice(held, images)
            if all(values[i].requires_grad for i in self.uses.outputs):
                return logits, values
        return self.twice(parameters, images)  # type: ignore[no-any-return]

    def collect(
        self,
        uses: Uses,
        values: Sequence[Tensor],
        gradients: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
    ) -> dict[str, list[Block]]:
        """Return the blocks of every parameter from what was recorded."""
        blocks: dict[str, list[Block]] = {}
        layers = gradients[: len(uses.layers)]
        for use, gradient in zip(uses.layers, layers, strict=True):
            statistics = tuple(values[i] for i in use.statistics)
            for name, block in layer_blocks(use, values[use.source], gradient, statistics).items():
                self.add(blocks, name, block, parameters)
        for spread, gradient in zip(uses.spreads, gradients[len(uses.layers) :], strict=True):
            shape = tuple(self.uses.derived[spread.value].meta["val"].shape)
            front = gathered(gradient, spread.axis, shape)
            front = front.reshape(len(front), -1)
            self.add(blocks, spread.value, DirectBlock(values=front, shape=shape), parameters)
        return blocks

    def add(
        self,
        blocks: dict[str, list[Block]],
        value: str,
        block: Block,
        parameters: Mapping[str, Tensor],
    ) -> None:
        """Add a value's block to the parameters that it is made of."""
        if self.uses.derived[value].op == "get_attr":
            blocks.setdefault(value, []).append(block)
            return
        names, function = self.pulls[value]
        inputs = {name: parameters[name].detach() for name in names}
        back: Callable[[Tensor], tuple[dict[str, Tensor]]] = vjp(function, inputs)[1]
        (pulled,) = vmap(back)(block.materialise().reshape(len(block), *block.shape))
        for name in names:
            if name in self.names:
                direct = DirectBlock(
                    values=pulled[name].reshape(len(block), -1), shape=tuple(inputs[name].shape)
                )
                blocks.setdefault(name, []).append(direct)

    def by_vmap(
        self, images: Tensor, target: Target, parameters: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the gradients of parameters that no route covers."""
        if not self.uses.left:
            return {}
        held = {name: p.detach() for name, p in parameters.items()}

        def scalar(chosen: dict[str, Tensor], image: Tensor, row: Tensor) -> Tensor:
            logits = self.staged.run(self.staged.prepare({**held, **chosen}), image[None])
            return target.at(row[None])(logits)[0]

        rows = torch.arange(len(images), device=images.device)
        some = {name: held[name] for name in self.uses.left}
        return vmap(grad(scalar), in_dims=(None, 0, 0))(some, images, rows)  # type: ignore[no-any-return]


def layer_weights(graph: Graph) -> frozenset[str]:
    """Return the parameters that meet what depends on the images in layers alone."""
    moving = rewrite.depends_on_images(graph)
    return frozenset(
        str(node.target)
        for node in graph.nodes
        if node.op == "get_attr"
        and all(
            user in moving and name_of(user) in WEIGHTED and user.args[0] is not node
            for user in node.users
        )
    )


def side_by_side(values: Tensor) -> Tensor:
    """Return images or filters with the channels of a position side by side.

    On a CPU in single precision convolutions are faster so, and patches need no copy.
    """
    plain = values.ndim != IMAGE_AXES or values.device.type != "cpu"
    if plain or values.dtype != torch.float32:
        return values
    return values.contiguous(memory_format=torch.channels_last)


def chosen(network: Network, parameters: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the chosen parameters, checked."""
    if parameters is None:
        return tuple(network.parameters)
    missing = [name for name in parameters if name not in network.parameters]
    if missing or not parameters:
        some = ", ".join(list(network.parameters)[:6])
        msg = (
            f"The network has no parameter {missing[0] if missing else '(none were given)'!r}. "
            f"Its parameters are {some}, ... ({len(network.parameters)} in all)."
        )
        raise SettingError(msg)
    return tuple(parameters)


def pull(
    network: Network, node: Node
) -> tuple[tuple[str, ...], Callable[[Mapping[str, Tensor]], Tensor]]:
    """Return the function of parameters that makes a derived value, and which they are."""
    graph = Graph()
    places: dict[Node, Node] = {}
    needed = rewrite.ancestors([node])
    for old in node.graph.nodes:
        if old in needed:
            places[old] = graph.node_copy(old, lambda n: places[n])
    graph.output(places[node])
    names = tuple(
        str(n.target)
        for n in graph.nodes
        if n.op == "get_attr" and str(n.target) in network.parameters
    )
    rewrite.with_parameters_as_input(graph, names)
    return tuple(dict.fromkeys(names)), GraphModule(network.module, graph)
