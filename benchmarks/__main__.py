"""``python -m benchmarks``: print the first table and write it as a record."""

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.measure import Row, table
from benchmarks.speed.first import rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--side", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/first.json"))
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found: list[Row] = []
    for row in rows(arguments.side, arguments.device):
        found.append(row)
        sys.stderr.write(f"{row.work}: {row.ratio:.3f}\n")
    print(table(found))
    record = {
        "rows": [asdict(row) for row in found],
        "side": arguments.side,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
