"""Results without a page of their own, a training or an index: their JSON as a page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from whence.errors import RecordError
from whence.report import Bar, render
from whence.report.words import setting

__all__ = ["TEMPLATES", "render_document"]

TEMPLATES = Path(__file__).parent / "templates"

FILES = ("fix.json", "fit.json", "manifest.json")
"""Documents that are shown as they are."""

TITLES = {"fit": "Training", "fix": "Fix", "index": "Index of gradients"}

MOST_ROWS = 200
"""Rows of a table that are shown; the file holds all."""


@final
@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a document: facts, or a table.

    Args:
        title: Its name in the document.
        facts: Names and values.
        head: Names of a table's columns.
        rows: Its rows.
        more: How many rows are not shown.
    """

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    more: int = 0


def render_document(folder: Path, bar: Bar) -> str:
    """Return the page of a folder whose result is a JSON document.

    Raises:
        RecordError: The file cannot be read.
    """
    path = next(
        folder / name for name in ("fit.json", "manifest.json") if (folder / name).is_file()
    )
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read: {error}."
        raise RecordError(msg) from error
    if not isinstance(document, dict) or document.get("whence") not in TITLES:
        msg = f"{path} is no result of whence."
        raise RecordError(msg)
    kind = str(document.pop("whence"))
    return render(
        "document.html.j2",
        {
            "kind": TITLES[kind],
            "title": str(document.get("model") or folder.name),
            "file": path.name,
            "notes": tuple(str(note) for note in document.pop("notes", ())),
            "parts": parts_of(document),
        },
        bar=bar,
        folder=TEMPLATES,
    )


def parts_of(document: Mapping[str, Any]) -> tuple[Part, ...]:
    """Return a document's single values first, then its tables and nested values."""
    single = {k: v for k, v in document.items() if not isinstance(v, dict) and not is_table(v)}
    found = [Part(title="", facts=facts_of(single))]
    for name, value in document.items():
        title = name.replace("_", " ")
        if isinstance(value, dict):
            found.append(Part(title=title, facts=facts_of(value)))
        elif is_table(value):
            found.append(table_of(title, value))
    return tuple(part for part in found if part.facts or part.rows)


def is_table(value: Any) -> bool:  # noqa: ANN401 - any JSON
    """Return whether a value is a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def table_of(title: str, rows: list[dict[str, Any]]) -> Part:
    """Return a list of objects as a table."""
    head = tuple(dict.fromkeys(key for row in rows for key in row))
    return Part(
        title=title,
        head=tuple(name.replace("_", " ") for name in head),
        rows=tuple(tuple(written(row.get(name)) for name in head) for row in rows[:MOST_ROWS]),
        more=max(len(rows) - MOST_ROWS, 0),
    )


def facts_of(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return names and values as texts."""
    return tuple((name.replace("_", " "), written(value)) for name, value in values.items())


def written(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Return a value as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and not any(isinstance(v, (dict, list)) for v in value):
        return ", ".join(written(v) for v in value) or "none"
    return setting(value)
