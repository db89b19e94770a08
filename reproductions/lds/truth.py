"""The ground truth: retrained margins, kept cell by cell so that a run can stop and go on."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reproductions.lds.tasks import Digits, Task, subsets_of
from reproductions.lds.training import Weights, logits_of, margins_of, trained

STAGES = 5
"""Checkpoints of each model of all training images."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What retraining gave.

    Args:
        keep: Which training images each subset keeps, ``(m, n)``.
        margins: Margins of the queries' labels after retraining, ``(m, r, q)``.
        members: The stages of the models of all training images, stacked.
        seconds: Computing time of all cells.
    """

    keep: Tensor
    margins: Tensor
    members: list[Weights]
    seconds: float


def folder_of(task: Task, root: Path) -> Path:
    """Return where the cells of a task lie; other settings have another folder."""
    settings = {name: value for name, value in asdict(task).items() if name != "make"}
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()[:8]
    return root / f"{task.name}-{digest}"


def cell(path: Path, compute: Callable[[], Weights]) -> tuple[Weights, float]:
    """Return the tensors of a cell and the seconds that they took; compute them if absent."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.process_time()
        found = {name: value.contiguous() for name, value in compute().items()}
        found["seconds"] = torch.tensor(time.process_time() - started)
        unfinished = path.with_suffix(".part")
        save_file(found, unfinished)
        unfinished.replace(path)
        print(f"  {path.parent.name}/{path.stem} ({float(found['seconds']):.0f} s)", flush=True)
    found = load_file(path)
    return found, float(found.pop("seconds"))


def truth_of(task: Task, data: Digits, root: Path) -> Truth:
    """Return the retrained margins and the models of all training images."""
    folder, keep = folder_of(task, root), subsets_of(task)
    margins, spent = [], 0.0
    for seed in range(task.seeds):
        found, seconds = cell(
            folder / f"retrained-{seed}.safetensors",
            lambda seed=seed: {"margins": retrained(task, data, keep, seed)},
        )
        margins.append(found["margins"])
        spent += seconds
    everything = torch.ones(task.members, task.train, dtype=torch.bool)
    seeds = range(50_000, 50_000 + task.members)
    members, seconds = stages_of(
        folder / "members.safetensors", lambda: trained(task, data, everything, seeds, STAGES)
    )
    return Truth(
        keep=keep, margins=torch.stack(margins, dim=1), members=members, seconds=spent + seconds
    )


def stages_of(path: Path, compute: Callable[[], list[Weights]]) -> tuple[list[Weights], float]:
    """Return the stages of some models from their cell, and the seconds that they took."""
    stored, seconds = cell(
        path,
        lambda: {
            f"{stage}/{name}": value
            for stage, weights in enumerate(compute())
            for name, value in weights.items()
        },
    )
    stages: list[Weights] = [{} for _ in range(STAGES)]
    for key, value in stored.items():
        stage, _, name = key.partition("/")
        stages[int(stage)][name] = value
    return stages, seconds


def retrained(task: Task, data: Digits, keep: Tensor, seed: int) -> Tensor:
    """Return the margins ``(m, q)`` of one seed's models, one for each subset."""
    seeds = range(seed * len(keep), (seed + 1) * len(keep))
    weights = trained(task, data, keep, seeds)[-1]
    return margins_of(logits_of(task, weights, data.query_images), data.query_labels)
