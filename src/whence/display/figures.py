"""Figures of maps for papers: images above their maps, methods x images, training features.

Every map is signed and drawn around zero in the colours of
:func:`~whence.display.colour.diverging`: orange speaks for, blue against. What stands side by
side shares one colour scale, whose ends are written at its bar in the map's own unit; the end is
the 99th percentile of the absolute values that share it, and what lies beyond has the last
colour. Maps in different units (of different methods, or of a logit and of an influence) never
share one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from whence.display.canvas import (
    DOUBLE_COLUMN,
    Axes,
    Drawing,
    Plot,
    check_width,
    new_drawing,
    styled,
)
from whence.display.cells import Map, pool_map, stretch_map
from whence.display.figure import Panel
from whence.display.heat import heat_rgba, overlay, symmetric_limit
from whence.display.picture import Picture, grey, shrink
from whence.errors import SettingError, ShapeError

__all__ = ["map_figure", "method_figure", "training_figure"]

OPACITY = 0.85
LARGEST = 480
"""Pixels a side that a picture has in a figure, at most."""

GAP, BAR, LINE, EDGE = 0.05, 0.53, 0.108, 0.02
"""Inches between images, for a colour bar with its numbers, for a line of text, at the edge."""

LOWEST = 0.45
"""Inches that a colour bar needs."""

LETTERS = 19
"""Letters of the small type in an inch."""


def map_figure(
    panels: Sequence[Panel],
    *,
    width: float = DOUBLE_COLUMN,
    columns: int | None = None,
    unit: str = "",
    opacity: float = OPACITY,
) -> Plot:
    """Images above their maps, all maps on one colour scale.

    Args:
        panels: The images with their maps, in one unit.
        width: Inches.
        columns: Images in a row; all of them, up to 8, if not given.
        unit: What the maps add up to, written at the colour bar.
        opacity: How dense the maps are over their grey images, 0 to 1.

    Raises:
        MissingExtra: matplotlib is not installed.
        NumericsError: A map holds NaN or infinity.
        SettingError: There are no panels, or a setting is out of range.
    """
    check_width(width)
    check_some(panels, "panels")
    across = min(len(panels), 8) if columns is None else columns
    if across < 1:
        msg = f"columns needs at least 1; got {columns}."
        raise SettingError(msg)
    limit = limit_of(panels)
    side = (width - BAR - 2 * EDGE - across * GAP) / across
    rows = [panels[at : at + across] for at in range(0, len(panels), across)]
    heights = [pair_height(row, side) for row in rows]
    above = lines_in(rows[0], side) * LINE + EDGE
    with styled():
        page = Page(width, max(sum(heights), above + LOWEST + LINE))
        top = 0.0
        for row, height in zip(rows, heights, strict=True):
            draw_row(page, row, (EDGE, top), side, limit, opacity)
            top += height
        draw_bar(page, (width - BAR, above), heights[0] - above - EDGE, limit, unit)
    return Plot(figure=page.figure)


def method_figure(
    pictures: Sequence[Picture],
    maps: Mapping[str, Sequence[Map]],
    *,
    titles: Sequence[str] = (),
    width: float = DOUBLE_COLUMN,
    opacity: float = OPACITY,
) -> Plot:
    """Methods x images: a row of images, then a row of maps for each method.

    Methods differ in their units, so that each row has its own colour scale and bar; within a
    row all images share it.

    Args:
        pictures: The images, ``(h, w, 3)``.
        maps: For each method its maps ``(h, w)``, one per image.
        titles: A line above each image, such as its class.
        width: Inches.
        opacity: How dense the maps are over their grey images, 0 to 1.

    Raises:
        MissingExtra: matplotlib is not installed.
        NumericsError: A map holds NaN or infinity.
        SettingError: There are no images or methods, or a setting is out of range.
        ShapeError: A method has not one map per image, or there is not one title each.
    """
    check_width(width)
    check_some(pictures, "pictures")
    check_some(maps, "maps")
    counts = {name: len(row) for name, row in maps.items()}
    for name, count in (counts | ({"titles": len(titles)} if titles else {})).items():
        if count != len(pictures):
            msg = f"{len(pictures)} images need one of each, but {name!r} has {count}."
            raise ShapeError(msg)
    margin = LINE + 0.06
    side = (width - BAR - EDGE - margin - len(pictures) * GAP) / len(pictures)
    tall = height_in(pictures, side)
    above = LINE + 0.04 if titles else EDGE
    with styled():
        step = max(tall, LOWEST) + GAP
        page = Page(width, above + tall + GAP + len(maps) * step)
        for at, picture in enumerate(pictures):
            left = margin + at * (side + GAP)
            if titles:
                page.write((left + side / 2, above - 0.04), shortened(titles[at], side))
            draw_picture(page, picture, (left, above), side)
        for row, (name, values) in enumerate(maps.items(), start=1):
            limit = symmetric_limit([pool_map(one) for one in values])
            top = above + tall + GAP + (row - 1) * step
            page.write((LINE / 2, top + tall / 2), shortened(name, tall), turned=True)
            for at, (picture, one) in enumerate(zip(pictures, values, strict=True)):
                left = margin + at * (side + GAP)
                draw_map(page, picture, one, (left, top), side, limit, opacity)
            draw_bar(page, (width - BAR, top), tall, limit, "")
    return Plot(figure=page.figure)


def training_figure(
    query: Panel,
    proponents: Sequence[Panel],
    opponents: Sequence[Panel] = (),
    *,
    width: float = DOUBLE_COLUMN,
    unit: str = "logit",
    training_unit: str = "influence",
    opacity: float = OPACITY,
) -> Plot:
    """A prediction with the training images behind it, each above its map.

    From left to right: the test image, whose map explains the prediction; the proponents, the
    strongest first; the opponents. The maps on training images explain each image's influence on
    this prediction and share one colour scale; the test image's map has its own.

    Args:
        query: The test image with its attribution map.
        proponents: Training images that speak for the prediction, with their training-feature
            maps; ``note`` is their score.
        opponents: Those that speak against it.
        width: Inches.
        unit: What the test image's map adds up to.
        training_unit: What the maps on training images add up to.
        opacity: How dense the maps are over their grey images, 0 to 1.

    Raises:
        MissingExtra: matplotlib is not installed.
        NumericsError: A map holds NaN or infinity.
        SettingError: There are no proponents, or the width is out of range.

    References:
        Bacha and George (2025), "Training Feature Attribution for Vision Models": the layout.
    """
    check_width(width)
    check_some(proponents, "proponents")
    sides = [("speak for it", proponents)] + [("speak against it", opponents)] * bool(opponents)
    training = [one for _, part in sides for one in part]
    own, shared = limit_of([query]), limit_of(training)
    between = 3 * GAP
    side = width - 2 * (BAR + EDGE) - GAP - between * len(sides) - GAP * len(training)
    side /= 1 + len(training)
    lines = lines_in([query, *training], side)
    head, tall = LINE + 0.06, height_in([one.picture for one in (query, *training)], side)
    with styled():
        page = Page(width, head + lines * LINE + tall + max(tall, LOWEST) + 2 * GAP + EDGE)
        below = head + lines * LINE + tall + 2 * GAP
        page.write((EDGE, LINE), "test image", faint=True, flush=True)
        draw_row(page, [query], (EDGE, head), side, own, opacity, like=(lines, tall))
        draw_bar(page, (EDGE + side + GAP, below), tall, own, unit)
        left = EDGE + side + GAP + BAR
        for name, part in sides:
            left += between
            page.write((left, LINE), shortened(name, len(part) * side), faint=True, flush=True)
            draw_row(page, part, (left, head), side, shared, opacity, like=(lines, tall))
            left += len(part) * (side + GAP)
        draw_bar(page, (width - BAR, below), tall, shared, training_unit)
    return Plot(figure=page.figure)


class Page:
    """A page measured in inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure: Drawing = new_drawing(width, height, placed=True)

    def axes(self, place: tuple[float, float], size: tuple[float, float]) -> Axes:
        """Return axes at a place, with a size."""
        (left, top), (wide, high) = place, size
        bottom = self.height - top - high
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, wide / self.width, high / self.height)
        )

    def write(
        self,
        place: tuple[float, float],
        text: str,
        *,
        faint: bool = False,
        flush: bool = False,
        turned: bool = False,
        size: float = 6.5,
    ) -> None:
        """Write a line, centred above a place or flush left; turned, it is centred on it."""
        left, top = place
        self.figure.text(
            left / self.width,
            1 - top / self.height,
            text,
            ha="left" if flush else "center",
            va="center" if turned else "bottom",
            rotation=90 if turned else 0,
            color="0.35" if faint else "black",
            fontsize=size,
        )


def draw_row(
    page: Page,
    panels: Sequence[Panel],
    place: tuple[float, float],
    side: float,
    limit: float,
    opacity: float,
    *,
    like: tuple[int, float] | None = None,
) -> None:
    """Draw images above their maps.

    Args:
        page: Where.
        panels: The images.
        place: The row's upper left corner.
        side: An image's width.
        limit: Where the colours end.
        opacity: How dense the maps are.
        like: Lines of text and height of an image, if other rows stand beside this one.
    """
    lines, tall = like or (
        lines_in(panels, side),
        height_in([one.picture for one in panels], side),
    )
    for at, panel in enumerate(panels):
        left, top = place[0] + at * (side + GAP), place[1]
        told = lines_of(panel, side)
        for number, line in enumerate(told, start=1 + lines - len(told)):
            page.write((left + side / 2, top + number * LINE), line)
        top += lines * LINE + GAP
        draw_picture(page, panel.picture, (left, top), side)
        draw_map(page, panel.picture, panel.values, (left, top + tall + GAP), side, limit, opacity)


def draw_picture(page: Page, picture: Picture, place: tuple[float, float], side: float) -> None:
    """Draw an image; its pixels stay pixels."""
    axes = page.axes(place, (side, height_in([picture], side)))
    axes.imshow(shrink(picture, LARGEST), interpolation="none", aspect="equal")
    framed(axes)


def draw_map(
    page: Page,
    picture: Picture,
    values: Map,
    place: tuple[float, float],
    side: float,
    limit: float,
    opacity: float,
) -> None:
    """Draw a map over its grey image, large maps summed over cells."""
    below = grey(shrink(picture, LARGEST))
    cells = pool_map(values)
    if cells.shape != values.shape:
        cells = stretch_map(cells, *below.shape[:2])
    drawn = overlay(below, cells, limit, opacity=opacity)
    draw_picture(page, drawn, place, side)


def framed(axes: Axes) -> None:
    """Give an image a thin frame and no ticks."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color="0.75", linewidth=0.4)


def draw_bar(
    page: Page, place: tuple[float, float], height: float, limit: float, unit: str
) -> None:
    """Draw the colour scale, its ends in the maps' own unit."""
    low = 0.06 + (LINE if unit else 0)
    high = min(max(height, LOWEST), 1.2) - low - 0.06
    ramp = heat_rgba(np.linspace(1.0, -1.0, 129)[:, None], 1.0)
    share = ramp[..., 3:].astype(np.float64) / 255
    mixed = (share * ramp[..., :3] + (1 - share) * 255).round().astype(np.uint8)
    axes = page.axes((place[0], place[1] + low), (0.07, high))
    axes.imshow(mixed, extent=(0, 1, -1, 1), aspect="auto", interpolation="none")
    axes.set_xticks([])
    axes.spines[["right", "top"]].set_visible(True)
    end = brief(limit)
    axes.set_yticks([-1, 0, 1], [f"\N{MINUS SIGN}{end}", "0", f"+{end}"], fontsize=6)
    axes.yaxis.tick_right()
    axes.tick_params(length=1.5, pad=1.5)
    if unit:
        page.write(
            (place[0], place[1] + LINE), shortened(unit, 0.5), faint=True, flush=True, size=6
        )


def limit_of(panels: Sequence[Panel]) -> float:
    """Return where the colours of maps that share a scale end, as they are drawn."""
    return symmetric_limit([pool_map(one.values) for one in panels])


def pair_height(panels: Sequence[Panel], side: float) -> float:
    """Return the height of a row of images above their maps."""
    tall = height_in([one.picture for one in panels], side)
    return lines_in(panels, side) * LINE + 2 * (tall + GAP) + EDGE + GAP


def height_in(pictures: Sequence[Picture], side: float) -> float:
    """Return the height of the tallest of some images, all equally wide."""
    shares = [float(one.shape[0]) / float(one.shape[1]) for one in pictures]
    return side * min(max(shares), 2.0)


def lines_in(panels: Sequence[Panel], side: float) -> int:
    """Return how many lines of text stand above some images."""
    return max(len(lines_of(one, side)) for one in panels)


def lines_of(panel: Panel, side: float) -> list[str]:
    """Return the text above an image: its title, and its note in at most two lines."""
    note = plain(panel.note)
    parts = [note] if len(note) <= side * LETTERS else note.split(", ", 1)
    return [shortened(line, side) for line in (panel.title, *parts) if line]


def shortened(text: str, inches: float) -> str:
    """Return a line of text, its middle left out where it has no room."""
    text, most = plain(text), max(6, int(inches * LETTERS))
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - end :]}"


def plain(text: str) -> str:
    """Return a text with the spaces that every font has."""
    return " ".join(text.split())


def brief(value: float) -> str:
    """Return a number with two digits, in powers of ten only where it must be."""
    if value and not 1e-3 <= value < 1e4:  # noqa: PLR2004 - what is written out
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}".replace("-", "\N{MINUS SIGN}")
    return f"{float(f'{value:.2g}'):g}"


def check_some(values: Sequence[object] | Mapping[str, object], name: str) -> None:
    """Check that there is something to draw."""
    if not len(values):
        msg = f"A figure needs something to draw, but {name} is empty."
        raise SettingError(msg)
