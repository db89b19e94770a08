r"""Scorers with curvature: what a query's gradient would be where no direction is steeper.

An influence function replaces the query's gradient :math:`v` by :math:`(H + \lambda I)^{-1} v`: to
first order, the change of the query's loss if an image were taken out of training, and training
run to its end. The scorers differ in how the curvature :math:`H` is approximated.
"""

from dataclasses import dataclass, field
from typing import Literal, final

import torch

from whence.core import ImageData, Progress, Scalars, silent
from whence.curvature import Draws, SampledLabels
from whence.errors import SettingError
from whence.gradients import Operator, Recorder, Scaled
from whence.influence.fitting import ekfac, kfac
from whence.influence.scoring import Output, Scorer, Scoring, WeightRule, asked, inverse_norm

__all__ = ["EKFAC", "KFAC", "RelatIF"]


@final
@dataclass(frozen=True, kw_only=True)
class KFAC:
    r"""Influence with a Kronecker-factored curvature (K-FAC).

    .. math:: S = \langle \nabla \ell_i, (H + \lambda I)^{-1} \nabla \ell_q \rangle , \qquad
              H \approx E[a a^\top] \otimes E[d d^\top] \;\text{in each layer}

    with :math:`a` a layer's inputs and :math:`d` the gradients of its outputs. Cost beyond
    Grad-Dot: one pass over the training data, and two eigendecompositions per layer.

    Args:
        damping: Lambda, over 0; None for a tenth of each layer's mean eigenvalue.
        draws: Of which gradients; one label drawn from the model per image by default.
        images: Fit on that many training images, drawn at random; all if None.
        seed: Seed of labels and images.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Martens and Grosse (2015), "Optimizing Neural Networks with Kronecker-factored Approximate
        Curvature".
    """

    damping: float | None = None
    draws: Draws = field(default_factory=SampledLabels)
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
        operator = kfac(
            recorder,
            train,
            damping=self.damping,
            draws=self.draws,
            images=self.images,
            generator=torch.Generator().manual_seed(self.seed),
            batch_size=batch_size,
            progress=progress,
        )
        return Scoring(recorder=recorder, factors=asked(self.output), operator=operator)


@final
@dataclass(frozen=True, kw_only=True)
class EKFAC:
    r"""Influence with an eigenvalue-corrected Kronecker-factored curvature (EK-FAC).

    K-FAC's eigenvectors, with the exact mean square of gradients along each as eigenvalue. Cost
    beyond Grad-Dot: two passes over the training data, and two eigendecompositions per layer. The
    arguments are those of :class:`KFAC`.

    References:
        Grosse et al. (2023), "Studying Large Language Model Generalization with Influence
        Functions", section 3; George et al. (2018), "Fast Approximate Natural Gradient Descent in
        a Kronecker-factored Eigenbasis".
    """

    damping: float | None = None
    draws: Draws = field(default_factory=SampledLabels)
    images: int | None = None
    seed: int = 0
    output: Output = "loss"
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
        operator = ekfac(
            recorder,
            train,
            damping=self.damping,
            draws=self.draws,
            images=self.images,
            generator=torch.Generator().manual_seed(self.seed),
            batch_size=batch_size,
            progress=progress,
        )
        return Scoring(recorder=recorder, factors=asked(self.output), operator=operator)


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
