"""A result as one self-contained HTML file: no network, no other files. Needs no torch."""

from whence.report.compare import compared_views, trace_view
from whence.report.evaluation import render_evaluation, write_evaluation
from whence.report.page import (
    render_explanation,
    render_report,
    write_explanation,
    write_report,
)
from whence.report.shell import Bar, page_policy, render
from whence.report.shots import mask_uri
from whence.report.strip import figure_png
from whence.report.transfer import render_transfer, write_transfer
from whence.report.verify import render_verify, write_verify

__all__ = [
    "Bar",
    "compared_views",
    "figure_png",
    "mask_uri",
    "page_policy",
    "render",
    "render_evaluation",
    "render_explanation",
    "render_report",
    "render_transfer",
    "render_verify",
    "trace_view",
    "write_evaluation",
    "write_explanation",
    "write_report",
    "write_transfer",
    "write_verify",
]
