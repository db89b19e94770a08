"""Colour maps, overlays, pictures and figures, from plain arrays. Needs no torch."""

from whence.display.colour import diverging
from whence.display.figure import Panel, figure_of_query
from whence.display.heat import heat_png, heat_rgba, overlay, scale_png, symmetric_limit
from whence.display.picture import (
    data_uri,
    enlarge,
    grey,
    is_pixel_art,
    jpeg_bytes,
    picture_uri,
    png_bytes,
    shrink,
    shrink_map,
)

__all__ = [
    "Panel",
    "data_uri",
    "diverging",
    "enlarge",
    "figure_of_query",
    "grey",
    "heat_png",
    "heat_rgba",
    "is_pixel_art",
    "jpeg_bytes",
    "overlay",
    "picture_uri",
    "png_bytes",
    "scale_png",
    "shrink",
    "shrink_map",
    "symmetric_limit",
]
