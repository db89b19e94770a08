"""What a job would cost, instead of the job."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from whence.cli.console import bold, faint, say, say_json, table
from whence.cli.options import OUTPUT

if TYPE_CHECKING:
    from whence.recipes.rehearsal import Estimate

__all__ = ["DryRun", "amount", "show_cost", "span"]

DryRun: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Measure a little of the work, say what all of it will cost (passes, time, memory, "
        "bytes, files), and write nothing.",
        rich_help_panel=OUTPUT,
    ),
]

STARTED = perf_counter()
"""When the program began."""
MINUTE, HOUR, DAY = 60, 3600, 86400
FILES = 12
"""Files that are named; of more the rest is summed."""


def show_cost(found: "Estimate", out: Path, *, unit: str = "images", as_json: bool) -> None:
    """Print what a job would cost.

    Args:
        found: From :func:`whence.recipes.rehearsal.rehearse`.
        out: Where its result would be.
        unit: What the job is counted in.
        as_json: One JSON document.
    """
    from dataclasses import replace

    before = max(0.0, perf_counter() - STARTED - found.measured)  # to load model and data
    found = replace(
        found,
        seconds=found.seconds + before,
        low=found.low + before,
        high=found.high + before,
        cpu=found.cpu + before,
    )
    advice = advice_on(found, out)
    if as_json:
        say_json({**document(found), "out": str(out), "advice": list(advice)})
        return
    rows = [
        ("  work", f"{found.size:,} {unit}"),
        ("  passes", f"{found.passes:,.4g} (of one forward and one backward, for one image)"),
        ("  time", f"{span(found.seconds)}, from {span(found.low)} to {span(found.high)}"),
        ("  memory", "unknown" if found.memory is None else f"{amount(found.memory)} at most"),
        ("  disk", f"{amount(found.disk)} in {out}"),
    ]
    say(bold("What it would cost"))
    say(table(rows))
    if found.files:
        say(f"\n{bold('What would be written')}")
        named = sorted(found.files.items(), key=lambda one: -one[1])
        lines = [(f"  {name}", amount(size)) for name, size in named[:FILES]]
        rest = named[FILES:]
        if rest:
            lines.append((f"  and {len(rest)} more", amount(sum(size for _, size in rest))))
        say(table(lines))
    for line in advice:
        say(f"\n{line}")
    say(faint(f"\nMeasured in {span(found.measured)}. Nothing was written."))


def document(found: "Estimate") -> dict[str, Any]:
    """Return an estimate as a program reads it."""
    from dataclasses import asdict

    return {"dry_run": True, **asdict(found), "disk": found.disk}


def advice_on(found: "Estimate", out: Path) -> tuple[str, ...]:
    """Return what to do if memory or disk will not do."""
    import shutil

    told = []
    if found.memory and found.available and found.memory > found.available:
        told.append(
            f"Memory will not do: {amount(found.memory)} are needed and {amount(found.available)} "
            f"are free. Take a smaller --batch-size, or fewer parameters (--parameters "
            f"last-layer), or a projection, where the command has these."
        )
    place = next(one for one in (out.absolute(), *out.absolute().parents) if one.exists())
    free = shutil.disk_usage(place).free
    if found.disk > free:
        told.append(
            f"The disk will not do: {amount(found.disk)} are needed and {amount(free)} are free "
            f"in {place}. Give a place elsewhere with --out."
        )
    return tuple(told)


def span(seconds: float) -> str:
    """Return a time as a person says it: 0.4 s, 12 s, 3 min, 2.5 h."""
    for size, name in ((DAY, "days"), (HOUR, "h"), (MINUTE, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004 - digits


def amount(size: float) -> str:
    """Return bytes as a person says them."""
    for power, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= power:
            return f"{size / power:.3g} {name}"
    return f"{size:.0f} bytes"
