"""Figures of numbers for papers: curves with bands, tables of ranks, before and after.

Colours can be told apart by everyone, and no line is known by its colour alone: methods differ in
their dashes too, controls are grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.display.canvas import (
    DOUBLE_COLUMN,
    SINGLE_COLUMN,
    Axes,
    Plot,
    check_width,
    new_drawing,
    styled,
)
from whence.errors import SettingError, ShapeError

__all__ = ["Change", "Curve", "change_figure", "curve_figure", "rank_figure"]

Numbers = NDArray[np.floating[Any]]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f5fb5", "#000000")
"""Okabe and Ito's, the strong ones first."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
GREYS = ("0.35", "0.5", "0.65")

MOST_CURVES = len(COLOURS) * len(DASHES)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """One line of a plot.

    Args:
        name: Its name in the legend.
        x: Where, ``(s,)``.
        mean: Its height there, ``(s,)``.
        low: Lower end of the interval at each point; None for a line without a band.
        high: Upper end of it.
        control: Whether it explains nothing and is there to compare with.
    """

    name: str
    x: Numbers
    mean: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    control: bool = False


@final
@dataclass(frozen=True, kw_only=True)
class Change:
    """One measure, before and after.

    Args:
        name: What was measured.
        before: Its value before.
        after: Its value after.
        before_interval: The ends of its interval, if there is one.
        after_interval: The same after.
        better: Which direction is better: ``higher``, ``lower`` or ``neither``.
    """

    name: str
    before: float
    after: float
    before_interval: tuple[float, float] | None = None
    after_interval: tuple[float, float] | None = None
    better: str = "neither"


def curve_figure(
    curves: Sequence[Curve],
    *,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    width: float = SINGLE_COLUMN,
) -> Plot:
    """Curves with confidence bands, the controls in grey, such as insertion and deletion.

    Args:
        curves: The lines, at most 32; their order is that of the legend.
        x_label: What runs from left to right.
        y_label: What the curves are.
        title: A line above.
        width: Inches.

    Raises:
        MissingExtra: matplotlib is not installed.
        SettingError: There are no curves or too many, or the width is out of range.
        ShapeError: The parts of a curve differ in their length.
    """
    check_width(width)
    if not 0 < len(curves) <= MOST_CURVES:
        msg = f"A figure holds 1 to {MOST_CURVES} curves that can be told apart; got {len(curves)}."
        raise SettingError(msg)
    for one in curves:
        parts = [part for part in (one.x, one.mean, one.low, one.high) if part is not None]
        if len({part.shape for part in parts}) > 1 or one.x.ndim != 1:
            shapes = ", ".join(str(part.shape) for part in parts)
            msg = f"The parts of the curve {one.name!r} need one shape (s,); got {shapes}."
            raise ShapeError(msg)
    with styled():
        figure = new_drawing(width, 0.66 * width + 0.13 * -(-len(curves) // 2))
        axes = figure.add_subplot()
        methods = iter(range(len(curves)))
        controls = iter(range(len(curves)))
        for one in curves:
            draw_curve(axes, one, next(controls if one.control else methods))
        axes.set(xlabel=x_label, ylabel=y_label, title=title)
        axes.margins(x=0.01)
        figure.legend(loc="outside lower center", ncols=2, handlelength=2.8)
    return Plot(figure=figure)


def rank_figure(
    methods: Sequence[str],
    metrics: Sequence[str],
    ranks: Numbers,
    *,
    controls: Sequence[str] = (),
    title: str = "",
    width: float = DOUBLE_COLUMN,
) -> Plot:
    """Methods x metrics: the rank of each method under each metric, the best light.

    Args:
        methods: Names of the rows.
        metrics: Names of the columns.
        ranks: ``(methods, metrics)``, 1 the best; NaN where a metric says nothing.
        controls: Those of the methods that explain nothing, set in grey with a mark.
        title: A line above.
        width: Inches.

    Raises:
        MissingExtra: matplotlib is not installed.
        SettingError: There is nothing to draw, or the width is out of range.
        ShapeError: The ranks have another shape.
    """
    check_width(width)
    if not methods or not metrics:
        msg = "A figure of ranks needs at least one method and one metric."
        raise SettingError(msg)
    if ranks.shape != (len(methods), len(metrics)):
        msg = f"ranks needs shape {(len(methods), len(metrics))}; got {ranks.shape}."
        raise ShapeError(msg)
    with styled():
        longest = max(len(name) for name in metrics)
        figure = new_drawing(width, 0.19 * len(methods) + 0.045 * longest + 0.35)
        axes = figure.add_subplot()
        last = max(float(np.nanmax(ranks, initial=1.0)), 2.0)
        axes.imshow(np.ma.masked_invalid(ranks), cmap="cividis_r", vmin=1, vmax=last, aspect="auto")
        for (row, column), rank in np.ndenumerate(ranks):
            dark = rank > 1 + 0.55 * (last - 1)
            text = "\N{EN DASH}" if np.isnan(rank) else f"{rank:g}"
            ink = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)
        names = [f"{name} (control)" if name in controls else name for name in methods]
        axes.set_yticks(range(len(methods)), names)
        for label, name in zip(axes.get_yticklabels(), methods, strict=True):
            label.set_color("0.45" if name in controls else "black")
        axes.set_xticks(range(len(metrics)), metrics, rotation=45, ha="right")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title)
    return Plot(figure=figure)


def change_figure(
    changes: Sequence[Change], *, title: str = "", width: float = SINGLE_COLUMN
) -> Plot:
    """Measures before and after, an arrow for each, with their intervals.

    All values stand on one axis, so give measures of one unit, such as shares.

    Args:
        changes: The measures, from top to bottom.
        title: A line above.
        width: Inches.

    Raises:
        MissingExtra: matplotlib is not installed.
        SettingError: There are no measures, or the width is out of range.
    """
    check_width(width)
    if not changes:
        msg = "A figure of changes needs at least one measure."
        raise SettingError(msg)
    with styled():
        figure = new_drawing(width, 0.3 * len(changes) + 0.75)
        axes = figure.add_subplot()
        for row, one in enumerate(changes):
            draw_change(axes, one, row)
        signs = {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}"}
        names = [f"{one.name}{signs.get(one.better, '')}" for one in changes]
        axes.set_yticks(range(len(changes)), names)
        axes.set_ylim(len(changes) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color="0.9", linewidth=0.5)
        axes.set_title(title)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return Plot(figure=figure)


def draw_curve(axes: Axes, one: Curve, number: int) -> None:
    """Draw a line and its band."""
    colour = GREYS[number % len(GREYS)] if one.control else COLOURS[number % len(COLOURS)]
    turn = number // (len(GREYS) if one.control else len(COLOURS))
    dash = DASHES[(turn + (2 if one.control else number)) % len(DASHES)]
    axes.plot(one.x, one.mean, color=colour, linestyle=dash, label=one.name)
    if one.low is not None and one.high is not None:
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)


def draw_change(axes: Axes, one: Change, row: int) -> None:
    """Draw one measure: a hollow mark before, a full one after, an arrow between."""
    axes.annotate(
        "",
        xy=(one.after, row),
        xytext=(one.before, row),
        arrowprops={
            "arrowstyle": "->",
            "color": "0.5",
            "linewidth": 0.8,
            "shrinkA": 3,
            "shrinkB": 4,
        },
    )
    ends = (
        (one.before, one.before_interval, "white", "before", -0.16),
        (one.after, one.after_interval, COLOURS[0], "after", 0.16),
    )
    for value, interval, fill, name, shift in ends:
        if interval is not None:
            axes.plot(interval, (row + shift, row + shift), color=COLOURS[0], linewidth=0.8)
        axes.plot(
            value,
            row,
            marker="o",
            markersize=4.5,
            markerfacecolor=fill,
            markeredgecolor=COLOURS[0],
            linestyle="",
            label=name if row == 0 else None,
        )
