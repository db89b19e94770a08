"""What a result folder holds, and how each kind is shown. No address ever names another file."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, final

from whence.errors import RecordError
from whence.report import (
    Bar,
    render_evaluation,
    render_explanation,
    render_report,
    render_transfer,
    render_verify,
)
from whence.results import load_audit, load_explanation, load_transfer
from whence.results.evaluation import load_evaluation
from whence.results.verify import load_verify
from whence.viewer.documents import render_document

__all__ = ["KINDS", "Kind", "kind_of", "page_of"]


@final
@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of result.

    Args:
        name: What it is called.
        file: The file by which a folder is known.
        page: Makes its page.
        files: What else of it can be fetched.
        framed: Whether its page carries the viewer's links.
    """

    name: str
    file: str
    page: Callable[[Path, Bar], str]
    files: tuple[str, ...]
    framed: bool = True


KINDS = (
    Kind(
        name="audit",
        file="audit.json",
        page=lambda folder, bar: render_report(load_audit(folder), bar=bar),
        files=(
            "arrays.npz",
            "influences.csv",
            "suspects.csv",
            "groups.csv",
            "removal.csv",
            "findings.toml",
            "run.toml",
        ),
    ),
    Kind(
        name="explanation",
        file="explanation.json",
        page=lambda folder, bar: render_explanation(load_explanation(folder), bar=bar),
        files=("arrays.npz", "overlay.png"),
    ),
    Kind(
        name="evaluation",
        file="evaluation.json",
        page=lambda folder, _: render_evaluation(load_evaluation(folder)),
        files=("arrays.npz", "values.csv", "table.csv"),
        framed=False,
    ),
    Kind(
        name="transfer",
        file="transfer.json",
        page=lambda folder, _: render_transfer(load_transfer(folder)),
        files=("transfer.csv", "transfer.md", "heat.svg", "heat.png"),
        framed=False,
    ),
    Kind(
        name="verification",
        file="verify.json",
        page=lambda folder, bar: render_verify(load_verify(folder), bar=bar),
        files=("arrays.npz", "verify.csv", "verify.md"),
    ),
    Kind(name="fix", file="fix.json", page=render_document, files=("fit.json",)),
    Kind(name="fit", file="fit.json", page=render_document, files=("report.md",)),
    Kind(name="index", file="manifest.json", page=render_document, files=()),
)
"""The first whose file is there is what a folder holds."""


def kind_of(folder: Path) -> Kind:
    """Return what a folder holds.

    Raises:
        RecordError: It is no folder, or holds no result.
    """
    for kind in KINDS:
        if (folder / kind.file).is_file():
            return kind
    known = ", ".join(kind.file for kind in KINDS)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        msg = f"A folder with a result was needed, but {folder} {what}."
    else:
        msg = f"{folder} holds no result: none of {known} is there."
    raise RecordError(msg)


def page_of(folder: Path, bar: Bar) -> bytes:
    """Return the page of a result, made from its files as they are now.

    Raises:
        RecordError: The result is gone, or cannot be read.
    """
    kind = kind_of(folder)
    names = (kind.file, *kind.files)
    return made(folder, kind.name, bar, tuple(stamp(folder / name) for name in names))


def stamp(path: Path) -> tuple[int, int]:
    """Return what changes whenever a file does."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=2)
def made(folder: Path, name: str, bar: Bar, stamps: tuple[tuple[int, int], ...]) -> bytes:
    """Return the page of a result; changed ``stamps`` make a changed result a new page."""
    del stamps
    kind = next(one for one in KINDS if one.name == name)
    return kind.page(folder, bar).encode("utf-8", "backslashreplace")


def check(folder: Path) -> None:
    """Read a result once, so that what is wrong with it is said before anything is served.

    Raises:
        RecordError: The folder holds no result that can be read.
    """
    kind = kind_of(folder)
    readers: dict[str, Callable[[Path], Any]] = {
        "audit": load_audit,
        "explanation": load_explanation,
        "evaluation": load_evaluation,
        "transfer": load_transfer,
        "verification": load_verify,
    }
    reader = readers.get(kind.name)
    if reader is not None:
        reader(folder)
        return
    try:
        json.loads((folder / kind.file).read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{folder / kind.file} cannot be read: {error}."
        raise RecordError(msg) from error
