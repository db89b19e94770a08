"""What is kept of finished cells: one JSON line each, so that a run can be stopped at any time."""

import json
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

Row = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Rows by their cells, in a file of JSON lines.

    Args:
        path: The file.
    """

    path: Path

    def rows(self) -> dict[str, Row]:
        """Return the rows that are there, by the names of their cells; the last counts."""
        if not self.path.is_file():
            return {}
        lines = self.path.read_text("utf-8").splitlines()
        return {row["cell"]: row for row in map(json.loads, lines)}

    def add(self, cell: str, row: Row) -> Row:
        """Write a row."""
        whole = {"cell": cell, **row}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")
        return whole


@dataclass(kw_only=True)
class Clock:
    """Knows how much work is left, and how fast this machine is at it.

    Args:
        left: Seconds that each cell takes where they were measured.
    """

    left: dict[str, float]
    spent: float = 0.0
    done: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def finished(self, cell: str, seconds: float) -> None:
        """Note that a cell is done, and how long it took here."""
        self.spent += seconds
        self.done += self.left.pop(cell, 0.0)

    def remaining(self) -> float:
        """Return the seconds that are probably left."""
        pace = self.spent / self.done if self.done else 1.0
        return pace * sum(self.left.values())

    def told(self) -> str:
        """Return the time left in words."""
        minutes, seconds = divmod(round(self.remaining()), 60)
        return f"{minutes} min {seconds:02d} s left"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first column is left-aligned, the others right."""
    lines = [f"| {' | '.join(head)} |", f"|:--{'|--:' * (len(head) - 1)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def each_new(
    cells: Sequence[str], kept: Kept, measure: Callable[[str], Row], clock: Clock
) -> Iterator[Row]:
    """Measure the cells that are not there yet, and yield their rows as they come."""
    for cell in cells:
        if cell in kept.rows():  # another process may have done it meanwhile
            clock.left.pop(cell, None)
            continue
        started, before = time.monotonic(), time.process_time()
        row = measure(cell)
        seconds, cpu = time.monotonic() - started, time.process_time() - before
        clock.finished(cell, seconds)
        yield kept.add(cell, {"seconds": round(seconds, 1), "cpu": round(cpu, 1), **row})
