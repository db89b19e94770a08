"""The three tasks: data, architecture and recipe of training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data" / "mnist.npz"
MEAN, SPREAD = 0.1307, 0.3081


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learnt, and how.

    Args:
        name: Its name in the tables.
        make: Makes a network that has not learnt anything; from the global generator.
        side: The images' height and width: 28, or 14 for means of two by two pixels.
        train: Training images.
        queries: Held-out images whose margins are predicted.
        batch: Images of a step; 0 for all of them, by Nesterov's method until converged.
        epochs: Passes over the training images (steps, where ``batch`` is 0).
        rate: Learning rate of plain gradient descent with momentum, which falls along a line.
        momentum: Its momentum.
        decay: Weight of half the squared norm of the parameters in the loss.
        seeds: Retrainings of each subset; 1 where nothing is random.
        subsets: Random halves of the training images.
        members: Models of all training images, for the scores that average over several.
    """

    name: str
    make: Callable[[], nn.Module]
    side: int = 28
    train: int = 1000
    queries: int = 100
    batch: int = 50
    epochs: int = 20
    rate: float = 0.02
    momentum: float = 0.9
    decay: float = 1e-3
    seeds: int = 5
    subsets: int = 100
    members: int = 5


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Standardised images ``(n, 1, h, w)`` and labels of both parts."""

    images: Tensor
    labels: Tensor
    query_images: Tensor
    query_labels: Tensor


def logistic() -> nn.Module:
    """Return a logistic regression on 28 x 28 pixels, which starts from zero."""
    layer = nn.Linear(784, 10)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(nn.Flatten(), layer)


def perceptron() -> nn.Module:
    """Return a perceptron with two hidden layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def convolutional() -> nn.Module:
    """Return a convolutional network for 14 x 14 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(144, 10),
    )


TASKS = (
    Task(name="logistic", make=logistic, batch=0, epochs=1000, decay=0.03, seeds=1, members=1),
    Task(name="mlp", make=perceptron, seeds=10),
    Task(name="cnn", make=convolutional, side=14, epochs=25, rate=0.05, seeds=10),
)
"""The tasks by name."""


def small(task: Task) -> Task:
    """Return the task in seconds: for a test that everything runs, not for its numbers."""
    return replace(
        task,
        train=60,
        queries=6,
        subsets=6,
        seeds=min(task.seeds, 2),
        epochs=3 if task.batch else 20,
        batch=min(task.batch, 10),
        members=min(task.members, 2),
    )


def digits(task: Task) -> Digits:
    """Return the first training images and the first queries of the file."""
    with np.load(DATA) as file:
        parts = [
            torch.from_numpy(file[name][:count])
            for name, count in (
                ("x_train", task.train),
                ("y_train", task.train),
                ("x_test", task.queries),
                ("y_test", task.queries),
            )
        ]
    return Digits(
        images=standardised(parts[0], task.side),
        labels=parts[1].long(),
        query_images=standardised(parts[2], task.side),
        query_labels=parts[3].long(),
    )


def standardised(pixels: Tensor, side: int) -> Tensor:
    """Return images of one channel with about zero mean and unit variance."""
    images = (pixels[:, None].float() / 255 - MEAN) / SPREAD
    return images if side == images.shape[2] else functional.avg_pool2d(images, 2)


def subsets_of(task: Task) -> Tensor:
    """Return which training images each subset keeps, ``(m, n)``: always exactly half."""
    generator = torch.Generator().manual_seed(1)
    keep = torch.zeros(task.subsets, task.train, dtype=torch.bool)
    for row in keep:
        row[torch.randperm(task.train, generator=generator)[: task.train // 2]] = True
    return keep
