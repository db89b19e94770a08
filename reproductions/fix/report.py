"""The tables and the page: means and intervals over seeds, with what they say."""

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from scipy.stats import t

__all__ = ["interval", "page", "table"]

Cell = dict[str, Any]

COLUMNS = {"against": "the shortcut against the class", "clean": "with the class, or without it"}
TAKEN = "taken in"
JUDGED = ("overlap", "precision", "recall", "rest")


def interval(values: Sequence[float], *, percent: bool = True) -> str:
    """Return a mean with its 95 % interval by Student's t over seeds."""
    factor = 100 if percent else 1
    middle = factor * mean(values)
    if len(values) < 2:
        return f"{middle:.1f}"
    half = factor * float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"{middle:.1f} ± {half:.1f}"


def table(name: str, cells: Sequence[Cell]) -> str:
    """Return the table of one case as markdown."""
    names = list(dict.fromkeys(c["row"] for c in cells if c["row"] != "found"))
    found = [c for c in cells if c["row"] == "found"]
    if not found:
        return f"## {name}\n\nNot run: its data are not at hand.\n"
    planted = any(TAKEN in c for c in cells)
    heads = [*COLUMNS.values(), *(["taken in by the patch"] if planted else []), "CPU s"]
    lines = [f"| | {' | '.join(heads)} |", f"|--|{'--|' * len(heads)}"]
    for row in names:
        own = [c for c in cells if c["row"] == row and "clean" in c]
        if not own:
            continue
        keys = [*COLUMNS, *([TAKEN] if planted else [])]
        figures = [interval([c[key] for c in own]) for key in keys]
        figures.append(f"{mean(c['cpu'] for c in own):.0f}")
        lines.append(f"| {row} | {' | '.join(figures)} |")
    judged = "; ".join(f"{key} {interval([c[key] for c in found])}" for key in JUDGED)
    missed = sum(not c["findings"] for c in found)
    return (
        f"## {name}, {len(found)} seeds\n\n"
        f"Found in {len(found) - missed} of {len(found)} seeds, judged by the exact masks in "
        f"per cent: {judged}.\n\n" + "\n".join(lines) + "\n"
    )


def page(cells: Sequence[Cell]) -> str:
    """Return the whole page."""
    cases = list(dict.fromkeys(c["case"] for c in cells))
    return "\n".join(
        [INTRODUCTION, *(table(k, [c for c in cells if c["case"] == k]) for k in cases)]
    )


INTRODUCTION = """# Find, fix, verify

`make reproduce-fix`
"""
