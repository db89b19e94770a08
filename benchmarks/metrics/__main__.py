"""Run our metrics and Quantus' in turn: ``python -m benchmarks.metrics``.

Both sides judge the same maps of the same images on the same network. Every figure is printed
twice; where the definitions agree the run fails unless the figures do. Under a minute.

Quantus evaluates one step of all images at a time; we evaluate all steps of all images in batches.
So the gain is largest for few images, and on a GPU; where a batch of one step fills the machine
already, both spend their time in the network. One thread, so that other work disturbs less.
"""

import argparse
import importlib
from pathlib import Path

import torch

from benchmarks.measure import Row, paired
from benchmarks.metrics.rows import Pair, pairs, silenced
from benchmarks.metrics.setup import SIDE, made
from whence.adapters.torchvision import open_torchvision

RESULTS = Path(__file__).parents[1] / "results" / "metrics.md"
GOAL = 5.0
TOLERANCE = 1e-3


def measured(pair: Pair, rounds: int) -> tuple[Row, float, float]:
    """Return the times of a pair, and both figures."""
    ours, theirs = silenced(pair.ours), silenced(pair.theirs)
    if pair.same and abs(ours - theirs) > TOLERANCE * max(abs(ours), abs(theirs)):
        msg = f"{pair.name}: the figures differ, {ours} and {theirs}."
        raise AssertionError(msg)
    row = paired(
        lambda: silenced(pair.ours),
        lambda: silenced(pair.theirs),
        name=pair.name,
        against="Quantus",
        goal=1 / GOAL,
        rounds=rounds,
    )
    return row, ours, theirs


def line(pair: Pair, count: int, row: Row, ours: float, theirs: float) -> str:
    """Return a line of the table."""
    agree = "same" if pair.same else "differs"
    met = "yes" if 1 / row.ratio >= GOAL else "no"
    return (
        f"| {pair.name} | {count} | {1 / row.ratio:.1f} ({1 / row.high:.1f} to "
        f"{1 / row.low:.1f}) | "
        f"{1 / row.cpu:.1f} | {met} | {ours:.4g} | {theirs:.4g} | {agree}: {pair.note} |"
    )


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description="Metrics beside Quantus'.")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    open_torchvision()
    quantus = importlib.import_module("quantus")
    lines = [
        "# Metrics beside Quantus",
        "",
        (
            f"`make bench-metrics`: Quantus {quantus.__version__}, images of {SIDE} x {SIDE} "
            f"pixels, a network of the size of LeNet, maps of input times gradient; one thread, "
            f"both sides in turn, {chosen.rounds} rounds, medians (and range). Times faster than "
            f"Quantus; the goal is {GOAL:g}."
        ),
        "",
        "| metric | images | faster, wall | CPU | goal met | our figure | Quantus' | figures |",
        "|--|--|--|--|--|--|--|--|",
    ]
    print("\n".join(lines), flush=True)
    for count in chosen.images:
        for pair in pairs(made(count), quantus):
            lines.append(line(pair, count, *measured(pair, chosen.rounds)))
            print(lines[-1], flush=True)
    chosen.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
