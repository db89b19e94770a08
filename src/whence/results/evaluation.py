"""Evaluation: what metrics say of attributions, as plain values and arrays."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from whence.display import (
    DOUBLE_COLUMN,
    SINGLE_COLUMN,
    Curve,
    Plot,
    card,
    curve_figure,
    facts,
    note,
    rank_figure,
    table,
)
from whence.results.files import read_record, write_record
from whence.results.records import DatasetCard, ModelCard, RunCard

__all__ = [
    "AgreementRecord",
    "ComparisonRecord",
    "CurveRecord",
    "EstimateRecord",
    "EvaluationRecord",
    "JudgedMethod",
    "JudgedMetric",
    "JudgedNetwork",
    "ScoreRecord",
    "load_evaluation",
    "save_evaluation",
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
@dataclass(frozen=True, kw_only=True)
class ComparisonRecord:
    """A method against another under a metric, on the same images.

    Args:
        network: The network's name.
        metric: The metric's name.
        first: A method, or maps that somebody else made; never a control.
        second: Another.
        difference: The mean over images of the first's value less the second's, with its
            interval; None if no image has both.
        verdict: ``better`` or ``worse``, of the first; or ``no claim``.
        reason: Why there is no claim.
    """

    network: str
    metric: str
    first: str
    second: str
    difference: EstimateRecord | None
    verdict: str
    reason: str

    @property
    def winner(self) -> str:
        """The method that is claimed to be better; empty if none is."""
        return {"better": self.first, "worse": self.second}.get(self.verdict, "")


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
        comparisons: One for each network, metric and pair of methods.
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
    comparisons: tuple[ComparisonRecord, ...] = ()

    def comparison(self, network: str, metric: str, first: str, second: str) -> ComparisonRecord:
        """Return two methods against each other, in the order that the record has.

        Raises:
            KeyError: If they were not compared in this order.
        """
        for one in self.comparisons:
            asked = (one.network, one.metric, one.first, one.second)
            if asked == (network, metric, first, second):
                return one
        raise KeyError((network, metric, first, second))

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

    def curve_figure(self, network: str, metric: str, *, width: float = SINGLE_COLUMN) -> Plot:
        """A figure of a metric's mean curves with their bands, controls in grey, for a paper.

        Raises:
            MissingExtra: matplotlib is not installed.
            SettingError: The metric has no curves on this network.
        """
        kinds = {one.name: one.kind for one in self.methods}
        curves = [
            Curve(
                name=one.method,
                x=one.curve.fractions,
                mean=one.curve.mean,
                low=one.curve.low,
                high=one.curve.high,
                control=kinds[one.method] == "control",
            )
            for one in self.scores
            if (one.network, one.metric) == (network, metric) and one.curve is not None
        ]
        return curve_figure(
            curves, x_label="share of the pixels", y_label=metric, title=network, width=width
        )

    def rank_figure(self, network: str, *, width: float = DOUBLE_COLUMN) -> Plot:
        """A figure of every method's rank under every metric that has a better end, for a paper.

        Raises:
            MissingExtra: matplotlib is not installed.
            SettingError: There is no such metric.
        """
        ranks = {one.name: self.ranks(network, one.name) for one in self.metrics}
        metrics = [name for name, found in ranks.items() if found]
        methods = [one.name for one in self.methods]
        cells = [[ranks[metric].get(name, np.nan) for metric in metrics] for name in methods]
        return rank_figure(
            methods,
            metrics,
            np.asarray(cells, dtype=np.float64),
            controls=[one.name for one in self.methods if one.kind == "control"],
            title=network,
            width=width,
        )

    def _repr_html_(self) -> str:
        """Show the evaluation in a notebook: for each network a table, methods x metrics."""
        known = {(one.network, one.metric, one.method): one for one in self.scores}
        arrows = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
        metrics = [one for one in self.metrics if any(s.metric == one.name for s in self.scores)]
        head = ("", *(f"{one.name} {arrows.get(one.better, '')}".strip() for one in metrics))
        blocks = [facts({"data": self.data.name, "images": len(self.images)})]
        for network in self.networks[:4]:
            rows = [
                (
                    method.name if method.kind != "control" else f"{method.name} (control)",
                    *(short(known.get((network.name, one.name, method.name))) for one in metrics),
                )
                for method in self.methods
            ]
            blocks.append(table(head, rows, title=network.name))
        blocks.append(
            note(
                f"Means over images with the ends of their {self.confidence:.0%} intervals; "
                f"+ and - stand where the whole interval of the paired difference to the control "
                f"is better or worse."
            )
        )
        return card("Evaluation", *blocks, *map(note, self.notes[:5]))


def short(score: ScoreRecord | None) -> str:
    """Return a mean with its interval, and its verdict as a sign, for a table."""
    if score is None or score.estimate is None:
        return "\N{EN DASH}"
    found, sign = score.estimate, {"better": " +", "worse": " -"}.get(score.verdict, "")
    return f"{found.mean:.3g} [{found.low:.3g}, {found.high:.3g}]{sign}"


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
