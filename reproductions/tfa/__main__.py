"""Training-feature attribution: experiments T1 to T7 on six kinds of data, several seeds.

Finished cells are kept, so that the run can be stopped at any time and goes on from there. It
prints its tables and writes them to ``reproductions/tfa/results.md``.

    python -m reproductions.tfa
"""

import argparse
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reproductions.tfa.experiments import costs, run
from reproductions.tfa.networks import accuracy, convolutional, fitted
from reproductions.tfa.report import report
from reproductions.tfa.scenes import DATA, boxes, cifar, pets, scenes
from reproductions.tfa.tasks import Task, shapes

REPOSITORY = Path(__file__).parents[2]

TIMED = ("shapes, GELU, seed 0", "scenes, ReLU, seed 0", "CIFAR-10, ResNet-20")
"""The networks on which the cost of maps is measured."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One network on one task.

    Args:
        name: What it is called in the tables.
        task: Makes the task.
        network: Makes the network, untrained; None for the ResNet-20 of the shared weights.
        epochs: Of training.
        seed: Of weights and training.
        sizes: Queries for the shortcut, for objects, and harmful ones.
        ablate: Whether noise count and sigma are varied, too.
        needs: What of the shared data it needs; empty for data that are made here.
    """

    name: str
    task: Callable[[], Task]
    network: Callable[[], nn.Module] | None
    epochs: int
    seed: int
    sizes: tuple[int, int, int]
    ablate: bool = False
    needs: str = ""


def small(activation: str, classes: int, side: int) -> Callable[[], nn.Module]:
    """Return what makes a small network for images of a side."""
    halve = {1, 3} if side == 32 else {0, 1, 3}
    return lambda: convolutional(activation, classes, (24, 48, 64, 64, 64), halve)


def cells() -> list[Cell]:
    """Return all cells, the most telling first."""
    found: list[Cell] = []
    real: list[Cell] = [
        Cell(
            name=f"scenes, ReLU, seed {seed}",
            task=scenes,
            network=small("relu", 2, 64),
            epochs=12,
            seed=seed,
            sizes=(8, 8, 0),
            needs="petscenes64_cats_on_reef.zip",
        )
        for seed in range(2)
    ]
    cifar_cell = Cell(
        name="CIFAR-10, ResNet-20",
        task=cifar,
        network=None,
        epochs=0,
        seed=0,
        sizes=(0, 10, 0),
        needs="cifar10_lossless.npz",
    )
    pictures = [
        Cell(
            name=name,
            task=task,
            network=small(name.split(", ")[1].lower(), classes, 64),
            epochs=epochs,
            seed=0,
            sizes=(0, 8, 0),
            needs=file,
        )
        for name, task, classes, epochs, file in (
            ("pets, ReLU", pets, 3, 30, "pets3_trimaps.zip"),
            ("boxes, GELU", boxes, 10, 15, "tinyimagenet10_boxes.zip"),
        )
    ]
    for seed in range(3):
        found += [
            Cell(
                name=f"shapes, {shown}, seed {seed}",
                task=lambda seed=seed: shapes(seed),
                network=small(shown.lower(), 6, 32),
                epochs=10,
                seed=seed,
                sizes=(8, 10, 6),
                ablate=seed == 0,
            )
            for shown in ("ReLU", "GELU")
        ]
        found += real[seed : seed + 1]
        found += [cifar_cell] if seed == 0 else pictures if seed == 1 else []
    return found


def resnet20() -> nn.Module:
    """Return the ResNet-20 of the examples with its trained weights."""
    where = REPOSITORY / "examples" / "cifar_resnet.py"
    spec = importlib.util.spec_from_file_location("cifar_resnet", where)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(where)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model: nn.Module = module.resnet20()
    file = DATA / "weights" / "resnet20-12fca82f.th"
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    model.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    return model.eval()


def trained(cell: Cell, task: Task, out: Path) -> nn.Module:
    """Return the network of a cell."""
    if cell.network is None:
        return resnet20()
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        model = cell.network()
    name = cell.name.replace(", ", "-").replace(" ", "")
    return fitted(model, task, out / f"{name}.pt", epochs=cell.epochs, seed=cell.seed)


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cells that are done."""
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
    return {row["cell"]: row for row in rows}


def main() -> int:
    """Run the cells that are missing, and write the tables."""
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
    path = options.out / "cells.jsonl"
    done = finished(path)
    for cell in cells():
        if cell.name in done or options.only not in cell.name:
            continue
        if cell.needs and not (DATA / cell.needs).exists():
            print(f"{cell.name}: left out, needs data/{cell.needs} beside the repository")
            continue
        clock, cpu = time.monotonic(), time.process_time()
        task = cell.task()
        model = trained(cell, task, options.out)
        print(
            f"{cell.name}: test accuracy {accuracy(model, task.tests, task.truths):.3f}, "
            f"{time.monotonic() - clock:.0f} s",
            flush=True,
        )
        row = {"cell": cell.name, **run(task, model, cell.sizes, ablate=cell.ablate)}
        row["seconds"], row["cpu"] = time.monotonic() - clock, time.process_time() - cpu
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        done[cell.name] = row
        print(f"{cell.name}: {row['cpu']:.0f} s of CPU", flush=True)
    for cell in (c for c in cells() if c.name in TIMED and c.name in done):
        name = f"cost: {cell.name}"
        if name in done:
            continue
        task = cell.task()
        spent = costs(task, trained(cell, task, options.out))
        done[name] = {"cell": name, "cpu": 0.0, "cost": spent}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[name]) + "\n")
    text = report(list(done.values()))
    print(text)
    options.results.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
