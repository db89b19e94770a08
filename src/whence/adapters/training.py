"""Training: its settings, its rows, and the batches of an epoch, whatever the trainer."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from whence.core import ImageData
from whence.errors import DataError, SettingError

__all__ = [
    "EpochRow",
    "Loader",
    "LossFn",
    "Losses",
    "TrainingSettings",
    "optimisation",
    "seed_of",
]

WORDS = {
    "optimiser": ("adamw", "sgd"),
    "schedule": ("cosine", "constant"),
    "precision": ("32", "bf16-mixed", "16-mixed"),
}
"""What the settings that are words may be."""

MARGIN = 2
"""Pixels by which a picture is moved at most, for each 16 of its side, where it is varied."""


@runtime_checkable
class Losses(Protocol):
    """The loss of a batch and its parts; :class:`whence.priors.PriorLoss` is one."""

    @property
    def total(self) -> Tensor:
        """What is made small."""
        ...

    @property
    def task(self) -> Tensor:
        """The cross-entropy alone."""
        ...

    @property
    def penalty(self) -> Tensor:
        """What was added to it, without its weight."""
        ...

    @property
    def logits(self) -> Tensor:
        """The model's output."""
        ...


LossFn: TypeAlias = Callable[[nn.Module, Tensor, Tensor, Tensor, int], Losses]
"""From model, images, labels, places in the dataset and number of the step to the loss."""


@final
@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained.

    Args:
        epochs: Passes over the training images, at most.
        batch_size: Images per step, on each device.
        optimiser: ``adamw``, or ``sgd`` with momentum 0.9.
        rate: The learning rate.
        decay: Weight decay.
        schedule: ``cosine`` lets the rate fall to zero over all epochs, ``constant`` keeps it.
        clip: The largest norm of the gradient; None leaves it as it is.
        patience: Epochs without a better accuracy on the validation images after which to stop;
            None never stops early.
        vary: Move and mirror the training images by chance, anew in every epoch.
        intercept: What is added to each class's logit in the loss, outside the network.
        precision: ``32`` for single precision; ``bf16-mixed`` or ``16-mixed`` for brain floats,
            or half precision with a scaled loss, where they are safe.
        device: ``cpu``, ``cuda``, or one of several: ``cuda:1``.
        devices: How many of them.
        nodes: How many machines.
        seed: Of the order of the images, of how they are varied, and of dropped units.
    """

    epochs: int = 10
    batch_size: int = 64
    optimiser: str = "adamw"
    rate: float = 1e-3
    decay: float = 1e-4
    schedule: str = "cosine"
    clip: float | None = None
    patience: int | None = None
    vary: bool = False
    intercept: tuple[float, ...] | None = None
    precision: str = "32"
    device: str = "cpu"
    devices: int = 1
    nodes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges and words."""
        for name in ("epochs", "batch_size", "devices", "nodes", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                msg = f"{name} must be at least 1; got {value}."
                raise SettingError(msg)
        positive = {"rate": self.rate, "clip": 1.0 if self.clip is None else self.clip}
        for name, number in positive.items():
            if not 0 < number < math.inf:
                msg = f"{name} must be over 0 and finite; got {number}."
                raise SettingError(msg)
        if not 0 <= self.decay < math.inf:
            msg = f"decay must be 0 or more and finite; got {self.decay}."
            raise SettingError(msg)
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                msg = f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}."
                raise SettingError(msg)


@final
@dataclass(frozen=True, kw_only=True)
class EpochRow:
    """What an epoch of training came to.

    Args:
        epoch: Its number, from 1.
        task: Mean cross-entropy on the training images, each before the step on its batch.
        penalty: Mean penalty of the prior there, without its weight.
        accuracy: Share of the training images predicted right.
        validation_loss: Mean cross-entropy on the validation images, after the epoch.
        validation_accuracy: Share of these predicted right.
        spread: Mean difference of the highest and the lowest logit on the validation images.
        rate: The learning rate at the end of the epoch.
    """

    epoch: int
    task: float
    penalty: float
    accuracy: float
    validation_loss: float
    validation_accuracy: float
    spread: float
    rate: float


@final
@dataclass(kw_only=True, eq=False)
class Loader:
    """Batches of one epoch for this process, as ``(places, images, labels)``.

    Args:
        data: The images.
        settings: Batch size, seed, and whether images are varied.
        trainer: Knows the epoch, and which of how many processes this is.
        shuffled: In another order every epoch, which depends on seed and epoch alone.
    """

    data: ImageData
    settings: TrainingSettings
    trainer: Any
    shuffled: bool

    def order(self) -> list[int]:
        """Return the places of this process's images; all processes get as many."""
        count, world = len(self.data), int(self.trainer.world_size)
        generator = self.generator(1)
        order = torch.randperm(count, generator=generator) if self.shuffled else torch.arange(count)
        if self.shuffled and world > 1:
            order = torch.cat([order, order[: -count % world]])
        return order[int(self.trainer.global_rank) :: world].tolist()

    def generator(self, kind: int) -> torch.Generator:
        """Return a generator for this epoch."""
        return torch.Generator().manual_seed(
            seed_of(self.settings.seed, int(self.trainer.current_epoch), kind)
        )

    def __len__(self) -> int:
        """Return the number of batches."""
        share = math.ceil(len(self.data) / int(self.trainer.world_size))
        return math.ceil(share / self.settings.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of the trainer's current epoch."""
        generator = self.generator(2)
        for batch in self.data.batches(self.settings.batch_size, self.order()):
            if (batch.labels < 0).any():
                first = int(batch.indices[batch.labels < 0][0])
                msg = f"Image {first} has no label. Training needs one for every image."
                raise DataError(msg)
            images = batch.images
            if self.shuffled and self.settings.vary:
                images = varied(images, generator)
            yield batch.indices, images, batch.labels


def seed_of(seed: int, epoch: int, kind: int) -> int:
    """Return a seed for one purpose in one epoch."""
    return (seed * 1_000_003 + epoch) * 7 + kind


def varied(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images, each mirrored or not and moved by a few pixels; what is missing is zero."""
    count, _, rows, columns = images.shape
    margin = MARGIN * max(1, min(rows, columns) // 16)
    padded = functional.pad(images, [margin] * 4)
    moves = torch.randint(2 * margin + 1, (count, 2), generator=generator)
    mirrored = torch.rand(count, generator=generator) < 0.5  # noqa: PLR2004 - a coin
    parts = [
        padded[k, :, down : down + rows, right : right + columns]
        for k, (down, right) in enumerate(moves.tolist())
    ]
    moved = torch.stack(parts)
    return torch.where(mirrored.view(-1, 1, 1, 1), moved.flip(3), moved)


def optimisation(
    parameters: list[nn.Parameter], settings: TrainingSettings, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    """Return the optimiser, and the schedule of its rate over so many steps."""
    if settings.optimiser == "sgd":
        steps: torch.optim.Optimizer = torch.optim.SGD(
            parameters, lr=settings.rate, momentum=0.9, weight_decay=settings.decay
        )
    else:
        steps = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=settings.decay)

    def factor(step: int) -> float:
        if settings.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(step / max(1, total), 1)))

    return steps, torch.optim.lr_scheduler.LambdaLR(steps, factor)
