"""Plots of an evaluation as SVG: distributions over images, and curves with bands."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from whence.report.evaluation_tables import short_number
from whence.results.evaluation import CurveRecord, ScoreRecord

__all__ = ["Axis", "curve_svg", "strips_svg"]

WIDTH, LABELS, ROW, FOOT, RIGHT = 820.0, 190.0, 30.0, 30.0, 16.0
LETTER = 7.2
"""Width of a letter of a name; those that are longer than half the plot run into it."""
DOTS = 150
"""Images whose values are drawn as dots; more are spread evenly."""
SMALL = (196.0, 118.0)
TICKS = 5


@final
@dataclass(frozen=True, kw_only=True)
class Axis:
    """A straight scale from values to places.

    Args:
        low: The value at the start.
        high: The value at the end.
        start: The place of the start.
        end: The place of the end.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the place of a value; values outside are drawn at the end."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values along the axis."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * k for k in (1, 2, 2.5, 5, 10) if power * k >= rough)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def axis_of(values: NDArray[np.float64], start: float, end: float) -> Axis:
    """Return an axis that holds these values, with a little room."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    room = 0.03 * (high - low)
    return Axis(low=low - room, high=high + room, start=start, end=end)


def strips_svg(scores: Sequence[ScoreRecord], control: str, title: str) -> Markup:
    """Return per-image values of each candidate: dots, a box, and the mean with its interval.

    The band behind them is the control's interval.
    """
    shown = [one for one in scores if one.estimate is not None]
    defined = [one.values[np.isfinite(one.values)] for one in shown]
    longest = max((len(one.method) for one in shown), default=0)
    start = min(max(LABELS, LETTER * longest + RIGHT), WIDTH / 2)
    axis = axis_of(np.concatenate(defined) if defined else np.zeros(0), start, WIDTH - RIGHT)
    height = ROW * len(shown) + FOOT
    parts = [
        (
            f'<svg class="plot" viewBox="0 0 {WIDTH:g} {height:g}" role="img" '
            f'aria-label="{escape(title)}">'
        )
    ]
    bottom = height - FOOT
    for value in axis.ticks:
        x = axis.at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom:g}"/>')
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 18:g}">{short_tick(value)}</text>'
        )
    for one in shown:
        if one.method == control and one.estimate is not None:
            left, right = axis.at(one.estimate.low), axis.at(one.estimate.high)
            parts.append(
                f'<rect class="band" x="{left:.1f}" y="0" '
                f'width="{max(right - left, 1):.1f}" height="{bottom:g}"/>'
            )
    for row, (one, values) in enumerate(zip(shown, defined, strict=True)):
        parts.append(strip(one, values, axis, ROW * (row + 0.5)))
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - names are escaped, the rest is numbers


def strip(score: ScoreRecord, values: NDArray[np.float64], axis: Axis, y: float) -> str:
    """Return one row of dots, box and mean."""
    kind = {"better": "better", "worse": "worse", "control": "control"}.get(score.verdict, "open")
    parts = [f'<text class="name-of {kind}" x="0" y="{y + 4:g}">{escape(score.method)}</text>']
    step = max(1, -(-len(values) // DOTS))
    for k, value in enumerate(values[::step]):
        jitter = 0.5 * ROW * ((k * 0.6180339887) % 1 - 0.5)
        parts.append(
            f'<circle class="dot" cx="{axis.at(value):.1f}" cy="{y + jitter:.1f}" r="1.7"/>'
        )
    first, middle, third = (axis.at(float(q)) for q in np.quantile(values, [0.25, 0.5, 0.75]))
    parts.append(
        f'<rect class="box" x="{first:.1f}" y="{y - 8:.1f}" '
        f'width="{max(third - first, 0.5):.1f}" height="16"/>'
        f'<line class="median" x1="{middle:.1f}" y1="{y - 8:.1f}" x2="{middle:.1f}" '
        f'y2="{y + 8:.1f}"/>'
    )
    if score.estimate is not None:
        low, mean, high = (
            axis.at(v) for v in (score.estimate.low, score.estimate.mean, score.estimate.high)
        )
        parts.append(
            f'<line class="mean {kind}" x1="{low:.1f}" y1="{y:.1f}" x2="{high:.1f}" y2="{y:.1f}"/>'
            f'<circle class="mean {kind}" cx="{mean:.1f}" cy="{y:.1f}" r="4">'
            f"<title>{escape(score.method)}: {short_number(score.estimate.mean)}</title></circle>"
        )
    return "".join(parts)


def short_tick(value: float) -> str:
    """Return the number of a tick."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def curve_svg(curve: CurveRecord, control: CurveRecord | None, ends: tuple[float, float]) -> Markup:
    """Return a method's mean curve with its band, before the control's.

    Args:
        curve: The method's.
        control: The control's, or None.
        ends: Lowest and highest value of all curves that stand side by side.
    """
    width, height = SMALL
    low, high = ends
    across = Axis(low=0.0, high=1.0, start=34, end=width - 4)
    up = axis_of(np.array([low, high]), height - 18, 6)
    parts = [f'<svg class="plot" viewBox="0 0 {width:g} {height:g}" aria-hidden="true">']
    for value in up.ticks:
        y = up.at(value)
        parts.append(f'<line class="grid" x1="34" y1="{y:.1f}" x2="{width - 4:g}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick left" x="30" y="{y + 4:.1f}">{short_tick(value)}</text>')
    parts.extend(
        f'<text class="tick" x="{across.at(share):.1f}" y="{height - 4:g}">{share:.0%}</text>'
        for share in (0.0, 0.5, 1.0)
    )
    for one, kind in ((control, "control"), (curve, "own")):
        if one is None:
            continue
        xs = [across.at(float(f)) for f in one.fractions]
        upper = [f"{x:.1f},{up.at(float(v)):.1f}" for x, v in zip(xs, one.high, strict=True)]
        lower = [f"{x:.1f},{up.at(float(v)):.1f}" for x, v in zip(xs, one.low, strict=True)]
        mean = [f"{x:.1f},{up.at(float(v)):.1f}" for x, v in zip(xs, one.mean, strict=True)]
        parts.append(f'<polygon class="area {kind}" points="{" ".join(upper + lower[::-1])}"/>')
        parts.append(f'<polyline class="line {kind}" points="{" ".join(mean)}"/>')
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - numbers only
