"""An evaluation as one self-contained HTML file. Needs no torch."""

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from whence.report import words
from whence.report.evaluation_pairs import PairRow, difference_rows, pair_rows
from whence.report.evaluation_plots import curve_svg, strips_svg
from whence.report.evaluation_tables import (
    agreement_rows,
    interval,
    overtaken,
    refusals,
    short_number,
    title,
)
from whence.results.evaluation import EvaluationRecord, JudgedMetric, JudgedNetwork, ScoreRecord
from whence.results.folder import write_whole

__all__ = ["render_evaluation", "write_evaluation"]

TEMPLATES = Path(__file__).parent / "templates"
SHADES = 6
"""Shades of the heat map, the best rank darkest."""

SIGNS = {"better": "✓", "worse": "✗", "no claim": "?", "control": "", "not applicable": ""}


@final
@dataclass(frozen=True, kw_only=True)
class HeatCell:
    """A cell of the heat map: rank, mean, verdict; ``shade`` 0 is the best."""

    rank: str
    mean: str
    sign: str
    verdict: str
    shade: int | None
    says: str


@final
@dataclass(frozen=True, kw_only=True)
class HeatRow:
    """A candidate's row of the heat map."""

    name: str
    kind: str
    text: str
    cells: tuple[HeatCell, ...]


@final
@dataclass(frozen=True, kw_only=True)
class MetricView:
    """What the page shows of a metric on a network."""

    anchor: str
    network: str
    metric: JudgedMetric
    title: str
    strips: Markup
    curves: tuple[tuple[str, str, Markup], ...]
    rows: tuple[tuple[str, ...], ...]
    pairs: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True, kw_only=True)
class NetworkView:
    """What the page shows of a network."""

    network: JudgedNetwork
    head: tuple[str, ...]
    rows: tuple[HeatRow, ...]
    claims: dict[str, int]
    pairs: tuple[PairRow, ...]


def write_evaluation(record: EvaluationRecord, path: str | Path) -> None:
    """Write an evaluation as one HTML file; a file that is there already is replaced.

    Args:
        record: What the evaluation found.
        path: The file; its folder must exist.

    Raises:
        OutputError: The file cannot be written.
    """
    write_whole(Path(path), render_evaluation(record).encode("utf-8", "backslashreplace"))


def render_evaluation(record: EvaluationRecord) -> str:
    """Return an evaluation as the text of one HTML page."""
    single = [one for one in record.metrics if one.form != "pair"]
    return (
        environment()
        .get_template("evaluation.html.j2")
        .render(
            record=record,
            run=record.run,
            networks=[network_view(record, one, single) for one in record.networks],
            metrics=[
                metric_view(record, network, metric)
                for metric in single
                for network in record.networks
            ],
            agreements=agreement_rows(record),
            overtaken=overtaken(record),
            refusals=refusals(record),
        )
    )


def network_view(
    record: EvaluationRecord, network: JudgedNetwork, metrics: list[JudgedMetric]
) -> NetworkView:
    """Return a network's heat map."""
    ranks = {one.name: record.ranks(network.name, one.name) for one in metrics}
    rows = []
    claims = dict.fromkeys(("better", "worse", "no claim", "not applicable"), 0)
    for method in record.methods:
        scores = [record.score(network.name, one.name, method.name) for one in metrics]
        for one in scores:
            if one.verdict in claims:
                claims[one.verdict] += 1
        cells = tuple(heat_cell(one, ranks[one.metric]) for one in scores)
        rows.append(HeatRow(name=method.name, kind=method.kind, text=method.text, cells=cells))
    head = tuple(title(one) for one in metrics)
    return NetworkView(
        network=network,
        head=head,
        rows=tuple(rows),
        claims=claims,
        pairs=pair_rows(record, network.name),
    )


def heat_cell(score: ScoreRecord, ranks: dict[str, float]) -> HeatCell:
    """Return a cell of the heat map."""
    rank, most = ranks.get(score.method), max(ranks.values(), default=1.0)
    shade = None
    if rank is not None:
        shade = round((SHADES - 1) * (rank - 1) / max(most - 1, 1))
    mean = "" if score.estimate is None else short_number(score.estimate.mean)
    says = score.verdict if not score.reason else f"{score.verdict}: {score.reason}"
    if score.difference is not None:
        says = f"difference to the control {interval(score.difference)}; {says}"
    return HeatCell(
        rank="" if rank is None else f"{rank:g}",
        mean=mean or ("n/a" if score.verdict == "not applicable" else "undefined"),
        sign=SIGNS[score.verdict],
        verdict=score.verdict.replace(" ", "-"),
        shade=shade,
        says=says,
    )


def metric_view(
    record: EvaluationRecord, network: JudgedNetwork, metric: JudgedMetric
) -> MetricView:
    """Return a metric's plots and numbers on a network."""
    scores = [record.score(network.name, metric.name, one.name) for one in record.methods]
    ranks = record.ranks(network.name, metric.name)
    ordered = sorted(scores, key=lambda one: ranks.get(one.method, len(scores)))
    says = f"{metric.name} on {network.name}: values of each image"
    return MetricView(
        anchor=f"metric-{record.metrics.index(metric)}-{record.networks.index(network)}",
        network=network.name,
        metric=metric,
        title=title(metric),
        strips=strips_svg(ordered, metric.control, says),
        curves=curves_of(ordered, metric.control),
        rows=tuple(
            (
                one.method,
                interval(one.estimate) if one.verdict != "not applicable" else "n/a",
                "" if one.estimate is None else str(one.estimate.count),
                str(sum(one.undefined.values()) or ""),
                "" if one.difference is None else interval(one.difference),
                one.verdict,
                one.reason,
            )
            for one in ordered
        ),
        pairs=difference_rows(record, network.name, metric.name),
    )


def curves_of(scores: list[ScoreRecord], control: str) -> tuple[tuple[str, str, Markup], ...]:
    """Return name, verdict and plot of each curve, on one scale."""
    curves = [one for one in scores if one.curve is not None]
    if not curves:
        return ()
    every = np.concatenate(
        [x for one in curves if one.curve for x in (one.curve.low, one.curve.high)]
    )
    ends = (float(every.min()), float(every.max()))
    beside = next((one.curve for one in curves if one.method == control), None)
    return tuple(
        (
            one.method,
            one.verdict.replace(" ", "-"),
            curve_svg(one.curve, None if one.method == control else beside, ends),
        )
        for one in curves
        if one.curve is not None
    )


@cache
def environment() -> Environment:
    """Return the templates with what they may use."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "".join(
        (TEMPLATES / name).read_text("utf-8") for name in ("style.css", "evaluation.css")
    )
    allowed = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    found.globals |= {
        "style": style,
        "policy": (
            f"default-src 'none'; img-src data:; style-src 'sha256-{allowed}'; base-uri 'none'; "
            f"form-action 'none'"
        ),
        "percent": words.percent,
        "counted": words.counted,
        "duration": words.duration,
        "moment": words.moment,
        "short": words.short,
        "setting": words.setting,
        "thousands": words.thousands,
    }
    return found
