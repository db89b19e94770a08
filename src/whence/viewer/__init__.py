"""A result folder as live pages on this machine only. Needs no torch."""

from whence.viewer.live import Live
from whence.viewer.pages import Answer, get
from whence.viewer.server import make_server, serve

__all__ = ["Answer", "Live", "get", "make_server", "serve"]
