"""Comparisons over pairs of query and training image, as lines of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "JUDGED",
    "KEPT",
    "LOST",
    "against",
    "beside",
    "comparison",
    "groups_of",
    "interval",
    "mean",
    "names_of",
    "of_kind",
    "pooled",
    "table",
    "tally",
]

ALIKE = "T2 alike"
"""The rank correlation of the maps for both queries: neither high nor low is better by itself."""

MEASURES = (
    "T1 rank",
    "T1 mass",
    "T1 hit",
    "T2 rank",
    "T2 mass",
    ALIKE,
    "T3 rank",
    "T3 mass",
    "T4 gap",
    "T4 kept",
    "T4 lost",
    "T5 rank",
    "T5 mass",
    "T6",
    "step T4",
    "step T6",
    "SGD T6",
)
"""Higher is better in all others."""

KEPT, LOST = "T4 kept", "T4 lost"
"""The parts of T4, from its curves: ``gap = kept + lost - 1``."""

JUDGED = ("T1 rank", "T2 rank", "T3 rank", "T4 gap", "T5 rank", "T6")
"""Those that no sharpening of a map changes, one for each experiment."""

COUNTED = (
    "Better / no difference / worse, over all kinds of data and the rank accuracy of T1, T2, T3 "
    "and T5, T4 and T6 where they were measured; by whether the 95 % interval of the paired "
    "difference holds 0."
)

Rows = Sequence[dict[str, Any]]


def of_kind(rows: Rows, kind: str) -> list[dict[str, Any]]:
    """Return the cells of a kind."""
    return [row for row in rows if row["cell"].startswith(f"{kind}: ")]


def mean(values: Sequence[float]) -> float:
    """Return the mean of the values that are numbers."""
    own = [v for v in values if v == v]  # noqa: PLR0124 - NaN is not itself
    return sum(own) / len(own) if own else float("nan")


def names_of(rows: Rows) -> list[str]:
    """Return the maps of some cells, in order."""
    found: dict[str, None] = {}
    for row in rows:
        found.update(dict.fromkeys(n for n in row["rows"] if not n.startswith("tfa-smoothed")))
    return list(found)


def pooled(rows: Rows, name: str, measure: str) -> list[float]:
    """Return the values of a map over several cells."""
    if measure == KEPT:
        return [mean(c) for row in rows for c in curves(row, name, "kept")]
    if measure == LOST:
        return [1 - mean(c) for row in rows for c in curves(row, name, "gone")]
    return [v for row in rows for v in row["rows"].get(name, {}).get(measure, [])]


def curves(row: Mapping[str, Any], name: str, end: str) -> list[list[float]]:
    """Return the curves of a map, one for each pair."""
    found: list[list[float]] = row.get("curves", {}).get(name, {}).get(end, [])
    return found


def table(title: str, rows: Rows) -> list[str]:
    """Return the table of some cells: the mean over all pairs of query and training image."""
    measures = [m for m in MEASURES if any(pooled(rows, n, m) for n in names_of(rows))]
    lines = ["", f"### {title}", ""]
    facts = {
        key: [r["facts"][key] for r in rows if key in r["facts"]]
        for r in rows
        for key in r["facts"]
    }
    lines += [f"- {key}: {', '.join(f'{v:.3f}' for v in values)}" for key, values in facts.items()]
    counts = [f"{m}: {len(pooled(rows, 'tfa', m))}" for m in measures]
    lines += [f"- pairs: {', '.join(counts)}", ""]
    lines += [f"| map | {' | '.join(measures)} |", "|--|" + "--|" * len(measures)]
    for name in names_of(rows):
        cells = []
        for measure in measures:
            every = {n: mean(pooled(rows, n, measure)) for n in names_of(rows)}
            own = every[name]
            best = max(v for v in every.values() if v == v)  # noqa: PLR0124
            text = "" if own != own else f"{own:.3f}"  # noqa: PLR0124
            cells.append(f"**{text}**" if own == best and measure != ALIKE else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def comparison(rows: Rows, ours: str, measure: str) -> tuple[str, float, float, Tensor] | None:
    """Return the best two-step map, both means, and the paired differences; None if unmeasured."""
    own = torch.tensor(pooled(rows, ours, measure), dtype=torch.float64)
    names = [n for n in names_of(rows) if n.startswith("2: ")]
    if not len(own) or not names:
        return None
    best = max(names, key=lambda n: mean(pooled(rows, n, measure)))
    other = torch.tensor(pooled(rows, best, measure), dtype=torch.float64)
    gap = (own - other)[(own - other).isfinite()]
    return best, float(own.nanmean()), float(other.nanmean()), gap


def beside(rows: Rows, ours: str, other: str, measure: str) -> str:
    """Return whether a map is better than another, worse, or neither; empty if unmeasured."""
    found = verdict(rows, ours, other, measure)
    return {None: "", 1: "better", 0: "no difference", -1: "worse"}[found]


def against(title: str, rows: Rows, ours: str, measures: Sequence[str] = JUDGED) -> list[str]:
    """Return one line for each experiment: ours less the best two-step map, with an interval."""
    lines = []
    for measure in measures:
        found = comparison(rows, ours, measure)
        if found is None:
            continue
        best, own, other, gap = found
        low, high = interval(gap)
        verdict = "better" if low > 0 else "worse" if high < 0 else "no difference"
        lines.append(
            f"| {title} | {measure} | {own:.3f} | {best[3:]} {other:.3f} | "
            f"{float(gap.mean()):+.3f} [{low:+.3f}, {high:+.3f}] | {verdict} |"
        )
    return lines


def tally(groups: Mapping[str, Rows]) -> list[str]:
    """Return how often each training-feature map is better and worse than each two-step map."""
    every = [n for rows in groups.values() for n in names_of(rows)]
    names = list(dict.fromkeys(every))
    others = [n for n in names if n.startswith("2: ")]
    ours = [n for n in names if not n.startswith("2: ") and "re-" not in n and "random" not in n]
    lines = ["## Each map against each two-step map", "", COUNTED, ""]
    lines += [f"| map | {' | '.join(n[3:] for n in others)} |", "|--|" + "--|" * len(others)]
    for name in ours:
        cells = []
        for other in others:
            found = [
                verdict(rows, name, other, measure)
                for rows in groups.values()
                for measure in JUDGED
            ]
            better, same, worse = (found.count(k) for k in (1, 0, -1))
            cells.append(f"{better} / {same} / {worse}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def verdict(rows: Rows, ours: str, other: str, measure: str) -> int | None:
    """Return 1 if ours is better, -1 if it is worse, 0 if neither, None if it was not measured."""
    pair = [torch.tensor(pooled(rows, n, measure), dtype=torch.float64) for n in (ours, other)]
    if not len(pair[0]) or not len(pair[1]):
        return None
    gap = (pair[0] - pair[1])[(pair[0] - pair[1]).isfinite()]
    low, high = interval(gap)
    return int(low > 0) - int(high < 0)


def interval(values: Tensor) -> tuple[float, float]:
    """Return the ends of the 95 % bootstrap interval of the mean."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(values), (2000, len(values)), generator=generator)
    means = values[draws].mean(dim=1)
    ends = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def groups_of(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """Return the cells by what they share but the seed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["cell"].split(": ", 1)[-1].split(", seed")[0], []).append(row)
    return found
