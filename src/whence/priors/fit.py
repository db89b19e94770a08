"""Fit: a plain training loop, with or without a prior, on a copy of the model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from whence.core import Batch, ImageData, Progress, check_logits, logits_of, silent
from whence.errors import DataError, NumericsError, SettingError
from whence.priors.loss import Prior, PriorLoss, prior_loss

__all__ = ["Epoch", "Fit", "fit"]


@final
@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Means over the images of an epoch, each taken before the step on its batch.

    Args:
        task: The cross-entropy.
        penalty: The prior's penalty, without its weight; 0 without a prior.
        accuracy: The share of images predicted right.
    """

    task: float
    penalty: float
    accuracy: float


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """A trained model, in the modes of the original, and how it got there."""

    model: nn.Module
    history: tuple[Epoch, ...]


def fit(
    model: nn.Module,
    data: ImageData,
    *,
    epochs: int,
    optimiser: Callable[[list[nn.Parameter]], Optimizer],
    generator: torch.Generator,
    prior: Prior | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Fit:
    """Train a copy of the model on labelled images; the model itself is not touched.

    Args:
        model: A classifier; parameters that do not require a gradient stay as they are.
        data: Labelled images.
        epochs: Passes over the data.
        optimiser: Makes an optimiser of the parameters: ``partial(torch.optim.Adam, lr=1e-3)``.
        generator: Shuffles the images, anew for every epoch.
        prior: What attributions shall look like. Its penalty belongs to the whole dataset; for
            every batch ``prior.at(indices, step)`` is taken.
        batch_size: Images per step.
        progress: Called after every step.

    Raises:
        DataError: If an image has no label, or no image can be used.
        NumericsError: If the loss is not finite.
        SettingError: If there is nothing to train.
    """
    if epochs < 1 or batch_size < 1:
        msg = f"epochs and batch_size must be at least 1; got {epochs} and {batch_size}."
        raise SettingError(msg)
    trained = copy.deepcopy(model)
    modes = [(part, part.training) for part in trained.modules()]
    chosen = [p for p in trained.parameters() if p.requires_grad]
    if not chosen:
        msg = "No parameter of the model requires a gradient, so there is nothing to train."
        raise SettingError(msg)
    trained.train()
    steps = optimiser(chosen)
    history: list[Epoch] = []
    number = 0
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=generator).tolist()
        tally = Tally()
        for batch in data.batches(batch_size, order):
            loss = step(trained, steps, batch, prior, number)
            number += 1
            tally.add(loss, batch.labels, epoch)
            progress("training", epoch * len(data) + tally.count, epochs * len(data))
        history.append(tally.epoch())
    for part, mode in modes:
        part.training = mode
    return Fit(model=trained, history=tuple(history))


def step(
    model: nn.Module, optimiser: Optimizer, batch: Batch, prior: Prior | None, number: int
) -> PriorLoss:
    """Take the step of this number on a batch and return its loss."""
    if (batch.labels < 0).any():
        first = int(batch.indices[batch.labels < 0][0])
        msg = f"Image {first} has no label. Training needs one for every image."
        raise DataError(msg)
    device = next(model.parameters()).device
    images, labels = batch.images.to(device), batch.labels.to(device)
    optimiser.zero_grad()
    with torch.enable_grad():
        if prior is None:
            logits = check_logits(logits_of(model(images)), len(images))
            task = functional.cross_entropy(logits, labels)
            loss = PriorLoss(total=task, task=task, penalty=torch.zeros_like(task), logits=logits)
        else:
            loss = prior_loss(model, images, labels, prior=prior.at(batch.indices, number))
        loss.total.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss


@final
@dataclass(kw_only=True)
class Tally:
    """Sums over the images of an epoch."""

    task: float = 0.0
    penalty: float = 0.0
    right: int = 0
    count: int = 0

    def add(self, loss: PriorLoss, labels: Tensor, epoch: int) -> None:
        """Add a batch."""
        if not bool(loss.total.isfinite()):
            msg = (
                f"The loss became {loss.total.item()} in epoch {epoch} (task {loss.task.item():g}, "
                f"penalty {loss.penalty.item():g}). Lower the learning rate or the prior's weight."
            )
            raise NumericsError(msg)
        size = len(labels)
        self.task += size * loss.task.item()
        self.penalty += size * loss.penalty.item()
        self.right += int((loss.logits.argmax(dim=1).cpu() == labels.cpu()).sum())
        self.count += size

    def epoch(self) -> Epoch:
        """Return the means."""
        if not self.count:
            msg = "Training needs at least one usable image; there was none."
            raise DataError(msg)
        return Epoch(
            task=self.task / self.count,
            penalty=self.penalty / self.count,
            accuracy=self.right / self.count,
        )
