r"""Gram: the second moment of projected gradients, over a dataset, and its damped inverse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, final

import torch
from torch import Tensor

from whence.curvature.diagonal import check_names
from whence.errors import DataError, MismatchError, NumericsError, SettingError
from whence.gradients.operator import Operator, Vectors

__all__ = ["Gram", "InverseSecondMoment", "SecondMoment"]

EPSILON = 1e-14
"""Eigenvalues below this share of the largest are rounding."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SecondMoment(Operator):
    """A symmetric matrix over all projected parameters side by side.

    Args:
        matrix: ``(k, k)``, double precision.
        sizes: Numbers per parameter, in the order of the matrix.
        count: Images that it is the mean of, or as many of one weight as tell as much.
    """

    matrix: Tensor
    sizes: Mapping[str, int]
    count: float

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the products with vectors ``{name: (q, k)}``."""
        rows = joined(vectors, self.sizes)
        return parted(rows @ self.matrix, self.sizes, vectors)

    @property
    def mean_eigenvalue(self) -> float:
        """The mean of the eigenvalues."""
        return float(self.matrix.diagonal().mean())

    @property
    def usual_damping(self) -> float:
        r"""What chance alone gives to a direction: the damping where none is given.

        .. math:: \lambda = \Big(\frac1n + \frac1k\Big) \operatorname{tr} A
                          = \Big(\frac1n + \frac1k\Big) E \lVert \phi \rVert^2

        One of :math:`n` images alone gives its own direction :math:`\lVert \phi \rVert^2 / n`:
        what is below that, no two images agree on. And a projection to :math:`k` numbers spreads
        every gradient over all of them, :math:`\lVert \phi \rVert^2 / k` on each. It is the
        mean eigenvalue where there are far more images than numbers. ``python -m
        reproductions.lds.damping`` compares it with others on held-out retrainings.
        """
        return float(self.matrix.diagonal().sum()) * (1 / self.count + 1 / len(self.matrix))

    def inverse(self, damping: float) -> "InverseSecondMoment":
        r"""Return :math:`(A + \lambda I)^{-1}`; costs one factorisation, :math:`k^3 / 3`.

        Args:
            damping: Lambda, 0 or more; :attr:`usual_damping` is.

        Raises:
            NumericsError: If the damped matrix is not positive definite in double precision.
        """
        if not 0 <= damping < float("inf"):
            msg = f"damping is 0 or more, and finite; got {damping}."
            raise SettingError(msg)
        size = len(self.matrix)
        identity = torch.eye(size, dtype=torch.float64, device=self.matrix.device)
        factor, failed = torch.linalg.cholesky_ex(self.matrix + damping * identity)
        if int(failed):
            msg = (
                f"The second moment of {size} numbers plus damping {damping:g} is not positive "
                f"definite: fewer images than numbers, or numbers that are always zero. Give more "
                f"damping; usual is {self.usual_damping:.3g}."
            )
            raise NumericsError(msg)
        return InverseSecondMoment(factor=factor, sizes=self.sizes)

    def inverse_root(self, damping: float) -> "SecondMoment":
        r"""Return :math:`(A + \lambda I)^{-1/2}`, symmetric; costs an eigendecomposition.

        Applied to both of two vectors it makes their inner product that of :meth:`inverse`; a
        cosine then compares directions in the metric of the inverse.

        Args:
            damping: Lambda, 0 or more; :attr:`usual_damping` is.

        Raises:
            NumericsError: If the damped matrix is not positive definite in double precision.
        """
        if not 0 <= damping < float("inf"):
            msg = f"damping is 0 or more, and finite; got {damping}."
            raise SettingError(msg)
        values, vectors = torch.linalg.eigh(self.matrix)
        damped = values + damping
        if not bool((damped > EPSILON * damped.max()).all()):
            msg = (
                f"The second moment of {len(damped)} numbers plus damping {damping:g} is not "
                f"positive definite: its lowest eigenvalue is {float(values[0]):.3g}. Give more "
                f"damping; usual is {self.usual_damping:.3g}."
            )
            raise NumericsError(msg)
        matrix = (vectors * damped.rsqrt()) @ vectors.T
        return SecondMoment(matrix=matrix, sizes=self.sizes, count=self.count)

    def mixed(self, other: "SecondMoment", weight: float) -> "SecondMoment":
        r"""Return :math:`w A + (1 - w) B`, of training gradients and of queries for example.

        Args:
            other: ``B``, of the same projection.
            weight: ``w``, from 0 to 1.

        Raises:
            MismatchError: If the other is of another projection.
            SettingError: If the weight is not from 0 to 1.

        References:
            Chang et al. (2024), "Scalable Influence and Fact Tracing for Large Language Model
            Pretraining" (TrackStar).
        """
        if not 0 <= weight <= 1:
            msg = f"The weight of the first of two second moments is from 0 to 1; got {weight}."
            raise SettingError(msg)
        if dict(self.sizes) != dict(other.sizes):
            check_names(self.sizes, other.sizes)
            msg = f"Both need the same projection; got {self.sizes} and {other.sizes}."
            raise MismatchError(msg)
        squares = weight**2 / self.count + (1 - weight) ** 2 / other.count
        return SecondMoment(
            matrix=weight * self.matrix + (1 - weight) * other.matrix,
            sizes=self.sizes,
            count=1 / squares,
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InverseSecondMoment(Operator):
    """The inverse of a damped second moment.

    Args:
        factor: The lower Cholesky factor of the damped matrix.
        sizes: Numbers per parameter, in the order of the matrix.
    """

    factor: Tensor
    sizes: Mapping[str, int]

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the solutions for vectors ``{name: (q, k)}``."""
        rows = joined(vectors, self.sizes)
        return parted(torch.cholesky_solve(rows.T, self.factor).T, self.sizes, vectors)


@final
@dataclass(kw_only=True, eq=False)
class Gram:
    r"""A statistic: the second moment of projected gradients.

    .. math:: \Phi = \frac{1}{n} \sum_i \phi_i \phi_i^\top

    Summed in double precision. With all parameters kept exactly it is the empirical Fisher
    matrix. Memory: the square of the number of projected numbers.

    Args:
        total: The sum so far, ``(k, k)``.
        sizes: Numbers per parameter, sorted by name.
        count: Images so far.
    """

    total: Tensor | None = field(default=None, repr=False)
    sizes: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def update(self, projected: Vectors) -> None:
        """Take in the projected gradients of a batch, ``{name: (b, k)}``."""
        sizes = {name: projected[name][0].numel() for name in sorted(projected)}
        if self.count and sizes != self.sizes:
            check_names(self.sizes, sizes)
            msg = f"Batches need the same projection; got {sizes} after {self.sizes}."
            raise MismatchError(msg)
        rows = joined(projected, sizes)
        moment = rows.T @ rows
        self.total = moment if self.total is None else self.total + moment
        self.sizes, self.count = sizes, self.count + len(rows)

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed."""
        if self.total is None or other.total is None:
            some = other if self.total is None else self
            return Gram(total=some.total, sizes=dict(some.sizes), count=some.count)
        if self.sizes != other.sizes:
            check_names(self.sizes, other.sizes)
            msg = f"Parts need the same projection; got {self.sizes} and {other.sizes}."
            raise MismatchError(msg)
        return Gram(
            total=self.total + other.total,
            sizes=dict(self.sizes),
            count=self.count + other.count,
        )

    def result(self) -> SecondMoment:
        """Return the second moment, as an operator.

        Raises:
            DataError: If nothing was taken in.
        """
        if self.total is None:
            msg = "A second moment needs the gradient of at least one image; there was none."
            raise DataError(msg)
        return SecondMoment(
            matrix=self.total / self.count, sizes=dict(self.sizes), count=self.count
        )


def joined(vectors: Vectors, sizes: Mapping[str, int]) -> Tensor:
    """Return the blocks side by side in double precision, ``(q, k)``."""
    check_names(sizes, vectors)
    return torch.cat([vectors[name].flatten(1) for name in sizes], dim=1).double()


def parted(rows: Tensor, sizes: Mapping[str, int], like: Vectors) -> dict[str, Tensor]:
    """Return rows ``(q, k)`` as blocks of the types and shapes that came."""
    parts = torch.split(rows, list(sizes.values()), dim=1)
    named = zip(sizes, parts, strict=True)
    return {name: part.to(like[name]).view_as(like[name]) for name, part in named}
