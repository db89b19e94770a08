"""Every part of the reproduction, beside the paper's numbers.

    python -m reproductions.xdnn                 # all parts: under an hour on two cores
    python -m reproductions.xdnn --parts a c     # some of them

Each finished cell is kept in ``build/xdnn``, a training after every epoch: stop it at any time, and
start it again to go on. When all is done it prints the tables and writes them, with the figure.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reproductions.xdnn import accuracy, contrast, idsds, masking, nhanes
from reproductions.xdnn.kept import Clock, Kept, Row, each_new
from reproductions.xdnn.pictures import ARCHIVE, CIFAR, DATA, DIGITS, LOSSLESS
from whence.core import Progress

HERE = Path(__file__).parent
FIGURE = "contrast.svg"
NEEDED = (ARCHIVE, LOSSLESS, DATA / "weights" / "resnet20-12fca82f.th", nhanes.DATA)
MASKED, DELETED = {DIGITS: 10.0, CIFAR: 40.0}, {DIGITS: 10.0, CIFAR: 50.0}
"""Seconds that a cell of these parts takes on two cores, about."""

EVERY = 20.0
"""Seconds between two lines about the same cell."""

INTRODUCTION = """\
# Fast Axiomatic Attribution for Neural Networks

Hesse, Schaub-Meyer and Roth (NeurIPS 2021), made again where it can be without ImageNet: small
networks on scikit-learn's digits and on CIFAR-10, and NHANES I. This page is written by
`make reproduce-xdnn`; every number on it is measured, but for those that are called the paper's.
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the reproduction.

    Args:
        title: What it shows.
        kept: Where its finished cells are.
        cells: Their names, with the seconds that each takes on two cores.
        measure: Measures one.
        report: Writes the tables.
    """

    title: str
    kept: Kept
    cells: Mapping[str, float]
    measure: Callable[[str, Progress], Row]
    report: Callable[[Mapping[str, Row]], str]


@dataclass(kw_only=True)
class Spoken:
    """A progress that prints a line now and then.

    Args:
        name: The cell.
        clock: Knows the time left.
    """

    name: str
    clock: Clock
    last: float = field(default_factory=time.monotonic)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is."""
        now = time.monotonic()
        if now - self.last < EVERY:
            return
        self.last = now
        print(f"    {stage} {done} of {total}; {self.clock.told()}", flush=True)


def parts() -> dict[str, Part]:
    """Return all parts by their letters."""
    networks = {cell.name: cell for cell in accuracy.cells()}
    masked = {cell.name: cell for cell in masking.cells()}
    deleted = {cell.name: cell for cell in idsds.cells()}
    tables = {cell.name: cell for cell in nhanes.cells()}

    def measured(name: str, progress: Progress) -> Row:
        return accuracy.measure(networks[name], progress)

    seconds = {name: accuracy.expected(cell) for name, cell in networks.items()}
    return {
        "a": Part(
            title="Accuracy, and the difference of IG and input x gradient",
            kept=accuracy.KEPT,
            cells=seconds,
            measure=measured,
            report=accuracy.report,
        ),
        "b": Part(
            title="Masking",
            kept=masking.KEPT,
            cells={name: MASKED[cell.dataset] for name, cell in masked.items()},
            measure=lambda name, progress: masking.measure(masked[name], progress),
            report=masking.report,
        ),
        "c": Part(
            title="Contrast",
            kept=accuracy.KEPT,
            cells=seconds,
            measure=measured,
            report=lambda rows: contrast.report(rows, FIGURE),
        ),
        "d": Part(
            title="NHANES I: priors on attributions",
            kept=nhanes.KEPT,
            cells={name: nhanes.expected(cell) for name, cell in tables.items()},
            measure=lambda name, _: nhanes.measure(tables[name]),
            report=nhanes.report,
        ),
        "e": Part(
            title="IDSDS: single deletions",
            kept=idsds.KEPT,
            cells={name: DELETED[cell.dataset] for name, cell in deleted.items()},
            measure=lambda name, progress: idsds.measure(deleted[name], progress),
            report=idsds.report,
        ),
    }


def run(chosen: Sequence[str], every: Mapping[str, Part]) -> None:
    """Measure the cells that are missing, and tell how far it is."""
    left = {
        name: seconds for letter in chosen for name, seconds in unfinished(every[letter]).items()
    }
    clock = Clock(left=left)
    print(f"{len(left)} cells to do, about {clock.told()}", flush=True)
    for letter in chosen:
        part = every[letter]

        def measure(name: str, part: Part = part, letter: str = letter) -> Row:
            print(f"{letter}  {name}", flush=True)
            return part.measure(name, Spoken(name=name, clock=clock))

        for row in each_new(list(part.cells), part.kept, measure, clock):
            print(f"   done in {row['seconds']:.0f} s; {clock.told()}", flush=True)


def unfinished(part: Part) -> dict[str, float]:
    """Return the cells of a part that are not there yet."""
    known = part.kept.rows()
    return {name: seconds for name, seconds in part.cells.items() if name not in known}


def page(chosen: Sequence[str], every: Mapping[str, Part]) -> str:
    """Return the results as Markdown."""
    spent = {
        (str(part.kept.path), name): row["cpu"] if "cpu" in row else row["seconds"]
        for part in (every[letter] for letter in chosen)
        for name, row in part.kept.rows().items()
        if name in part.cells
    }
    machine = (
        f"PyTorch {torch.__version__.split('+')[0]}, {os.cpu_count()} cores. "
        f"{len(spent)} cells, {sum(spent.values()) / 60:.0f} minutes of processor time."
    )
    sections = [
        f"## {letter}. {every[letter].title}\n\n{every[letter].report(every[letter].kept.rows())}"
        for letter in chosen
    ]
    return "\n\n".join([INTRODUCTION.strip(), machine, *sections]) + "\n"


def main() -> int:
    """Run what is missing, print the tables and write them."""
    every = parts()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=sorted(every), default=sorted(every))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE, help="a folder for page and figure")
    options = parser.parse_args()
    missing = [path for path in NEEDED if not path.exists()]
    if missing:
        names = ", ".join(path.relative_to(DATA.parents[1]).as_posix() for path in missing)
        print(f"needs {names} beside the repository", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    chosen = sorted(set(options.parts))
    try:
        run(chosen, every)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.")
        return 130
    text = page(chosen, every)
    print(f"\n{text}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text(text, "utf-8")
    (options.out / FIGURE).write_text(contrast.figure(accuracy.KEPT.rows()), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
