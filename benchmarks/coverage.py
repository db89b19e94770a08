"""``python -m benchmarks.coverage``: every method on every model of the list, in one table."""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from benchmarks.models import SUBJECTS, Subject
from whence.attribution import CATALOGUE, attribute, method_named
from whence.core import ModelScalar, logit
from whence.errors import SettingError, UnsupportedOperation
from whence.network import Network

__all__ = ["CHEAP", "Cell", "cell", "main", "table"]

Verdict = Literal["ok", "n/a", "ERROR"]

CHEAP: Mapping[str, Mapping[str, float | str]] = {
    "smoothgrad": {"samples": 2},
    "smoothgrad-squared": {"samples": 2},
    "vargrad": {"samples": 2},
    "integrated-gradients": {"steps": 2},
    "expected-gradients": {"samples": 2},
    "gradient-shap": {"samples": 2},
    "idgi": {"steps": 2},
    "guided-ig": {"steps": 4},
    "blur-ig": {"steps": 2},
    "occlusion": {"window": 32, "stride": 32},
    "rise": {"masks": 8, "cells": 3},
    "kernel-shap": {"superpixels": "grid:2", "samples": 16},
    "lime": {"superpixels": "grid:2", "samples": 16},
    "soundness-saliency": {"steps": 3},
    "extremal-perturbation": {"steps": 3},
    "pertinent-negatives": {"steps": 10, "searches": 2, "rate": 0.3, "sparsity": 1e-4},
    "pertinent-positives": {"steps": 10, "searches": 2, "rate": 0.3, "sparsity": 1e-4},
}
"""Settings that cost little; a method that is not named runs with its defaults."""

IMAGES = 2


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of a method on a model.

    Args:
        method: Its name in the catalogue.
        model: The model's name.
        verdict: ``ok``: finite values of the right shape. ``n/a``: refused, with the reason.
            ``ERROR``: anything else.
        reason: Why not, in full.
        blank: Of how many images the map is zero everywhere: allowed, but worth a look.
        seconds: How long it took.
    """

    method: str
    model: str
    verdict: Verdict
    reason: str
    blank: int
    seconds: float


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
    ready = method_named(method, CHEAP.get(method))
    with torch.no_grad():
        predicted = network(images).argmax(dim=1)
    f = ModelScalar(network, logit(predicted))
    try:
        result = attribute(ready, f, images)
    except (SettingError, UnsupportedOperation) as error:
        return "n/a", str(error), 0
    except Exception as error:  # noqa: BLE001 - a table of what fails must survive it
        return "ERROR", f"{type(error).__name__}: {error}", 0
    values = result.values
    wanted = {(len(images), channels, *images.shape[2:]) for channels in (1, images.shape[1])}
    if tuple(values.shape) not in wanted:
        return "ERROR", f"The values have shape {tuple(values.shape)}.", 0
    if not values.isfinite().all():
        return "ERROR", "Some values are NaN or infinite.", 0
    return "ok", "", int(result.blank.sum())


def column(subject: Subject, methods: Iterable[str]) -> list[Cell]:
    """Run methods on a model, which is read once."""
    images = subject.images(IMAGES)
    try:
        network = Network.read(subject.model(), images)
    except Exception as error:  # noqa: BLE001 - as above
        why = f"{type(error).__name__}: {error}"
        return [
            Cell(method=m, model=subject.name, verdict="ERROR", reason=why, blank=0, seconds=0.0)
            for m in methods
        ]
    return [cell(name, subject.name, network, images) for name in methods]


def table(cells: Iterable[Cell], methods: list[str], subjects: list[Subject]) -> str:
    """Return the cells as text: methods down, models across, and the reasons below."""
    places = {(c.method, c.model): c for c in cells}
    marks: dict[str, str] = {}
    lines = [f"{'method':24}" + "".join(f"{s.short:>5}" for s in subjects)]
    for method in methods:
        row = [places[method, s.name] for s in subjects]
        lines.append(f"{method:24}" + "".join(f"{marked(c, marks):>5}" for c in row))
    lines += ["", "+ ok; 1, 2, ...: not applicable, E1, E2, ...: an error; in short:"]
    lines += [f"{mark:>5}  {reason}" for reason, mark in marks.items()]
    lines += ["", *(f"{s.short:>5}  {s.name}, {s.side} x {s.side}" for s in subjects)]
    return "\n".join(lines)


def marked(found: Cell, marks: dict[str, str]) -> str:
    """Return a cell's symbol; a reason that is new gets the next number."""
    if found.verdict == "ok":
        return "+"
    prefix = "E" if found.verdict == "ERROR" else ""
    return marks.setdefault(brief(found), f"{prefix}{len(marks) + 1}")


def brief(found: Cell) -> str:
    """Return a reason in a sentence, without the names of the method and of the module."""
    reason = found.reason if found.verdict == "ERROR" else re.split(r"(?<=\.)\s", found.reason)[0]
    reason = reason.replace(type(method_named(found.method)).__name__, "The method")
    return re.sub(r"(?<=') in [\w.]+", "", reason)


def counted(cells: list[Cell]) -> str:
    """Return the counts of the verdicts as text."""
    return ", ".join(f"{count} {verdict}" for verdict, count in summary(cells).items())


def summary(cells: list[Cell]) -> dict[Verdict, int]:
    """Count the verdicts."""
    return {v: sum(c.verdict == v for c in cells) for v in ("ok", "n/a", "ERROR")}


def chosen(known: list[str], wanted: list[str] | None, kind: str) -> list[str]:
    """Return the names that contain a wanted part; all of them if nothing is wanted."""
    found = [name for name in known if not wanted or any(part in name for part in wanted)]
    if not found:
        sys.exit(f"No {kind} matches {' '.join(wanted or [])}. There are: {', '.join(known)}.")
    return found


def main() -> int:
    """Run all, print the table, write the record; 1 if there is an error in it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--models", nargs="+", help="parts of names, such as timm/ or vit")
    parser.add_argument("--methods", nargs="+", help="parts of names, such as cam")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    methods = chosen([e.card.name for e in CATALOGUE], arguments.methods, "method")
    names = chosen([s.name for s in SUBJECTS], arguments.models, "model")
    subjects = [s for s in SUBJECTS if s.name in names]
    cells: list[Cell] = []
    began = time.perf_counter()
    for i, subject in enumerate(subjects, start=1):
        cells += (found := column(subject, methods))
        spent = time.perf_counter() - began
        place = f"{i}/{len(subjects)} {subject.name}"
        sys.stderr.write(f"{place}: {counted(found)} ({spent:.0f} s)\n")
        sys.stderr.flush()
    print(table(cells, methods, subjects))
    print(f"\n{counted(cells)}")
    blank = [f"{c.method} on {c.model}" for c in cells if c.blank]
    print(f"Maps that are zero everywhere: {', '.join(blank) or 'none'}")
    record = {
        "counts": summary(cells),
        "settings": {name: dict(CHEAP.get(name, {})) for name in methods},
        "torch": torch.__version__,
        "cells": [asdict(c) for c in cells],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")
    return int(summary(cells)["ERROR"] > 0)


if __name__ == "__main__":
    sys.exit(main())
