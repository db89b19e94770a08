"""A small server for this machine only."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from whence.errors import OutputError
from whence.viewer.app import make_app
from whence.viewer.guard import HOST, Guard
from whence.viewer.kinds import check
from whence.viewer.live import Live

__all__ = ["bind", "make_server", "serve"]

_LOG = logging.getLogger(__name__)

GRACE = 2
"""Seconds that open connections get when the viewer ends."""


def serve(
    folder: str | Path,
    port: int = 8000,
    *,
    live: Live | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Show a result folder at ``http://127.0.0.1:PORT/`` until Ctrl-C.

    Args:
        folder: What a command of whence wrote.
        port: 0 takes any free one.
        live: Networks with their data, to explain pictures on request.
        ready: Called once with the address, when requests are answered.

    Raises:
        RecordError: The folder holds no result that can be read.
        OutputError: The port is taken.
    """
    server = make_server(folder, live)
    with bind(port) as place:
        if ready is not None:
            ready(f"http://{HOST}:{place.getsockname()[1]}/")
        try:
            server.run(sockets=[place])
        except KeyboardInterrupt:
            _LOG.info("stopped")
        finally:
            if isinstance(server.config.app, Guard):
                server.config.app.stop(GRACE)


def make_server(folder: str | Path, live: Live | None = None) -> uvicorn.Server:
    """Return the server of a result folder; it runs on the sockets that it is given.

    Raises:
        RecordError: The folder holds no result that can be read.
    """
    place = Path(folder).resolve()
    check(place)
    settings = uvicorn.Config(
        make_app(place, live),
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE,
    )
    return uvicorn.Server(settings)


def bind(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone.

    Raises:
        OutputError: The port is taken, or there is none of that number.
    """
    place = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        place.bind((HOST, port))
        place.listen(64)
    except (OSError, OverflowError) as error:
        place.close()
        msg = f"Port {port} of {HOST} cannot be used: {error}. Give another, or 0 for any."
        raise OutputError(msg) from error
    return place
