"""How a command ends: errors as one message, Ctrl-C as 130."""

import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from whence.cli.console import plain
from whence.errors import WhenceError

__all__ = ["INTERRUPTED", "complained", "guarded"]

INTERRUPTED = 130
"""What a shell expects of a program that was stopped by Ctrl-C."""


def guarded(command: Callable[..., Path | None]) -> Callable[..., None]:
    """Return a command that ends with a message where it would end with a traceback.

    An error of whence is shown without its traceback (with it under ``--verbose``) and ends
    the program with 1. Anything else is a mistake of ours and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - any command's options
        try:
            command(*arguments, **options)
        except WhenceError as error:
            if options.get("verbose"):
                typer.echo(traceback.format_exc(), err=True)
            complained(error)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as stop:
            typer.echo(f"\nStopped. {kept(options)}", err=True)
            raise typer.Exit(INTERRUPTED) from stop
        except BrokenPipeError as error:
            # Whoever read the output has closed it (head, less): nothing is wrong.
            sys.stderr.close()
            raise typer.Exit(0) from error

    return run


def complained(error: WhenceError) -> None:
    """Print an error as a message."""
    label = "Error:" if plain() else typer.style("Error:", fg=typer.colors.RED, bold=True)
    typer.echo(f"{label} {error}", err=True)


def kept(options: dict[str, Any]) -> str:
    """Say what is left after a command was stopped."""
    out = options.get("out")
    if out is None or options.get("dry_run"):
        return "Nothing was written."
    if "resume" in options:
        begun = Path(out).is_dir() and any(Path(out).iterdir())
        how = "go on with the same command and --resume."
        return (
            f"What is done is kept in {out}; {how}" if begun else f"There is nothing in {out} yet."
        )
    if options.get("overwrite"):
        return f"Nothing was written; what {out} held before is as it was."
    return f"Nothing was written to {out}."
