r"""Influence functions of the exact curvature, and of other inverses that need no factors.

The curvature :math:`H` is the Gauss-Newton matrix of the cross-entropy over the training images,
which is the Fisher matrix and never negative, or the Hessian. It is not formed: solvers multiply
by it, each time in one pass over the images. So the work is done for each set of queries anew.
"""

from dataclasses import dataclass
from typing import final

import torch

from whence.core import ImageData, Progress, silent
from whence.curvature import CurvatureKind, TrainingImages
from whence.gradients import Operator, Recorder
from whence.influence.curved import curved_scoring
from whence.influence.fisher import datainf
from whence.influence.fitting import ekfac
from whence.influence.scoring import Output, Scoring, asked
from whence.influence.solving import arnoldi, conjugate_gradient_inverse, explicit, lissa

__all__ = ["Arnoldi", "DataInf", "ExplicitInfluence", "InfluenceFunction", "LiSSA"]


@final
@dataclass(frozen=True, kw_only=True)
class InfluenceFunction:
    r"""The classic influence function, solved by conjugate gradients.

    .. math:: S = \langle \nabla \ell_i, (H + \lambda I)^{-1} \nabla \ell_q \rangle

    To first order it is :math:`n` times by how much the query's loss grows if image *i* is left
    out of the training to convergence. Cost beyond Grad-Dot: one pass over the training images
    for each iteration and set of queries, of about five forward passes per query and image.

    Args:
        damping: Lambda, over 0.
        curvature: ``"gauss-newton"`` or ``"hessian"``.
        tolerance: The relative residual at which a query is solved.
        iterations: Iterations at most.
        preconditioned: Start from EK-FAC's inverse, which takes two passes to fit and saves
            iterations where the curvature is steep.
        images: Curvature of that many training images, drawn at random; of all if None.
        seed: Seed of the draw.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Koh and Liang (2017), "Understanding Black-box Predictions via Influence Functions",
        equation 2.
    """

    damping: float = 1e-2
    curvature: CurvatureKind = "gauss-newton"
    tolerance: float = 1e-3
    iterations: int = 50
    preconditioned: bool = False
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    name: str = "influence"

    def __post_init__(self) -> None:
        """Check the output."""
        asked(self.output)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; the passes are made when there are queries."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            first = None
            if self.preconditioned:
                first = ekfac(chosen, damping=self.damping, generator=generator)
            return conjugate_gradient_inverse(
                chosen,
                damping=self.damping,
                curvature=self.curvature,
                tolerance=self.tolerance,
                iterations=self.iterations,
                preconditioner=first,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )


@final
@dataclass(frozen=True, kw_only=True)
class LiSSA:
    r"""The influence function by a stochastic series: many cheap steps in the place of a few dear.

    .. math:: u_{t+1} = v + u_t - \tfrac1s (H_t + \lambda I)\, u_t

    with :math:`H_t` the curvature of a few random training images.

    Args:
        damping: Lambda, over 0.
        curvature: ``"gauss-newton"`` or ``"hessian"``.
        scale: ``s``; None to measure the curvature first.
        depth: Steps.
        repeats: How many series are averaged.
        step_size: Training images per step.
        images: Curvature of that many training images, drawn at random; of all if None.
        seed: Seed of the draws.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Agarwal, Bullins and Hazan (2017), "Second-Order Stochastic Optimization for Machine
        Learning in Linear Time".
    """

    damping: float = 1e-2
    curvature: CurvatureKind = "gauss-newton"
    scale: float | None = None
    depth: int = 200
    repeats: int = 1
    step_size: int = 32
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    name: str = "lissa"

    def __post_init__(self) -> None:
        """Check the output."""
        asked(self.output)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; the steps are made when there are queries."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            return lissa(
                chosen,
                damping=self.damping,
                curvature=self.curvature,
                scale=self.scale,
                depth=self.depth,
                repeats=self.repeats,
                step_size=self.step_size,
                generator=generator,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )


@final
@dataclass(frozen=True, kw_only=True)
class ExplicitInfluence:
    """The influence function by inverting the curvature as a matrix: exact, for few parameters.

    It takes at most 10 000 parameters, and one product with the curvature for each of them.

    Args:
        damping: Lambda, over 0.
        curvature: ``"gauss-newton"`` or ``"hessian"``.
        images: Curvature of that many training images, drawn at random; of all if None.
        seed: Seed of the draw.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Koh and Liang (2017), "Understanding Black-box Predictions via Influence Functions",
        equation 2.
    """

    damping: float = 1e-2
    curvature: CurvatureKind = "gauss-newton"
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    name: str = "explicit"

    def __post_init__(self) -> None:
        """Check the output."""
        asked(self.output)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; forms the matrix and factorises it."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            del generator
            return explicit(
                chosen,
                damping=self.damping,
                curvature=self.curvature,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )


@final
@dataclass(frozen=True, kw_only=True)
class Arnoldi:
    r"""The influence function on the steepest directions of the curvature alone.

    .. math:: S = \sum_{j \le r} \frac{\langle \nabla \ell_i, e_j \rangle
                  \langle e_j, \nabla \ell_q \rangle}{w_j + \lambda}

    with eigenvectors :math:`e_j` from a Krylov space. Cheap once it is fitted, but what is flat is
    dropped, and with it most of what tells images apart: it trails in every published comparison.

    Args:
        krylov: Products with the curvature, each a pass over the training images.
        rank: Eigenvalues that are kept.
        damping: Lambda, 0 or more.
        curvature: ``"gauss-newton"`` or ``"hessian"``.
        images: Curvature of that many training images, drawn at random; of all if None.
        seed: Seed of the draw, and of the first vector.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Schioppa et al. (2022), "Scaling Up Influence Functions".
    """

    krylov: int = 50
    rank: int = 20
    damping: float = 0.0
    curvature: CurvatureKind = "gauss-newton"
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    name: str = "arnoldi"

    def __post_init__(self) -> None:
        """Check the output."""
        asked(self.output)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; makes a pass over the training data for each product."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            return arnoldi(
                chosen,
                krylov=self.krylov,
                rank=self.rank,
                damping=self.damping,
                curvature=self.curvature,
                generator=generator,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )


@final
@dataclass(frozen=True, kw_only=True)
class DataInf:
    r"""Influence with the mean of inverses in the place of the inverse of a mean.

    .. math:: S = \sum_l \Big\langle \nabla_l \ell_i,\; \frac{1}{n} \sum_j
                  \big(g_{jl} g_{jl}^\top + \lambda_l I\big)^{-1} \nabla_l \ell_q \Big\rangle

    over layers *l* (a weight with its bias), with :math:`g_j` the gradients of the training
    images' losses. Nothing is inverted; the error of the exchange grows with the size of a layer,
    so it is made for small ones. Cost beyond Grad-Dot: a pass for the damping, and one for each
    set of queries.

    Args:
        damping: Lambda for every layer, over 0; None for a tenth of the mean square of the
            elements of each one's gradient.
        images: Gradients of that many training images, drawn at random; of all if None.
        seed: Seed of the draw.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Kwon et al. (2024), "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and
        Diffusion Models", equation 5.
    """

    damping: float | None = None
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    name: str = "datainf"

    def __post_init__(self) -> None:
        """Check the output."""
        asked(self.output)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; makes a pass over the training data if no damping is given."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            del generator
            return datainf(
                chosen,
                damping=self.damping,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )
