r"""Krylov: the part of a curvature with the largest eigenvalues, from products with it alone."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Progress, silent
from whence.curvature.dense import ordered
from whence.curvature.rows import apply_to_rows, as_rows, as_vectors, sizes_of
from whence.errors import NumericsError, SettingError
from whence.gradients.operator import Operator, Vectors

__all__ = ["LowRank", "ritz"]

SMALL = 1e-6
"""A direction that is shorter than this, relative to what it was made of, is rounding."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank(Operator):
    r"""A symmetric operator of low rank, :math:`U \mathrm{diag}(w)\, U^\top`.

    Args:
        basis: Orthonormal rows, ``(r, p)``.
        values: The eigenvalues ``w``, ``(r,)``, double precision.
        sizes: Numbers per parameter, in the order of the columns.
    """

    basis: Tensor
    values: Tensor
    sizes: dict[str, int]

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the products."""
        given = ordered(vectors, self.sizes)
        rows = as_rows(given).to(self.basis)
        return as_vectors(((rows @ self.basis.T) * self.values.to(rows)) @ self.basis, given)

    def inverse(self, damping: float = 0.0) -> "LowRank":
        r"""Return :math:`U \mathrm{diag}(1 / (w + \lambda))\, U^\top`.

        What lies outside of the basis is dropped, not divided by the damping: it is in the flat
        directions, where an inverse is least to be trusted, as the method's authors do.

        Args:
            damping: Lambda, 0 or more.

        Raises:
            NumericsError: If a damped eigenvalue is zero.
            SettingError: If the damping is below 0.
        """
        if not 0 <= damping < float("inf"):
            msg = f"damping is 0 or more, and finite; got {damping}."
            raise SettingError(msg)
        damped = self.values + damping
        if bool((damped == 0).any()):
            msg = f"An eigenvalue plus damping {damping:g} is zero: take less rank or more damping."
            raise NumericsError(msg)
        return LowRank(basis=self.basis, values=1 / damped, sizes=self.sizes)


def ritz(
    operator: Operator, start: Vectors, *, krylov: int, rank: int, progress: Progress = silent
) -> LowRank:
    """Return the eigenvalues of largest magnitude of a symmetric operator, with their vectors.

    Arnoldi's iteration with full orthogonalisation; for a symmetric operator it is that of
    Lanczos. One product for each dimension of the Krylov space, whose vectors are all kept.

    Args:
        operator: Symmetric.
        start: One vector, drawn at random.
        krylov: Dimension of the Krylov space; it may come out smaller.
        rank: How many eigenvalues to keep, at most.
        progress: Told how many products are done.

    Raises:
        NumericsError: If the start is zero, or a product is not finite or zero.
        SettingError: If a setting is out of range.

    References:
        Schioppa et al. (2022), "Scaling Up Influence Functions".
    """
    if not 1 <= rank <= krylov:
        msg = f"The rank must be from 1 to the Krylov dimension {krylov}; got {rank}."
        raise SettingError(msg)
    row = as_rows(start)[:1]
    length = float(row.double().norm())
    if not 0 < length < float("inf"):
        msg = f"The first vector has length {length}; it must be over 0 and finite."
        raise NumericsError(msg)
    basis, mapped = [row / length], []
    for done in range(krylov):
        found = apply_to_rows(operator, basis[-1], start)
        mapped.append(found)
        progress("arnoldi", done + 1, krylov)
        before, held = float(found.double().norm()), torch.cat(basis)
        for _ in range(2):  # once is not enough in finite precision
            found = found - (found @ held.T) @ held
        after = float(found.double().norm())
        if not after > SMALL * before or done + 1 == min(krylov, row.shape[1]):
            break
        basis.append(found / after)
    progress("arnoldi", krylov, krylov)
    held, products = torch.cat(basis[: len(mapped)]), torch.cat(mapped)
    small = held.double() @ products.double().T
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    keep = values.abs().argsort(descending=True)[:rank]
    keep = keep[values[keep].abs() > SMALL * values.abs().max()]
    if not len(keep):
        msg = "The curvature is zero along every direction that was tried: all gradients are zero."
        raise NumericsError(msg)
    return LowRank(
        basis=(vectors[:, keep].T.to(held) @ held),
        values=values[keep],
        sizes=sizes_of(start),
    )
