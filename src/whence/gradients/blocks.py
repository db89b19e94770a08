r"""Blocks: one parameter's gradients for every image of a batch, factored where that is cheap.

A layer's gradient for an image is :math:`G = D A^\top`, with the gradients of its output ``D`` and
its inputs ``A`` at every position. Products with queries and norms need not form ``G``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import Scalars
from whence.gradients.pairs import Pair, paired
from whence.gradients.patches import Patches

__all__ = ["Block", "DirectBlock", "FactoredBlock", "products", "stacked"]


@final
@dataclass(frozen=True, eq=False, init=False)
class FactoredBlock:
    """Gradients ``output[b, g] @ input[b, g].T`` for images ``b`` and groups ``g``.

    Args:
        output: Gradients of the output, ``(b, g, o, t)``.
        input: Inputs of the layer, ``(b, g, i, t)``, or the :class:`Patches` that a convolution
            sees, which are unfolded each time that ``input`` is read.
        shape: The parameter's shape, of ``g * o * i`` elements.
    """

    output: Tensor
    held: Tensor | Patches
    shape: tuple[int, ...]

    def __init__(
        self,
        *,
        output: Tensor,
        input: Tensor | Patches,  # noqa: A002 - the layer's input
        shape: tuple[int, ...],
    ) -> None:
        """Keep the factors."""
        object.__setattr__(self, "output", output)
        object.__setattr__(self, "held", input)
        object.__setattr__(self, "shape", shape)

    @property
    def input(self) -> Tensor:
        """Inputs of the layer, ``(b, g, i, t)``; a convolution's are unfolded here."""
        return self.held.unfolded() if isinstance(self.held, Patches) else self.held

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.output)

    @property
    def deep(self) -> int:
        """Elements of an input at one position, in one group."""
        return self.held.shape[2]

    @property
    def size(self) -> int:
        """The number of elements of the parameter."""
        return self.output.shape[1] * self.output.shape[2] * self.deep

    @property
    def kept(self) -> bool:
        """Whether a graph is kept, so that all products must be differentiable."""
        source = self.held.source if isinstance(self.held, Patches) else self.held
        return torch.is_grad_enabled() and (self.output.requires_grad or source.requires_grad)

    def materialise(self) -> Tensor:
        """Return the gradients, ``(b, size)``."""
        return (self.output @ self.input.transpose(2, 3)).flatten(1)

    def dot(self, queries: Tensor) -> Tensor:
        """Return inner products with queries ``(q, size)``: ``(b, q)``."""
        positions, count = self.output.shape[3], len(queries)
        groups, wide, deep = self.output.shape[1], self.output.shape[2], self.deep
        if positions * count > positions + count + 1:
            return chunked(self, queries)
        shaped = queries.reshape(count, groups, wide, deep)
        if isinstance(self.held, Patches):
            stacked = shaped.transpose(0, 1).reshape(groups, count * wide, deep)
            pulled = self.held.convolved(stacked)
            pulled = pulled.reshape(len(self), groups, count, wide, positions)
            return (pulled * self.output[:, :, None]).sum(dim=(1, 3, 4))
        pulled = torch.einsum("qgoi,bgit->bqgot", shaped, self.held)
        return torch.einsum("bgot,bqgot->bq", self.output, pulled)

    def ghost(self, queries: "FactoredBlock") -> Tensor:
        r"""Return inner products with factored queries, forming no gradient: ``(b, q)``.

        .. math:: \langle D A^\top, E B^\top \rangle
                  = \sum_{t, s} (D^\top E)_{ts} (A^\top B)_{ts}
        """
        count, ours, theirs = len(queries), self.output.shape[3], queries.output.shape[3]
        total: Tensor | None = None
        factors = ((self.output, queries.output), (self.input, queries.input))
        for group in range(self.output.shape[1]):
            pairs = [
                mine[:, group].transpose(1, 2).flatten(0, 1)
                @ other[:, group].transpose(0, 1).flatten(1)
                for mine, other in factors
            ]
            product = (pairs[0] * pairs[1]).view(len(self), ours, count, theirs).sum(dim=(1, 3))
            total = product if total is None else total + product
        return self.output.new_zeros(len(self), count) if total is None else total

    def favours_ghost(self, count: int) -> bool:
        """Return whether products with ``count`` factored queries of this shape cost less."""
        positions, groups = self.output.shape[3], self.output.shape[1]
        wide, deep = self.output.shape[2], self.deep
        ghost = count * positions * positions * (wide + deep) * groups
        return ghost < (positions + count + MEMORY) * self.size

    def scaled(self, factors: Scalars) -> "FactoredBlock":
        """Return the block with each image's gradient multiplied by its factor."""
        return FactoredBlock(
            output=self.output * factors.view(-1, 1, 1, 1), input=self.held, shape=self.shape
        )

    def squared_norm(self) -> Scalars:
        """Return the squared Euclidean norms, ``(b,)``, the cheaper way.

        Either of gradients that are formed, or of inner products between positions.
        """
        if self.kept and self.single:
            return self.paired(None)[1]
        if self.favours_gram:
            ours = self.output.transpose(2, 3) @ self.output
            return (ours * self.gram()).flatten(1).sum(dim=1)
        return self.materialise().square().sum(dim=1)

    @property
    def single(self) -> bool:
        """Whether there is one group of channels."""
        return self.output.shape[1] == 1

    def paired(self, queries: "Block | None") -> tuple[Tensor, Scalars]:
        """Return products with queries ``(b, q)`` and squared norms, for one group of channels.

        Their graph is kept in two products per layer; it can be differentiated once.

        Args:
            queries: A block of ``q`` gradients; None for norms alone.
        """
        wide, positions = self.output.shape[2:]
        if queries is None:
            dense = self.output.new_zeros(0, wide, self.deep)
        else:
            dense = queries.materialise().to(self.output).reshape(-1, wide, self.deep)
        factors = None
        one = isinstance(queries, FactoredBlock) and len(queries) == 1
        if one and isinstance(queries, FactoredBlock) and queries.short:
            factors = (queries.output[0, 0], queries.input[0, 0].T)
        gram = positions * positions * (wide + 2) + positions * positions * self.deep
        if isinstance(self.held, Patches):
            gram = positions * positions * (wide + 2) + self.held.gram_cost()
        pulled = self.size if factors is None else factors[0].shape[1] * (wide + self.deep)
        favours = gram + len(dense) * positions * pulled < 1.5 * (positions + MEMORY) * self.size
        held = self.held if isinstance(self.held, Patches) else None
        source = self.held.source if isinstance(self.held, Patches) else self.held
        return paired(
            self.output,
            source,
            Pair(patches=held, queries=dense, factors=factors, gram=favours),
        )

    @property
    def short(self) -> bool:
        """Whether a gradient's two factors are fewer numbers than itself."""
        return self.output.shape[3] * (self.output.shape[2] + self.deep) < self.size

    def gram(self) -> Tensor:
        """Return inner products of an image's inputs with each other, ``(b, g, t, t)``."""
        if isinstance(self.held, Patches):
            return self.held.gram()
        return self.held.transpose(2, 3) @ self.held

    @property
    def favours_gram(self) -> bool:
        """Return whether norms cost less by inner products between positions."""
        groups, wide, positions = self.output.shape[1:]
        gram = groups * positions * positions * (wide + self.deep + 2)
        if isinstance(self.held, Patches):
            gram = groups * positions * positions * (wide + 2) + self.held.gram_cost()
        return gram < (positions + MEMORY) * self.size

    def rows(self, start: int, stop: int) -> "FactoredBlock":
        """Return the block of some images."""
        held = self.held
        return FactoredBlock(
            output=self.output[start:stop],
            input=held.rows(start, stop) if isinstance(held, Patches) else held[start:stop],
            shape=self.shape,
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DirectBlock:
    """Gradients as they are, ``(b, size)``."""

    values: Tensor
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.values)

    @property
    def size(self) -> int:
        """The number of elements of the parameter."""
        return self.values.shape[1]

    def materialise(self) -> Tensor:
        """Return the gradients, ``(b, size)``."""
        return self.values

    def dot(self, queries: Tensor) -> Tensor:
        """Return inner products with queries ``(q, size)``: ``(b, q)``."""
        return self.values @ queries.T

    def squared_norm(self) -> Scalars:
        """Return the squared Euclidean norms, ``(b,)``."""
        return self.values.square().sum(dim=1)

    def scaled(self, factors: Scalars) -> "DirectBlock":
        """Return the block with each image's gradient multiplied by its factor."""
        return DirectBlock(values=self.values * factors[:, None], shape=self.shape)

    def rows(self, start: int, stop: int) -> "DirectBlock":
        """Return the block of some images."""
        return DirectBlock(values=self.values[start:stop], shape=self.shape)


Block = FactoredBlock | DirectBlock
"""The gradients of one layer's parameters, one per example: as factors, or as they are."""


def products(block: Block, queries: Block) -> Tensor:
    """Return inner products of gradients with queries, ``(b, q)``."""
    if isinstance(queries, DirectBlock):
        return block.dot(queries.values)
    if isinstance(block, FactoredBlock):
        return block.ghost(queries)
    return block.dot(queries.materialise())


def stacked(blocks: Sequence[Block]) -> Block:
    """Return the blocks of several batches as one, of the same parameter."""
    first = blocks[0]
    factored = [b for b in blocks if isinstance(b, FactoredBlock)]
    if len(factored) == len(blocks):
        return FactoredBlock(
            output=torch.cat([b.output for b in factored]),
            input=held_together([b.held for b in factored]),
            shape=first.shape,
        )
    return DirectBlock(values=torch.cat([b.materialise() for b in blocks]), shape=first.shape)


def held_together(parts: Sequence[Tensor | Patches]) -> Tensor | Patches:
    """Return the inputs of several batches as one."""
    patches = [part for part in parts if isinstance(part, Patches)]
    if len(patches) == len(parts):
        return replace(patches[0], source=torch.cat([part.source for part in patches]))
    return torch.cat([p.unfolded() if isinstance(p, Patches) else p for p in parts])


MEMORY = 16
"""Writing and reading a gradient's element costs about as much as this many multiply-adds."""

CHUNK_BYTES = 64 * 2**20
"""Gradients are formed for as many images at a time as fit into this."""


def chunked(block: FactoredBlock, queries: Tensor) -> Tensor:
    """Return inner products, forming the gradients of a few images at a time."""
    if block.kept:
        return block.materialise() @ queries.T
    step = max(1, CHUNK_BYTES // (block.size * block.output.element_size()))
    parts = [
        block.rows(start, start + step).materialise() @ queries.T
        for start in range(0, len(block), step)
    ]
    return torch.cat(parts)
