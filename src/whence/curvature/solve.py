r"""Solve: the inverse of a damped curvature on vectors, from products with it alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Progress, silent
from whence.curvature.products import CurvatureProduct
from whence.curvature.rows import along, apply_to_rows, as_rows, as_vectors
from whence.errors import NumericsError, SettingError
from whence.gradients.operator import Operator, Vectors

__all__ = ["ConjugateGradient", "Lissa", "Solution", "largest_eigenvalue"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Solutions of linear systems, and how good they are.

    Args:
        vectors: ``{name: (q, *shape)}``.
        residuals: Norm of what is left over, relative to the right-hand side's, ``(q,)``.
        iterations: Products with the curvature.
    """

    vectors: dict[str, Tensor]
    residuals: Tensor
    iterations: int


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ConjugateGradient(Operator):
    r"""Solves :math:`(H + \lambda I) u = v` by conjugate gradients, for several ``v`` at once.

    Each iteration is one product with the curvature: a pass over the training images. A system
    that has reached the tolerance takes no further part.

    Args:
        operator: :math:`H`, symmetric and without negative eigenvalues.
        damping: Lambda, over 0.
        tolerance: The relative residual at which a system is solved.
        iterations: Products at most; :meth:`solve` tells the residuals that were reached.
        preconditioner: About :math:`(H + \lambda I)^{-1}`, symmetric and positive: EK-FAC's inverse
            saves iterations. None for the identity.
        progress: Told how many iterations are done.

    References:
        Hestenes and Stiefel (1952), "Methods of Conjugate Gradients for Solving Linear Systems";
        Koh and Liang (2017), "Understanding Black-box Predictions via Influence Functions".
    """

    operator: Operator
    damping: float
    tolerance: float = 1e-3
    iterations: int = 50
    preconditioner: Operator | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        """Check the settings."""
        check_over_zero("damping", self.damping)
        check_over_zero("tolerance", self.tolerance)
        if self.iterations < 1:
            msg = f"Conjugate gradients need at least one iteration; got {self.iterations}."
            raise SettingError(msg)

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the solutions, as good as :meth:`solve` got them."""
        return self.solve(vectors).vectors

    def solve(self, vectors: Vectors) -> Solution:
        """Return the solutions with their residuals.

        Raises:
            NumericsError: If a vector or a product is NaN or infinite, or if the curvature is
                negative in some direction.
        """
        right = as_rows(vectors)
        check_finite(right)
        found, left = torch.zeros_like(right), right.clone()
        size = along(right, right).sqrt()
        safe = torch.where(size > 0, size, torch.ones_like(size))
        better = self.preconditioned(left, vectors)
        towards = better.clone()
        product = along(left, better)
        done = 0
        for done in range(1, self.iterations + 1):
            open_ = (along(left, left).sqrt() > self.tolerance * safe).nonzero()[:, 0]
            if not len(open_):
                done -= 1  # noqa: PLW2901 - this iteration was not made
                break
            self.progress("conjugate gradients", done - 1, self.iterations)
            step = towards[open_]
            curved = apply_to_rows(self.operator, step, vectors) + self.damping * step
            bend = along(step, curved)
            self.check_positive(bend, along(step, step))
            length = (product[open_] / bend).to(step)[:, None]
            found[open_] += length * step
            left[open_] -= length * curved
            better = self.preconditioned(left[open_], vectors)
            renewed = along(left[open_], better)
            towards[open_] = better + (renewed / product[open_]).to(step)[:, None] * step
            product[open_] = renewed
        self.progress("conjugate gradients", self.iterations, self.iterations)
        return Solution(
            vectors=as_vectors(found, vectors),
            residuals=along(left, left).sqrt() / safe,
            iterations=done,
        )

    def preconditioned(self, rows: Tensor, like: Vectors) -> Tensor:
        """Return the preconditioner's map of rows."""
        return (
            rows if self.preconditioner is None else apply_to_rows(self.preconditioner, rows, like)
        )

    def check_positive(self, bend: Tensor, squared: Tensor) -> None:
        """Refuse a curvature that is not positive, or not a number, along a step."""
        if bool((bend > 0).all()):
            return
        worst = float((bend / squared).min())
        msg = (
            f"The damped curvature is {worst:.3g} along a direction, and must be over 0. A Hessian "
            f"away from a minimum has negative eigenvalues: take the Gauss-Newton matrix, or a "
            f"damping well over {max(self.damping - worst, self.damping):.3g}."
        )
        raise NumericsError(msg)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lissa(Operator):
    r"""Approximates :math:`(H + \lambda I)^{-1} v` by a series over random training images.

    .. math:: u_{t+1} = v + u_t - \tfrac1s (H_t + \lambda I)\, u_t , \qquad u \approx u_T / s

    with :math:`H_t` the curvature of a few images. The mean over repeats is returned. The images
    are drawn beforehand, so that this is a linear operator. It converges if the scale is over half
    of the largest eigenvalue, at a rate of :math:`1 - \lambda / s` in the flattest direction.

    Args:
        operator: The curvature over all training images.
        steps: For each repeat, for each step the images' places, drawn at random.
        damping: Lambda, over 0.
        scale: ``s``.
        progress: Told how many steps are done.

    References:
        Agarwal, Bullins and Hazan (2017), "Second-Order Stochastic Optimization for Machine
        Learning in Linear Time".
    """

    operator: CurvatureProduct
    steps: Sequence[Sequence[tuple[int, ...]]]
    damping: float
    scale: float
    progress: Progress = silent

    def __post_init__(self) -> None:
        """Check the settings."""
        check_over_zero("damping", self.damping)
        check_over_zero("scale", self.scale)

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the approximation for each vector.

        Raises:
            NumericsError: If the series diverges, or a vector is NaN or infinite.
        """
        right = as_rows(vectors)
        check_finite(right)
        most = 10 * along(right, right).sqrt() / self.damping
        total = torch.zeros_like(right)
        count = sum(len(steps) for steps in self.steps)
        done = 0
        for steps in self.steps:
            found = right
            for places in steps:
                curved = apply_to_rows(self.operator.at(places), found, vectors)
                found = right + found - (curved + self.damping * found) / self.scale
                size = along(found, found).sqrt() / self.scale
                if not bool((size <= most).all()):
                    msg = (
                        f"LiSSA diverges after {done + 1} steps: the scale {self.scale:.3g} is too "
                        f"small for the curvature of {len(places)} images. Give a larger scale, "
                        f"or more images per step."
                    )
                    raise NumericsError(msg)
                done += 1
                self.progress("lissa", done, count)
            total = total + found / (self.scale * len(self.steps))
        return as_vectors(total, vectors)


def largest_eigenvalue(operator: Operator, start: Vectors, *, iterations: int = 10) -> float:
    """Return about the largest eigenvalue of a symmetric operator, by powers of it.

    Args:
        operator: Without negative eigenvalues.
        start: One vector, not zero, drawn at random.
        iterations: Products; the outcome grows towards the largest eigenvalue.
    """
    rows = as_rows(start)
    top = 0.0
    for _ in range(iterations):
        size = along(rows, rows).sqrt()
        if not bool(size > 0):
            break
        rows = rows / size.to(rows)[:, None]
        mapped = apply_to_rows(operator, rows, start)
        top = float(along(mapped, mapped).sqrt())
        rows = mapped
    return top


def check_over_zero(name: str, value: float) -> None:
    """Refuse a setting that is not over 0, or not finite."""
    if not 0 < value < float("inf"):
        msg = f"{name} must be over 0, and finite; got {value}."
        raise SettingError(msg)


def check_finite(rows: Tensor) -> None:
    """Refuse vectors that are NaN or infinite."""
    bad = (~rows.isfinite()).any(dim=1).nonzero()[:, 0].tolist()
    if bad:
        msg = f"The vectors {bad[:5]} hold NaN or infinity: check the queries' gradients."
        raise NumericsError(msg)
