"""Signed maps as colours that let the picture below show through.

A limit says where the colours end; it is symmetric, so zero is always the neutral colour, and it
is written beside the map. Maps that are meant to be compared share one limit.
"""

import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from whence.display.colour import diverging
from whence.errors import NumericsError, SettingError

__all__ = ["heat_png", "heat_rgba", "overlay", "scale_png", "symmetric_limit"]

Map = NDArray[np.floating[Any]]
Picture = NDArray[np.uint8]

_STEPS = 127
"""Shades on each side of zero; a map's pixel is one byte."""

_DENSEST = 0.94
_FADE = 0.75
"""Opacity is ``_DENSEST * strength ** _FADE``: weak values leave the picture nearly untouched."""


def symmetric_limit(values: Iterable[Map], percentile: float = 99) -> float:
    """The value at which the colours of a group of maps end, on both sides of zero.

    It is the percentile of the absolute values of all maps together, so that a few extreme
    pixels do not turn the rest white; what lies beyond is drawn in the last colour.

    Args:
        values: The maps that share the scale, each ``(h, w)``.
        percentile: In (0, 100]; 100 is the largest absolute value.

    Returns:
        The limit, in the maps' own unit; 0 if every value is 0.

    Raises:
        SettingError: The percentile lies outside its range.
        NumericsError: A map holds NaN or infinity.
    """
    if not 0 < percentile <= 100:  # noqa: PLR2004 - per cent
        msg = f"percentile needs a number in (0, 100], but got {percentile}."
        raise SettingError(msg)
    sizes = [np.abs(one).ravel() for one in values]
    every = np.concatenate(sizes) if sizes else np.zeros(1)
    if not every.size:
        return 0.0
    if not np.isfinite(every).all():
        msg = "A colour scale needs finite values, but a map holds NaN or infinity."
        raise NumericsError(msg)
    limit = float(np.percentile(every, percentile))
    # A map of a few pixels among zeros has a percentile of 0; its largest value is its scale.
    return limit if limit > 0 else float(every.max())


def heat_rgba(values: Map, limit: float) -> NDArray[np.uint8]:
    """Colours with opacity ``(h, w, 4)`` to lay over a picture.

    Args:
        values: ``(h, w)``, signed, in any unit.
        limit: The value of the strongest colour; see :func:`symmetric_limit`. At 0 all is clear.
    """
    return _palette()[_levels(values, limit)]


def heat_png(values: Map, limit: float) -> bytes:
    """The same as :func:`heat_rgba` as a PNG file of one byte per pixel."""
    colours = _palette()
    image = Image.fromarray(_levels(values, limit), mode=None).convert("P")
    image.putpalette(colours[:, :3].tobytes(), "RGB")
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True, transparency=colours[:, 3].tobytes())
    return content.getvalue()


def scale_png() -> bytes:
    """The colour scale itself, from the negative limit on the left to the positive one."""
    return heat_png(np.linspace(-1.0, 1.0, 2 * _STEPS + 1)[None, :], 1.0)


def overlay(picture: Picture, values: Map, limit: float, *, opacity: float = 1.0) -> Picture:
    """A picture ``(h, w, 3)`` with its map ``(h, w)`` laid over it.

    Args:
        picture: The picture; a map of another size is brought to its size, pixel by pixel.
        values: The signed map.
        limit: The value of the strongest colour.
        opacity: 0 shows the picture alone, 1 the map as dense as it gets.

    Raises:
        SettingError: The opacity lies outside [0, 1].
    """
    if not 0 <= opacity <= 1:
        msg = f"opacity needs a number in [0, 1], but got {opacity}."
        raise SettingError(msg)
    heat = heat_rgba(values, limit)
    height, width = picture.shape[:2]
    if heat.shape[:2] != (height, width):
        resized = Image.fromarray(heat).resize((width, height), Image.Resampling.NEAREST)
        heat = np.asarray(resized)
    share = heat[..., 3:].astype(np.float64) / 255 * opacity
    mixed = share * heat[..., :3] + (1 - share) * picture
    return np.round(mixed).astype(np.uint8)


def _levels(values: Map, limit: float) -> NDArray[np.uint8]:
    """The palette's entry of each value; the middle one, 127, is zero."""
    if limit <= 0:
        return np.full(values.shape, _STEPS, dtype=np.uint8)
    strength = np.clip(np.asarray(values, dtype=np.float64), -limit, limit) / limit
    return (np.round(strength * _STEPS) + _STEPS).astype(np.uint8)


def _palette() -> NDArray[np.uint8]:
    strength = np.linspace(-1.0, 1.0, 2 * _STEPS + 1)
    opacity = np.round(255 * _DENSEST * np.abs(strength) ** _FADE).astype(np.uint8)
    return np.concatenate([diverging(strength), opacity[:, None]], axis=1)
