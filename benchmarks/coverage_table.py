"""The coverage of methods and models as text and as a page of the manual."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch

from benchmarks.models import Subject

__all__ = ["Cell", "Verdict", "counted", "markdown", "summary", "text"]

Verdict = Literal["ok", "n/a", "ERROR"]


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of a method on a model.

    Args:
        method: Its name in the catalogue.
        model: The model's name.
        verdict: ``ok``: finite values of the right shape. ``n/a``: refused, with the reason.
            ``ERROR``: anything else.
        reason: Why not, in full.
        blank: Of how many images the map is zero everywhere: allowed, but worth a look.
        seconds: How long it took.
    """

    method: str
    model: str
    verdict: Verdict
    reason: str
    blank: int
    seconds: float


def summary(cells: Iterable[Cell]) -> dict[Verdict, int]:
    """Count the verdicts."""
    made = list(cells)
    return {v: sum(c.verdict == v for c in made) for v in ("ok", "n/a", "ERROR")}


def counted(cells: Iterable[Cell]) -> str:
    """Return the counts of the verdicts as text."""
    return ", ".join(f"{count} {verdict}" for verdict, count in summary(cells).items())


def marked(found: Cell, marks: dict[str, str]) -> str:
    """Return a cell's symbol; a reason that is new gets the next number."""
    if found.verdict == "ok":
        return "+"
    prefix = "E" if found.verdict == "ERROR" else ""
    return marks.setdefault(brief(found), f"{prefix}{len(marks) + 1}")


def brief(found: Cell) -> str:
    """Return a reason in a sentence, without the names of the method and of the module."""
    if found.verdict == "ERROR":
        return found.reason
    first = re.split(r"(?<=\.)\s", found.reason)[0]
    first = re.sub(r"^[A-Z]\w*[a-z][A-Z]\w*|^Deconvnet\b", "The method", first)
    return re.sub(r"(?<=') in [\w.]+", "", first)


def text(cells: Iterable[Cell], methods: list[str], subjects: list[Subject]) -> str:
    """Return the cells as text: methods down, models across, and the reasons below."""
    places = {(c.method, c.model): c for c in cells}
    marks: dict[str, str] = {}
    lines = [f"{'method':24}" + "".join(f"{s.short:>5}" for s in subjects)]
    for method in methods:
        row = [places[method, s.name] for s in subjects]
        lines.append(f"{method:24}" + "".join(f"{marked(c, marks):>5}" for c in row))
    lines += ["", "+ ok; 1, 2, ...: not applicable, E1, E2, ...: an error; in short:"]
    lines += [f"{mark:>5}  {reason}" for reason, mark in marks.items()]
    lines += ["", *(f"{s.short:>5}  {s.name}, {s.side} x {s.side}" for s in subjects)]
    return "\n".join([*lines, "", counted(places.values())])


HEAD = """# Coverage: every method on every model

<!-- Written by: python -m benchmarks.coverage --markdown docs/reference/coverage.md -->

Each method of the catalogue on each of {models} classifiers, read as they are, with no code for any
of them: {counts}. A cell is *ok* (+) if the values are finite and shaped like the images. A number
says that the method is not defined there and was refused, with the reason below; such an error
names the operation and its module.

The weights are random and calibrated (batch norms to the statistics of a few images, the outputs of
layers to unit variance, logits to mean zero and variance one), so that signals live in every model.
Images are as small as the model takes. Methods that repeat themselves do so a few times only. Torch
{torch}; all cells took {minutes:.0f} minutes on one thread.
"""


def markdown(
    cells: Iterable[Cell],
    methods: list[str],
    subjects: list[Subject],
    settings: Mapping[str, Mapping[str, float | str]],
) -> str:
    """Return the cells as a page of the manual."""
    places = {(c.method, c.model): c for c in cells}
    marks: dict[str, str] = {}
    lines = [
        f"| method | {' | '.join(s.short for s in subjects)} |",
        "|--|" + ":-:|" * len(subjects),
    ]
    for method in methods:
        row = [marked(places[method, s.name], marks) for s in subjects]
        lines.append(f"| {method} | {' | '.join(row)} |")
    seconds = sum(c.seconds for c in places.values())
    head = HEAD.format(
        models=len(subjects),
        counts=counted(places.values()),
        torch=torch.__version__.split("+")[0],
        minutes=max(seconds / 60, 1),
    )
    reasons = [f"- **{mark}**: {reason}" for reason, mark in marks.items()]
    blank = sorted({f"{c.method} ({c.model})" for c in places.values() if c.blank})
    zero = (
        "Maps that are zero everywhere for an image, where nothing speaks for its class or a "
        f"search did not succeed in so few steps: {', '.join(blank) or 'none'}."
    )
    models = [f"| {s.short} | {s.name} | {s.side} x {s.side} |" for s in subjects]
    few = [
        f"- {name}: {', '.join(f'{key} {value}' for key, value in given.items())}"
        for name, given in settings.items()
        if given
    ]
    parts = [
        [head],
        lines,
        ["", "## Why not", "", *(reasons or ["Every method ran on every model."]), "", zero],
        ["", "## The models", "", "| column | model | images |", "|--|--|--|", *models],
        ["", "## Settings", "", "Where they are not the method's defaults:", "", *few],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"
