"""Two maps side by side: what the live page shows, and how far they agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.report.explanation import ExplainedView, explanation_views
from whence.report.shots import limit_of
from whence.report.views import QueryView, audit_views
from whence.report.words import number, percent
from whence.results.records import AuditRecord, ExplanationRecord

__all__ = ["Agreement", "compared_views", "rank_correlation", "trace_view"]

TOP = 0.1
"""The share of the pixels that counts as the strongest."""

Map = NDArray[np.floating[Any]]


@final
@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two maps of one picture agree.

    Args:
        ranks: Spearman's rank correlation of the pixels.
        top: Share of the strongest tenth of the pixels that both have in common.
        chance: What that share is for two maps that know nothing of each other.
    """

    ranks: str
    top: str
    chance: str


def compared_views(
    records: Sequence[ExplanationRecord],
) -> tuple[tuple[ExplainedView, ...], Agreement | None]:
    """The maps of one picture, each on its own scale and on one that they share.

    Args:
        records: One explanation for each map; of each the first image is shown.

    Returns:
        The views, and how far the first two maps agree, if they are of one size.
    """
    maps = [record.maps[0].values for record in records]
    shared = limit_of(maps)
    views = tuple(explanation_views(record, shared)[0] for record in records)
    if len(maps) < 2 or maps[0].shape != maps[1].shape:  # noqa: PLR2004 - a pair
        return views, None
    return views, agreement_of(maps[0], maps[1])


def agreement_of(first: Map, second: Map) -> Agreement:
    """How far two maps of one size agree."""
    count = max(round(TOP * first.size), 1)
    strongest = [set(np.argsort(-one.ravel(), kind="stable")[:count]) for one in (first, second)]
    return Agreement(
        ranks=number(rank_correlation(first, second), 2),
        top=percent(len(strongest[0] & strongest[1]) / count, 0),
        chance=percent(count / first.size, 0),
    )


def rank_correlation(first: Map, second: Map) -> float:
    """Spearman's rank correlation; ties share their mean rank; 0 where a map is constant."""
    ranks = [mean_ranks(one.ravel()) for one in (first, second)]
    centred = [one - one.mean() for one in ranks]
    lengths = [float(np.sqrt((one**2).sum())) for one in centred]
    if min(lengths) == 0:
        return 0.0
    return float((centred[0] * centred[1]).sum() / (lengths[0] * lengths[1]))


def mean_ranks(values: Map) -> NDArray[np.float64]:
    """The rank of each value; equal values get the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[places]
    return ranks


def trace_view(record: AuditRecord) -> QueryView:
    """The training images behind one class of one picture, ready to be shown."""
    return audit_views(record)[0][0]
