r"""Diagonal: the mean square of each parameter's gradient, over a dataset."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from whence.errors import DataError, MismatchError, SettingError
from whence.gradients import Block, DirectBlock, ExampleGradients, FactoredBlock
from whence.gradients.operator import Operator, Vectors

__all__ = ["Diagonal", "FisherDiagonal"]

TINY = 1e-8
"""Values that are all below this are multiplied before they are squared."""

CHUNK_BYTES = 64 * 2**20
"""Gradients are formed for as many images at a time as fit into this."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Diagonal(Operator):
    """Multiplies each element of a gradient by a number of its own.

    Args:
        values: For each parameter its factors, ``(*shape)``.
    """

    values: Mapping[str, Tensor]

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the products, ``{name: (q, *shape)}``."""
        check_names(self.values, vectors)
        return {name: value * self.values[name].to(value) for name, value in vectors.items()}

    def inverse(self, damping: float) -> "Diagonal":
        r"""Return :math:`(A + \lambda I)^{-1}`.

        Args:
            damping: Lambda, over 0: parameters with no gradient have a factor of zero.
        """
        if not 0 < damping < float("inf"):
            msg = f"The inverse of a diagonal needs a damping over 0, and finite; got {damping}."
            raise SettingError(msg)
        return Diagonal(values={name: 1 / (v + damping) for name, v in self.values.items()})


@final
@dataclass(kw_only=True, eq=False)
class FisherDiagonal:
    r"""A statistic: the diagonal of the empirical Fisher matrix.

    .. math:: F_{jj} = \frac{1}{n} \sum_i g_{ij}^2

    Exact. It takes the gradients of the labels' own loss (or margin), hence *empirical*: it is
    not the Fisher matrix, which takes labels drawn from the model. Summed in double precision.
    Cost beside the gradients: to form them once.

    Args:
        sums: For each parameter the sum of the squares so far.
        count: Images so far.
    """

    sums: dict[str, Tensor] = field(default_factory=dict, repr=False)
    count: int = 0

    def update(self, gradients: ExampleGradients) -> None:
        """Take in the gradients of a batch."""
        if self.count:
            check_names(self.sums, gradients.blocks)
        for name, blocks in gradients.blocks.items():
            found = squares(blocks).view(blocks[0].shape)
            self.sums[name] = self.sums[name] + found if name in self.sums else found
        self.count += len(gradients)

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed."""
        if not self.count or not other.count:
            some = self if self.count else other
            return FisherDiagonal(sums=dict(some.sums), count=some.count)
        check_names(self.sums, other.sums)
        sums = {name: value + other.sums[name] for name, value in self.sums.items()}
        return FisherDiagonal(sums=sums, count=self.count + other.count)

    def result(self) -> Diagonal:
        """Return the diagonal, as an operator.

        Raises:
            DataError: If nothing was taken in.
        """
        if not self.count:
            msg = "The Fisher diagonal needs the gradient of at least one image; there was none."
            raise DataError(msg)
        return Diagonal(values={name: v / self.count for name, v in self.sums.items()})


def squares(blocks: Sequence[Block]) -> Tensor:
    """Return the sum over images of a parameter's squared gradients, flat, in double precision."""
    first = blocks[0]
    if len(blocks) == 1:
        raised, square = lifted_block(first)
        if square < 1:
            return squares([raised]) * square
    if len(blocks) == 1 and isinstance(first, FactoredBlock) and first.output.shape[3] == 1:
        output, source = first.output[..., 0].square(), first.input[..., 0].square()
        return torch.einsum("bgo,bgi->goi", output, source).flatten().double()
    element = first.output if isinstance(first, FactoredBlock) else first.values
    size = math.prod(first.shape) * element.element_size()
    step = max(1, CHUNK_BYTES // max(1, size))
    total = element.new_zeros(math.prod(first.shape), dtype=torch.float64)
    for start in range(0, len(first), step):
        parts = [block.rows(start, start + step).materialise() for block in blocks]
        total = total + torch.stack(parts).sum(dim=0).square().sum(dim=0)
    return total


def lifted_block(block: Block) -> tuple[Block, float]:
    """Return a block whose squares do not underflow, and by what to multiply the squares."""
    if isinstance(block, FactoredBlock):
        output, square = lifted(block.output)
        return FactoredBlock(output=output, input=block.held, shape=block.shape), square
    values, square = lifted(block.values)
    return DirectBlock(values=values, shape=block.shape), square


def lifted(values: Tensor) -> tuple[Tensor, float]:
    """Return values whose squares do not underflow, and by what to multiply the squares.

    The gradients of a confident model may be so small that their squares are zero.
    """
    top = float(values.abs().max()) if values.numel() else 0.0
    if not 0 < top < TINY:
        return values, 1.0
    return values / top, top * top


def check_names(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Refuse gradients of other parameters."""
    if ours.keys() != theirs.keys():
        wrong = sorted(ours.keys() ^ theirs.keys())
        msg = (
            f"Curvature and gradients need the same parameters: {wrong[0]!r} is only in one of "
            f"them ({len(ours)} and {len(theirs)} parameters)."
        )
        raise MismatchError(msg)
