"""``python -m benchmarks.influence``: data attribution beside other libraries, in one table.

The unit is one *training step* per image: a forward and a full backward pass of the untouched
model at the same batch size, measured in processor time around every cell, in the same process.
Each cell runs in a process of its own and is kept, so that a run that was stopped goes on.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.influence.cells import CELLS
from benchmarks.influence.setup import SUBJECTS, Setup, ready
from benchmarks.influence.work import TOP, Cell, labels_of

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "influence"
PAGE = ROOT / "benchmarks" / "results" / "influence.md"
PACKAGES = ("captum", "kronfluence", "traker", "dattri")
STEPS = 3
"""Training steps that are measured before a cell, and as many behind it."""

SMALL = 32
"""Pixels of a side of images on which slow libraries are measured too."""

REPEATS = 5
"""Runs of a cell of maps, which are few, after one that does not count."""


def main() -> int:
    """Measure what is missing, print the table, write the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.influence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--subject", nargs="+", choices=tuple(SUBJECTS), default=[*SUBJECTS])
    parser.add_argument(
        "--images", type=int, help="training images, at most; by default the subject's"
    )
    parser.add_argument("--peer-images", type=int, help="for other libraries; as the subject says")
    parser.add_argument("--queries", type=int, help="by default the subject's")
    parser.add_argument("--only", nargs="+", help="parts of names or libraries of rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="measure known cells again")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one is not None:
        alone(arguments)
        return 0
    for name in arguments.subject:
        for number, cell in enumerate(CELLS):
            words = f"{cell.library} {cell.name}"
            if not belongs(name, cell):
                continue
            if arguments.only and not any(part in words for part in arguments.only):
                continue
            path = place(arguments, name, cell)
            if path.is_file() and not arguments.fresh:
                continue
            sys.stderr.write(f"{name} {words} ... ")
            sys.stderr.flush()
            began = time.monotonic()
            command = [sys.executable, "-m", "benchmarks.influence", "--one", str(number)]
            command += ["--subject", name, "--threads", str(arguments.threads)]
            command += ["--queries", str(queries_of(arguments, name))]
            command += ["--images", str(count_of(arguments, name, cell))]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.stderr.write(f"failed: {done.stderr.strip().splitlines()[-1:]}\n")
                continue
            sys.stderr.write(f"{time.monotonic() - began:.0f} s\n")
    text = "\n\n".join(table(arguments, name) for name in arguments.subject)
    print(text)
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    arguments.page.write_text(page(text, arguments.threads), encoding="utf-8")
    return 0


def count_of(arguments: argparse.Namespace, name: str, cell: Cell) -> int:
    """Return how many training images a cell goes over."""
    usual = min(arguments.images or SUBJECTS[name].images, SUBJECTS[name].images)
    if cell.library == "whence" and not cell.few:
        return usual
    return min(usual, arguments.peer_images or SUBJECTS[name].few)


def queries_of(arguments: argparse.Namespace, name: str) -> int:
    """Return how many queries there are."""
    return int(arguments.queries or SUBJECTS[name].queries)


def belongs(name: str, cell: Cell) -> bool:
    """Return whether a row is measured on a subject."""
    subject = SUBJECTS[name]
    if subject.only and (cell.library != "whence" or not cell.name.startswith(subject.only)):
        return False
    return not cell.small or subject.side <= SMALL


def place(arguments: argparse.Namespace, name: str, cell: Cell) -> Path:
    """Return where a cell is kept."""
    words = f"{cell.library} {cell.name}".replace(" ", "-").replace(",", "")
    count = count_of(arguments, name, cell)
    queries = queries_of(arguments, name)
    return BUILD / f"{name}-{count}-{queries}-{arguments.threads}" / f"{words}.json"


def alone(arguments: argparse.Namespace) -> None:
    """Measure one cell in this process."""
    name, cell = arguments.subject[0], CELLS[arguments.one]
    setup = ready(Setup(name=name, images=arguments.images, queries=arguments.queries), BUILD)
    path = place(arguments, name, cell)
    _ = setup.network
    work = cell.make(setup)
    step(setup)
    floors = [step(setup) for _ in range(STEPS)]
    repeats = REPEATS if cell.unit == "map" else 1
    if repeats > 1:
        work.run()
    times = []
    for _ in range(repeats):
        before = time.process_time()
        scores = work.run()
        times.append(time.process_time() - before)
        floors += [step(setup) for _ in range(STEPS)]
    beyond = None
    if work.some is not None and work.units > setup.batch:
        before = time.process_time()
        work.some()
        some = time.process_time() - before
        floors += [step(setup) for _ in range(STEPS)]
        beyond = (statistics.median(times) - some) / (work.units - setup.batch)
    spent, floor = statistics.median(times), statistics.median(floors)
    found = {
        "steps": spent / work.units / floor,
        "beyond": None if beyond is None else beyond / floor,
        "seconds": spent,
        "floor": floor,
        "units": work.units,
        "images": setup.images,
        "note": work.note(),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if scores is not None:
        torch.save(scores.float(), path.with_suffix(".pt"))
    path.write_text(json.dumps(found))


def step(setup: Setup) -> float:
    """Return the processor seconds of a training step, per image."""
    train, _ = setup.data
    size = setup.batch
    images, labels = train.images[:size], labels_of(train.labels)[:size]
    before = time.process_time()
    functional.cross_entropy(setup.model(images), labels).backward()
    for parameter in setup.model.parameters():
        parameter.grad = None
    return (time.process_time() - before) / len(images)


def table(arguments: argparse.Namespace, name: str) -> str:
    """Return one subject's table in Markdown."""
    exact = {"cos": CELLS[0], "dot": next(c for c in CELLS if c.exact == "dot")}
    references = {kind: scores_of(place(arguments, name, c)) for kind, c in exact.items()}
    head = ("what", "library", "steps per unit", "aim", "images", "top 10", "peak MB", "remark")
    rows = []
    whole: dict[str, Any] = read(place(arguments, name, CELLS[0]))
    for cell in CELLS:
        path = place(arguments, name, cell)
        if not path.is_file() or not belongs(name, cell):
            continue
        found = read(path)
        remark = str(found["note"])
        if cell.name.startswith("index, exact") and whole:
            share = found["seconds"] / whole["seconds"]
            remark += f"; {100 * share:.1f} % of the exact ranking's time"
        if found.get("beyond") is not None:
            remark = f"{found['beyond']:.2f} per image without the queries; {remark}"
        agreement = ""
        ours, reference = scores_of(path), references.get(cell.exact)
        if ours is not None and reference is not None:
            agreement = f"{overlap(ours, reference[: len(ours)]):.2f}"
        rows.append(
            (
                cell.name,
                cell.library,
                f"{found['steps']:.2f} per {cell.unit}",
                "" if cell.aim is None else f"{cell.aim:g}",
                str(found["images"]),
                agreement,
                f"{found['peak']:.0f}",
                remark,
            )
        )
    lines = ["| " + " | ".join(row) + " |" for row in (head, ("--",) * len(head), *rows)]
    count = sum(p.numel() for p in SUBJECTS[name].make().parameters())
    text = f"**{name}**, {count:,} parameters, {queries_of(arguments, name)} queries"
    if whole:
        text += f", a training step of {1000 * whole['floor']:.1f} ms per image"
    return text + "\n\n" + "\n".join(lines)


def overlap(scores: Tensor, exact: Tensor) -> float:
    """Return the share of the exact top ten that a method's top ten has."""
    ours, theirs = (s.topk(min(TOP, len(s)), dim=0).indices.T for s in (scores, exact))
    shared = (ours[:, :, None] == theirs[:, None]).any(dim=2)
    return float(shared.double().mean())


def scores_of(path: Path) -> Tensor | None:
    """Return the scores of a cell, if it has some."""
    path = path.with_suffix(".pt")
    return torch.load(path, weights_only=True) if path.is_file() else None


def read(path: Path) -> dict[str, Any]:
    """Return a cell that was measured; nothing if it was not."""
    return json.loads(path.read_text()) if path.is_file() else {}


def page(text: str, threads: int) -> str:
    """Return the page of results."""
    libraries = []
    for name in PACKAGES:
        try:
            libraries.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            libraries.append(f"{name} missing")
    cores = os.cpu_count()
    return f"""# Data attribution: what it costs

Made by `make bench-influence` (`python -m benchmarks.influence`). The unit is one training step
per image: a forward and a full backward pass of the untouched model at the same batch size, in
processor time, measured before and behind every cell in its own process. "top 10" is the share of
the top ten by the same exact score (Grad-Cos, or Grad-Dot of the loss for rows that compute that;
over the same images) that a row's top ten has. "peak" is the process's largest resident memory,
training step and library included. Maps are made of a batch of images whose scores are known;
their time is the median of five runs after one that does not count. Queries are in the time; what
an image costs without them is in the remark. EK-FAC's cost is mostly its eigendecompositions,
which do not grow with the images. A re-ranking touches at least every query's ten images, so its
share of the exact ranking's time falls with the size of the training
set. {threads} thread(s) of {cores} cores, torch {torch.__version__}, {", ".join(libraries)}.

{text}
"""


if __name__ == "__main__":
    sys.exit(main())
