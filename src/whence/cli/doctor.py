"""`whence doctor`: what is installed, what there is to compute with, and whether a job fits."""

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whence.cli.console import bold, faint, say, say_json, table
from whence.cli.diagnosis import Check, brief, devices, extras, libraries, memory, places, vision
from whence.cli.dry_run import amount
from whence.cli.options import MODEL, MODELS, BatchSize, Device, Input, Json, Verbose, Weights

if TYPE_CHECKING:
    from whence.adapters import LoadedModel

__all__ = ["doctor"]

JOB = "A planned job"
JOBS = ("audit", "explain", "evaluate", "transfer", "index", "fit")
BYTES, HALF = 4, 2
QUERIES, SIDES, MAPS = 20, 2, 16
"""Of an audit: queries, as many again for the labels of wrong ones, and maps for each."""
KEPT = 256
"""Numbers that an index keeps of each parameter, at most."""
SHARE = 0.9
"""Of the free memory that a job should need at most."""
MARKS = {"ok": "ok", "note": "note", "fault": "FAULT"}


def doctor(
    *,
    job: Annotated[
        str | None,
        typer.Option("--for", metavar="JOB", help=f"{', '.join(JOBS)}.", rich_help_panel=JOB),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help=f"{MODELS}.", rich_help_panel=MODEL),
    ] = None,
    weights: Weights = None,
    input_: Input = None,
    device: Device = "cpu",
    train: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Its training images.", rich_help_panel=JOB),
    ] = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say what is installed, which device there is, and whether a planned job fits.

    Ends with 1 if something is broken or will not do. Nothing is fetched. For a job the memory is
    a rough sum of what has to be held; `--dry-run` of the command itself measures it.
    """
    del verbose
    from dataclasses import asdict

    found = [*libraries()]
    seen = vision()
    found += [seen] if seen else []
    found += [*extras(), *devices(device), *places()]
    if job is not None or model is not None:
        found += planned(
            job or "explain",
            model,
            weights=weights,
            settings=input_ or (),
            train=train,
            batch_size=batch_size or 32,
        )
    if as_json:
        say_json({"sound": sound(found), "checks": [asdict(one) for one in found]})
    else:
        show(found)
    if not sound(found):
        raise typer.Exit(1)


def sound(checks: list[Check]) -> bool:
    """Return whether nothing is broken."""
    return all(one.state != "fault" for one in checks)


def show(checks: list[Check]) -> None:
    """Print what was found, kind by kind."""
    for topic in dict.fromkeys(one.topic for one in checks):
        say(bold(topic.capitalize()))
        rows = [
            (
                f"  {one.name}",
                MARKS[one.state],
                one.says + (f"  > {one.advice}" if one.advice else ""),
            )
            for one in checks
            if one.topic == topic
        ]
        say(table(rows) + "\n")
    faults = [one.name for one in checks if one.state == "fault"]
    say(faint(f"Will not do: {', '.join(faults)}" if faults else "All is well."))


def planned(
    job: str,
    model: str | None,
    *,
    weights: Path | None,
    settings: list[str] | tuple[str, ...],
    train: str | None,
    batch_size: int,
) -> Iterator[Check]:
    """Yield whether a job's memory and disk are there."""
    if job not in JOBS:
        says = f"There is no job {job!r}; give one of {', '.join(JOBS)}."
        yield Check(topic="job", name=job, state="fault", says=says)
        return
    if model is None:
        says = "The model decides what it needs."
        yield Check(topic="job", name=job, state="note", says=says, advice="Give --model.")
        return
    try:
        from whence.recipes import load_architecture, load_images, load_subject

        loaded = (
            load_architecture(model, settings)
            if weights is None
            else load_subject(model, weights=weights, settings=settings)
        )
        images = 0 if train is None else len(load_images(train, loaded))
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being loaded is shown
        yield Check(topic="job", name=job, state="fault", says=brief(error))
        return
    needed, disk, why = needs(job, loaded, images, batch_size)
    _, free = memory()
    fits = free is None or needed < SHARE * free
    yield Check(
        topic="job",
        name="memory",
        state="ok" if fits else "fault",
        says=f"about {amount(needed)} ({why})" + (f" of {amount(free)} free" if free else ""),
        advice="" if fits else remedy(job),
    )
    import shutil

    room = shutil.disk_usage(Path.cwd()).free
    yield Check(
        topic="job",
        name="disk",
        state="ok" if disk < room else "fault",
        says=f"about {amount(disk)} of {amount(room)} free",
        advice=""
        if disk < room
        else "Write elsewhere with --out; an index: a smaller --dimension.",
    )
    yield Check(
        topic="job",
        name="measure",
        state="ok",
        says=f"`whence {'index build' if job == 'index' else job} ... --dry-run` measures it",
    )


def needs(job: str, model: "LoadedModel", images: int, batch_size: int) -> tuple[float, float, str]:
    """Return the bytes of memory and of disk that a job needs, about, and what they are for."""
    from whence.cli.describe import network_of

    sizes = [one.numel() for one in model.module.parameters()]
    rows = network_of(model).describe().rows
    activations = BYTES * sum(prod(k for k in row.shape if isinstance(k, int)) for row in rows)
    pixels = prod(model.preprocessing.size)
    weights = BYTES * sum(sizes)
    memory = weights + 2 * activations * batch_size
    why = (
        f"weights {amount(weights)}, a batch of {batch_size} {amount(2 * activations * batch_size)}"
    )
    disk = 1e6 + 16 * pixels * BYTES
    if job == "audit":
        held = QUERIES * SIDES * weights
        memory += held
        why += f", gradients of {QUERIES} queries and their labels {amount(held)}"
        disk = 1e6 + QUERIES * MAPS * pixels * BYTES
    elif job == "index":
        disk = 1e6 + HALF * images * sum(min(KEPT, size) for size in sizes)
    elif job == "fit":
        memory += 3 * weights
        why += f", optimiser and gradients {amount(3 * weights)}"
        disk = 1e6 + 8 * weights
    return memory, disk, why


def remedy(job: str) -> str:
    """Return what makes a job smaller."""
    if job == "audit":
        return (
            "A smaller --batch-size, a smaller --count, --parameters last-block, or gradients that "
            "are projected: --score-set space.dimension=1024, or `whence index`."
        )
    return "A smaller --batch-size, or a smaller picture: --input size=..."
