"""A result as one self-contained HTML file: no network, no other files. Needs no torch."""

from whence.report.page import (
    render_explanation,
    render_report,
    write_explanation,
    write_report,
)
from whence.report.strip import figure_png

__all__ = [
    "figure_png",
    "render_explanation",
    "render_report",
    "write_explanation",
    "write_report",
]
