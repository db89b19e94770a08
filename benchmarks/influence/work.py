"""What a row of the table is, and what the rows share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from benchmarks.influence.setup import Setup

__all__ = ["MAPPED", "TOP", "Cell", "Work", "datasets", "labels_of"]

MAPPED = 32
"""Training images of a map cell: a batch; all have one query."""

TOP = 10
"""Training images that are asked for."""


@final
@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to measure.

    Args:
        run: Does it; returns scores ``(n, q)`` if there are any.
        units: Training images that it goes over, or maps that it makes.
        note: What else to say, known after the run.
        some: Does it for one batch of training images: what it takes beyond that is queries.
    """

    run: Callable[[], Tensor | None]
    units: int
    note: Callable[[], str] = str
    some: Callable[[], object] | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Cell:
    """A row of the table.

    Args:
        name: What is done.
        library: By whom.
        unit: What its time is divided by: ``image`` or ``map``.
        make: Prepares the work; not measured.
        aim: Training steps per unit that it should take at most; None without an aim.
        exact: Which exact score its lists are compared with: ``cos``, ``dot`` or nothing.
        few: Whether it goes over as few images as other libraries do.
        small: Whether it is only measured on the small network.
    """

    name: str
    library: str
    make: Callable[[Setup], Work]
    unit: str = "image"
    aim: float | None = None
    exact: str = ""
    few: bool = False
    small: bool = False


def labels_of(labels: Tensor | None) -> Tensor:
    """Return labels, which these data have."""
    return torch.zeros(0, dtype=torch.int64) if labels is None else labels


def datasets(setup: Setup) -> tuple[Any, Any]:
    """Return both sets as other libraries take them."""
    train, test = setup.data
    return (
        TensorDataset(train.images, labels_of(train.labels)),
        TensorDataset(test.images, labels_of(test.labels)),
    )
