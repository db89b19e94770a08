"""A result as one self-contained HTML file: no network, no other files. Needs no torch."""

from whence.report.page import (
    render_explanation,
    render_report,
    write_explanation,
    write_report,
)

__all__ = ["render_explanation", "render_report", "write_explanation", "write_report"]
