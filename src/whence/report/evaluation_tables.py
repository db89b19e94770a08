"""An evaluation as rows of text, for a terminal, a page and Markdown. Needs no torch."""

import math

from whence.results.evaluation import EstimateRecord, EvaluationRecord, JudgedMetric, ScoreRecord

__all__ = [
    "MARKS",
    "agreement_rows",
    "interval",
    "overtaken",
    "refusals",
    "short_number",
    "silences",
    "summary_rows",
    "title",
]

MARKS = {
    "better": "+",
    "worse": "-",
    "no claim": "?",
    "control": " ",
    "not applicable": "n/a",
}
"""One character for each verdict."""


def short_number(value: float) -> str:
    """Return a number with three digits, as a table has it.

    >>> short_number(0.12345), short_number(-12.5), short_number(1234.5)
    ('0.123', '-12.5', '1.23e+03')
    """
    if not math.isfinite(value):
        return "undefined"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def interval(estimate: EstimateRecord | None) -> str:
    """Return a mean with its interval."""
    if estimate is None:
        return "undefined"
    low, high = short_number(estimate.low), short_number(estimate.high)
    return f"{short_number(estimate.mean)} [{low}, {high}]"


def cell(score: ScoreRecord, *, ends: bool) -> str:
    """Return a score as a cell: mean, interval if asked for, and the verdict's mark."""
    if score.verdict == "not applicable":
        return "n/a"
    shown = "undefined" if score.estimate is None else short_number(score.estimate.mean)
    text = interval(score.estimate) if ends else shown
    gone = sum(score.undefined.values())
    lost = f" ({gone} undefined)" if gone and score.estimate is not None else ""
    return f"{text}{lost} {MARKS[score.verdict]}".rstrip()


def title(metric: JudgedMetric) -> str:
    """Return a metric's name with the direction that is better."""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.better, "")
    return f"{metric.name}{arrow}"


def summary_rows(
    record: EvaluationRecord, network: str, *, ends: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and rows of one network's table: candidates x metrics."""
    single = [one for one in record.metrics if one.form != "pair"]
    head = ("method", *(title(one) for one in single))
    rows = [
        (
            method.name if method.kind != "control" else f"({method.name})",
            *(cell(record.score(network, one.name, method.name), ends=ends) for one in single),
        )
        for method in record.methods
    ]
    return head, rows


def agreement_rows(record: EvaluationRecord) -> list[tuple[str, str, str, str]]:
    """Return one row for each pair of maps: metric, first, second, estimate."""
    alone = len(record.networks) == 1
    return [
        (
            one.metric,
            one.first[1] if alone else "/".join(one.first),
            one.second[1] if alone else "/".join(one.second),
            interval(one.estimate),
        )
        for one in record.agreements
    ]


def silences(record: EvaluationRecord) -> list[str]:
    """Return why methods are not held against a control, each reason with its number of cells."""
    counts: dict[str, int] = {}
    for one in record.scores:
        if one.verdict == "no claim":
            counts[one.reason] = counts.get(one.reason, 0) + 1
    return [
        f"no claim in {number} {'cell' if number == 1 else 'cells'}: {reason}."
        for reason, number in sorted(counts.items(), key=lambda pair: -pair[1])
    ]


def refusals(record: EvaluationRecord) -> list[str]:
    """Return what does not apply, or is undefined, each reason once for the same metrics."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for one in record.scores:
        says = [
            f"undefined for {count} of {len(record.images)} images: {reason}"
            for reason, count in one.undefined.items()
        ]
        if one.verdict == "not applicable":
            says = [f"not applicable: {one.reason}"]
        for text in says:
            found.setdefault((one.network, text), {}).setdefault(one.method, []).append(one.metric)
    lines = []
    for (network, text), methods in found.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for method, metrics in methods.items():
            alike.setdefault(tuple(metrics), []).append(method)
        for same, those in alike.items():
            who = "every method" if len(those) == len(record.methods) else ", ".join(those)
            every = sum(one.form != "pair" for one in record.metrics)
            which = "every metric" if len(same) == every else ", ".join(same)
            lines.append(f"{who} on {network}, {which}: {text}.")
    return lines


def overtaken(record: EvaluationRecord) -> list[str]:
    """Return which controls rank above methods: better than one control is not above all."""
    kinds = {one.name: one.kind for one in record.methods}
    lines = []
    for network in record.networks:
        for metric in record.metrics:
            ranks = {} if metric.form == "pair" else record.ranks(network.name, metric.name)
            own = {name: rank for name, rank in ranks.items() if kinds[name] != "control"}
            for name, rank in ranks.items():
                below = [method for method, other in own.items() if other > rank]
                if kinds[name] == "control" and name != metric.control and below:
                    lines.append(
                        f"{metric.name} on {network.name}: {name} ranks above {', '.join(below)}."
                    )
    return lines
