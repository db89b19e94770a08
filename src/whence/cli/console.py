"""What a person sees: lines, tables, and progress bars with rate and time left."""

import json
import os
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import typer

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = [
    "Report",
    "bars",
    "bold",
    "command_line",
    "faint",
    "plain",
    "say",
    "say_json",
    "table",
    "unseen",
]

NARROWEST = 12
"""Characters that the last column of a table has at least."""
ENDLESS = 1_000_000
"""Characters of a line that nobody looks at in a terminal."""


@runtime_checkable
class Report(Protocol):
    """Told how far work is; the same as :class:`whence.core.Progress`, without torch."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` units of the named stage are finished."""
        ...


def say(text: str = "") -> None:
    """Print a line on stdout."""
    typer.echo(text)


def say_json(content: object) -> None:
    """Print the one JSON document of a command on stdout."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False)
    typer.echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def finite(content: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a document in which numbers that JSON does not have are null."""
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    if isinstance(content, float) and content - content != 0:
        return None
    return content


def plain() -> bool:
    """Return whether nothing is to be styled: NO_COLOR is set, or the terminal cannot."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def bold(text: str) -> str:
    """Return text in bold; styles are left out where stdout is no terminal."""
    return text if plain() else typer.style(text, bold=True)


def faint(text: str) -> str:
    """Return text that steps back."""
    return text if plain() else typer.style(text, dim=True)


def width() -> int:
    """Return how many characters a line has; into a file or a pipe nothing is wrapped."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return ENDLESS
    return get_terminal_size((100, 24)).columns


def command_line() -> str:
    """Return the command as it was typed, for a record."""
    return shlex.join(["whence", *sys.argv[1:]])


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Return rows as aligned columns; the last one is wrapped to the terminal, if it is one."""
    every = [tuple(head), *rows] if head else list(rows)
    widths = [max(len(row[k]) for row in every) for k in range(len(every[0]) - 1)]
    start = sum(widths) + 2 * len(widths)
    room = max(width() - start, NARROWEST)
    lines = []
    for number, row in enumerate(every):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        first, *more = textwrap.wrap(row[-1], room) or [""]
        line = "  ".join([*cells, first]).rstrip()
        lines.append(bold(line) if head and number == 0 else line)
        lines += [" " * start + text for text in more]
    return "\n".join(lines)


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[Report]:
    """Yield what draws one progress bar per stage on stderr, if that is a terminal.

    Args:
        quiet: Draw nothing.
    """
    if quiet or not sys.stderr.isatty():
        yield unseen
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RateColumn(ProgressColumn):
        """Units per second."""

        def render(self, task: Task) -> Text:
            """Return the rate, once it is known."""
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g}/s", style="progress.data.speed")

    progress = Progress(
        TextColumn("{task.description:<20}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = progress.add_task(stage, total=total)
        progress.update(tasks[stage], completed=done, total=total)

    with progress:
        yield report


def unseen(stage: str, done: int, total: int) -> None:
    """Show nothing."""
    del stage, done, total
