"""What the maps cost, in training steps of the same batch."""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from reproductions.tfa.maps import Case, makers
from reproductions.tfa.tasks import Task
from whence.core import Margin, TensorData
from whence.influence import GradCos, influence
from whence.network import Network
from whence.training_features import neutral

__all__ = ["costs"]


def costs(task: Task, model: nn.Module, count: int = 16) -> dict[str, float]:
    """Return the CPU time of each map of a batch, in training steps of the same batch."""
    train = TensorData(images=task.images[:64], labels=task.labels[:64])
    network = Network.read(model, task.images[:2])
    asked = Margin(task.truths[:1])
    scores = influence(network, train, task.tests[:1], asked, scorer=GradCos())
    case = Case(
        network=network,
        model=model,
        influence=scores,
        fresh=scores,
        images=task.images[:64],
        labels=task.labels[:64],
        neutral=neutral(scores, train, samples=2),
    )
    rows = torch.arange(count)
    unit = seconds(lambda: step(case, rows))
    return {
        name: seconds(partial(make, case, 0, rows)) / unit
        for name, make in makers(case.neutral).items()
    }


def seconds(make: Callable[[], object]) -> float:
    """Return the CPU time of the fastest of three calls."""
    found = []
    for _ in range(3):
        started = time.process_time()
        make()
        found.append(time.process_time() - started)
    return min(found)


def step(case: Case, rows: Tensor) -> None:
    """Make a training step without the update: forward and full backward."""
    with torch.enable_grad():
        logits = case.network(case.images[rows])
        loss = torch.nn.functional.cross_entropy(logits, case.labels[rows])
        torch.autograd.grad(loss, list(case.network.parameters.values()))
