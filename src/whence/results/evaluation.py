"""Evaluation: what metrics say of attributions, as plain values and arrays, and as tables."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.results.files import read_record, write_record
from whence.results.records import DatasetCard, ModelCard, RunCard

__all__ = [
    "AgreementRecord",
    "CurveRecord",
    "EstimateRecord",
    "EvaluationRecord",
    "JudgedMethod",
    "JudgedMetric",
    "JudgedNetwork",
    "ScoreRecord",
    "load_evaluation",
    "save_evaluation",
    "score_table",
    "values_table",
]

KIND = "evaluation"
Numbers = NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True)
class EstimateRecord:
    """A mean over images with its bootstrap interval.

    Args:
        mean: The mean of the defined values.
        low: Lower end of the interval.
        high: Upper end of the interval.
        count: Images with a defined value.
    """

    mean: float
    low: float
    high: float
    count: int


@final
@dataclass(frozen=True, kw_only=True)
class JudgedNetwork:
    """A network: its name in the tables, its card, and its accuracy where there are labels."""

    name: str
    card: ModelCard
    accuracy: float | None


@final
@dataclass(frozen=True, kw_only=True)
class JudgedMethod:
    """A method, a control, or maps that somebody else made.

    Args:
        name: Its name in the tables.
        text: The method with its settings, or the file of the maps.
        kind: ``method``, ``control`` or ``maps``.
    """

    name: str
    text: str
    kind: str


@final
@dataclass(frozen=True, kw_only=True)
class JudgedMetric:
    """A metric with what to know before reading its numbers; see the metrics' cards."""

    name: str
    text: str
    form: str
    group: str
    says: str
    better: str
    low: float
    high: float
    chance: str
    reference: str
    reads: str
    control: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CurveRecord:
    """The mean curve over images, with an interval at each point; arrays ``(s,)``."""

    fractions: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    count: int


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreRecord:
    """What a metric says of a method on a network.

    Args:
        network: The network's name.
        metric: The metric's name.
        method: The method's name.
        values: One value per image, in the order of the record's images; NaN where undefined.
        estimate: Their mean with its interval; None if no value is defined.
        difference: The paired difference to the metric's control, with its interval.
        verdict: ``better`` or ``worse`` than the control, ``no claim``, ``control``, or
            ``not applicable``.
        reason: Why there is no claim, or no value.
        undefined: Reasons why values are undefined, each with its number of images.
        curve: The mean curve, for metrics that have one.
    """

    network: str
    metric: str
    method: str
    values: Numbers
    estimate: EstimateRecord | None
    difference: EstimateRecord | None
    verdict: str
    reason: str
    undefined: dict[str, int] = field(default_factory=dict)
    curve: CurveRecord | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AgreementRecord:
    """How alike the maps of two methods on a network, or of a method on two networks, are.

    Args:
        metric: The metric's name.
        first: Network and method of the first maps.
        second: Those of the second.
        values: One value per image; NaN where undefined.
        estimate: Their mean with its interval; None if no value is defined.
    """

    metric: str
    first: tuple[str, str]
    second: tuple[str, str]
    values: Numbers
    estimate: EstimateRecord | None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationRecord:
    """Everything that an evaluation found: methods x metrics x networks on some images.

    Args:
        networks: The networks.
        data: The images' source.
        images: Names of the images that were judged.
        labels: Class of each, or None where there is none.
        methods: Methods, controls and foreign maps, in the order of the tables.
        metrics: The metrics.
        scores: One for each network, metric and method, of metrics that judge single maps.
        agreements: One for each pair of maps, of metrics that compare two.
        confidence: Of all intervals.
        run: How it was made.
        notes: What a reader must know.
    """

    networks: tuple[JudgedNetwork, ...]
    data: DatasetCard
    images: tuple[str, ...]
    labels: tuple[int | None, ...]
    methods: tuple[JudgedMethod, ...]
    metrics: tuple[JudgedMetric, ...]
    scores: tuple[ScoreRecord, ...]
    agreements: tuple[AgreementRecord, ...]
    confidence: float
    run: RunCard
    notes: tuple[str, ...] = ()

    def score(self, network: str, metric: str, method: str) -> ScoreRecord:
        """Return what a metric says of a method on a network.

        Raises:
            KeyError: If it was not evaluated.
        """
        for one in self.scores:
            if (one.network, one.metric, one.method) == (network, metric, method):
                return one
        raise KeyError((network, metric, method))

    def ranks(self, network: str, metric: str) -> dict[str, float]:
        """Return the rank of each method under a metric, 1 the best; ties share their mean rank.

        Methods without a value have none, and so have all where neither direction is better.
        """
        better = next(one.better for one in self.metrics if one.name == metric)
        if better == "neither":
            return {}
        found = {
            one.method: one.estimate.mean if better == "lower" else -one.estimate.mean
            for one in self.scores
            if (one.network, one.metric) == (network, metric) and one.estimate is not None
        }
        every = list(found.values())
        return {
            name: 1 + sum(v < value for v in every) + (every.count(value) - 1) / 2
            for name, value in found.items()
        }


def save_evaluation(record: EvaluationRecord, folder: str | Path) -> None:
    """Write ``evaluation.json`` and ``arrays.npz`` into a folder that exists.

    Raises:
        OutputError: The folder cannot be written.
    """
    write_record(record, Path(folder), KIND)


def load_evaluation(folder: str | Path) -> EvaluationRecord:
    """Read back what :func:`save_evaluation` wrote.

    Raises:
        RecordError: A file is missing or damaged, or has another schema version.
    """
    return read_record(Path(folder), KIND, EvaluationRecord)


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
