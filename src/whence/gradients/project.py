r"""Projection: gradients shrunk to a few numbers per parameter, inner products kept on average.

A weight's gradient :math:`G = D A^\top` is projected from both sides without being formed,

.. math:: P_o G P_i^\top = (P_o D)(P_i A)^\top, \qquad P_{rc} = \pm 1 / \sqrt{\text{rows of } P}

so that :math:`E \langle P_o G P_i^\top, P_o H P_i^\top \rangle = \langle G, H \rangle` for every
shape of layer. (Scaled by the *columns*, large layers would count less: a silent mistake.) What
has no factors goes through a count sketch: each element is added to, or taken from, one of ``k``
sums. A parameter of at most ``k`` elements is kept exactly.

Signs and places come from a hash of the seed and the parameter's name, so that all processes, all
machines and all versions of torch agree without talking.

References:
    Choe et al. (2024), "What is Your Data Worth to GPT?" (LoGra, projection of both factors);
    Charikar, Chen and Farach-Colton (2002), "Finding Frequent Items in Data Streams" (count
    sketch); Weinberger et al. (2009), "Feature Hashing" (its inner products are unbiased).
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from whence.errors import MismatchError, SettingError
from whence.gradients.blocks import Block, FactoredBlock
from whence.gradients.operator import Operator, Vectors
from whence.gradients.patches import Patches
from whence.gradients.record import ExampleGradients, combined

__all__ = ["Projection", "Projector", "SparseProjection", "flat"]

STREAM = "whence projection 1"
SPARSE_STREAM = "whence sparse projection 1"
"""Name the way in which random numbers are made; another way needs another name."""


@final
@dataclass(frozen=True, kw_only=True)
class Projection:
    """How gradients are projected.

    Args:
        dimension: Numbers per parameter, at most. The relative error of an inner product falls as
            one over its root.
        seed: Seed of the signs and places.
        oversampling: Keep so many times as many rows and columns, and add the numbers that they
            give up to as many as without it. Where gradients are of low rank, few rows and
            columns are what blurs inner products: 2 takes a quarter off their error, for a
            twentieth of a training step.
    """

    dimension: int = 256
    seed: int = 0
    oversampling: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.dimension < 1 or self.oversampling < 1:
            given = f"dimension={self.dimension}, oversampling={self.oversampling}"
            msg = f"A projection needs a dimension and an oversampling of at least 1; got {given}."
            raise SettingError(msg)

    def projector(self, gradients: ExampleGradients) -> "Projector":
        """Return the linear map for gradients like these: same parameters, same layers."""
        return Projector(
            maps={name: map_for(name, blocks, self) for name, blocks in gradients.blocks.items()}
        )


@final
@dataclass(frozen=True, kw_only=True)
class SparseProjection:
    """A sparse Johnson-Lindenstrauss projection of each parameter's gradient as a whole.

    Every element is added, with a sign and over the root of ``spread``, to ``spread`` of the
    sums. Inner products are unbiased, and closer than those of a :class:`Projection` of as many
    numbers, whose sides are projected one by one; but gradients must be formed, which costs about
    a training step more.

    Args:
        dimension: Numbers per parameter, at most.
        seed: Seed of the signs and places.
        spread: How many sums an element goes to.

    References:
        Kane and Nelson (2014), "Sparser Johnson-Lindenstrauss Transforms", section 3; Hu et al.
        (2025), "GraSS: Scalable Data Attribution with Gradient Sparsification and Sparse
        Projection".
    """

    dimension: int = 256
    seed: int = 0
    spread: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.spread <= self.dimension:
            msg = (
                f"A sparse projection needs a dimension of at least 1, and a spread from 1 to it; "
                f"got dimension={self.dimension}, spread={self.spread}."
            )
            raise SettingError(msg)

    def projector(self, gradients: ExampleGradients) -> "Projector":
        """Return the linear map for gradients like these: same parameters, same layers."""
        return Projector(
            maps={
                name: whole(name, math.prod(blocks[0].shape), self)
                for name, blocks in gradients.blocks.items()
            }
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Projector(Operator):
    """The projection of every parameter of a network; an :class:`Operator`.

    It is fixed by the projection's settings and by names and shapes alone. It takes gradients as
    they are recorded (:meth:`project`, without forming them) or in full; the outcome is the same.

    Args:
        maps: For each parameter what is done to its gradient.
    """

    maps: "Mapping[str, Exact | TwoSided | Sketch]"

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers per parameter."""
        return {name: one.size for name, one in self.maps.items()}

    def project(self, gradients: ExampleGradients) -> dict[str, Tensor]:
        """Return the projected gradients, for each parameter ``(b, k)``.

        Raises:
            MismatchError: If the gradients have other parameters or shapes.
        """
        check_names(self.maps, gradients.blocks)
        return {name: self.maps[name].blocks(gradients.blocks[name]) for name in self.maps}

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the projection of gradients in full, ``{name: (q, *shape)}``."""
        check_names(self.maps, vectors)
        return {
            name: one.vectors(vectors[name].reshape(len(vectors[name]), -1))
            for name, one in self.maps.items()
        }

    def adjoint(self, vectors: Vectors) -> dict[str, Tensor]:
        r"""Return the transpose of the projection, :math:`P^\top`, of projected vectors.

        :math:`\langle P g, z \rangle = \langle g, P^\top z \rangle`: an inner product with a
        projected gradient is one with the gradient itself.

        Args:
            vectors: For each parameter ``(q, k)``.

        Returns:
            For each parameter ``(q, n)``, its elements in one row.
        """
        check_names(self.maps, vectors)
        return {name: one.adjoint(vectors[name].flatten(1)) for name, one in self.maps.items()}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Exact:
    """Every element is kept."""

    size: int

    def blocks(self, blocks: Sequence[Block]) -> Tensor:
        """Return the gradients of a parameter."""
        return combined(blocks)

    def vectors(self, values: Tensor) -> Tensor:
        """Return the vectors ``(q, n)``."""
        return values

    def adjoint(self, values: Tensor) -> Tensor:
        """Return the vectors."""
        return values


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TwoSided:
    """Both factors are projected, group by group; the groups are added.

    Args:
        output: ``(g, r, o)``, or None to keep all rows of the output.
        input: ``(g, s, i)``, or None to keep all rows of the input.
        shape: ``(g, o, i)`` of the parameter.
        sketch: Adds the numbers of rows and columns up to fewer; None to keep them.
    """

    output: Tensor | None
    input: Tensor | None
    shape: tuple[int, int, int]
    sketch: "Sketch | None" = None

    @property
    def size(self) -> int:
        """Numbers in the outcome."""
        if self.sketch is not None:
            return self.sketch.size
        rows = self.shape[1] if self.output is None else self.output.shape[1]
        columns = self.shape[2] if self.input is None else self.input.shape[1]
        return rows * columns

    def blocks(self, blocks: Sequence[Block]) -> Tensor:
        """Return the projection of a parameter's gradients, which are not formed."""
        total: Tensor | None = None
        for block in blocks:
            if not isinstance(block, FactoredBlock) or shape_of(block) != self.shape:
                part = self.vectors(block.materialise())
            else:
                rows = sided(self.output, block.output)
                columns = inputs(self.input, block)
                part = (rows @ columns.transpose(2, 3)).sum(dim=1).flatten(1)
                part = part if self.sketch is None else self.sketch.vectors(part)
            total = part if total is None else total + part
        return total if total is not None else torch.zeros(0, self.size)

    def vectors(self, values: Tensor) -> Tensor:
        """Return the projection of vectors ``(q, n)``."""
        found = self.both_sides(values)
        return found if self.sketch is None else self.sketch.vectors(found)

    def both_sides(self, values: Tensor) -> Tensor:
        """Return rows and columns of vectors ``(q, n)``, side by side."""
        grouped = values.reshape(len(values), *self.shape)
        rows = sided(self.output, grouped)
        return sided(self.input, rows.transpose(2, 3)).transpose(2, 3).sum(dim=1).flatten(1)

    def adjoint(self, values: Tensor) -> Tensor:
        r"""Return :math:`P_o^\top Z P_i` for every group, ``(q, n)``."""
        groups, wide, deep = self.shape
        values = values if self.sketch is None else self.sketch.adjoint(values)
        rows = wide if self.output is None else self.output.shape[1]
        shaped = values.reshape(len(values), 1, rows, -1).expand(-1, groups, -1, -1)
        if self.output is not None:
            shaped = self.output.to(values).transpose(1, 2) @ shaped
        if self.input is not None:
            shaped = shaped @ self.input.to(values)
        return shaped.reshape(len(values), groups * wide * deep)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sketch:
    """Every element is added, with a sign, to one of ``size`` sums.

    Args:
        places: The sum of each element, ``(spread * n,)``.
        signs: 1 or -1 for each element, over the root of the spread, ``(spread * n,)``.
        size: The number of sums.
        spread: To how many of them an element is added.
    """

    places: Tensor
    signs: Tensor
    size: int
    spread: int = 1

    def blocks(self, blocks: Sequence[Block]) -> Tensor:
        """Return the sketch of a parameter's gradients."""
        return self.vectors(combined(blocks))

    def vectors(self, values: Tensor) -> Tensor:
        """Return the sketch of vectors ``(q, n)``."""
        empty = values.new_zeros(len(values), self.size)
        copied = values if self.spread == 1 else values.repeat(1, self.spread)
        return empty.index_add(1, self.places.to(values.device), copied * self.signs.to(values))

    def adjoint(self, values: Tensor) -> Tensor:
        """Return to each element, with its sign, the sum that it was added to: ``(q, n)``."""
        found = values[:, self.places.to(values.device)] * self.signs.to(values)
        return found.reshape(len(values), self.spread, -1).sum(dim=1)


def flat(vectors: Vectors) -> Tensor:
    """Return all blocks side by side, ``(q, K)``, in the order of their names."""
    return torch.cat([vectors[name].flatten(1) for name in sorted(vectors)], dim=1)


def map_for(
    name: str, blocks: Sequence[Block], projection: Projection
) -> Exact | TwoSided | Sketch:
    """Return what is done to one parameter's gradient."""
    size, most = math.prod(blocks[0].shape), projection.dimension
    if size <= most:
        return Exact(size=size)
    factored = [block for block in blocks if isinstance(block, FactoredBlock)]
    if factored:
        shape = shape_of(factored[0])
        groups, wide, deep = shape
        if wide * deep > most:
            held = min(wide * deep, most * projection.oversampling**2)
            rows, columns = sides(wide, deep, held) if held < wide * deep else (wide, deep)
            return TwoSided(
                output=random_rows(f"{name}|output", (groups, rows, wide), projection.seed),
                input=random_rows(f"{name}|input", (groups, columns, deep), projection.seed),
                shape=shape,
                sketch=sketched(name, rows * columns, projection),
            )
    return sketched(name, size, projection) or Exact(size=size)


def sketched(name: str, size: int, projection: Projection) -> Sketch | None:
    """Return the sums to which ``size`` numbers are added; None if they are few enough."""
    if size <= projection.dimension:
        return None
    drawn = np.frombuffer(stream(f"{name}|sketch", 4 * size, projection.seed), dtype="<u4")
    numbers = torch.from_numpy(drawn.astype(np.int64))
    return Sketch(
        places=(numbers >> 1) % projection.dimension,
        signs=1 - 2 * (numbers & 1),
        size=projection.dimension,
    )


def whole(name: str, size: int, projection: SparseProjection) -> "Exact | Sketch":
    """Return what is done to one parameter's gradient as a whole."""
    most, spread = projection.dimension, projection.spread
    if size <= most:
        return Exact(size=size)
    drawn = stream(f"{name}|sparse", 4 * size * spread, projection.seed)
    numbers = torch.from_numpy(np.frombuffer(drawn, dtype="<u4").astype(np.int64))
    numbers = numbers.view(spread, size)
    borders = torch.tensor([most * k // spread for k in range(spread + 1)])
    first, own = borders[:-1, None], borders.diff()[:, None]  # each copy has sums of its own
    return Sketch(
        places=(first + (numbers >> 1) % own).flatten(),
        signs=(1 - 2 * (numbers & 1)).flatten() / math.sqrt(spread),
        size=most,
        spread=spread,
    )


def shape_of(block: FactoredBlock) -> tuple[int, int, int]:
    """Return groups, rows and columns of a weight's gradient."""
    return block.output.shape[1], block.output.shape[2], block.deep


def sides(wide: int, deep: int, most: int) -> tuple[int, int]:
    """Return how many rows and columns to keep, of more than ``most`` elements.

    A side that is short anyway is kept as it is, which leaves more for the other.
    """
    root = math.isqrt(most)
    if wide <= root:
        return wide, min(deep, most // wide)
    if deep <= root:
        return min(wide, most // deep), deep
    return root, root


def random_rows(name: str, shape: tuple[int, int, int], seed: int) -> Tensor | None:
    """Return signs over the root of the number of rows; None where all rows are kept."""
    groups, rows, columns = shape
    if rows == columns:
        return None
    count = groups * rows * columns
    drawn = np.frombuffer(stream(name, -(-count // 8), seed), dtype=np.uint8)
    bits = torch.from_numpy(np.unpackbits(drawn)[:count].astype(np.float64))
    return ((2 * bits - 1) / math.sqrt(rows)).reshape(shape)


def stream(name: str, count: int, seed: int) -> bytes:
    """Return random bytes that depend on the seed and the name alone."""
    return hashlib.shake_256(f"{STREAM}|{seed}|{name}".encode()).digest(count)


def sided(signs: Tensor | None, values: Tensor) -> Tensor:
    """Return ``(g, r, o)`` signs times ``(b, g, o, t)`` values, or the values."""
    return values if signs is None else signs.to(values) @ values


def inputs(signs: Tensor | None, block: FactoredBlock) -> Tensor:
    """Return ``(g, s, i)`` signs times a layer's inputs, which are not unfolded for it."""
    if signs is not None and isinstance(block.held, Patches):
        return block.held.convolved(signs.to(block.output))
    return sided(signs, block.input)


def check_names(maps: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Refuse gradients of other parameters than the projector was made for."""
    if maps.keys() != given.keys():
        wrong = sorted(maps.keys() ^ given.keys())
        msg = (
            f"The projector is for {len(maps)} parameters, the gradients have {len(given)}; "
            f"{wrong[0]!r} is only in one of them. Record and project the same parameters."
        )
        raise MismatchError(msg)
