"""The page: what the networks use, which metric can be trusted, and which method to pick."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from benchmarks.methods.checks import checks
from benchmarks.methods.networks import BUILD, NETWORKS, seconds_of, trained
from benchmarks.methods.ranking import Standing, direction, order, picked, standing
from benchmarks.methods.scenes import SHORTCUT
from benchmarks.methods.study import (
    LOCALISING,
    METHODS,
    METRICS,
    OBJECT,
    OTHER,
    SETS,
    SKIPPED,
    TRUTH,
    TRUTHS,
)
from whence.results.evaluation import EvaluationRecord, ScoreRecord

__all__ = ["Run", "page", "trusted"]


ALIKE = 0.999
"""Likeness from which two maps are the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What was found on a network and a set of images.

    Args:
        kind: The set.
        network: The network.
        record: Everything, with the true mask.
        digits: Beside a patch, where maps lie as if the digit decided the class.
    """

    kind: str
    network: str
    record: EvaluationRecord
    digits: EvaluationRecord | None

    @property
    def title(self) -> str:
        """The set and the network, as a heading has them."""
        return f"{self.kind}, {self.network}"


def page(runs: Sequence[Run], *, count: int, build: Path = BUILD) -> str:
    """Return the whole page, in Markdown."""
    lacking = len(SETS) * len(NETWORKS) - len(runs)
    partial = f"**{lacking} of {len(SETS) * len(NETWORKS)} runs are not in it yet.**"
    parts = [
        "# Methods and metrics where the truth is planted",
        "",
        "Printed by `make bench-methods`." + (f" {partial}" if lacking else ""),
        "",
        (
            f"Digits are composed onto smooth noise or onto crops of two photographs, {count} "
            "images of each kind that the network gets right, 32 pixels, colour. The exact pixels "
            "of the digit are known: the true map. In the variant with a shortcut every judged "
            "image carries a patch whose colour decides the class, whatever digit is shown; the "
            "true map is the patch."
        ),
        "Every number is made by `whence.evaluate`, with the methods' defaults.",
        "",
        *networks(runs, build),
        *trust(runs),
        *choice(runs),
        *misplaced(runs),
        *tables(runs),
        *left_out(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def networks(runs: Sequence[Run], build: Path) -> list[str]:
    """Return what the networks do when objects, backgrounds and patches are exchanged."""
    lines = ["## What the networks use", ""]
    lines += [
        "| images | network | trained, s of CPU | change: what should follow | share of 450 |"
    ]
    lines += ["|--|--|--:|--|--:|"]
    for run in runs:
        shortcut = run.kind == SHORTCUT
        model = trained(run.network, shortcut=shortcut, build=build).module
        seconds = seconds_of(run.network, shortcut=shortcut, build=build)
        for one in checks(model, run.kind):
            lines.append(
                f"| {run.kind} | {run.network} | {seconds:.0f} | {one.change} | "
                f"{100 * one.share:.1f} % |"
            )
    lines += [
        "",
        (
            "Images that differ from their change in nothing (the same class) are not counted. "
            "Chance is 10 %. The true map is true to this extent; that a stroke is *missing* is "
            "evidence for a digit, too, which no mask of its pixels holds."
        ),
        "",
    ]
    return lines


def standings(run: Run) -> dict[str, Standing]:
    """Return where everything stands on a run, by metric."""
    found = {
        metric: standing(run.record, run.network, metric, TRUTHS, apart(run))
        for metric in METRICS
        if any(one.name == metric for one in run.record.metrics)
    }
    return {metric: one for metric, one in found.items() if one is not None}


def apart(run: Run) -> tuple[str, ...]:
    """Return the controls that are none: without a patch the digit is the brightest thing."""
    return () if run.kind == SHORTCUT else ("input-map",)


def trusted(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the metrics without masks that fail on no run, in the order of the tables."""
    every = [standings(run) for run in runs]
    return tuple(
        metric
        for metric in METRICS
        if metric not in LOCALISING
        and all(metric in one and not one[metric].fails for one in every)
    )


def trust(runs: Sequence[Run]) -> list[str]:
    """Return for each metric where the true map ranks, and what the controls do."""
    lines = [
        "## Which metric can be trusted",
        "",
        (
            "*ranks* are the places of three true maps, each among itself and the methods: the "
            "mask; the mask blurred; and all pixels, the nearest to the mask first. A mask says "
            "nothing of the order in which its pixels and the others come, and a curve needs one; "
            "where the third is far better than the first, the metric judged that order. "
            "*Above* counts the methods, and names the controls, that are above the best of "
            "the three by the interval of the paired difference (95 %, bootstrap over images); "
            "*beat "
            "random* counts the methods above the random map by the same, and after a minus those "
            "below it. A metric **fails** on a run where a control, or more than one method in "
            "four, is above all true maps. The image itself is a control beside a patch only: "
            "elsewhere the digit is brighter than all around it, and the image nearly the truth."
        ),
        "",
        (
            "| metric | run | ranks | above | beat random | best control | "
            "methods below that control | |"
        ),
        "|--|--|--|--|--:|--|--:|--|",
    ]
    every = {run.title: standings(run) for run in runs}
    for metric in METRICS:
        for title, found in every.items():
            if metric in found:
                lines.append(trust_row(metric, title, found[metric]))
    lines += ["", "What the table says, metric by metric:", ""]
    for metric in METRICS:
        seen = {title: found[metric] for title, found in every.items() if metric in found}
        if seen:
            lines.append(f"- {said(metric, seen)}")
    return [*lines, ""]


def trust_row(metric: str, title: str, one: Standing) -> str:
    """Return a row of the table of trust."""
    above = ", ".join([str(len(one.above)), *one.lucky])
    beat = f"{len(one.winners)} of {one.judged}" + (f", -{len(one.losers)}" if one.losers else "")
    ranks = ", ".join(str(one.ranks[name]) for name in TRUTHS if name in one.ranks)
    fails = "**fails**" if one.fails else ""
    return (
        f"| {metric} | {title} | {ranks} of {one.judged + 1} | "
        f"{above} | {beat} | {one.control} | {len(one.outdone)} | {fails} |"
    )


WHY = {
    "insertion": "what matters is in after the first of ten steps, and from then on all maps are "
    "near the ceiling: look at how small the differences are; where they are not, smooth maps gain",
    "deletion": "black pixels scattered over an image are foreign to the network, so the raw "
    "gradients, which are scattered, gain, and the same maps are among the last by least first",
    "least first": "it removes the rest of the image first, and judges the order of the rest",
    "SRG": "it is least first less deletion, and has the faults of both, halved",
    "ROAD": "imputing from neighbours restores a stroke of which a part is left, so maps that "
    "cover strokes with a margin gain",
    "faithfulness correlation": "it compares sums of values with falls of the logit; a mask says "
    "where, and not how much or with which sign, so maps with the right amounts are above it",
    "infidelity": "it compares values with falls of the logit; a mask says where, and not how "
    "much, so maps with the right amounts are above it",
}
"""Why a metric can rank anything above the truth; said only where it does."""


def said(metric: str, seen: dict[str, Standing]) -> str:
    """Return what the standings of a metric on all runs say, in a sentence or two."""
    failed = [title for title, one in seen.items() if one.fails]
    shares = mean(len(one.winners) / max(one.judged, 1) for one in seen.values())
    best = mean(min(one.ranks.values()) for one in seen.values())
    text = (
        f"**{metric}**: mean rank of the best true map {best:.1f}; {100 * shares:.0f} % of the "
        f"methods beat the random map; "
    )
    counts = Counter(name for one in seen.values() for name in (*one.above, *one.lucky))
    often = [f"{name} ({count})" for name, count in counts.most_common(6)]
    if not failed:
        text += "fails nowhere."
    else:
        text += f"fails on {'; '.join(failed)}."
        text += f" A reason that fits: {WHY[metric]}." if metric in WHY else ""
    if often:
        text += f" Above all true maps, on so many runs: {', '.join(often)}."
    return text


def choice(runs: Sequence[Run]) -> list[str]:
    """Return which methods do best by the metrics that can be trusted."""
    lines = ["## Which method to pick", ""]
    metrics = trusted(runs)
    if not metrics:
        every = [standings(run) for run in runs]
        plain = [m for m in METRICS if m not in LOCALISING and all(m in one for one in every)]
        fails = {m: sum(one[m].fails for one in every) for m in plain}
        least = min(fails.values(), default=0)
        metrics = tuple(m for m in plain if fails[m] == least)
        lines += [f"No metric without masks holds on every run; these fail least ({least}):", ""]
    lines += [
        (
            f"By the mean place, 0 the best and 1 the last, on {', '.join(metrics)}, and on "
            "relevance rank and AUC against the true mask:"
        ),
        "",
        "| network | the five best, with their mean place | the three last |",
        "|--|--|--|",
    ]
    for name in NETWORKS:
        sides = [(run.record, run.network) for run in runs if run.network == name]
        if not sides:
            continue
        found = picked(sides, (*metrics, "relevance rank", "AUC"))
        texts = [f"{method} {place:.2f}" for method, place in found]
        lines.append(f"| {name} | {', '.join(texts[:5])} | {', '.join(texts[-3:])} |")
    lines.append("")
    blind = classless(runs)
    if blind:
        lines += [f"The same map for every class, by the random logit: {', '.join(blind)}.", ""]
    for name in NETWORKS:
        lines += summary([run for run in runs if run.network == name], metrics)
    return lines


def classless(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the methods whose map of another class is always the same."""
    likeness: dict[str, list[float]] = {}
    for run in runs:
        kinds = {one.name: one.kind for one in run.record.methods}
        for name, value in order(run.record, run.network, "random logit"):
            if kinds[name] == "method":
                likeness.setdefault(name, []).append(value)
    return tuple(name for name, each in likeness.items() if min(each) > ALIKE)


def summary(runs: Sequence[Run], metrics: tuple[str, ...]) -> list[str]:
    """Return the mean place of each method on one network, by each metric, the best first."""
    if not runs:
        return []
    sides = [(run.record, run.network) for run in runs]
    shown = [m for m in METRICS if all(m in one for one in map(standings, runs))]
    places = {metric: dict(picked(sides, (metric,))) for metric in shown}
    whole = picked(sides, (*metrics, "relevance rank", "AUC"))
    kinds = ", ".join(run.kind for run in runs)
    lines = [
        f"Mean places on the {runs[0].network}, over {kinds}:",
        "",
        f"| | all of those | {' | '.join(shown)} |",
        "|--|--:|" + "--:|" * len(shown),
    ]
    for name, place in whole:
        cells = [f"{places[m][name]:.2f}" if name in places[m] else "-" for m in shown]
        lines.append(f"| {name} | {place:.2f} | {' | '.join(cells)} |")
    return [*lines, ""]


def misplaced(runs: Sequence[Run]) -> list[str]:
    """Return what localisation says when the masks are of the wrong thing."""
    beside = [run for run in runs if run.digits is not None]
    if not beside:
        return []
    lines = [
        "## Localisation with the wrong mask",
        "",
        (
            "The same maps of the networks with a shortcut, against masks of the digit, which they "
            "do not look at. The true map scores nothing, and the digit, which means nothing to "
            "them, everything; methods above the random map are so by mistake, and those below it "
            "by being right, by the interval of the paired difference."
        ),
        "",
        "| metric | network | true map | digit as a map | methods below random | above random |",
        "|--|--|--:|--:|--:|--:|",
    ]
    for run in beside:
        for metric in LOCALISING:
            if run.digits is None:
                continue
            one = standing(run.digits, run.network, metric, (TRUTH,))
            means = dict(order(run.digits, run.network, metric))
            if one is not None:
                lines.append(
                    f"| {metric} | {run.network} | {means[TRUTH]:.3f} | {means[OBJECT]:.3f} | "
                    f"{len(one.losers)} of {one.judged} | {len(one.winners)} |"
                )
    return [*lines, ""]


def tables(runs: Sequence[Run]) -> list[str]:
    """Return methods x metrics for each run; what beats the metric's control is bold."""
    lines = [
        "## Methods and metrics",
        "",
        (
            "Means over images. Bold: above the metric's control (the random map, or the edges for "
            "the random logit), by the interval of the paired difference; in italics: below it. An "
            "arrow says which direction is better. A dash: it does not apply."
        ),
        "",
    ]
    for run in runs:
        shown = [m for m in METRICS if any(one.name == m for one in run.record.metrics)]
        arrows = {"higher": " ↑", "lower": " ↓"}
        heads = [f"{m}{arrows.get(direction(run.record, m), '')}" for m in shown]
        lines += [f"### {run.title}", "", f"| | {' | '.join(heads)} |"]
        lines.append("|--|" + "--:|" * len(heads))
        names = [one.name for one in run.record.methods]
        first = [name for name in (*TRUTHS, OBJECT) if name in names]
        for name in (*first, *(name for name in names if name not in first)):
            cells = [figure(run.record.score(run.network, m, name)) for m in shown]
            if any(cell != "-" for cell in cells):
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def figure(one: ScoreRecord) -> str:
    """Return a mean as a cell of a table."""
    if one.estimate is None:
        return "-"
    text = f"{one.estimate.mean:.3g}"
    return {"better": f"**{text}**", "worse": f"*{text}*"}.get(one.verdict, text)


def left_out() -> list[str]:
    """Return which methods are not in the tables, and which metrics have other settings."""
    costly = ", ".join(f"{name} ({passes})" for name, passes in SKIPPED.items())
    return [
        "## What is left out",
        "",
        (
            f"{len(METHODS)} methods are judged. Left out because their defaults take more than "
            f"300 passes an image: {costly}."
        ),
        *(f"{name}: {why}." for name, why in OTHER.items()),
        "",
        "Metrics: " + ", ".join(f"`{text}`" for text in METRICS.values()) + ".",
    ]
