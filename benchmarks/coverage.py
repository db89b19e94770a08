"""``python -m benchmarks.coverage``: every method on every model of the list, in one table.

A cell is written down as soon as it is known. A run that was stopped goes on where it was; cells of
other code, settings or versions are made anew.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

import whence
from benchmarks.coverage_table import Cell, Verdict, counted, markdown, summary, text
from benchmarks.models import SUBJECTS, Subject
from whence.attribution import CATALOGUE, attribute, method_named
from whence.attribution.catalogue import settings_of
from whence.core import ModelScalar, logit
from whence.errors import SettingError, UnsupportedOperation
from whence.network import Network

__all__ = ["CHEAP", "FEW", "cell", "cheap", "main"]

FEW: Mapping[str, int] = {"steps": 3, "samples": 2, "masks": 8, "draws": 2, "searches": 2}
"""How often a method repeats itself here, for settings of this name; so for methods to come."""

CHEAP: Mapping[str, Mapping[str, float | str]] = {
    "guided-ig": {"steps": 4},
    "occlusion": {"window": 32, "stride": 32},
    "rise": {"cells": 3},
    "kernel-shap": {"superpixels": "grid:2", "samples": 16},
    "lime": {"superpixels": "grid:2", "samples": 16},
    "pertinent-negatives": {"steps": 30, "rate": 0.1, "sparsity": 1e-4},
    "pertinent-positives": {"steps": 30, "rate": 0.1, "sparsity": 1e-4},
}
"""Other settings that cost little; all else are a method's defaults."""

IMAGES = 2


def cheap(method: str) -> dict[str, float | str]:
    """Return the settings that a method runs with here, where they are not its defaults."""
    known = settings_of(method)
    few = {name: count for name, count in FEW.items() if known.get(name, "").isdigit()}
    return {**{name: n for name, n in few.items() if int(known[name]) > n}, **CHEAP.get(method, {})}


@final
@dataclass(frozen=True, kw_only=True)
class Book:
    """The cells that are known, in a file of one JSON document per line.

    Args:
        path: The file.
        version: What cells depend on beside method, model and settings.
    """

    path: Path
    version: str

    def known(self) -> dict[tuple[str, str], Cell]:
        """Return the cells of this version and of the settings of today."""
        found: dict[tuple[str, str], Cell] = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in lines:
            try:
                one = json.loads(line)
            except ValueError:
                continue  # the line at which a run was stopped
            made = Cell(**one["cell"])
            if (one["version"], one["settings"]) == (self.version, shown(made.method)):
                found[made.method, made.model] = made
        return found

    def add(self, made: Cell) -> None:
        """Write a cell down."""
        line = {"version": self.version, "settings": shown(made.method), "cell": asdict(made)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def shown(method: str) -> str:
    """Return a method with the settings that it runs with here, or why there is none."""
    try:
        return str(method_named(method, cheap(method)))
    except Exception as error:  # noqa: BLE001 - its cells are errors
        return f"{type(error).__name__}: {error}"


def version() -> str:
    """Return a fingerprint of the code that a cell depends on, and of torch."""
    digest = hashlib.sha256(torch.__version__.encode())
    here = Path(__file__).parent
    source = Path(whence.__file__).parent
    files = [here / "coverage.py", here / "models.py"]
    for room in ("core", "network", "attribution"):
        files += (source / room).rglob("*.py")
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def cell(method: str, model: str, network: Network, images: Tensor) -> Cell:
    """Run a method on a network, on each image for the class that is predicted there."""
    began = time.perf_counter()
    verdict, reason, blank = judged(method, network, images)
    return Cell(
        method=method,
        model=model,
        verdict=verdict,
        reason=reason,
        blank=blank,
        seconds=round(time.perf_counter() - began, 3),
    )


def judged(method: str, network: Network, images: Tensor) -> tuple[Verdict, str, int]:
    """Return the verdict on a method with its reason, and how many maps are blank."""
    with torch.no_grad():
        predicted = network(images).argmax(dim=1)
    f = ModelScalar(network, logit(predicted))
    try:
        ready = method_named(method, cheap(method))
    except Exception as error:  # noqa: BLE001 - a table of what fails must survive it
        return "ERROR", f"{type(error).__name__}: {error}", 0
    try:
        result = attribute(ready, f, images)
    except (SettingError, UnsupportedOperation) as error:
        return "n/a", str(error), 0
    except Exception as error:  # noqa: BLE001 - as above
        return "ERROR", f"{type(error).__name__}: {error}", 0
    values = result.values
    wanted = {(len(images), channels, *images.shape[2:]) for channels in (1, images.shape[1])}
    if tuple(values.shape) not in wanted:
        return "ERROR", f"The values have shape {tuple(values.shape)}.", 0
    if not values.isfinite().all():
        return "ERROR", "Some values are NaN or infinite.", 0
    return "ok", "", int(result.blank.sum())


def column(subject: Subject, methods: Iterable[str]) -> Iterator[Cell]:
    """Run methods on a model, which is read once."""
    images = subject.images(IMAGES)
    try:
        network = Network.read(subject.model(), images)
    except Exception as error:  # noqa: BLE001 - as above
        why = f"{type(error).__name__}: {error}"
        for method in methods:
            yield Cell(
                method=method,
                model=subject.name,
                verdict="ERROR",
                reason=why,
                blank=0,
                seconds=0.0,
            )
        return
    for method in methods:
        yield cell(method, subject.name, network, images)


def chosen(known: list[str], wanted: list[str] | None, kind: str) -> list[str]:
    """Return the names that contain a wanted part; all of them if nothing is wanted."""
    found = [name for name in known if not wanted or any(part in name for part in wanted)]
    if not found:
        sys.exit(f"No {kind} matches {' '.join(wanted or [])}. There are: {', '.join(known)}.")
    return found


def collected(book: Book, subjects: list[Subject], methods: list[str]) -> list[Cell]:
    """Return all cells: those that are known, and the others, made now."""
    known = book.known()
    began = time.perf_counter()
    for i, subject in enumerate(subjects, start=1):
        missing = [name for name in methods if (name, subject.name) not in known]
        for found in column(subject, missing) if missing else ():
            book.add(found)
            known[found.method, found.model] = found
        mine = [known[name, subject.name] for name in methods]
        made = f"{len(missing)} made now, {time.perf_counter() - began:.0f} s"
        sys.stderr.write(f"{i}/{len(subjects)} {subject.name}: {counted(mine)} ({made})\n")
        sys.stderr.flush()
    return [known[name, subject.name] for subject in subjects for name in methods]


def main() -> int:
    """Run what is missing, print the table, write the record; 1 if there is an error in it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--models", nargs="+", help="parts of names, such as timm/ or vit")
    parser.add_argument("--methods", nargs="+", help="parts of names, such as cam")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget the cells that are known")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.jsonl"))
    parser.add_argument("--markdown", type=Path, help="write the table as a page of the manual")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    methods = chosen([e.card.name for e in CATALOGUE], arguments.methods, "method")
    names = chosen([s.name for s in SUBJECTS], arguments.models, "model")
    subjects = [s for s in SUBJECTS if s.name in names]
    if arguments.fresh:
        arguments.out.unlink(missing_ok=True)
    book = Book(path=arguments.out, version=version())
    cells = collected(book, subjects, methods)
    print(text(cells, methods, subjects))
    blank = [f"{c.method} on {c.model}" for c in cells if c.blank]
    print(f"Maps that are zero everywhere: {', '.join(blank) or 'none'}")
    if arguments.markdown:
        page = markdown(cells, methods, subjects, {name: cheap(name) for name in methods})
        arguments.markdown.write_text(page)
    return int(summary(cells)["ERROR"] > 0)


if __name__ == "__main__":
    sys.exit(main())
