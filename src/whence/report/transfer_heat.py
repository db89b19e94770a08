"""The cube as a heat map: rows are generating networks, columns are the networks that look."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from typing import Literal, final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from whence.display import diverging
from whence.results.transfer import IntervalRecord, TransferRecord

__all__ = ["heat_png", "heat_svg"]

CELL, ROW, LABEL, GAP, MARGIN = 62, 30, 96, 34, 22
INK, FAINT, PAPER, EMPTY = "#1c2026", "#626a75", "#ffffff", "#eef0f2"
SIZE, SMALL = 12, 11
SHARPEST = 2
"""Pixels of the PNG for each unit of the drawing."""

Anchor = Literal["start", "middle", "end"]


@final
@dataclass(frozen=True, kw_only=True)
class Box:
    """A coloured rectangle."""

    left: float
    top: float
    width: float
    height: float
    colour: str


@final
@dataclass(frozen=True, kw_only=True)
class Words:
    """A line of text; ``top`` is the middle of its height."""

    left: float
    top: float
    text: str
    anchor: Anchor = "start"
    colour: str = INK
    size: int = SIZE


@final
@dataclass(kw_only=True)
class Drawing:
    """Rectangles and words, and how large all of it is."""

    boxes: list[Box] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def colour_of(value: float) -> str:
    """Return the colour of a value from -1 to 1, or of none."""
    if math.isnan(value):
        return EMPTY
    red, green, blue = (int(part) for part in diverging(np.array([value]))[0])
    return f"#{red:02x}{green:02x}{blue:02x}"


def drawn(record: TransferRecord) -> Drawing:
    """Return the drawing: for each kind of mask, accuracy and what it gains over shuffled masks."""
    drawing = Drawing()
    fill = record.fills[0]
    key = (
        f"Rows: whose maps. Columns: who looks. Fill: {fill}.",
        "In brackets: the interval holds 0.",
    )
    for line, text in enumerate(key):
        place = MARGIN + 8 + 18 * line
        drawing.words.append(Words(left=MARGIN, top=place, text=text, colour=FAINT, size=SMALL))
    top = float(MARGIN + 54)
    for mask in record.masks:
        for title, gains in (
            (f"Accuracy on {mask} features, per cent", False),
            ("less that behind masks of other images, points", True),
        ):
            drawing.words.append(Words(left=MARGIN, top=top + 8, text=title))
            top = panels(drawing, record, mask, fill, top + 26, gains=gains)
    drawing.height = top
    return drawing


def panels(  # the axes of the cube
    drawing: Drawing, record: TransferRecord, mask: str, fill: str, top: float, *, gains: bool
) -> float:
    """Draw one panel for each method side by side; return where the next row begins."""
    names = [network.name for network in record.networks]
    wide = LABEL + CELL * len(names)
    for number, method in enumerate(record.methods):
        left = MARGIN + number * (wide + GAP)
        drawing.words.append(
            Words(left=left + LABEL, top=top + 8, text=method.name, colour=FAINT, size=SMALL)
        )
        for column, name in enumerate(names):
            middle = left + LABEL + CELL * (column + 0.5)
            drawing.words.append(
                Words(left=middle, top=top + 28, text=short(name), anchor="middle", size=SMALL)
            )
        lines = list(rows_of(record, method.name, mask, fill, gains=gains))
        for line, (name, values) in enumerate(lines):
            y = top + 40 + ROW * line
            drawing.words.append(
                Words(left=left + LABEL - 8, top=y + ROW / 2, text=short(name), anchor="end")
            )
            for column, value in enumerate(values):
                cell(drawing, left + LABEL + CELL * column, y, value, gains=gains)
        drawing.width = max(drawing.width, left + wide + MARGIN)
    return top + 40 + ROW * (len(names) + (0 if gains else 2)) + GAP


def rows_of(
    record: TransferRecord, method: str, mask: str, fill: str, *, gains: bool
) -> Iterator[tuple[str, list[IntervalRecord | None]]]:
    """Yield the name and the cells of each row: images, each generator, the shuffled masks."""
    names = [network.name for network in record.networks]
    if not gains:
        plain = [record.row(name, "original") for name in names]
        yield "image", [None if row is None else row.accuracy for row in plain]
    for generator in names:
        found = [
            record.row(name, "features", generator=generator, method=method, mask=mask, fill=fill)
            for name in names
        ]
        if gains:
            yield generator, [None if row is None else row.advantage for row in found]
        else:
            yield generator, [None if row is None else row.accuracy for row in found]
    if not gains:
        yield "shuffled", [shuffled(record, name, method, mask, fill) for name in names]


def shuffled(
    record: TransferRecord, evaluator: str, method: str, mask: str, fill: str
) -> IntervalRecord | None:
    """Return the mean over generators of the accuracy behind masks of other images."""
    wanted = (evaluator, method, "shuffled", mask, fill)
    found = [
        row.accuracy.value
        for row in record.rows
        if (row.evaluator, row.method, row.shown, row.mask, row.fill) == wanted
    ]
    if not found:
        return None
    mean = sum(found) / len(found)
    return IntervalRecord(value=mean, low=mean, high=mean)


def cell(
    drawing: Drawing, left: float, top: float, value: IntervalRecord | None, *, gains: bool
) -> None:
    """Draw one cell; a gain whose interval holds 0 is in brackets."""
    number = math.nan if value is None else value.value
    drawing.boxes.append(
        Box(
            left=left,
            top=top,
            width=CELL - 2,
            height=ROW - 2,
            colour=colour_of(number),
        )
    )
    if value is None or math.isnan(number):
        text = "-"
    elif not gains:
        text = f"{100 * number:.0f}"
    else:
        text = f"{100 * number:+.0f}"
        text = text if value.low > 0 or value.high < 0 else f"({text})"
    drawing.words.append(
        Words(left=left + CELL / 2 - 1, top=top + ROW / 2 - 1, text=text, anchor="middle")
    )


def short(name: str) -> str:
    """Return a name that fits a cell's column."""
    return name if len(name) <= 11 else f"{name[:10]}…"  # noqa: PLR2004 - what fits


def heat_svg(record: TransferRecord) -> str:
    """Return the heat map as an SVG file; a gain whose interval holds 0 is in brackets."""
    drawing = drawn(record)
    box = f'viewBox="0 0 {drawing.width:g} {drawing.height:g}"'
    size = f'width="{drawing.width:g}" height="{drawing.height:g}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} {size} font-family="sans-serif">',
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
    ]
    parts += [
        f'<rect x="{one.left:g}" y="{one.top:g}" width="{one.width:g}" height="{one.height:g}" '
        f'rx="3" fill="{one.colour}"/>'
        for one in drawing.boxes
    ]
    parts += [
        f'<text x="{one.left:g}" y="{one.top + 0.35 * one.size:g}" font-size="{one.size}" '
        f'fill="{one.colour}" text-anchor="{one.anchor}">{escape(one.text)}</text>'
        for one in drawing.words
    ]
    return "\n".join([*parts, "</svg>", ""])


def heat_png(record: TransferRecord) -> bytes:
    """Return the heat map as a PNG file."""
    drawing = drawn(record)
    size = (round(SHARPEST * drawing.width), round(SHARPEST * drawing.height))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for one in drawing.boxes:
        left, top = SHARPEST * one.left, SHARPEST * one.top
        corner = (left + SHARPEST * one.width, top + SHARPEST * one.height)
        draw.rounded_rectangle((left, top, *corner), radius=3 * SHARPEST, fill=one.colour)
    anchors = {"start": "lm", "middle": "mm", "end": "rm"}
    for word in drawing.words:
        draw.text(
            (SHARPEST * word.left, SHARPEST * word.top),
            word.text,
            fill=word.colour,
            font=ImageFont.load_default(SHARPEST * word.size),
            anchor=anchors[word.anchor],
        )
    content = io.BytesIO()
    canvas.save(content, "PNG", optimize=True)
    return content.getvalue()
