"""Method against method: which is better, from the differences image by image."""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

from torch import Tensor

from whence.evaluation.bootstrap import Bootstrap
from whence.evaluation.mean import Estimate
from whence.results.evaluation import ComparisonRecord, EstimateRecord

__all__ = ["comparisons_of", "estimate_record"]


def comparisons_of(
    network: str,
    metric: str,
    answers: Mapping[str, Tensor],
    better: Literal["higher", "lower", "neither"],
    bootstrap: Bootstrap,
    *,
    silenced: str = "",
) -> list[ComparisonRecord]:
    """Return what may be said of every two methods under a metric.

    A claim needs an interval of the paired difference on one side of zero, as against a control;
    of ``m`` methods there are ``m (m - 1) / 2`` pairs, and each has its own chance to mislead.

    Args:
        network: The network's name.
        metric: The metric's name.
        answers: Values by method, ``(n,)`` or of repetitions ``(r, n)``; controls are left out.
        better: Which direction is better; nothing is compared where neither is.
        bootstrap: How intervals are made.
        silenced: Why nothing may be claimed at all; empty if it may.
    """
    if better == "neither":
        return []
    found = []
    for first, second in combinations(answers, 2):
        told = bootstrap.compare(answers[first], answers[second], better)
        verdict = told.verdict if not silenced else "no claim"
        found.append(
            ComparisonRecord(
                network=network,
                metric=metric,
                first=first,
                second=second,
                difference=estimate_record(told.difference),
                verdict=verdict,
                reason=silenced or told.reason,
            )
        )
    return found


def estimate_record(found: Estimate | None) -> EstimateRecord | None:
    """Return an estimate as plain values."""
    if found is None:
        return None
    return EstimateRecord(mean=found.mean, low=found.low, high=found.high, count=found.count)
