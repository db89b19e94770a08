r"""Blocks: one parameter's gradients for every image of a batch, factored where that is cheap.

A layer's gradient for an image is :math:`G = D A^\top`, with the gradients of its output ``D`` and
its inputs ``A`` at every position. Products with queries and norms need not form ``G``.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Scalars

__all__ = ["Block", "DirectBlock", "FactoredBlock"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FactoredBlock:
    """Gradients ``output[b, g] @ input[b, g].T`` for images ``b`` and groups ``g``.

    Args:
        output: Gradients of the output, ``(b, g, o, t)``.
        input: Inputs of the layer, ``(b, g, i, t)``.
        shape: The parameter's shape, of ``g * o * i`` elements.
    """

    output: Tensor
    input: Tensor
    shape: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.output)

    @property
    def size(self) -> int:
        """The number of elements of the parameter."""
        return self.output.shape[1] * self.output.shape[2] * self.input.shape[2]

    def materialise(self) -> Tensor:
        """Return the gradients, ``(b, size)``."""
        return (self.output @ self.input.transpose(2, 3)).flatten(1)

    def dot(self, queries: Tensor) -> Tensor:
        """Return inner products with queries ``(q, size)``: ``(b, q)``."""
        positions, count = self.output.shape[3], len(queries)
        groups, wide, deep = self.output.shape[1], self.output.shape[2], self.input.shape[2]
        if positions * count > positions + count + 1:
            return chunked(self, queries)
        shaped = queries.reshape(count, groups, wide, deep)
        pulled = torch.einsum("qgoi,bgit->bqgot", shaped, self.input)
        return torch.einsum("bgot,bqgot->bq", self.output, pulled)

    def squared_norm(self) -> Scalars:
        """Return the squared Euclidean norms, ``(b,)``."""
        positions = self.output.shape[3]
        wide, deep = self.output.shape[2], self.input.shape[2]
        if positions * (wide + deep) < wide * deep:
            ours = self.output.transpose(2, 3) @ self.output
            theirs = self.input.transpose(2, 3) @ self.input
            return (ours * theirs).flatten(1).sum(dim=1)
        return self.materialise().square().sum(dim=1)

    def rows(self, start: int, stop: int) -> "FactoredBlock":
        """Return the block of some images."""
        return FactoredBlock(
            output=self.output[start:stop], input=self.input[start:stop], shape=self.shape
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

    def rows(self, start: int, stop: int) -> "DirectBlock":
        """Return the block of some images."""
        return DirectBlock(values=self.values[start:stop], shape=self.shape)


Block = FactoredBlock | DirectBlock

CHUNK_BYTES = 64 * 2**20
"""Gradients are formed for as many images at a time as fit into this."""


def chunked(block: FactoredBlock, queries: Tensor) -> Tensor:
    """Return inner products, forming the gradients of a few images at a time."""
    if torch.is_grad_enabled() and (block.output.requires_grad or block.input.requires_grad):
        return block.materialise() @ queries.T
    step = max(1, CHUNK_BYTES // (block.size * block.output.element_size()))
    parts = [
        block.rows(start, start + step).materialise() @ queries.T
        for start in range(0, len(block), step)
    ]
    return torch.cat(parts)
