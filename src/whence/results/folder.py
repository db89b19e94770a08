"""A result folder that appears whole or not at all."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whence.errors import OutputError

__all__ = ["RESULT_FILES", "new_folder", "write_whole"]

RESULT_FILES = (
    "audit.json",
    "explanation.json",
    "arrays.npz",
    "influences.csv",
    "suspects.csv",
    "groups.csv",
    "removal.csv",
    "findings.toml",
    "findings.npz",
    "findings-before.toml",
    "verify.json",
    "verify.html",
    "verify.csv",
    "verify.md",
    "network.py",
    "weights.safetensors",
    "data.npz",
    "overlay.png",
    "report.html",
    "run.toml",
)
"""Every file that whence puts into a result folder; only these are ever replaced."""


@contextmanager
def new_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that takes its place when the block ends well.

    Until then nothing is visible at ``path``; any exception, Ctrl-C included, removes what
    was written. An old result is moved aside first and removed last.

    Args:
        path: Where the folder shall be; missing parents are made.
        overwrite: Replace an old result of whence. Anything else is never replaced.

    Raises:
        OutputError: ``path`` holds something already, or cannot be written.
    """
    target = Path(path).resolve()
    _refuse_unless_free(target, overwrite=overwrite)
    made = _make_parents(target)
    part = target.parent / f".{target.name}.part-{secrets.token_hex(4)}"
    try:
        part.mkdir()
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise
    try:
        _refuse_unless_free(target, overwrite=overwrite)
        _put_in_place(part, target)
    except OSError as error:
        msg = f"{error}\nThe finished result is kept in {part}."
        raise OutputError(msg) from error


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is never half there.

    Raises:
        OutputError: The place cannot be written.
    """
    part = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
    try:
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _refuse_unless_free(target: Path, *, overwrite: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not target.is_dir():
        msg = f"A new folder was needed, but {target} is a file. Give another name."
        raise OutputError(msg)
    names = sorted(entry.name for entry in target.iterdir())
    if not names:
        return
    foreign = [name for name in names if name not in RESULT_FILES]
    if not foreign and _holds_result(target):
        if not overwrite:
            msg = (
                f"{target} holds a result already. Give another folder, or --overwrite "
                f"(overwrite=True) to replace it."
            )
            raise OutputError(msg)
        return
    found = f"{foreign[0]!r}" if foreign else f"{names[0]!r}, but no readable result"
    msg = (
        f"A new or empty folder was needed, but {target} holds {found}, which whence did not "
        f"write. Give another folder; --overwrite only replaces results of whence."
    )
    raise OutputError(msg)


def _holds_result(target: Path) -> bool:
    """Whether a result file of ours is there; a file of another tool may have its name."""
    for kind in ("audit", "explanation", "verify"):
        with suppress(OSError, ValueError):
            content = json.loads((target / f"{kind}.json").read_bytes())
            if isinstance(content, dict) and content.get("whence") == kind:
                return True
    return False


def _make_parents(target: Path) -> list[Path]:
    """Make the missing parents and return them, the deepest first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(target, error) from error
    return missing


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)
        return
    old = target.parent / f".{target.name}.old-{secrets.token_hex(4)}"
    target.rename(old)
    try:
        os.replace(part, target)  # noqa: PTH105 - the one call that must stay a rename
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _cannot_write(target: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"{target} cannot be written: {reason}. Give a place that can.")
