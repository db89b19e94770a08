"""Records as pages: the template filled in, with style and script inside."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from whence.report.explanation import explanation_views
from whence.report.findings import group_views, harmful_views, removal_view
from whence.report.shell import Bar, render
from whence.report.shots import PERCENTILE, Album
from whence.report.summary import summary_sentences
from whence.report.views import audit_views
from whence.results.check import check_audit, check_explanation
from whence.results.folder import write_whole
from whence.results.records import AuditRecord, ExplanationRecord, ModelCard, RunCard

__all__ = ["render_explanation", "render_report", "write_explanation", "write_report"]


def write_report(record: AuditRecord, path: str | Path) -> None:
    """Write an audit as one HTML file; a file that is there already is replaced.

    Args:
        record: What the audit found.
        path: The file; its folder must exist.

    Raises:
        RecordError: The record is inconsistent.
        OutputError: The file cannot be written.
    """
    write_whole(Path(path), _encoded(render_report(record)))


def write_explanation(record: ExplanationRecord, path: str | Path) -> None:
    """Write an explanation as one HTML file; a file that is there already is replaced.

    Args:
        record: The explained images.
        path: The file; its folder must exist.

    Raises:
        RecordError: The record is inconsistent.
        OutputError: The file cannot be written.
    """
    write_whole(Path(path), _encoded(render_explanation(record)))


def render_report(record: AuditRecord, *, bar: Bar | None = None) -> str:
    """An audit as the text of one HTML page.

    Args:
        record: What the audit found.
        bar: The viewer's links, if it is shown there.

    Raises:
        RecordError: The record is inconsistent.
    """
    check_audit(record)
    queries, regions, suspects = audit_views(record)
    return render(
        "audit.html.j2",
        {
            "record": record,
            "sentences": summary_sentences(record),
            "queries": queries,
            "summed": any(one.cells or one.training_cells for one in queries),
            "regions": regions,
            "suspects": suspects,
            "harmful": harmful_views(record, Album(images=record.training_images)),
            "groups": group_views(record),
            "removal": removal_view(record.removal),
            "wrong": sum(query.verdict == "wrong" for query in queries),
            "labelled": any(query.verdict != "unlabelled" for query in queries),
            "methods": _unmentioned(
                record.run,
                [
                    one.method
                    for query in record.queries
                    for one in (
                        query.attribution,
                        *(influence.map for influence in (*query.proponents, *query.opponents)),
                    )
                ],
            ),
            **_cards(record.model, record.run),
        },
        bar=bar,
    )


def render_explanation(record: ExplanationRecord, *, bar: Bar | None = None) -> str:
    """An explanation as the text of one HTML page.

    Args:
        record: The explained images.
        bar: The viewer's links, if it is shown there.

    Raises:
        RecordError: The record is inconsistent.
    """
    check_explanation(record)
    views = explanation_views(record)
    return render(
        "explanation.html.j2",
        {
            "queries": views,
            "summed": any(one.cells for one in views),
            "methods": _unmentioned(record.run, [one.method for one in record.maps]),
            **_cards(record.model, record.run),
        },
        bar=bar,
    )


def _cards(model: ModelCard, run: RunCard) -> dict[str, Any]:
    return {"model": model, "run": run, "percentile": PERCENTILE}


def _unmentioned(run: RunCard, methods: Iterable[str]) -> list[str]:
    """The methods in full, each once, unless the settings hold them already."""
    return [one for one in dict.fromkeys(methods) if one not in run.settings.values()]


def _encoded(page: str) -> bytes:
    # A file name that is no UTF-8 is shown with its bytes written out.
    return page.encode("utf-8", "backslashreplace")
