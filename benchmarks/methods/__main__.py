"""``python -m benchmarks.methods``: methods x metrics where the truth is planted.

Networks and cells are kept in ``build/methods``: a run that is stopped goes on where it was.
"""

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from benchmarks.methods.networks import BUILD, NETWORKS
from benchmarks.methods.page import Run, page
from benchmarks.methods.scenes import SHORTCUT
from benchmarks.methods.study import COUNT, SETS, study

PAGE = Path(__file__).parents[1] / "results" / "methods.md"


def main() -> int:
    """Judge what is not judged yet, print the tables, write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--count", type=int, default=COUNT, help="images of each set")
    parser.add_argument("--jobs", type=int, default=2, help="networks at a time, a thread each")
    parser.add_argument("--build", type=Path, default=BUILD, help="networks and cells")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    arguments = parser.parse_args()
    work = partial(judged, kinds=arguments.sets, count=arguments.count, build=arguments.build)
    if arguments.jobs > 1 and len(arguments.networks) > 1:
        spawned = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(arguments.jobs, mp_context=spawned) as pool:
            found = list(pool.map(work, arguments.networks))
    else:
        found = [work(name) for name in arguments.networks]
    runs = [run for each in zip(*found, strict=True) for run in each]
    text = page(runs, count=arguments.count, build=arguments.build)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text, "utf-8")
    print(text)
    return 0


def judged(name: str, *, kinds: Sequence[str], count: int, build: Path) -> list[Run]:
    """Judge everything on one network; what is done is read."""
    torch.set_num_threads(1)
    runs = []
    for kind in kinds:
        ask = partial(study, kind, name, count=count, build=build, progress=Told(f"{kind}, {name}"))
        digits = ask(digits=True) if kind == SHORTCUT else None
        runs.append(Run(kind=kind, network=name, record=ask(), digits=digits))
    return runs


class Told:
    """Says now and then how far the work is."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.last = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Print a line, at most every ten seconds."""
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            print(f"{self.title}: {stage} {done} of {total}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
