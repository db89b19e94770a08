"""The command line. Each command is one file and imports what it needs when it runs."""

from whence.cli.program import app, main

__all__ = ["app", "main"]
