"""Scorers of plain gradients, and all scorers by name.

Where they come from is in :mod:`whence.influence.scoring`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from whence.core import ImageData, Progress, silent
from whence.curvature import TrueLabels
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence.curved import EKFAC, KFAC, RelatIF
from whence.influence.exact import (
    Arnoldi,
    DataInf,
    ExplicitInfluence,
    InfluenceFunction,
    LiSSA,
)
from whence.influence.features import RepresentationSimilarity, RepresenterPoints
from whence.influence.projected import TRAK, ProjectedFisher, TrackStar
from whence.influence.scoring import Output, Scorer, Scoring, asked, inverse_norm
from whence.influence.settings import with_settings

__all__ = ["GAS", "SCORERS", "GradCos", "GradDot", "TracIn", "scorer_named"]


@final
@dataclass(frozen=True, kw_only=True)
class GradDot:
    r"""The inner product of two loss gradients: first-order change of the query's loss.

    .. math:: S = (1 - p_i)(1 - p_q) \langle \nabla m_i, \nabla m_q \rangle

    Training images with large gradients (hard or mislabelled ones) dominate it. With several
    checkpoints it is their mean.

    Args:
        output: ``"margin"`` to ask for the change of the query's margin: without :math:`1 - p_q`.

    References:
        Pruthi et al. (2020), "Estimating Training Data Influence by Tracing Gradient Descent",
        with the last checkpoint only.
    """

    output: Output = "loss"
    name: str = "grad-dot"

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
        """Return the scoring; there is nothing to fit."""
        del train, batch_size, progress
        return Scoring(recorder=recorder, factors=asked(self.output))


@final
@dataclass(frozen=True, kw_only=True)
class GradCos:
    r"""The cosine of two loss gradients.

    .. math:: S = \frac{\langle \nabla m_i, \nabla m_q \rangle}
                       {\lVert \nabla m_i \rVert \, \lVert \nabla m_q \rVert}

    It is 0 where a gradient is 0. Every image has cosine 1 with itself, so self-scores say
    nothing about labels. With several checkpoints it is their mean.

    References:
        Hanawa et al. (2021), "Evaluation of Similarity-based Explanations"; Bacha and George
        (2025), "Training Feature Attribution for Vision Models".
    """

    name: str = "grad-cos"

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; there is nothing to fit."""
        del train, batch_size, progress
        return Scoring(
            recorder=recorder, factors=inverse_norm, weights=inverse_norm, normalised=True
        )


@final
@dataclass(frozen=True, kw_only=True)
class TracIn:
    r"""Inner products of loss gradients, summed over checkpoints with their learning rates.

    .. math:: S = \sum_c \eta_c \langle \nabla \ell_i(\theta_c), \nabla \ell_q(\theta_c) \rangle

    What the steps of training on image *i* did to the query's loss, as far as the checkpoints
    show. Without checkpoints it is Grad-Dot.

    Args:
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Pruthi et al. (2020), "Estimating Training Data Influence by Tracing Gradient Descent"
        (TracInCP).
    """

    output: Output = "loss"
    name: str = "tracin"

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
        """Return the scoring; there is nothing to fit."""
        del train, batch_size, progress
        return Scoring(recorder=recorder, factors=asked(self.output), ensemble="rates")


@final
@dataclass(frozen=True, kw_only=True)
class GAS:
    r"""Cosines of loss gradients, summed over checkpoints: TracIn that forgets lengths.

    .. math:: S = \sum_c \eta_c \cos(\nabla \ell_i(\theta_c), \nabla \ell_q(\theta_c))

    Early checkpoints have large gradients and would outweigh the late ones; here each counts as
    much as its learning rate says. With all rates equal it is also called CosIn. Without
    checkpoints it is Grad-Cos.

    References:
        Hammoudeh and Lowd (2022), "Identifying a Training-Set Attack's Target Using Renormalized
        Influence Estimation" (GAS).
    """

    name: str = "gas"

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; there is nothing to fit."""
        del train, batch_size, progress
        return Scoring(
            recorder=recorder,
            factors=inverse_norm,
            weights=inverse_norm,
            normalised=True,
            ensemble="rates",
        )


SCORERS: tuple[Scorer, ...] = (
    GradCos(),
    GradDot(),
    TracIn(),
    GAS(),
    TRAK(),
    InfluenceFunction(),
    LiSSA(),
    ExplicitInfluence(),
    Arnoldi(),
    DataInf(),
    KFAC(),
    EKFAC(),
    RelatIF(),
    RelatIF(relative="parameters", name="relatif-parameters"),
    ProjectedFisher(),
    ProjectedFisher(draws=TrueLabels(), name="empirical-fisher"),
    TrackStar(),
    RepresenterPoints(),
    RepresentationSimilarity(),
)
"""The scorers by name, with their default settings."""


def scorer_named(name: str, settings: Mapping[str, str] | None = None) -> Scorer:
    """Return the scorer of this name, with these settings.

    Args:
        name: A name of :data:`SCORERS`.
        settings: Texts by field name; a field of an inner value by a dot.

    Raises:
        SettingError: If there is no such scorer or setting, or a text cannot be read.

    Example:
        >>> scorer_named("trak", {"space.dimension": "512"}).space.dimension
        512
    """
    for scorer in SCORERS:
        if scorer.name == name:
            return with_settings(scorer, settings or {}, name)
    msg = f"Unknown score {name!r}. Choose one of: {', '.join(s.name for s in SCORERS)}."
    raise SettingError(msg)
