"""What each address of the viewer answers. The list is closed: no path ever names a file."""

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from whence.errors import OutputError, RecordError
from whence.report import render_explanation, render_report
from whence.results import influence_table, load_audit, load_explanation

__all__ = ["Answer", "get"]

_HTML = "text/html; charset=utf-8"
_JSON = "application/json; charset=utf-8"
_CSV = "text/csv; charset=utf-8"
_TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """A status code, the type of the content, and the content."""

    status: int
    content_type: str
    body: bytes


def get(folder: str | Path, path: str) -> Answer:
    """What the viewer answers to ``GET path``, without a server.

    The page is made from ``audit.json`` and ``arrays.npz`` as they are now, not from a report
    that was written earlier.

    Args:
        folder: A folder that :func:`~whence.results.save_audit` or
            :func:`~whence.results.save_explanation` wrote.
        path: ``/``, ``/audit.json``, ``/explanation.json`` or ``/influences.csv``; a query
            string is ignored. Anything else is answered with 404, a result that cannot be
            read with 500 and the reason.
    """
    address = path.partition("?")[0]
    place = Path(folder)
    try:
        match address:
            case "/":
                return Answer(200, _HTML, _page(place, _stamp(place)))
            case "/audit.json":
                return _file(place / "audit.json", _JSON)
            case "/explanation.json":
                return _file(place / "explanation.json", _JSON)
            case "/influences.csv" if (place / "audit.json").exists():
                table = influence_table(load_audit(place))
                return Answer(200, _CSV, table.encode("utf-8", "backslashreplace"))
    except (RecordError, OutputError) as error:
        return Answer(500, _TEXT, str(error).encode("utf-8", "backslashreplace"))
    return Answer(404, _TEXT, b"There is nothing here. Try /, /audit.json or /influences.csv.\n")


def _file(path: Path, content_type: str) -> Answer:
    try:
        return Answer(200, content_type, path.read_bytes())
    except OSError:
        return Answer(404, _TEXT, f"This result has no {path.name}.\n".encode())


def _stamp(folder: Path) -> tuple[tuple[int, int], ...]:
    """Changes whenever a file of the result does."""
    found = []
    for name in ("audit.json", "explanation.json", "arrays.npz"):
        try:
            status = (folder / name).stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


@lru_cache(maxsize=2)
def _page(folder: Path, stamp: tuple[tuple[int, int], ...]) -> bytes:
    """The page of a result; ``stamp`` makes a changed result a new page."""
    del stamp
    if (folder / "explanation.json").exists() and not (folder / "audit.json").exists():
        page = render_explanation(load_explanation(folder))
    else:
        page = render_report(load_audit(folder))
    return page.encode("utf-8", "backslashreplace")
