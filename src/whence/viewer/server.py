"""A small server for this machine only."""

import logging
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import final

from whence.errors import OutputError
from whence.results import load_audit, load_explanation
from whence.viewer.pages import Answer, get

__all__ = ["make_server", "serve"]

_HOST = "127.0.0.1"
_LOG = logging.getLogger(__name__)


def serve(
    folder: str | Path, port: int = 8000, *, ready: Callable[[str], None] | None = None
) -> None:
    """Show a result folder at ``http://127.0.0.1:PORT/`` until Ctrl-C.

    Args:
        folder: A folder that an audit or an explanation wrote.
        port: 0 takes any free one.
        ready: Called once with the address, when requests are answered.

    Raises:
        RecordError: The folder holds no result that can be read.
        OutputError: The port is taken.
    """
    with make_server(folder, port) as server:
        if ready is not None:
            ready(f"http://{_HOST}:{server.server_port}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            _LOG.info("stopped")


def make_server(folder: str | Path, port: int = 0) -> ThreadingHTTPServer:
    """A server that is bound to 127.0.0.1 but does not run yet.

    Args:
        folder: A folder that an audit or an explanation wrote.
        port: 0 takes any free one.

    Raises:
        RecordError: The folder holds no result that can be read.
        OutputError: The port is taken.
    """
    place = Path(folder).resolve()
    if (place / "explanation.json").exists() and not (place / "audit.json").exists():
        load_explanation(place)
    else:
        load_audit(place)

    @final
    class Handler(_Handler):
        result = place

    try:
        return ThreadingHTTPServer((_HOST, port), Handler)
    except (OSError, OverflowError) as error:
        msg = f"Port {port} of {_HOST} cannot be used: {error}. Give another, or 0 for any."
        raise OutputError(msg) from error


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD from one result folder."""

    result: Path
    server_version = "whence"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        _LOG.debug(format, *args)

    def _answer(self, *, with_body: bool) -> None:
        answer = get(self.result, self.path) if self._is_local() else _FOREIGN
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            self.wfile.write(answer.body)

    def _is_local(self) -> bool:
        """Whether the request names this machine; a foreign page cannot pose as it by DNS."""
        host = self.headers.get("Host", "")
        name, _, port = host.rpartition(":")
        return name in (_HOST, "localhost") and port == str(self.connection.getsockname()[1])


_FOREIGN = Answer(403, "text/plain; charset=utf-8", b"This viewer answers this machine only.\n")
