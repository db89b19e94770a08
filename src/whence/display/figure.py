"""One prediction as a strip of pictures, for a README, a slide or a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from whence.display.cells import pool_map, stretch_map
from whence.display.colour import diverging
from whence.display.heat import overlay, symmetric_limit
from whence.display.picture import enlarge, grey, is_pixel_art

__all__ = ["Panel", "figure_of_query"]

Picture = NDArray[np.uint8]
Map = NDArray[np.floating[Any]]

_TILE, _GAP, _MARGIN, _TEXT = 176, 14, 28, 15
_INK, _FAINT, _PAPER = (28, 32, 38), (98, 106, 117), (255, 255, 255)
_LINE = 21
_TOP = _MARGIN + _LINE + 8
_TEXT_TOP = _TOP + 2 * _TILE + 16
_HEIGHT = _TEXT_TOP + 3 * _LINE + 25 + _MARGIN
_OPACITY = 0.85


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """One picture of a figure.

    Args:
        picture: ``(h, w, 3)``.
        values: Its signed map ``(h, w)``.
        title: The line below it, such as a class.
        note: The fainter line below that, such as a score.
    """

    picture: Picture
    values: Map
    title: str
    note: str = ""


def figure_of_query(
    query: Panel, training: Sequence[Panel], *, opacity: float = _OPACITY
) -> Picture:
    """A figure ``(h, w, 3)``: pictures above, their maps below, the test image on the left.

    Each map has its own colour scale, whose end is written below it. Below a map its picture is
    grey; a large map is summed over cells, see :func:`~whence.display.cells.pool_map`. Save the
    figure with :func:`~whence.display.picture.png_bytes`.

    Args:
        query: The test image with its attribution map.
        training: Training images with their training-feature maps, the strongest first.
        opacity: How dense the maps are, 0 to 1.
    """
    step = _TILE + _GAP
    width = 2 * _MARGIN + (1 + len(training)) * step - _GAP + (_MARGIN if training else 0)
    canvas = Image.new("RGB", (width, _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _write(draw, (_MARGIN, _MARGIN), "test image", _FAINT)
    _draw_column(canvas, draw, _MARGIN, query, opacity)
    if training:
        first = 2 * _MARGIN + step
        _write(draw, (first, _MARGIN), "training images behind it", _FAINT, wide=width - first)
        for at, panel in enumerate(training):
            _draw_column(canvas, draw, first + at * step, panel, opacity)
    return np.asarray(canvas)


def _draw_column(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, left: int, panel: Panel, opacity: float
) -> None:
    cells = pool_map(panel.values)
    limit = symmetric_limit([cells])
    canvas.paste(_tile(panel.picture), (left, _TOP))
    canvas.paste(_tile(_mapped(panel, cells, limit, opacity)), (left, _TOP + _TILE + 8))
    _write(draw, (left, _TEXT_TOP), panel.title, _INK)
    _write(draw, (left, _TEXT_TOP + _LINE), panel.note, _FAINT)
    _draw_scale(canvas, draw, left, limit)


def _mapped(panel: Panel, cells: Map, limit: float, opacity: float) -> Picture:
    """The picture in grey below its map, which is drawn smoothly if it was summed over cells."""
    below = grey(panel.picture)
    if cells.shape != panel.values.shape:
        cells = stretch_map(cells, *below.shape[:2])
    return overlay(below, cells, limit, opacity=opacity)


def _tile(picture: Picture) -> Image.Image:
    """The picture, centred in a square tile."""
    if is_pixel_art(picture):
        picture = enlarge(picture, _TILE)
    image = Image.fromarray(picture)
    scale = _TILE / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    image = image.resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (_TILE, _TILE), _PAPER)
    square.paste(image, ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    return square


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    ink: tuple[int, int, int],
    *,
    wide: int = _TILE,
) -> None:
    """Write one line, shortened in its middle where it is too wide."""
    text = text.replace("\N{NARROW NO-BREAK SPACE}", " ")  # the font has none
    font = ImageFont.load_default(_TEXT)
    kept, shown = len(text), text
    while kept > 1 and draw.textlength(shown, font=font) > wide:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    draw.text(place, shown, fill=ink, font=font)


def _draw_scale(canvas: Image.Image, draw: ImageDraw.ImageDraw, left: int, limit: float) -> None:
    ramp = diverging(np.linspace(-1.0, 1.0, _TILE))[None].repeat(8, axis=0)
    top = _TEXT_TOP + 2 * _LINE + 14
    canvas.paste(Image.fromarray(ramp), (left, top))
    _write(draw, (left, top + 11), f"against, for: \N{PLUS-MINUS SIGN}{limit:.2g}", _FAINT)
