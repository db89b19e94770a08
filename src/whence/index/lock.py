"""Lock: one process at a time builds in a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whence.errors import OutputError

try:
    import fcntl
except ImportError:  # an operating system without it: nobody is kept out
    fcntl = None  # type: ignore[assignment]

__all__ = ["one_builder"]

NAME = ".manifest.lock"


@contextmanager
def one_builder(folder: Path) -> Iterator[None]:
    """Keep other builders out of a folder; the lock ends with the process, however it ends.

    Raises:
        OutputError: If another process is building there.
    """
    path = folder / NAME
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            msg = (
                f"Another process is building in {folder}. Wait until it has ended, or give "
                f"another folder."
            )
            raise OutputError(msg) from error
        if path.is_file() and os.fstat(handle).st_ino == path.stat().st_ino:
            break
        os.close(handle)  # it was the lock of a builder that has just ended
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
