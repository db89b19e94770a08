"""A result folder as live pages on this machine only. Needs no torch."""

from whence.viewer.pages import Answer, get
from whence.viewer.server import make_server, serve

__all__ = ["Answer", "get", "make_server", "serve"]
