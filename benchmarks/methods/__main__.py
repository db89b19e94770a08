"""``python -m benchmarks.methods``: methods x metrics where the truth is planted.

Networks and cells are kept in ``build/methods``: a run that is stopped goes on where it was.
"""

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.methods.networks import BUILD, NETWORKS
from benchmarks.methods.page import page
from benchmarks.methods.runs import judged
from benchmarks.methods.study import COUNT, SETS

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


if __name__ == "__main__":
    raise SystemExit(main())
