"""One prediction as a strip of pictures, for a README, a slide or a paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from whence.display.colour import diverging
from whence.display.heat import overlay, symmetric_limit
from whence.display.picture import enlarge, is_pixel_art

__all__ = ["Panel", "figure_of_query"]

Picture = NDArray[np.uint8]
Map = NDArray[np.floating[Any]]

_TILE, _GAP, _MARGIN, _TEXT = 176, 14, 28, 15
_INK, _FAINT, _PAPER = (28, 32, 38), (98, 106, 117), (255, 255, 255)
_LINE = 21
_OPACITY = 0.9


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
    """A strip ``(h, w, 3)``: the test image, its map, then training images with theirs.

    The test image's map has its own colour scale; the training images share one, so their
    maps can be compared. Save it with :func:`~whence.display.picture.png_bytes`.

    Args:
        query: The test image with its attribution map.
        training: Training images with their training-feature maps, the strongest first.
        opacity: How dense the maps are, 0 to 1.
    """
    own = symmetric_limit([query.values])
    shared = symmetric_limit([panel.values for panel in training])
    tiles = [
        (query.picture, query.title, query.note),
        (overlay(query.picture, query.values, own, opacity=opacity), "which pixels", _range(own)),
    ]
    tiles += [
        (overlay(panel.picture, panel.values, shared, opacity=opacity), panel.title, panel.note)
        for panel in training
    ]
    split = 2 if training else 0
    width = 2 * _MARGIN + len(tiles) * (_TILE + _GAP) - _GAP + (_MARGIN if split else 0)
    height = 2 * _MARGIN + _LINE + 8 + _TILE + 8 + 2 * _LINE + _LINE + 8
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    top = _MARGIN + _LINE + 8
    for at, (picture, title, note) in enumerate(tiles):
        left = _MARGIN + at * (_TILE + _GAP) + (_MARGIN if split and at >= split else 0)
        canvas.paste(_tile(picture), (left, top))
        _write(draw, (left, top + _TILE + 8), title, _INK)
        _write(draw, (left, top + _TILE + 8 + _LINE), note, _FAINT)
    _write(draw, (_MARGIN, _MARGIN - 4), "test image", _FAINT, wide=2 * _TILE)
    if split:
        right = _MARGIN * 2 + split * (_TILE + _GAP)
        _write(draw, (right, _MARGIN - 4), "training images behind it", _FAINT, wide=2 * _TILE)
        _draw_scale(canvas, draw, right, height - _MARGIN - 12, shared)
    return np.asarray(canvas)


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
    font = ImageFont.load_default(_TEXT)
    kept, shown = len(text), text
    while kept > 1 and draw.textlength(shown, font=font) > wide:
        kept -= 1
        shown = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    draw.text(place, shown, fill=ink, font=font)


def _draw_scale(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, limit: float
) -> None:
    ramp = diverging(np.linspace(-1.0, 1.0, _TILE))[None].repeat(10, axis=0)
    canvas.paste(Image.fromarray(ramp), (left, top))
    note = f"against  to  for the prediction, {_range(limit)}"
    _write(draw, (left + _TILE + _GAP, top - 5), note, _FAINT, wide=4 * _TILE)


def _range(limit: float) -> str:
    return f"±{limit:.2g}"
