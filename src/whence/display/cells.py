"""Large maps summed over cells, so that they can be seen.

On a photograph a map has one value per pixel, and its neighbours often have opposite signs:
drawn as they are they turn into dots too small to see. Their sums over cells stay visible, and
they still add up to the same total.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["cell_size", "pool_map", "stretch_map"]

Map = NDArray[np.floating[Any]]

_LARGEST = 64
"""Maps up to this many pixels a side are shown pixel by pixel."""

_CELLS = 32
"""A larger map is summed over cells, at most so many a side."""


def pool_map(values: Map) -> Map:
    r"""The map as it is drawn: pixel by pixel, or summed over cells where it is large.

    .. math:: c_{ij} = \sum_{yx} A_{iy}\, v_{yx}\, B_{jx}

    with the share of row ``y`` that lies in cell row ``i`` in ``A``, and the same for columns
    in ``B``. Every pixel belongs to cells with weights that add up to 1, so the total stays.

    Args:
        values: ``(h, w)``. With at most 64 pixels a side it is returned as it is; otherwise
            its longest side gets at most 32 cells, as square as the sides allow.
    """
    height, width = values.shape
    longest = max(height, width)
    if longest <= _LARGEST:
        return values
    side = math.ceil(longest / _CELLS)
    rows = _shares(max(round(height / side), 1), height)
    columns = _shares(max(round(width / side), 1), width)
    cells: Map = rows @ np.asarray(values, dtype=np.float64) @ columns.T
    return cells


def cell_size(values: Map) -> tuple[float, float]:
    """Height and width in pixels of the cells that a map is summed over; (1, 1) if it is not."""
    cells = pool_map(values)
    return values.shape[0] / cells.shape[0], values.shape[1] / cells.shape[1]


def stretch_map(cells: Map, height: int, width: int) -> Map:
    """A map of cells with a value per pixel between them, never beyond its neighbours.

    Args:
        cells: ``(h, w)``, from :func:`pool_map`.
        height: Of the result, in pixels.
        width: Of the result, in pixels.
    """
    image = Image.fromarray(np.asarray(cells, dtype=np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def _shares(cells: int, pixels: int) -> NDArray[np.float64]:
    """How much of each pixel lies in each of the equal cells, ``(cells, pixels)``."""
    edges = np.linspace(0.0, pixels, cells + 1)[:, None]
    pixel = np.arange(pixels)[None, :]
    shared: NDArray[np.float64] = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return np.clip(shared, 0.0, 1.0)
