"""Small charts as SVG: panels of lines and of bars."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Chart", "Line", "bars", "lines", "sheet"]

INK, FAINT, GRID = "#1c2026", "#626a75", "#c9ced6"
WIDE, HIGH, LEFT, ABOVE, BELOW = 150, 120, 44, 34, 46

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line in a chart.

    Args:
        points: Places, in the chart's units.
        colour: Its colour.
        dashed: Whether it is dashed.
    """

    points: Sequence[Point]
    colour: str
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart with its size in the page.

    Args:
        parts: What is drawn, as if the chart stood at the origin.
        wide: Its width with its axis.
        high: Its height with title and labels.
    """

    parts: Sequence[str]
    wide: float
    high: float


def words(
    x: float, y: float, text: str, *, anchor: str = "start", ink: str = INK, bold: bool = False
) -> str:
    """Return words at a place."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{ink}"{weight}>'
        f"{escape(text)}</text>"
    )


def through(points: Sequence[Point], colour: str, width: float, *, dashed: bool = False) -> str:
    """Return a line through places."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    style = ' stroke-dasharray="5 3"' if dashed else ""
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="{width}"{style}/>'
    )


def ticks(low: float, high: float) -> list[float]:
    """Return about four round values in a range."""
    step = next(
        s
        for s in (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 100.0)
        if (high - low) / s <= 4.5
    )
    first = int(low // step)
    return [k * step for k in range(first, first + 9) if low - 1e-9 <= k * step <= high + 1e-9]


def axis(low: float, high: float, title: str) -> list[str]:
    """Return the title, and horizontal lines at round values."""
    parts = [words(LEFT, ABOVE - 12, title, bold=True)]
    for value in ticks(low, high):
        y = height(value, low, high)
        parts.append(through([(LEFT, y), (LEFT + WIDE, y)], GRID, 0.7))
        parts.append(words(LEFT - 5, y + 4, f"{value:g}", anchor="end", ink=FAINT))
    return parts


def height(value: float, low: float, high: float) -> float:
    """Return the place of a value."""
    return ABOVE + HIGH * (high - value) / (high - low)


def lines(title: str, drawn: Sequence[Line], marks: Sequence[float], across: str) -> Chart:
    """Return a chart of lines; places across are spread evenly over ``marks``."""
    values = [y for line in drawn for _, y in line.points]
    low, high = min(values), max(values)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    parts = axis(low, high, title)
    at = {mark: LEFT + WIDE * k / (len(marks) - 1) for k, mark in enumerate(marks)}
    for mark, x in at.items():
        parts.append(words(x, ABOVE + HIGH + 14, f"{mark:g}", anchor="middle", ink=FAINT))
    parts.append(words(LEFT + WIDE / 2, ABOVE + HIGH + 28, across, anchor="middle", ink=FAINT))
    for line in drawn:
        points = [(at[x], height(y, low, high)) for x, y in line.points]
        parts.append(through(points, line.colour, 1.8, dashed=line.dashed))
    return Chart(parts=parts, wide=LEFT + WIDE + 18, high=ABOVE + HIGH + BELOW)


def bars(title: str, values: Mapping[str, float], colours: Mapping[str, str]) -> Chart:
    """Return a chart of upright bars from zero."""
    low, high = min(0.0, *values.values()), max(0.05, *values.values())
    parts = axis(low, high, title)
    step = WIDE / len(values)
    for k, (name, value) in enumerate(values.items()):
        top, end = sorted((height(value, low, high), height(0, low, high)))
        parts.append(
            f'<rect x="{LEFT + k * step + 1.5:.1f}" y="{top:.1f}" width="{step - 3:.1f}" '
            f'height="{max(end - top, 0.8):.1f}" fill="{colours[name]}"/>'
        )
    return Chart(parts=parts, wide=LEFT + WIDE + 18, high=ABOVE + HIGH + BELOW - 26)


def sheet(title: str, rows: Sequence[Sequence[Chart]], key: Mapping[str, str]) -> str:
    """Return a page of charts with a title and a key from words to colours."""
    wide = max(sum(chart.wide for chart in row) for row in rows)
    parts = []
    x, y = 14.0, 38.0
    for name, colour in key.items():
        said = name.removesuffix(" (dashed)")
        needed = 38 + 6.0 * len(said)
        if x > 14 and x + needed > wide:
            x, y = 14.0, y + 16
        parts.append(through([(x, y), (x + 18, y)], colour, 3, dashed=said != name))
        parts.append(words(x + 24, y + 4, said))
        x += needed
    top = y + 14
    for row in rows:
        left = 0.0
        for chart in row:
            parts.append(f'<g transform="translate({left:.1f} {top:.1f})">')
            parts += [*chart.parts, "</g>"]
            left += chart.wide
        top += max(chart.high for chart in row)
    size = f"0 0 {wide:.0f} {top:.0f}"
    style = f'font-family="sans-serif" font-size="11" fill="{INK}"'
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" {style}>',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        words(14, 20, title, bold=True),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])
