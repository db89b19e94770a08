r"""Comparison: products of example gradients with many queries, and norms, in one go.

A layer's gradients are formed for a few input channels of a whole batch at a time, so that they
stay in the processor's cache; while they are there, they are multiplied with all queries and
measured, and then forgotten. The queries are laid out for this once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Scalars
from whence.errors import MismatchError
from whence.gradients.blocks import Block, DirectBlock, FactoredBlock, products
from whence.gradients.kernels import batched, rows_times_rows
from whence.gradients.patches import Patches
from whence.gradients.record import ExampleGradients, combined

__all__ = ["Compared", "Comparison"]

TILE_BYTES = 2**24
"""Gradients are formed for as many channels at a time as fit into this: it should fit a cache."""

ROWS = 32
"""Images whose gradients are formed together."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What a comparison found.

    Args:
        products: Inner products with the queries, ``(b, q)``.
        squared_norms: Squared norms of the gradients, ``(b,)``; None if they were not wanted.
    """

    products: Tensor
    squared_norms: Scalars | None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """A layer's queries for some of its input channels.

    Args:
        start: The first channel; of a convolution's input, or of a linear layer's.
        stop: Behind the last.
        queries: ``(q, o * n)``, laid out as the gradients are formed.
    """

    start: int
    stop: int
    queries: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Queries, laid out for products with the gradients of many images.

    Args:
        queries: For each parameter a block of ``q`` gradients.
        tiles: For each parameter that is compared tile by tile its tiles.
        count: How many queries.
        norms: Whether norms are wanted too.
    """

    queries: Mapping[str, Block]
    tiles: Mapping[str, tuple[Tile, ...]]
    count: int
    norms: bool

    @staticmethod
    def of(
        queries: Mapping[str, Block], gradients: ExampleGradients, *, norms: bool = True
    ) -> "Comparison":
        """Lay out queries for gradients like these: same parameters, same layers.

        Dense queries of tiled layers are copied: memory for them is needed twice.
        """
        if queries.keys() != gradients.blocks.keys():
            wrong = sorted(queries.keys() ^ gradients.blocks.keys())
            msg = (
                f"Queries and gradients need the same parameters: {wrong[0]!r} is only in one of "
                f"them ({len(queries)} and {len(gradients.blocks)})."
            )
            raise MismatchError(msg)
        tiles = {
            name: tiled(blocks[0], queries[name].materialise())
            for name, blocks in gradients.blocks.items()
            if isinstance(queries[name], DirectBlock) and takes_tiles(blocks)
        }
        count = next((len(block) for block in queries.values()), 0)
        return Comparison(queries=queries, tiles=tiles, count=count, norms=norms)

    def __call__(self, gradients: ExampleGradients) -> Compared:
        """Return products and norms of a batch of gradients."""
        dots = gradients.logits.new_zeros(len(gradients), self.count)
        squares = gradients.logits.new_zeros(len(gradients)) if self.norms else None
        for name, blocks in gradients.blocks.items():
            first = blocks[0]
            if name in self.tiles and isinstance(first, FactoredBlock):
                for start in range(0, len(first), ROWS):
                    some = slice(start, start + ROWS)
                    into = None if squares is None else squares[some]
                    by_tiles(first.rows(start, start + ROWS), self.tiles[name], dots[some], into)
                continue
            whole = first if len(blocks) == 1 else direct(blocks)
            dots += products(whole, self.queries[name])
            if squares is not None:
                squares += whole.squared_norm()
        return Compared(products=dots, squared_norms=squares)


def direct(blocks: Sequence[Block]) -> DirectBlock:
    """Return the sum of a shared parameter's blocks."""
    return DirectBlock(values=combined(blocks), shape=blocks[0].shape)


def takes_tiles(blocks: Sequence[Block]) -> bool:
    """Return whether a parameter's gradients can be formed channel by channel."""
    first = blocks[0]
    return (
        len(blocks) == 1
        and isinstance(first, FactoredBlock)
        and first.output.shape[1] == 1
        and first.output.shape[3] > 1
    )


def tiled(block: Block, queries: Tensor) -> tuple[Tile, ...]:
    """Return a layer's queries ``(q, size)``, tile by tile."""
    if not isinstance(block, FactoredBlock):
        return ()
    wide = block.output.shape[2]
    held = block.held
    kernel = held.kernel[0] * held.kernel[1] if isinstance(held, Patches) else 1
    channels = block.deep // kernel
    most = max(1, TILE_BYTES // (ROWS * wide * kernel * queries.element_size()))
    parts = -(-channels // most)
    each = -(-channels // parts)
    shaped = queries.reshape(len(queries), wide, channels, kernel)
    return tuple(
        Tile(
            start=start,
            stop=min(start + each, channels),
            queries=shaped[:, :, start : start + each].transpose(2, 3).reshape(len(queries), -1),
        )
        for start in range(0, channels, each)
    )


def by_tiles(
    block: FactoredBlock, tiles: Sequence[Tile], dots: Tensor, squares: Scalars | None
) -> None:
    """Add a layer's products with queries to ``dots``, and its squared norms to ``squares``."""
    held = block.held
    count, _, wide, positions = block.output.shape
    outputs = block.output[:, 0]
    view = held.by_position() if isinstance(held, Patches) else held[:, 0].transpose(1, 2)
    for tile in tiles:
        inputs = view[..., tile.start : tile.stop].reshape(count, positions, -1)
        formed = outputs.new_empty(count, wide, inputs.shape[2])
        batched(outputs, inputs, formed)
        flat = formed.view(count, -1)
        dots += rows_times_rows(flat, tile.queries)
        if squares is not None:
            squares += torch.linalg.vector_norm(flat, dim=1).square()
