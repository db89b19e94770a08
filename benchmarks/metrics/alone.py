"""The network's passes alone: what a metric cannot go below while it runs the network as it is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from benchmarks.measure import clocked
from benchmarks.metrics.setup import Task

__all__ = ["Alone"]

WIDTHS = (8, 16, 32, 64, 128)
"""Images at once, of which the fastest is taken."""

TRIED = 512
"""Images that each width is tried on, three times; an eighth of the slow network."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Alone:
    """Passes of a task's images, again and again, in batches of the fastest width.

    Args:
        task: The network and the images.
        forward: Images at once where no gradient is wanted.
        backward: Images at once where it is.
    """

    task: Task
    forward: int
    backward: int

    @staticmethod
    def of(task: Task) -> "Alone":
        """Return the passes of a task, after trying the widths."""
        return Alone(task=task, forward=fastest(task, valued), backward=fastest(task, explained))

    def passes(self, each: int) -> float:
        """Return something of so many values of each image."""
        return worked(self.task, valued, each * len(self.task.images), self.forward)

    def maps(self, each: int) -> float:
        """Return something of so many gradients of each image."""
        return worked(self.task, explained, each * len(self.task.images), self.backward)


def valued(task: Task, images: Tensor) -> Tensor:
    """Return the network's values."""
    with torch.no_grad():
        found: Tensor = task.model(images)
        return found


def explained(task: Task, images: Tensor) -> Tensor:
    """Return the gradients of the first class."""
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(task.model(leaf)[:, 0].sum(), leaf)[0]


def worked(task: Task, work: Callable[[Task, Tensor], Tensor], count: int, width: int) -> float:
    """Return something of so many images, in even batches."""
    every = task.images.repeat(-(-count // len(task.images)), 1, 1, 1)[:count]
    return sum(float(work(task, some).flatten()[0]) for some in every.chunk(-(-count // width)))


def fastest(task: Task, work: Callable[[Task, Tensor], Tensor]) -> int:
    """Return the width at which so many images take the least time."""
    count = TRIED // (8 if task.network == "residual" else 1)
    spent: dict[int, float] = {}
    for width in WIDTHS:
        if width <= count:
            times = [clocked(partial(worked, task, work, count, width))[1] for _ in range(3)]
            spent[width] = min(times)
    return min(spent, key=lambda width: spent[width])
