r"""Dense: inverses of the whole curvature, for few parameters or few training images."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.curvature.rows import apply_to_rows, as_rows, as_vectors
from whence.curvature.solve import check_over_zero
from whence.errors import MismatchError, NumericsError, SettingError
from whence.gradients.operator import Operator, Vectors

__all__ = ["ExplicitInverse", "WoodburyInverse", "dense_matrix", "explicit_inverse", "woodbury"]

MOST = 10_000
"""Parameters of a matrix that is formed, at most: 800 MB in double precision."""

COLUMNS = 64
"""Columns of a matrix formed at a time."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ExplicitInverse(Operator):
    """The inverse of a symmetric positive matrix over all parameters.

    Args:
        factor: Its lower Cholesky factor, ``(p, p)``, double precision.
        sizes: Numbers per parameter, in the order of the matrix.
    """

    factor: Tensor
    sizes: dict[str, int]

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the solutions."""
        rows = as_rows(ordered(vectors, self.sizes)).double()
        found = torch.cholesky_solve(rows.T, self.factor).T
        return as_vectors(found, ordered(vectors, self.sizes))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class WoodburyInverse(Operator):
    r"""The inverse of a damped second moment of few vectors, by way of their inner products.

    .. math:: \left( \tfrac1n G^\top G + \lambda I \right)^{-1} v = \tfrac1\lambda \left( v -
              G^\top (G G^\top + n \lambda I)^{-1} G v \right)

    Exact. With the gradients of the labels' loss it inverts the empirical Fisher matrix.

    Args:
        gradients: ``(n, p)``.
        factor: The lower Cholesky factor of :math:`G G^T + n \lambda I`, double precision.
        damping: Lambda.
        sizes: Numbers per parameter, in the order of the columns.
    """

    gradients: Tensor
    factor: Tensor
    damping: float
    sizes: dict[str, int]

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the solutions."""
        rows = as_rows(ordered(vectors, self.sizes)).to(self.gradients)
        products = (rows @ self.gradients.T).double()
        weights = torch.cholesky_solve(products.T, self.factor).T.to(rows)
        found = (rows - weights @ self.gradients) / self.damping
        return as_vectors(found, ordered(vectors, self.sizes))


def dense_matrix(operator: Operator, like: Vectors) -> Tensor:
    """Return a symmetric operator as a matrix ``(p, p)`` in double precision.

    Args:
        operator: Maps vectors to vectors of the same shape.
        like: One vector or more, for names, shapes and type.

    Raises:
        SettingError: If the matrix would be too large.
    """
    size = sum(value[0].numel() for value in like.values())
    if size > MOST:
        msg = (
            f"The curvature of {size} parameters is not formed as a matrix: that takes at most "
            f"{MOST}. Choose fewer parameters (the last layer), or take conjugate gradients or "
            f"EK-FAC."
        )
        raise SettingError(msg)
    some = as_rows(like)
    columns = []
    for start in range(0, size, COLUMNS):
        rows = some.new_zeros(min(COLUMNS, size - start), size)
        rows[:, start : start + len(rows)].fill_diagonal_(1)
        columns.append(apply_to_rows(operator, rows, like).double())
    matrix = torch.cat(columns)
    return (matrix + matrix.T) / 2


def explicit_inverse(matrix: Tensor, damping: float, sizes: dict[str, int]) -> ExplicitInverse:
    """Return the inverse of a symmetric matrix plus a multiple of the identity.

    Raises:
        NumericsError: If the damped matrix is not positive definite.
    """
    check_over_zero("damping", damping)
    identity = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix + damping * identity)
    if int(failed):
        lowest = float(torch.linalg.eigvalsh(matrix)[0])
        msg = (
            f"The curvature plus damping {damping:g} is not positive definite: its lowest "
            f"eigenvalue is {lowest:.3g}. Take the Gauss-Newton matrix, or a damping over "
            f"{max(-lowest, 0):.3g}."
        )
        raise NumericsError(msg)
    return ExplicitInverse(factor=factor, sizes=sizes)


def woodbury(gradients: Tensor, damping: float, sizes: dict[str, int]) -> WoodburyInverse:
    """Return the inverse of a damped second moment of gradients ``(n, p)``."""
    check_over_zero("damping", damping)
    products = (gradients @ gradients.T).double()
    count = len(products)
    identity = torch.eye(count, dtype=torch.float64, device=products.device)
    factor, failed = torch.linalg.cholesky_ex(products + count * damping * identity)
    if int(failed):
        top = float(products.diagonal().max()) / count
        msg = (
            f"The inner products of {count} gradients plus damping {damping:g} are not positive "
            f"definite in their precision, or not finite. Give more damping, such as "
            f"{1e-6 * top:.3g}, or double precision."
        )
        raise NumericsError(msg)
    return WoodburyInverse(gradients=gradients, factor=factor, damping=damping, sizes=sizes)


def ordered(vectors: Vectors, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Return vectors in the order of a matrix, checked."""
    found = {name: value[0].numel() for name, value in vectors.items()}
    if found != sizes:
        wrong = sorted(n for n in {**found, **sizes} if found.get(n) != sizes.get(n))
        msg = (
            f"The inverse and the vectors need the same parameters; {wrong[0]!r} has "
            f"{found.get(wrong[0], 0)} elements in the vectors and {sizes.get(wrong[0], 0)} in "
            f"the inverse."
        )
        raise MismatchError(msg)
    return {name: vectors[name] for name in sizes}
