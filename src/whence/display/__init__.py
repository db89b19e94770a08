"""Colour maps, overlays, pictures and figures, from plain arrays. Needs no torch."""

from whence.display.canvas import DOUBLE_COLUMN, SINGLE_COLUMN, Plot
from whence.display.cells import cell_size, pool_map, stretch_map
from whence.display.colour import diverging
from whence.display.figure import Panel, figure_of_query
from whence.display.figures import map_figure, method_figure, training_figure
from whence.display.heat import heat_png, heat_rgba, overlay, scale_png, symmetric_limit
from whence.display.notebook import Html, card, facts, note, strip, table, verbatim
from whence.display.picture import (
    data_uri,
    enlarge,
    grey,
    is_pixel_art,
    jpeg_bytes,
    picture_uri,
    png_bytes,
    shrink,
)
from whence.display.plots import Change, Curve, change_figure, curve_figure, rank_figure

__all__ = [
    "DOUBLE_COLUMN",
    "SINGLE_COLUMN",
    "Change",
    "Curve",
    "Html",
    "Panel",
    "Plot",
    "card",
    "cell_size",
    "change_figure",
    "curve_figure",
    "data_uri",
    "diverging",
    "enlarge",
    "facts",
    "figure_of_query",
    "grey",
    "heat_png",
    "heat_rgba",
    "is_pixel_art",
    "jpeg_bytes",
    "map_figure",
    "method_figure",
    "note",
    "overlay",
    "picture_uri",
    "png_bytes",
    "pool_map",
    "rank_figure",
    "scale_png",
    "shrink",
    "stretch_map",
    "strip",
    "symmetric_limit",
    "table",
    "training_figure",
    "verbatim",
]
