"""Wrong labels: a tenth of the training labels are changed, and self-influence looks for them."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from reproductions.lds.ours import Row, self_scored
from reproductions.lds.tasks import Digits, Task
from reproductions.lds.training import trained
from reproductions.lds.truth import STAGES, Truth, stages_of

SHARE = 0.1
CLASSES = 10


def flipped(task: Task, data: Digits) -> tuple[Digits, Tensor]:
    """Return the digits with some labels changed to another class, and which they are."""
    generator = torch.Generator().manual_seed(2)
    count = round(SHARE * task.train)
    places = torch.randperm(task.train, generator=generator)[:count]
    wrong = torch.zeros(task.train, dtype=torch.bool)
    wrong[places] = True
    labels = data.labels.clone()
    shift = torch.randint(1, CLASSES, (count,), generator=generator)
    labels[places] = (labels[places] + shift) % CLASSES
    return replace(data, labels=labels), wrong


def suspicion(task: Task, data: Digits, truth: Truth, row: Row, folder: Path) -> dict[str, Tensor]:
    """Return self-scores on models that learnt the changed labels, as a cell keeps them."""
    changed, wrong = flipped(task, data)
    everything = torch.ones(1, task.train, dtype=torch.bool)
    members, _ = stages_of(
        folder / "mislabelled.safetensors",
        lambda: trained(task, changed, everything, [60_000], STAGES),
    )
    found = self_scored(task, changed, replace(truth, members=members), row)
    return {"scores": found.scores.detach(), "wrong": wrong}
