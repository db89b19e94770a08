"""How many images go through the network at once.

The memory of a pass is what the forward keeps for the backward, and it grows with the number of
rows. The first batch is chosen from the size of the images and a generous guess; while it runs,
what it keeps is measured, and the following batches are as large as the budget allows. No pass is
spent on measuring.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from whence.core import Images, ScalarFn
from whence.errors import SettingError

__all__ = [
    "Pace",
    "check_batch_size",
    "first_rows",
    "forward_pace",
    "memory_budget",
    "planned_rows",
]

GUESS = 512
"""Memory of a pass per row, as a multiple of the image's own: above what most networks keep."""

GUESS_ON_PROCESSOR = 256
"""The same where the budget is a matter of speed, and a batch above it does not fail."""

LEAST = 8
"""The same, at least: what gradients and images themselves take, however little is kept."""

FORWARD_ONLY = 8
"""How many times more rows fit where no gradient is wanted: two layers' activations, not all."""

ON_PROCESSOR = 192 * 2**20
"""192 MiB: seven images of 224 pixels through a ResNet-18. More at once is no faster there."""


def memory_budget(device: torch.device) -> int:
    """Return how many bytes a pass may take: half of what a GPU has free, otherwise 192 MiB."""
    if device.type != "cuda":
        return ON_PROCESSOR
    free, _ = torch.cuda.mem_get_info(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (free + idle) // 2


def first_rows(images: Images, budget: int) -> int:
    """Return the number of rows of the first batch, before anything is measured."""
    guess = GUESS if images.device.type == "cuda" else GUESS_ON_PROCESSOR
    return max(1, budget // (guess * row_bytes(images)))


def planned_rows(images: Images, budget: int, kept: int, rows: int) -> int:
    """Return the number of rows that fit the budget.

    Args:
        images: What the rows look like.
        budget: Bytes that a pass may take.
        kept: Bytes that a forward of ``rows`` rows kept for its backward.
        rows: How many rows that was.
    """
    return max(1, budget // max(kept // rows, LEAST * row_bytes(images)))


def row_bytes(images: Images) -> int:
    """Return the size of one image in bytes."""
    return images[0].numel() * images.element_size()


def check_batch_size(batch_size: int | None) -> None:
    """Refuse an internal batch of less than one row."""
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1, or None to choose it by memory; got {batch_size}."
        raise SettingError(msg)


@final
@dataclass(kw_only=True)
class Pace:
    """The number of rows per batch, within one call of a method.

    Args:
        f: The function that will be evaluated; its model's weights do not count as kept.
        images: What the rows look like.
        batch_size: Rows per batch, if the user set it.
        budget: Bytes that a pass may take; :func:`memory_budget` of the device by default.
    """

    f: ScalarFn
    images: Images
    batch_size: int | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        """Choose the first batch."""
        budget = memory_budget(self.images.device) if self.budget is None else self.budget
        self.limit: int = budget
        self.size: int = self.batch_size or first_rows(self.images, budget)
        self.settled: bool = self.batch_size is not None

    def spans(self, count: int, width: int = 1) -> Iterator[tuple[int, int]]:
        """Yield ``(start, stop)`` over ``range(count)``, each item taking ``width`` rows.

        The size is read again for every span, so that a measurement takes effect at once.
        """
        start = 0
        while start < count:
            stop = min(count, start + max(1, self.size // width))
            yield start, stop
            start = stop

    @contextmanager
    def watching(self, rows: int) -> Iterator[None]:
        """Measure what the forward of ``rows`` rows keeps, once, and settle the size by it."""
        if self.settled:
            yield
            return
        kept: dict[int, int] = {}
        weights = storages_of(self.f)

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            # A node that holds its own output holds itself: memory that no backward frees stays.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(keep, unchanged):
            yield
        self.size = planned_rows(self.images, self.limit, sum(kept.values()), rows)
        self.settled = True


def forward_pace(f: ScalarFn, images: Images, batch_size: int | None) -> Pace:
    """Return the pace of forwards without gradients, which keep next to nothing."""
    budget = FORWARD_ONLY * memory_budget(images.device)
    return Pace(f=f, images=images, batch_size=batch_size, budget=budget)


def unchanged(tensor: Tensor) -> Tensor:
    """Return the tensor."""
    return tensor


def storages_of(f: ScalarFn) -> frozenset[int]:
    """Return where the weights of a function's model lie; empty if it shows none."""
    model = getattr(f, "model", None)
    module = getattr(model, "module", model)
    if not isinstance(module, torch.nn.Module):
        return frozenset()
    tensors: list[Callable[[], Iterator[Any]]] = [module.parameters, module.buffers]
    return frozenset(t.untyped_storage().data_ptr() for source in tensors for t in source())
