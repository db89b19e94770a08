r"""Datamodeling: do scores of training images foretell what retraining without some of them does?

The training set is cut at random many times, the model is trained again on each part, and the sum
of the scores of a part's images should rank the outputs of the models so trained.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Labels
from whence.errors import DataError, MismatchError, SettingError, ShapeError
from whence.evaluation.mean import Estimate, Mean
from whence.evaluation.metric import MetricCard
from whence.evaluation.ranking import check_scores, rank_correlation

__all__ = ["Datamodeling", "DatamodelingResult", "LinearDatamodelingScore", "SeedCeiling"]

REFERENCE = "Park et al. (2023), TRAK: Attributing Model Behavior at Scale, Definition 2.4"


@final
@dataclass(frozen=True, kw_only=True)
class LinearDatamodelingScore:
    r"""The linear datamodeling score (LDS) of each query.

    .. math:: \mathrm{LDS}(q) = \rho_j \Big( \pm \sum_{i \in S_j} \tau_{iq},\;
              \tfrac{1}{r} \sum_s F_q(\theta_{js}) \Big)

    with Spearman's correlation over the retrained subsets :math:`S_j`, the scores :math:`\tau` and
    the mean output over the seeds of a subset. NaN for a query whose summed scores are all equal.

    Args:
        outputs: What the retrained models returned: a ``margin`` (or logit, or log-probability),
            which proponents raise, so that the sum counts with a plus; or a ``loss``, which they
            lower, so that it counts with a minus. Scores are positive for proponents.
    """

    outputs: str = "margin"

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0; noise between seeds bounds it from above, see SeedCeiling",
        reference=REFERENCE,
    )

    def __post_init__(self) -> None:
        """Check the setting."""
        if self.outputs not in {"margin", "loss"}:
            msg = f"outputs is 'margin' or 'loss', which says the sign; got {self.outputs!r}."
            raise SettingError(msg)

    def __call__(self, scores: Tensor, keep: Tensor, outputs: Tensor) -> Float[Tensor, " q"]:
        """Return one correlation per query; costs one product of ``keep`` and ``scores``.

        Args:
            scores: Of the training images for the queries, ``(n, q)``.
            keep: Which training images each subset kept, ``(m, n)``.
            outputs: Of the retrained models on the queries, ``(m, r, q)`` for ``r`` seeds of each
                subset, or ``(m, q)`` for one.

        Raises:
            ShapeError: If these do not fit each other.
            NumericsError: If a score is NaN or infinite.
        """
        known = check_scores(scores)
        averages = seeds_of(outputs).mean(dim=1)
        check_subsets(known, keep, averages)
        sums = keep.to(known) @ known
        return rank_correlation(sums if self.outputs == "margin" else -sums, averages.to(known))


@final
@dataclass(frozen=True, kw_only=True)
class SeedCeiling:
    r"""The highest LDS that any scores can reach in expectation, given the noise of the seeds.

    The seeds of every subset are split into two halves of :math:`h`; :math:`\rho` is the rank
    correlation, over subsets, of the halves' mean outputs, averaged over several splits. One
    seed's reliability is :math:`\rho_1 = \rho / (h - (h - 1) \rho)`, that of the mean of all
    :math:`r` seeds :math:`R = r \rho_1 / (1 + (r - 1) \rho_1)` (Spearman and Brown), and a
    predictor of the noiseless output correlates with this mean as :math:`\sqrt R`.

    The formula is exact for Pearson's correlation and homogeneous noise, and a good approximation
    for ranks. It bounds every predictor; a *linear* one may be further below.

    Args:
        splits: Random splits of the seeds.
        seed: Seed of the splits.
    """

    splits: int = 10
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="0 where retraining answers with noise alone",
        reference="Spearman (1910) and Brown (1910), Correlation calculated from faulty data",
    )

    def __post_init__(self) -> None:
        """Check the number of splits."""
        if self.splits < 1:
            msg = f"A ceiling needs at least one split of the seeds; got splits={self.splits}."
            raise SettingError(msg)

    def __call__(self, outputs: Float[Tensor, "m r q"]) -> Float[Tensor, " q"]:
        """Return one ceiling per query.

        Args:
            outputs: Of the retrained models, ``(m, r, q)``, with ``r`` at least 2 seeds.

        Raises:
            DataError: If there is one seed only, which cannot be split.
        """
        count = outputs.shape[1]
        half = count // 2
        if not half:
            msg = (
                f"A ceiling compares seeds of the same subset, so two are needed; outputs have "
                f"shape {tuple(outputs.shape)}, (subsets, seeds, queries). Retrain with more."
            )
            raise DataError(msg)
        values = outputs.double()
        generator = torch.Generator().manual_seed(self.seed)
        found = values.new_zeros(values.shape[2])
        for _ in range(self.splits):
            order = torch.randperm(count, generator=generator).to(outputs.device)
            one, two = order[:half], order[half : 2 * half]
            found += rank_correlation(values[:, one].mean(dim=1), values[:, two].mean(dim=1))
        agreement = (found / self.splits).clamp(min=0)
        single = agreement / (half - (half - 1) * agreement)
        return (count * single / (1 + (count - 1) * single)).sqrt()


@final
@dataclass(frozen=True, kw_only=True)
class DatamodelingResult:
    """How well scores foretell retraining.

    Args:
        score: The mean LDS over queries, with its bootstrap interval over queries.
        ceiling: The mean ceiling that the noise of the seeds sets; None with one seed.
        subsets: Retrained subsets.
        seeds: Seeds of each.
    """

    score: Estimate
    ceiling: Estimate | None
    subsets: int
    seeds: int

    def __str__(self) -> str:
        """Return the score beside its ceiling."""
        top = "" if self.ceiling is None else f", ceiling {self.ceiling.mean:.3g}"
        score = self.score
        return (
            f"LDS {score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]{top} ({score.count} "
            f"queries, {self.subsets} subsets x {self.seeds} seeds)"
        )


@final
@dataclass(kw_only=True)
class Datamodeling:
    """A statistic of :class:`LinearDatamodelingScore` and :class:`SeedCeiling` over queries.

    Values are kept under the query's number: parts that saw different queries of the same
    retrainings can be merged, in any order.

    Args:
        metric: The score, with its sign convention.
        ceiling: How the noise of the seeds is measured.
        scores: The queries' scores so far.
        ceilings: Their ceilings; empty with one seed.
        subsets: Retrained subsets and seeds of each, once known.
    """

    metric: LinearDatamodelingScore = field(default_factory=LinearDatamodelingScore)
    ceiling: SeedCeiling = field(default_factory=SeedCeiling)
    scores: Mean = field(default_factory=Mean, repr=False)
    ceilings: Mean = field(default_factory=Mean, repr=False)
    subsets: tuple[int, int] | None = None

    def update(self, queries: Labels, scores: Tensor, keep: Tensor, outputs: Tensor) -> None:
        """Take in some queries.

        Args:
            queries: The queries' numbers, ``(q,)``.
            scores: As for :class:`LinearDatamodelingScore`.
            keep: As there.
            outputs: As there.

        Raises:
            DataError: If a query was taken in before.
            MismatchError: If the number of subsets or seeds differs from before.
        """
        by_seed = seeds_of(outputs)
        size = (by_seed.shape[0], by_seed.shape[1])
        if self.subsets not in {None, size}:
            raise MismatchError(other_retrainings(self.subsets, size))
        self.scores.update(queries, self.metric(scores, keep, outputs).cpu())
        if size[1] > 1:
            self.ceilings.update(queries, self.ceiling(by_seed).cpu())
        self.subsets = size

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed.

        Raises:
            DataError: If the parts share a query.
            MismatchError: If they saw other numbers of subsets or seeds.
            SettingError: If they differ in their settings.
        """
        if (self.metric, self.ceiling) != (other.metric, other.ceiling):
            msg = (
                f"Parts of one score need the same settings; got {self.metric}, {self.ceiling} "
                f"and {other.metric}, {other.ceiling}."
            )
            raise SettingError(msg)
        if self.subsets and other.subsets and self.subsets != other.subsets:
            raise MismatchError(other_retrainings(self.subsets, other.subsets))
        return Datamodeling(
            metric=self.metric,
            ceiling=self.ceiling,
            scores=self.scores.merge(other.scores),
            ceilings=self.ceilings.merge(other.ceilings),
            subsets=self.subsets or other.subsets,
        )

    def result(self) -> DatamodelingResult:
        """Return the means and their intervals.

        Raises:
            DataError: If no query has a defined score.
        """
        score = self.scores.result()
        subsets, seeds = self.subsets or (0, 0)
        return DatamodelingResult(
            score=score,
            ceiling=self.ceilings.result() if self.ceilings.values else None,
            subsets=subsets,
            seeds=seeds,
        )

    def difference(self, other: Self) -> Estimate:
        """Return by how much these scores are above the other ones, paired by query.

        Two scorers of the same retrainings share the luck of subsets and queries, so that this
        interval is far narrower than those of the two means.

        Raises:
            MismatchError: If they did not see the same queries of as many retrainings.
        """
        if self.scores.values.keys() != other.scores.values.keys():
            msg = (
                f"A paired difference needs the same queries on both sides; got "
                f"{len(self.scores.values)} and {len(other.scores.values)} queries, "
                f"{len(self.scores.values.keys() & other.scores.values.keys())} of them shared."
            )
            raise MismatchError(msg)
        if self.subsets != other.subsets:
            raise MismatchError(other_retrainings(self.subsets, other.subsets))
        paired = Mean(
            confidence=self.scores.confidence,
            draws=self.scores.draws,
            seed=self.scores.seed,
            values={
                query: value - other.scores.values[query]
                for query, value in self.scores.values.items()
            },
        )
        return paired.result()


def other_retrainings(one: tuple[int, int] | None, two: tuple[int, int] | None) -> str:
    """Return what to say of queries that come from different retrainings."""
    return (
        f"All queries must come from the same retrainings; got {one} and {two} subsets and seeds. "
        f"Give the outputs of all of them for every query."
    )


def seeds_of(outputs: Tensor) -> Float[Tensor, "m r q"]:
    """Return the outputs with their axis of seeds, checked to be numbers."""
    if outputs.ndim == 2:  # noqa: PLR2004 - m q
        outputs = outputs[:, None]
    if outputs.ndim != 3 or not outputs.numel() or not outputs.is_floating_point():  # noqa: PLR2004 - m r q
        msg = (
            f"Outputs must be floating-point numbers (m, r, q), for subsets, seeds and queries, "
            f"or (m, q); got {outputs.dtype} of shape {tuple(outputs.shape)}."
        )
        raise ShapeError(msg)
    if not outputs.isfinite().all():
        bad = int((~outputs.isfinite()).flatten(1).any(dim=1).nonzero()[0, 0])
        msg = (
            f"The model retrained on subset {bad} returned NaN or infinity. Look whether its "
            f"training diverged."
        )
        raise DataError(msg)
    return outputs


def check_subsets(
    scores: Float[Tensor, "n q"], keep: Tensor, outputs: Float[Tensor, "m q2"]
) -> None:
    """Refuse subsets that do not fit the scores or the outputs."""
    needed = (len(outputs), len(scores))
    if keep.dtype != torch.bool or keep.shape != needed or outputs.shape[1] != scores.shape[1]:
        msg = (
            f"Subsets must be booleans (m, n) with a row per retrained subset and a column per "
            f"training image, {needed} here, and scores and outputs must be of the same queries; "
            f"got {keep.dtype} of shape {tuple(keep.shape)}, {scores.shape[1]} columns of scores "
            f"and {outputs.shape[1]} of outputs."
        )
        raise ShapeError(msg)
    if len(keep) < 3:  # noqa: PLR2004 - a rank correlation of two points is plus or minus one
        msg = f"A rank correlation needs at least three subsets, better a hundred; got {len(keep)}."
        raise DataError(msg)
