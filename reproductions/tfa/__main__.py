"""Training-feature attribution: experiments T1 to T7 on seven kinds of data, several seeds.

Finished cells are kept, so that the run can be stopped at any time and goes on from there. It
prints its tables and writes them to ``reproductions/tfa/results.md``, with figures beside it.
Figures that show photographs of the shared data stay in ``build/tfa``, as the data may not be
handed on.

    python -m reproductions.tfa
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from reproductions.tfa.cells import cells
from reproductions.tfa.figures import figures
from reproductions.tfa.report import report
from reproductions.tfa.scenes import DATA

REPOSITORY = Path(__file__).parents[2]


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cells that are done."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    return {row["cell"]: row for row in rows}


def main() -> int:
    """Run the cells that are missing, and write tables and figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "tfa")
    parser.add_argument(
        "--results", type=Path, default=REPOSITORY / "reproductions" / "tfa" / "results.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "results.jsonl"
    done = finished(path)
    for cell in cells():
        if cell.name in done or options.only not in cell.name:
            continue
        if cell.needs and not (DATA / cell.needs).exists():
            print(f"{cell.name}: left out, needs data/{cell.needs} beside the repository")
            continue
        clock, cpu = time.monotonic(), time.process_time()
        row = {"cell": cell.name, **cell.work(options.out)}
        row["seconds"], row["cpu"] = time.monotonic() - clock, time.process_time() - cpu
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[cell.name] = row
        print(f"{cell.name}: {row['cpu']:.0f} s of CPU", flush=True)
    rows = [done[cell.name] for cell in cells() if cell.name in done]
    text = report(rows)
    print(text)
    options.results.write_text(text, encoding="utf-8")
    for name, content in figures(rows, options.out).items():
        (options.results.parent / name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
