"""Timing in pairs: the work and its reference in turn, and the ratio of each pair."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

__all__ = ["Row", "paired", "table"]


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table.

    Args:
        work: What was measured.
        reference: What it was measured against, in the same run.
        ratio: Median over the pairs of the ratio of wall times, per unit of work.
        low: The smallest ratio.
        high: The largest ratio.
        cpu: Median ratio of CPU times.
        goal: What the ratio should be at most; None where there is no goal.
    """

    work: str
    reference: str
    ratio: float
    low: float
    high: float
    cpu: float
    goal: float | None


def paired(
    work: Callable[[], object],
    reference: Callable[[], object],
    *,
    name: str,
    against: str,
    units: float = 1.0,
    goal: float | None = None,
    rounds: int = 7,
) -> Row:
    """Measure two pieces of work in turn, after one round that does not count.

    Args:
        work: The work.
        reference: What to measure it against.
        name: What the work is.
        against: What the reference is.
        units: How many references the work should cost; the ratio is divided by it.
        goal: What the ratio should be at most.
        rounds: Pairs that count.
    """
    walls: list[float] = []
    cpus: list[float] = []
    for i in range(rounds + 1):
        order = (work, reference) if i % 2 else (reference, work)
        spent = {f: clocked(f) for f in order}
        if i:
            walls.append(spent[work][0] / spent[reference][0] / units)
            cpus.append(spent[work][1] / spent[reference][1] / units)
    return Row(
        work=name,
        reference=against,
        ratio=statistics.median(walls),
        low=min(walls),
        high=max(walls),
        cpu=statistics.median(cpus),
        goal=goal,
    )


def clocked(f: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of a call; waits for the GPU."""
    settle()
    wall, cpu = time.perf_counter(), time.process_time()
    f()
    settle()
    return time.perf_counter() - wall, time.process_time() - cpu


def settle() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(rows: list[Row]) -> str:
    """Return rows as text."""
    lines = [f"{'work':58} {'against':34} {'ratio':>7} {'range':>13} {'cpu':>6} {'goal':>7}"]
    for row in rows:
        goal = "" if row.goal is None else f"<= {row.goal:g}"
        mark = "" if row.goal is None or row.ratio <= row.goal else "  over"
        spread = f"{row.low:.2f}-{row.high:.2f}"
        lines.append(
            f"{row.work:58} {row.reference:34} {row.ratio:7.3f} {spread:>13} {row.cpu:6.2f} "
            f"{goal:>7}{mark}"
        )
    return "\n".join(lines)
