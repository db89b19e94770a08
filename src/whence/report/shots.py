"""Pictures with their maps as layers, ready for the template."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.display import (
    cell_size,
    data_uri,
    heat_png,
    is_pixel_art,
    picture_uri,
    png_bytes,
    pool_map,
    symmetric_limit,
)
from whence.report.words import cells, number
from whence.results.records import TrainingImage

__all__ = [
    "PERCENTILE",
    "Album",
    "Box",
    "Heat",
    "Shot",
    "cells_of",
    "drawn",
    "end_of",
    "limit_of",
    "mask_uri",
    "shot_of",
]

_CARD = 192
"""Longest side in pixels of a training image."""

_MASK = (255, 0, 170, 150)
"""Red, green, blue and opacity of a mask."""

PERCENTILE = 99
"""Where the colour scales end; the report says so."""

Map = NDArray[np.floating[Any]]
Box = tuple[int, int, int, int]


@final
@dataclass(frozen=True, kw_only=True)
class Heat:
    """A map as pictures that are clear where it is zero.

    Args:
        own: On its own colour scale.
        end: Where that scale ends, as text; empty if the map is zero everywhere.
        shared: On the scale that it shares with others, if it does.
        shared_end: Where that one ends.
        smooth: Whether it is drawn smoothly, being summed over cells.
        limit: Where its own scale ends, as a number.
        shared_limit: Where the shared one ends.
    """

    own: str
    end: str
    shared: str = ""
    shared_end: str = ""
    smooth: bool = False
    limit: float = 0.0
    shared_limit: float = 0.0


@final
@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with its map, and boxes in units of the picture's pixels."""

    picture: str
    width: int
    height: int
    pixelated: bool
    heat: Heat | None = None
    boxes: tuple[Box, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class Album:
    """Training images as URIs, each made once for the whole page."""

    images: Mapping[int, TrainingImage]
    made: dict[int, str] = field(default_factory=dict)

    def shot(self, index: int, heat: Heat | None = None, box: Box | None = None) -> Shot:
        """A training image with its map, if any, and a box, if any."""
        picture = self.images[index].picture
        if index not in self.made:
            self.made[index] = picture_uri(picture, _CARD)
        return shot_of(picture, self.made[index], heat, () if box is None else (box,))


def shot_of(
    picture: NDArray[np.uint8], uri: str, heat: Heat | None = None, boxes: tuple[Box, ...] = ()
) -> Shot:
    """A picture, which ``uri`` shows, with its map."""
    height, width = picture.shape[:2]
    return Shot(
        picture=uri,
        heat=heat,
        width=width,
        height=height,
        pixelated=is_pixel_art(picture),
        boxes=boxes,
    )


def limit_of(maps: Iterable[Map]) -> float:
    """Where the colour scale ends that these maps share, as they are drawn."""
    return symmetric_limit([pool_map(one) for one in maps], PERCENTILE)


def drawn(values: Map, shared: float | None = None) -> Heat:
    """A map on its own colour scale and, if it is given, on the shared one that ends there."""
    layer, own = pool_map(values), limit_of([values])
    return Heat(
        own=data_uri(heat_png(layer, own)),
        end=end_of(own),
        shared="" if shared is None else data_uri(heat_png(layer, shared)),
        shared_end="" if shared is None else end_of(shared),
        smooth=layer.shape != values.shape,
        limit=own,
        shared_limit=shared or 0.0,
    )


def cells_of(maps: Iterable[Map]) -> str:
    """What one value of these maps is, where it is not one pixel: ``cells of ... pixels``."""
    return " or ".join(sorted({cells(*cell_size(one)) for one in maps} - {""}))


def end_of(limit: float) -> str:
    """The end of a colour scale as text; empty where there is nothing to scale."""
    return number(limit, 2) if limit > 0 else ""


def mask_uri(mask: NDArray[np.uint8]) -> str:
    """A mask ``(h, w)`` as a layer: clear outside, in the colour of marks where it is set."""
    layer = np.zeros((*mask.shape, 4), dtype=np.uint8)
    layer[mask > 0] = _MASK
    return data_uri(png_bytes(layer))
