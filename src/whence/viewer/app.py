"""The viewer as an application: its addresses, and how errors become pages."""

from pathlib import Path
from typing import final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from whence.errors import OutputError, RecordError, WhenceError
from whence.report import Bar, figure_png, render
from whence.results import influence_table, load_audit
from whence.results.findings_file import FINDINGS
from whence.viewer.decisions import FindingsDesk
from whence.viewer.desk import Desk
from whence.viewer.documents import TEMPLATES
from whence.viewer.guard import STATIC_POLICY, Guard
from whence.viewer.kinds import kind_of, page_of
from whence.viewer.live import Live
from whence.viewer.sheets import Sheets

__all__ = ["make_app"]

HTML = "text/html; charset=utf-8"
TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".npz": "application/octet-stream",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".toml": "text/plain; charset=utf-8",
}


def make_app(folder: str | Path, live: Live | None = None) -> Guard:
    """Return the application that shows a result folder.

    Args:
        folder: What a command of whence wrote.
        live: Networks with their data, to explain pictures on request; without them the folder
            alone is shown.

    Raises:
        RecordError: The folder holds no result.
    """
    place = Path(folder).resolve()
    kind_of(place)
    bar = BarOf(place, live)
    sheets = Sheets(bar)
    desk = None if live is None else Desk(live, sheets)

    def page(request: Request) -> Response:
        del request
        headers = {} if kind_of(place).framed else {"content-security-policy": STATIC_POLICY}
        return Response(page_of(place, bar("/")), media_type=HTML, headers=headers)

    def figure(request: Request) -> Response:
        if kind_of(place).name != "audit":
            raise HTTPException(404, "Only an audit has figures.")
        record, number = load_audit(place), int(request.path_params["number"])
        if not 1 <= number <= len(record.queries):
            raise HTTPException(404, f"This audit has {len(record.queries)} test images.")
        return Response(figure_png(record, number - 1), media_type="image/png")

    def file(request: Request) -> Response:
        return answer_file(place, request.path_params["name"])

    def failed(request: Request, error: Exception) -> Response:
        return problem(request, error, bar)

    routes = [
        Route("/", page),
        *FindingsDesk(place, sheets).routes,
        *([] if desk is None else desk.routes),
        Route("/figures/image-{number:int}.png", figure),
        Route("/{name}", file),
    ]
    handlers = {HTTPException: failed, WhenceError: failed}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    return Guard(app, nothing if desk is None else desk.work.stop)


def nothing(wait: float) -> None:
    """End nothing: without a network nothing is computed."""
    del wait


@final
class BarOf:
    """The viewer's links."""

    def __init__(self, folder: Path, live: Live | None) -> None:
        self.folder = folder
        self.live = live

    def __call__(self, here: str) -> Bar:
        """Return the links as they stand on one page."""
        links = [("/", kind_of(self.folder).name.capitalize())]
        if (self.folder / FINDINGS).is_file():
            links.append(("/findings", "Findings"))
        if self.live is not None:
            links.append(("/explain", "Explain a picture"))
        return Bar(links=tuple(links), here=here, explains=self.live is not None)


def answer_file(folder: Path, name: str) -> Response:
    """Return one of the files that belong to a result of this kind."""
    kind = kind_of(folder)
    if name not in (kind.file, *kind.files):
        listed = ", ".join(f"/{one}" for one in (kind.file, *kind.files))
        raise HTTPException(404, f"There is nothing here. Try /, {listed}.")
    if name == "influences.csv":
        table = influence_table(load_audit(folder))
        return Response(table.encode("utf-8", "backslashreplace"), media_type=TYPES[".csv"])
    try:
        content = (folder / name).read_bytes()
    except OSError:
        raise HTTPException(404, f"This result has no {name}.") from None
    return Response(
        content,
        media_type=TYPES[Path(name).suffix],
        headers={"content-security-policy": STATIC_POLICY},
    )


def problem(request: Request, error: Exception, bar: BarOf) -> Response:
    """Return an error as a page, or as one line for what is no browser."""
    if isinstance(error, HTTPException):
        status, reason = error.status_code, error.detail
    else:
        status, reason = (500 if isinstance(error, RecordError | OutputError) else 400), str(error)
    if "text/html" not in request.headers.get("accept", ""):
        body = f"{reason}\n".encode("utf-8", "backslashreplace")
        return Response(body, status, media_type="text/plain; charset=utf-8")
    titles = {404: "Nothing here", 405: "Not that way", 413: "Too large", 500: "Unreadable result"}
    try:
        links = bar(request.url.path)
    except RecordError:
        links = Bar(links=(), here="")
    page = render(
        "problem.html.j2",
        {
            "status": status,
            "title": titles.get(status, "That did not work"),
            "reason": reason,
            "back": "/",
        },
        bar=links,
        folder=TEMPLATES,
    )
    return Response(page.encode("utf-8", "backslashreplace"), status, media_type=HTML)
