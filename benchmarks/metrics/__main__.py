"""Run our metrics and Quantus' in turn: ``python -m benchmarks.metrics``.

Both sides judge the same maps of the same images on the same network. Every figure is printed
twice; where the definitions agree the run fails unless the figures do. About two minutes.

Quantus evaluates one step of all images at a time; we evaluate all steps of all images in batches.
So the gain is largest for few images, and on a GPU; where a batch of one step fills the machine
already, both spend their time in the network. Beside our time stands that of the network's passes
alone, which no library goes below unless it runs the network itself in another way. One thread,
and CPU time, so that other work disturbs less.
"""

import argparse
import importlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import final

import torch

from benchmarks.measure import clocked
from benchmarks.metrics.rows import Pair, pairs, silenced
from benchmarks.metrics.setup import made
from whence.adapters.torchvision import open_torchvision

RESULTS = Path(__file__).parents[1] / "results" / "metrics.md"
GOAL = 5.0
TOLERANCE = 1e-3
TASKS = ["LeNet:1", "LeNet:16", "residual:2"]
HEAD = (
    (
        "`make bench-metrics`: Quantus {version}, maps of input times gradient; one thread, CPU "
        "time, the sides in turn, {rounds} rounds, medians (and range). LeNet: images of 30 x 30 "
        "pixels and a network of that size, as in Quantus' tutorials. Residual: images of 60 x 60 "
        "pixels and a small residual network with batch norm. Times faster than Quantus; the goal "
        "is 5."
    ),
    "",
    (
        "*Passes alone*: the time of as many passes of the network as the definition asks for, in "
        "batches of the fastest width and with nothing else, as a share of our time. Over 100 % "
        "where our passes are faster than torch's own: the maximum over windows by slices, and "
        "feature maps that stay in memory at hand. Our factor divided by this share is what a "
        "metric that costs nothing but torch's own passes would reach."
    ),
)


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    """CPU seconds of one row, the three in turn, and both figures.

    Args:
        pair: What was measured.
        count: Images.
        ours: Our CPU seconds, one for each round.
        theirs: Those of Quantus.
        alone: Those of the network's passes alone.
        figures: What we and Quantus found.
    """

    pair: Pair
    count: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    alone: tuple[float, ...]
    figures: tuple[float, float]


def measured(pair: Pair, count: int, rounds: int) -> Measured:
    """Return the times of a row; the first round does not count."""
    figures = silenced(pair.ours), silenced(pair.theirs)
    if pair.same and abs(figures[0] - figures[1]) > TOLERANCE * max(map(abs, figures)):
        msg = f"{pair.name}: the figures differ, {figures[0]} and {figures[1]}."
        raise AssertionError(msg)
    works = [partial(silenced, work) for work in (pair.ours, pair.theirs, pair.alone)]
    spent = [tuple(clocked(work)[1] for work in works) for _ in range(rounds + 1)]
    ours, theirs, alone = zip(*spent[1:], strict=True)
    return Measured(pair=pair, count=count, ours=ours, theirs=theirs, alone=alone, figures=figures)


def line(network: str, row: Measured) -> str:
    """Return a line of the table."""
    faster = sorted(b / a for a, b in zip(row.ours, row.theirs, strict=True))
    floor = median(b / a for a, b in zip(row.ours, row.alone, strict=True))
    agree = "same" if row.pair.same else "differs"
    met = "yes" if median(faster) >= GOAL else "no"
    ours, theirs = row.figures
    return (
        f"| {row.pair.name} | {network} | {row.count} | {1e3 * median(row.ours):.3g} | "
        f"{median(faster):.1f} ({faster[0]:.1f} to {faster[-1]:.1f}) | {met} | "
        f"{100 * floor:.0f} % | {ours:.4g} | {theirs:.4g} | {agree}: {row.pair.note} |"
    )


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description="Metrics beside Quantus'.")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="network:images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    open_torchvision()
    quantus = importlib.import_module("quantus")
    lines = [
        "# Metrics beside Quantus",
        "",
        *(part.format(version=quantus.__version__, rounds=chosen.rounds) for part in HEAD),
        "",
        (
            "| metric | network | images | ours, ms | times faster | goal met | passes alone | "
            "our figure | Quantus' | figures |"
        ),
        "|--|--|--|--|--|--|--|--|--|--|",
    ]
    print("\n".join(lines), flush=True)
    for task in chosen.tasks:
        network, count = task.split(":")
        for pair in pairs(made(int(count), network), quantus):
            lines.append(line(network, measured(pair, int(count), chosen.rounds)))
            print(lines[-1], flush=True)
    chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
