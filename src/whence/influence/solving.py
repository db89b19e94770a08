r"""Solving: inverses of the exact curvature over training images, from products with it.

No factors are fitted: the work is done when the inverse is applied, by passes over the images.
"""

import torch
from torch import Tensor

from whence.curvature import (
    ConjugateGradient,
    CurvatureKind,
    CurvatureProduct,
    ExplicitInverse,
    Lissa,
    LowRank,
    dense_matrix,
    explicit_inverse,
    largest_eigenvalue,
    ritz,
)
from whence.curvature.passes import TrainingImages, seeded
from whence.curvature.rows import sizes_of
from whence.errors import SettingError
from whence.gradients import Operator

__all__ = ["arnoldi", "check_damping", "conjugate_gradient_inverse", "explicit", "lissa"]

HEADROOM = 2.0
"""LiSSA's scale over the largest eigenvalue that was found: that of other images may be larger."""

PROBES = 4
"""Random sets of images on which LiSSA's scale is found."""


def conjugate_gradient_inverse(
    chosen: TrainingImages,
    *,
    damping: float = 1e-2,
    curvature: CurvatureKind = "gauss-newton",
    tolerance: float = 1e-3,
    iterations: int = 50,
    preconditioner: Operator | None = None,
) -> ConjugateGradient:
    """Return the inverse of the damped curvature by conjugate gradients.

    Every iteration is a pass over the images; :meth:`ConjugateGradient.solve` tells the residuals
    that were reached.

    Args:
        chosen: The training images; see :func:`training_images`.
        damping: Lambda, over 0.
        curvature: ``"gauss-newton"`` or ``"hessian"`` of the cross-entropy.
        tolerance: The relative residual at which a system is solved.
        iterations: Passes at most.
        preconditioner: About the inverse, positive: that of :func:`ekfac` saves iterations.

    Raises:
        DataError: If there is no training image, or the Hessian's labels are missing.
        SettingError: If a setting is out of range.
    """
    return ConjugateGradient(
        operator=product_of(chosen, curvature),
        damping=damping,
        tolerance=tolerance,
        iterations=iterations,
        preconditioner=preconditioner,
        progress=chosen.progress,
    )


def lissa(
    chosen: TrainingImages,
    *,
    damping: float = 1e-2,
    curvature: CurvatureKind = "gauss-newton",
    scale: float | None = None,
    depth: int = 200,
    repeats: int = 1,
    step_size: int = 32,
    generator: torch.Generator | None = None,
) -> Lissa:
    r"""Return the inverse of the damped curvature by a stochastic series (LiSSA).

    A step is one product with the curvature of a few images. In a direction of curvature
    :math:`\mu` the error falls by :math:`1 - (\mu + \lambda) / s` per step: with a scale far over
    the damping, many steps are needed.

    Args:
        chosen: The training images; see :func:`training_images`.
        damping: Lambda, over 0.
        curvature: ``"gauss-newton"`` or ``"hessian"`` of the cross-entropy.
        scale: ``s``, over half of the largest eigenvalue of every step's curvature; None to take
            twice the largest that is found on four random sets of images.
        depth: Steps.
        repeats: How many series are averaged.
        step_size: Images per step.
        generator: Draws the images of every step; the same every time if None.

    Raises:
        DataError: If there is no training image, or the Hessian's labels are missing.
        SettingError: If a setting is out of range.
    """
    check_damping(damping)
    for name, value in (("depth", depth), ("repeats", repeats), ("step_size", step_size)):
        if value < 1:
            msg = f"{name} must be at least 1; got {value}."
            raise SettingError(msg)
    generator = seeded() if generator is None else generator
    operator = product_of(chosen, curvature)
    rounds = [
        [drawn_places(chosen, step_size, generator) for _ in range(depth)] for _ in range(repeats)
    ]
    if scale is None:
        start = random_vector(chosen, generator)
        sets = [drawn_places(chosen, step_size, generator) for _ in range(PROBES)]
        top = max(largest_eigenvalue(operator.at(places), start) for places in sets)
        scale = HEADROOM * top + damping
    return Lissa(
        operator=operator, steps=rounds, damping=damping, scale=scale, progress=chosen.progress
    )


def explicit(
    chosen: TrainingImages,
    *,
    damping: float = 1e-2,
    curvature: CurvatureKind = "gauss-newton",
) -> ExplicitInverse:
    """Return the inverse of the damped curvature, formed as a matrix: at most 10 000 parameters.

    Exact: the others are tested against it.

    Args:
        chosen: The training images; see :func:`training_images`.
        damping: Lambda, over 0.
        curvature: ``"gauss-newton"`` or ``"hessian"`` of the cross-entropy.

    Raises:
        NumericsError: If the damped matrix is not positive definite.
        SettingError: If there are too many parameters.
    """
    check_damping(damping)
    like = random_vector(chosen, seeded())
    matrix = dense_matrix(product_of(chosen, curvature), like)
    return explicit_inverse(matrix, damping, sizes_of(like))


def arnoldi(
    chosen: TrainingImages,
    *,
    krylov: int = 50,
    rank: int = 20,
    damping: float = 0.0,
    curvature: CurvatureKind = "gauss-newton",
    generator: torch.Generator | None = None,
) -> LowRank:
    """Return the inverse of the curvature on its largest eigenvalues; zero on the rest.

    Args:
        chosen: The training images; see :func:`training_images`.
        krylov: Products with the curvature, each a pass over the images; their vectors are kept.
        rank: Eigenvalues to keep, of largest magnitude.
        damping: Lambda, 0 or more.
        curvature: ``"gauss-newton"`` or ``"hessian"`` of the cross-entropy.
        generator: Draws the first vector; the same every time if None.

    Raises:
        NumericsError: If the curvature is zero, or a damped eigenvalue is.
        SettingError: If a setting is out of range.
    """
    generator = seeded() if generator is None else generator
    start = random_vector(chosen, generator)
    found = ritz(
        product_of(chosen, curvature), start, krylov=krylov, rank=rank, progress=chosen.progress
    )
    return found.inverse(damping)


def product_of(chosen: TrainingImages, curvature: CurvatureKind) -> CurvatureProduct:
    """Return products with a curvature over training images."""
    if curvature == "hessian":
        chosen.check_labels()
    return CurvatureProduct(data=chosen, kind=curvature)


def drawn_places(chosen: TrainingImages, count: int, generator: torch.Generator) -> tuple[int, ...]:
    """Return the places of some training images, each at most once."""
    order = torch.randperm(len(chosen), generator=generator, device=generator.device)
    return tuple(sorted(chosen.places[i] for i in order[:count].tolist()))


def random_vector(chosen: TrainingImages, generator: torch.Generator) -> dict[str, Tensor]:
    """Return one vector over the chosen parameters, its elements normal."""
    every = chosen.network.parameters
    return {
        name: torch.randn(
            1, *every[name].shape, generator=generator, device=generator.device, dtype=torch.float64
        ).to(every[name])
        for name in chosen.recorder.names
    }


def check_damping(damping: float | None) -> None:
    """Refuse a damping before the passes are made."""
    if damping is not None and not 0 < damping < float("inf"):
        msg = (
            f"The inverse of a curvature needs a damping over 0, and finite; got {damping}. Give "
            f"none for one that is made of the curvature."
        )
        raise SettingError(msg)
