r"""Scorers with curvature: what a query's gradient would be where no direction is steeper.

An influence function replaces the query's gradient :math:`v` by :math:`(H + \lambda I)^{-1} v`: to
first order, the change of the query's loss if an image were taken out of training, and training
run to its end. The scorers differ in how the curvature :math:`H` is approximated.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, final, runtime_checkable

import torch

from whence.core import ImageData, Progress, Scalars, silent
from whence.curvature import Draws, RandomSigns, TrainingImages
from whence.errors import SettingError
from whence.gradients import Operator, Recorder, Scaled
from whence.influence.batches import training_images
from whence.influence.fitting import KroneckerDamping, ekfac, kfac
from whence.influence.scoring import Output, Scorer, Scoring, WeightRule, asked, inverse_norm

__all__ = ["EKFAC", "KFAC", "Curved", "Inverse", "RelatIF", "curved_scoring"]

Inverse = Callable[[TrainingImages, torch.Generator], Operator]
"""Makes the inverse of a curvature over some images, with random numbers of its own."""


@runtime_checkable
class Curved(Protocol):
    """What all influence functions are set to, whatever their curvature."""

    @property
    def images(self) -> int | None:
        """Curvature of that many training images, drawn at random; of all if None."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the draw of images, and of all that is random in the curvature."""
        ...

    @property
    def output(self) -> Output:
        """What a score is the change of."""
        ...


def curved_scoring(
    scorer: Curved,
    inverse: Inverse,
    recorder: Recorder,
    train: ImageData,
    *,
    batch_size: int,
    progress: Progress,
) -> Scoring:
    """Return the scoring of an influence function: gradients, with the inverse between them."""
    generator = torch.Generator().manual_seed(scorer.seed)
    chosen = training_images(
        recorder,
        train,
        images=scorer.images,
        generator=generator,
        batch_size=batch_size,
        progress=progress,
    )
    operator = inverse(chosen, generator)
    return Scoring(recorder=recorder, factors=asked(scorer.output), operator=operator)


@final
@dataclass(frozen=True, kw_only=True)
class KFAC:
    r"""Influence with a Kronecker-factored curvature (K-FAC).

    .. math:: S = \langle \nabla \ell_i, (H + \lambda I)^{-1} \nabla \ell_q \rangle , \qquad
              H \approx E[a a^\top] \otimes E[d d^\top] \;\text{in each layer}

    with :math:`a` a layer's inputs and :math:`d` the gradients of its outputs. Cost beyond
    Grad-Dot: one pass over the training data, and two eigendecompositions per layer.

    Args:
        damping: Lambda, over 0; None for a share of the curvature of one training image,
            ``"layer"`` for a tenth of each layer's mean eigenvalue; see
            :func:`~whence.influence.fitting.kronecker_damping`. Where the weight decay of the
            training is known, give that.
        draws: Of which gradients; all classes with random signs by default, which cost as much
            as one label drawn from the model and have about half of its error.
        images: Fit on that many training images, drawn at random; all if None.
        seed: Seed of signs, labels and images.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Martens and Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature".
    """

    damping: KroneckerDamping = None
    draws: Draws = field(default_factory=RandomSigns)
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    name: str = "kfac"

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
        """Return the scoring; makes one pass over the training data for each draw."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            return kfac(
                chosen,
                damping=self.damping,
                draws=self.draws,
                generator=generator,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )


@final
@dataclass(frozen=True, kw_only=True)
class EKFAC:
    r"""Influence with an eigenvalue-corrected Kronecker-factored curvature (EK-FAC).

    K-FAC's eigenvectors, with the exact mean square of gradients along each as eigenvalue. Cost
    beyond Grad-Dot: two passes over the training data, and two eigendecompositions per layer.

    Args:
        damping: As of :class:`KFAC`.
        draws: As of :class:`KFAC`.
        images: As of :class:`KFAC`.
        seed: As of :class:`KFAC`.
        output: As of :class:`KFAC`.
        cache: A file to keep the fit in, for one network: it is read where model, data and
            settings are the same (the damping may change), and refused where they are not. A fit
            that was interrupted goes on after its first pass.

    References:
        Grosse et al. (2023), "Studying Large Language Model Generalization with Influence
        Functions", section 3; George et al. (2018), "Fast Approximate Natural Gradient Descent in
        a Kronecker-factored Eigenbasis".
    """

    damping: KroneckerDamping = None
    draws: Draws = field(default_factory=RandomSigns)
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
    cache: str | Path | None = field(default=None, metadata={"recorded": False})
    name: str = "ekfac"

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
        """Return the scoring; makes two passes over the training data for each draw."""

        def inverse(chosen: TrainingImages, generator: torch.Generator) -> Operator:
            return ekfac(
                chosen,
                damping=self.damping,
                draws=self.draws,
                generator=generator,
                cache=self.cache,
            )

        return curved_scoring(
            self, inverse, recorder, train, batch_size=batch_size, progress=progress
        )


@final
@dataclass(frozen=True, kw_only=True)
class RelatIF:
    r"""Influence relative to how much a training image changes everything.

    .. math:: \frac{\langle \nabla \ell_i, H^{-1} \nabla \ell_q \rangle}
                   {\sqrt{\langle \nabla \ell_i, H^{-1} \nabla \ell_i \rangle}}
              \qquad\text{or}\qquad
              \frac{\langle \nabla \ell_i, H^{-1} \nabla \ell_q \rangle}
                   {\lVert H^{-1} \nabla \ell_i \rVert}

    Outliers and mislabelled images influence every query; divided by what they do to the loss as
    a whole (the first), or to the parameters (the second), they no longer lead every list.

    Args:
        influence: An influence function: a scorer whose scoring has a map and no norms.
        relative: To the change of the ``"loss"``, or of the ``"parameters"``.

    References:
        Barshan, Brunet and Dziugaite (2020), "RelatIF: Identifying Explanatory Training Examples
        via Relative Influence", equations 6 and 9.
    """

    influence: Scorer = field(default_factory=EKFAC)
    relative: Literal["loss", "parameters"] = "loss"
    name: str = "relatif"

    def __post_init__(self) -> None:
        """Check the kind."""
        if self.relative not in ("loss", "parameters"):
            msg = f"relative is 'loss' or 'parameters'; got {self.relative!r}."
            raise SettingError(msg)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; makes the passes of the influence function.

        Raises:
            SettingError: If the scorer is no influence function.
        """
        scoring = self.influence.fit(recorder, train, batch_size=batch_size, progress=progress)
        operator = scoring.operator
        if operator is None or scoring.normalised:
            msg = (
                f"RelatIF needs an influence function, such as EKFAC(); {self.influence.name!r} "
                f"has no curvature, or is normalised already."
            )
            raise SettingError(msg)
        metric, weights = (
            (operator, inverse_norm) if self.relative == "loss" else twice(operator, recorder)
        )
        return Scoring(
            recorder=scoring.recorder,
            factors=scoring.factors,
            weights=weights,
            normalised=True,
            operator=operator,
            metric=metric,
        )


def twice(operator: Operator, recorder: Recorder) -> tuple[Operator, WeightRule]:
    """Return an operator applied twice as a metric, and one over the norm in it.

    The inverse curvature of a confident network is huge and its square is beyond single
    precision, so the metric is scaled to about 1, and the weights by what that takes.
    """
    ones = {
        n: torch.ones_like(recorder.network.parameters[n].detach())[None] for n in recorder.names
    }
    sizes = [
        torch.cat([v.double().flatten() for v in vectors.values()]).norm()
        for vectors in (operator(ones), ones)
    ]
    scale = float(sizes[0] / sizes[1]) or 1.0

    def weights(squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
        return inverse_norm(squared_norms, residuals) / scale

    small = Scaled(factor=1 / scale, operator=operator)
    return small @ small, weights
