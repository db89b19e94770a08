"""One page of the viewer without a server: what ``whence view --get`` prints."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from starlette.types import ASGIApp, Message

from whence.viewer.app import make_app
from whence.viewer.guard import HOST
from whence.viewer.live import Live

__all__ = ["Answer", "asked", "get"]

PORT = 80


class Answer(NamedTuple):
    """A status code, the type of the content, and the content."""

    status: int
    content_type: str
    body: bytes


def get(folder: str | Path, path: str, live: Live | None = None) -> Answer:
    """What the viewer answers to ``GET path``, without a server.

    The page is made from the result's files as they are now, not from a report that was written
    earlier.

    Args:
        folder: What a command of whence wrote.
        path: ``/``, or the name of one of the result's files, such as ``/audit.json`` or
            ``/influences.csv``. Anything else is answered with 404, a result that cannot be read
            with 500 and the reason.
        live: Networks with their data, for the pages that explain.

    Raises:
        RecordError: The folder holds no result.
    """
    app = make_app(folder, live)
    with ThreadPoolExecutor(1) as pool:  # a notebook's own thread has a running loop already
        return pool.submit(lambda: asyncio.run(asked(app, path))).result()


async def asked(app: ASGIApp, path: str) -> Answer:
    """Ask an application for one page, in this process."""
    address, _, query = path.partition("?")
    status, kind, body = 500, "", bytearray()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status, kind
        if message["type"] == "http.response.start":
            status = message["status"]
            kind = dict(message["headers"]).get(b"content-type", b"").decode("latin-1")
        else:
            body.extend(message.get("body", b""))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": address,
        "raw_path": address.encode("utf-8", "surrogatepass"),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", f"{HOST}:{PORT}".encode())],
        "server": (HOST, PORT),
        "client": (HOST, 0),
    }
    await app(scope, receive, send)
    return Answer(status, kind, bytes(body))
