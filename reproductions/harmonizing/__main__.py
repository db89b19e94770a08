"""The cube of Kadir et al. 2023 in small, with the controls, and the paper's claims.

    python -m reproductions.harmonizing                # both data sets, under an hour on two cores
    python -m reproductions.harmonizing --data digits  # one of them

Trainings are kept after every epoch, maps after every 64 images, and what networks said after
every pair, in ``build/harmonizing``: stop it at any time, and start it again to go on. When all is
done it prints the page and writes it, with the figures.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from reproductions.harmonizing.cube import SETTINGS, STEPS, cube
from reproductions.harmonizing.networks import NETWORKS
from reproductions.harmonizing.report import section
from reproductions.harmonizing.scenes import BUILD, CIFAR, DATA, DIGITS
from reproductions.harmonizing.training import seconds_of, trained
from reproductions.xdnn.pictures import ARCHIVE
from whence.report.transfer import heat_svg
from whence.results.transfer import TransferRecord

HERE = Path(__file__).parent
NAMES = {"digits": DIGITS, "cifar": CIFAR}
FIGURES = {DIGITS: "digits.svg", CIFAR: "cifar.svg"}
SPENT = BUILD / "cpu-seconds.txt"
EVERY = 15.0
"""Seconds between two lines about the same stage."""

INTRODUCTION = f"""\
# Harmonizing Feature Attributions Across Deep Learning Architectures

Kadir, Addluri and Sonntag (KI 2023), made again in small: five networks of two families, each a
generator of maps and a judge of the features that the others' maps show. The paper's own tables
are of ImageNet networks, and none of its numbers is on this page. It is written by
`make reproduce-harmonizing`; every number is measured.

A claim is called reproduced, on soft features and at equal coverage: *recognised* where all pairs
of different networks are above chance and keep three quarters of the accuracy on images; *slight*
where the drop is clear of 0 and at most 10 points; *lower* where it is clear of 0; *consistent*
where evaluators of one generator differ by at most 10 points. Intervals are 95 %, by bootstrap over
images, or Wilson's for one cell. Beside each stands what comes out when every image gets the mask
of another image: what holds there as well says nothing about maps.

Soundness Saliency: `{SETTINGS}`, {STEPS[DIGITS]} steps on digits and {STEPS[CIFAR]} on CIFAR-10,
fills drawn from 200 training images.
"""


@dataclass(kw_only=True)
class Spoken:
    """A progress that prints a line now and then, with the time left.

    What has been spent of the processor's time is noted, so that runs that were stopped count.

    Args:
        title: The data set.
    """

    title: str
    spent: float = field(default_factory=time.process_time)
    stage: str = ""
    began: float = 0.0
    first: int = 0
    last: float = field(default=0.0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is."""
        now, spent = time.monotonic(), time.process_time()
        note(spent - self.spent)
        self.spent = spent
        if stage != self.stage:
            self.stage, self.began, self.first, self.last = stage, now, done, 0.0
        if now - self.last < EVERY and done < total:
            return
        self.last = now
        moved = done - self.first
        left = f"; {(now - self.began) / moved * (total - done):.0f} s left" if moved else ""
        print(f"{self.title}: {stage} {done} of {total}{left}", flush=True)


def page(records: Mapping[str, TransferRecord]) -> str:
    """Return the results as Markdown."""
    trainings = sum(seconds_of(dataset, name) for dataset in records for name in NETWORKS)
    studies = float(SPENT.read_text("utf-8")) if SPENT.is_file() else 0.0
    machine = (
        f"PyTorch {torch.__version__.split('+')[0]}, {os.cpu_count()} cores. "
        f"{trainings / 60:.0f} minutes of processor time for trainings, {studies / 60:.0f} for the "
        f"rest."
    )
    parts = [section(name, record, FIGURES[name]) for name, record in records.items()]
    return "\n\n".join([INTRODUCTION.strip(), machine, *parts]) + "\n"


def note(seconds: float) -> None:
    """Add to the processor time of all runs; a run that was stopped counts, too."""
    before = float(SPENT.read_text("utf-8")) if SPENT.is_file() else 0.0
    SPENT.parent.mkdir(parents=True, exist_ok=True)
    SPENT.write_text(f"{before + seconds:.1f}", "utf-8")


def run(chosen: Sequence[str]) -> dict[str, TransferRecord]:
    """Do what is missing, and return the studies."""
    records = {}
    for name in chosen:
        dataset = NAMES[name]
        for network in NETWORKS:
            print(f"{dataset}: {network}", flush=True)
            trained(dataset, network)
        spoken = Spoken(title=dataset)
        records[dataset] = cube(dataset, spoken)
        spoken("tables", 1, 1)
    return records


def main() -> int:
    """Run what is missing, print the page and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=sorted(NAMES), default=list(NAMES))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE, help="a folder for page and figures")
    options = parser.parse_args()
    if "cifar" in options.data and not ARCHIVE.exists():
        place = ARCHIVE.relative_to(DATA.parents[1]).as_posix()
        print(f"needs {place} beside the repository; or --data digits", file=sys.stderr)
        return 1
    torch.set_num_threads(options.threads)
    try:
        records = run([name for name in NAMES if name in options.data])
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.")
        return 130
    text = page(records)
    print(f"\n{text}")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.md").write_text(text, "utf-8")
    for dataset, record in records.items():
        (options.out / FIGURES[dataset]).write_text(heat_svg(record), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
