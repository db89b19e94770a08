"""Measure: what a classifier does on data, before and after it was trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from whence.core import ImageData, Progress, logits_from, silent
from whence.errors import WhenceError
from whence.network import Network
from whence.recipes.load import spread

__all__ = ["CONTRASTS", "Measured", "counts", "measured", "sample"]

CONTRASTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Factors of the normalised image: from itself towards the mean colour."""

FACTORS = (0.3, 2.0, 50.0)
MOST = 1000
"""Images of a contrast curve, at most."""

TRIED = 16
"""Images that homogeneity is tried on."""

SHOWN = 3


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    r"""What was measured of a network.

    Args:
        images: How many images.
        accuracy: Share predicted right.
        balanced: The same, as the mean over the classes that occur.
        contrast: For each factor of :data:`CONTRASTS`, the accuracy on images multiplied by it
            in the model's units, on at most 1 000 images; constant for an X-DNN.
        homogeneous: Whether the network is one, by proof; None if it could not be read.
        scale_error: The largest :math:`|f(kx) - k f(x)|` relative to the largest
            :math:`|k f(x)|` for several ``k``.
        at_zero: The largest :math:`|f(0)|`.
        offenders: What breaks homogeneity: the first few operations, and how many more.
    """

    images: int
    accuracy: float
    balanced: float
    contrast: tuple[float, ...]
    homogeneous: bool | None
    scale_error: float
    at_zero: float
    offenders: tuple[str, ...]


def measured(
    module: nn.Module,
    data: ImageData,
    *,
    batch_size: int = 64,
    intercept: Sequence[float] | None = None,
    progress: Progress = silent,
) -> Measured:
    """Measure a network, in eval mode, on labelled images.

    Args:
        module: The network.
        data: Labelled images.
        batch_size: Images at a time.
        intercept: What is added to each class's logit before a decision.
        progress: Told how far it is.
    """
    device = device_of(module)
    offset = torch.tensor(intercept or [0.0], device=device)
    truth, predicted = predictions(module, data, batch_size, offset, progress)
    right = predicted == truth
    each = [float(right[truth == k].double().mean()) for k in truth.unique(sorted=True)]  # type: ignore[no-untyped-call]
    some = sample(data, TRIED).to(device)
    error, at_zero = scale(module, some)
    holds, offenders = verdict(module, some)
    return Measured(
        images=len(truth),
        accuracy=float(right.double().mean()),
        balanced=sum(each) / len(each),
        contrast=contrast(module, data, batch_size, offset),
        homogeneous=holds,
        scale_error=error,
        at_zero=at_zero,
        offenders=offenders,
    )


@torch.no_grad()
def predictions(
    module: nn.Module, data: ImageData, size: int, offset: Tensor, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Return labels and predictions of all images."""
    truth: list[Tensor] = []
    found: list[Tensor] = []
    done = 0
    for batch in data.batches(size):
        logits = logits_from(module, batch.images.to(offset.device)) + offset
        truth.append(batch.labels)
        found.append(logits.argmax(dim=1).cpu())
        done += len(batch.labels)
        progress("measuring", done, len(data))
    return torch.cat(truth), torch.cat(found)


@torch.no_grad()
def contrast(module: nn.Module, data: ImageData, size: int, offset: Tensor) -> tuple[float, ...]:
    """Return the accuracy at each contrast."""
    right = torch.zeros(len(CONTRASTS), dtype=torch.float64)
    count = 0
    for batch in data.batches(size, spread(len(data), MOST)):
        images = batch.images.to(offset.device)
        for k, factor in enumerate(CONTRASTS):
            logits = logits_from(module, factor * images) + offset
            right[k] += int((logits.argmax(dim=1).cpu() == batch.labels).sum())
        count += len(images)
    return tuple(float(value) / count for value in right)


@torch.no_grad()
def scale(module: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the largest relative scale error, and the largest ``|f(0)|``."""
    values = logits_from(module, images)
    errors = [
        (logits_from(module, k * images) - k * values).abs().max() / (k * values).abs().max()
        for k in FACTORS
    ]
    at_zero = logits_from(module, torch.zeros_like(images)).abs().max()
    return float(torch.stack(errors).max()), float(at_zero)


def verdict(module: nn.Module, images: Tensor) -> tuple[bool | None, tuple[str, ...]]:
    """Return whether a network is homogeneous by proof, and what breaks it."""
    try:
        found = Network.read(module, images).homogeneity()
    except WhenceError as error:
        return None, (f"The network could not be read: {str(error).splitlines()[0]}",)
    named = [
        f"{row.path or 'forward'} ({row.operation})"
        + (f": {row.offence.reason}" if row.offence else "")
        for row in found.offenders
    ]
    more = (f"and {len(named) - SHOWN} more",) if len(named) > SHOWN else ()
    return found.holds, (*named[:SHOWN], *more)


def counts(data: ImageData, classes: int) -> tuple[int, ...]:
    """Return the number of images of each class."""
    labels = [data.label(k) for k in range(len(data))]
    tally = [0] * classes
    for label in labels:
        if label is not None:
            tally[label] += 1
    return tuple(tally)


def sample(data: ImageData, count: int) -> Tensor:
    """Return some images, spread over the data."""
    images = [batch.images for batch in data.batches(count, spread(len(data), count))]
    return torch.cat(images)[:count]


def device_of(module: nn.Module) -> torch.device:
    """Return where a network is."""
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
