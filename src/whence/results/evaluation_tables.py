"""An evaluation as CSV: scores, pairs of methods, and the values of all images. Needs no torch."""

import csv
import io
from typing import Any

import numpy as np

from whence.results.evaluation import EstimateRecord, EvaluationRecord

__all__ = ["comparison_table", "score_table", "values_table"]

HEAD = (
    "network",
    "metric",
    "better",
    "method",
    "kind",
    "mean",
    "low",
    "high",
    "images",
    "undefined",
    "rank",
    "control",
    "difference",
    "difference_low",
    "difference_high",
    "verdict",
    "reason",
)


def score_table(record: EvaluationRecord) -> str:
    """All scores as CSV, one row per network, metric and method; empty where there is nothing."""
    text, writer = table_of(HEAD)
    metrics = {one.name: one for one in record.metrics}
    kinds = {one.name: one.kind for one in record.methods}
    for one in record.scores:
        metric = metrics[one.metric]
        ranks = record.ranks(one.network, one.metric)
        writer.writerow(
            (
                one.network,
                one.metric,
                metric.better,
                one.method,
                kinds[one.method],
                *ends(one.estimate),
                0 if one.estimate is None else one.estimate.count,
                sum(one.undefined.values()),
                ranks.get(one.method, ""),
                metric.control,
                *ends(one.difference),
                one.verdict,
                one.reason,
            )
        )
    return text.getvalue()


def values_table(record: EvaluationRecord) -> str:
    """All values as CSV, one row per image; agreements have the second maps in ``other``."""
    text, writer = table_of(("network", "metric", "method", "other", "image", "value"))
    for one in record.scores:
        if one.verdict != "not applicable":
            for name, value in zip(record.images, one.values.tolist(), strict=True):
                writer.writerow((one.network, one.metric, one.method, "", name, plain(value)))
    for pair in record.agreements:
        other = "/".join(pair.second)
        for name, value in zip(record.images, pair.values.tolist(), strict=True):
            writer.writerow((pair.first[0], pair.metric, pair.first[1], other, name, plain(value)))
    return text.getvalue()


def comparison_table(record: EvaluationRecord) -> str:
    """All pairs of methods as CSV, one row per network, metric and pair."""
    head = ("network", "metric", "first", "second")
    ends_of = ("difference", "difference_low", "difference_high")
    text, writer = table_of((*head, *ends_of, "images", "better", "reason"))
    for one in record.comparisons:
        count = 0 if one.difference is None else one.difference.count
        names = (one.network, one.metric, one.first, one.second)
        writer.writerow((*names, *ends(one.difference), count, one.winner, one.reason))
    return text.getvalue()


def table_of(head: tuple[str, ...]) -> tuple[io.StringIO, Any]:
    """Return a CSV text with its head, and what writes into it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    return text, writer


def ends(estimate: EstimateRecord | None) -> tuple[str, str, str]:
    """Return mean and ends of an interval, empty if there is none."""
    if estimate is None:
        return "", "", ""
    return plain(estimate.mean), plain(estimate.low), plain(estimate.high)


def plain(value: float) -> str:
    """Return a number so that it reads back exactly; nothing for one that is undefined."""
    return "" if np.isnan(value) else repr(float(value))
