"""``python -m benchmarks.attribution``: attribution beside other libraries, in one table.

Every cell is measured in a process of its own, beside one pass (a forward and the gradient for
the input) of the untouched model. A cell that is known is not measured again, unless the code
behind it changed; a run that is stopped keeps what it has.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import whence
from benchmarks.attribution.cell import Cell, measured
from benchmarks.attribution.page import page, text
from benchmarks.attribution.peers import opened
from benchmarks.attribution.rows import ROWS, Row
from benchmarks.attribution.setup import BATCH, MODELS, SIDE, Setup, made

Known = dict[str, dict[str, Any]]
"""Cells with what they depend on."""

RESULTS = Path(__file__).parent.parent / "results"
STEPS = {"resnet50": 5}
"""Steps of the methods that take some, where not 10."""

PACKAGES = {
    "captum": "captum",
    "zennit": "zennit",
    "pytorch-grad-cam": "grad-cam",
    "torchcam": "torchcam",
    "shap": "shap",
}


def stamp(library: str) -> str:
    """Return what a library's cells depend on: its version, or our code."""
    name = library.split(",", maxsplit=1)[0]
    if name in PACKAGES:
        return f"{name} {version(PACKAGES[name])}, torch {torch.__version__}"
    digest = hashlib.sha256(torch.__version__.encode())
    folder = Path(whence.__file__).parent
    for room in ("attribution", "network"):
        for file in sorted((folder / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def key(row: Row, library: str, model: str, settings: str) -> str:
    """Return what a cell is known by."""
    return f"{model} | {row.name} | {library} | {settings}"


def main() -> int:
    """Measure what is missing, print the table, write the record and the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attribution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", help=f"parts of names of {', '.join(MODELS)}")
    parser.add_argument("--rows", nargs="+", help="parts of names, such as lrp or cam")
    parser.add_argument("--libraries", nargs="+", help="parts of names, such as whence")
    parser.add_argument("--quick", action="store_true", help="few steps, one round, small images")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of a single pass")
    parser.add_argument("--limit", type=float, default=240, help="most seconds of a cell")
    parser.add_argument("--fresh", action="store_true", help="measure known cells again")
    parser.add_argument("--out", type=Path, help="folder of attribution.json and attribution.md")
    arguments = parser.parse_args()
    for names, parts in ((MODELS, arguments.models), ([r.name for r in ROWS], arguments.rows)):
        if not chosen(tuple(names), parts):
            parser.error(f"{' '.join(parts)!r} is no part of {', '.join(names)}")
    out = arguments.out or (RESULTS / "quick" if arguments.quick else RESULTS)
    torch.set_num_threads(1)  # nothing that is forked may have started threads
    missing = opened()
    for name, why in missing.items():
        sys.stderr.write(f"without {name}: {why}\n")
    known = read(out / "attribution.json")
    began, stopped = time.monotonic(), False
    try:
        for model in chosen(MODELS, arguments.models):
            column(model, arguments, known, out, set(missing))
    except KeyboardInterrupt:
        stopped = True
        sys.stderr.write("\nStopped; what is measured is kept.\n")
    cells = [
        Cell(**one["cell"])
        for one in known.values()
        if one["settings"] == settings_of(arguments, str(one["cell"]["model"]))
    ]
    print(text(cells))
    out.mkdir(parents=True, exist_ok=True)
    (out / "attribution.md").write_text(page(cells, about(arguments)))
    sys.stderr.write(f"{time.monotonic() - began:.0f} s; {out}/attribution.md and .json\n")
    return 130 if stopped else 0


def about(arguments: argparse.Namespace) -> str:
    """Return on what was measured."""
    libraries = [f"{name} {version(package)}" for name, package in PACKAGES.items()]
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "CPU",
    )
    return (
        f"{processor}, {arguments.threads} threads, torch {torch.__version__}, "
        f"{', '.join(libraries)}."
    )


def sizes(arguments: argparse.Namespace, model: str) -> tuple[int, int, int]:
    """Return steps, images in the batch, and their side."""
    return (2, 2, 64) if arguments.quick else (STEPS.get(model, 10), BATCH, SIDE)


def settings_of(arguments: argparse.Namespace, model: str) -> str:
    """Return with what a model's cells are measured."""
    steps, batch, side = sizes(arguments, model)
    return f"{steps} steps, {batch} x {side}, {arguments.threads} threads"


def chosen(names: tuple[str, ...], parts: list[str] | None) -> list[str]:
    """Return the names that hold one of the parts; all if none is given."""
    return [name for name in names if not parts or any(part in name for part in parts)]


def column(
    model: str,
    arguments: argparse.Namespace,
    known: Known,
    out: Path,
    missing: set[str],
) -> None:
    """Measure the missing cells of a model."""
    steps, batch, side = sizes(arguments, model)
    settings = settings_of(arguments, model)
    work = [
        (row, library)
        for row in ROWS
        if row.name in chosen(tuple(r.name for r in ROWS), arguments.rows)
        for library in chosen(tuple(row.cells), arguments.libraries)
        if library.split(",", maxsplit=1)[0] not in missing
    ]
    stamps = {library: stamp(library) for _, library in work}
    todo = [
        (row, library)
        for row, library in work
        if arguments.fresh
        or known.get(key(row, library, model, settings), {}).get("stamp") != stamps[library]
    ]
    if not todo:
        return
    setup = made(model, steps, side, batch)
    _ = setup.network, setup.tuned, setup.lowered
    for i, (row, library) in enumerate(todo, start=1):
        sys.stderr.write(f"{model} {i}/{len(todo)} {row.name} | {library} ... ")
        sys.stderr.flush()
        cell = measure(row, library, setup, arguments)
        sys.stderr.write(f"{cell.error or f'{cell.wall:.2f}'} ({cell.seconds:.0f} s)\n")
        known[key(row, library, model, settings)] = {
            "stamp": stamps[library],
            "settings": settings,
            "cell": asdict(cell),
        }
        write(out / "attribution.json", known)


def measure(row: Row, library: str, setup: Setup, arguments: argparse.Namespace) -> Cell:
    """Return one cell."""
    began = time.monotonic()
    found = measured(
        setup,
        row.cells[library],
        row=row.name,
        threads=arguments.threads,
        rounds=1 if arguments.quick else arguments.rounds,
        limit=arguments.limit,
    )
    return Cell(
        row=row.name,
        library=library,
        model=setup.name,
        floor=row.floor(setup.steps),
        seconds=round(time.monotonic() - began, 1),
        **found,
    )


def read(path: Path) -> Known:
    """Return the cells that are known."""
    try:
        found: Known = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found


def write(path: Path, known: Known) -> None:
    """Write the cells, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(known, indent=1) + "\n")
    part.replace(path)


if __name__ == "__main__":
    sys.exit(main())
