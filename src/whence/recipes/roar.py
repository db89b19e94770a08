r"""ROAR: networks are trained again on images without their most relevant pixels.

If a map names the pixels that hold the information, a network that never sees them does worse. It
judges the ranking of a method over a whole dataset, not the maps of one network: what another
network can still learn counts, redundant pixels included. The shape of the hole may itself tell
the class, so the accuracy is read beside the one of random holes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from whence.core import (
    Attributions,
    Images,
    Labels,
    Progress,
    TensorData,
    logits_from,
    silent,
)
from whence.errors import DataError
from whence.evaluation import Retraining

__all__ = ["Retraining", "RetrainingCell", "roar"]

Train = Callable[[TensorData, int], Callable[[Tensor], Any]]
"""Trains a new network on data, from a seed; returns it in eval mode."""

LEAST = 2


@final
@dataclass(frozen=True, kw_only=True)
class RetrainingCell:
    """The accuracies of networks that were trained on what a share of the pixels leaves.

    Args:
        share: How many of the pixels were replaced.
        accuracies: On test images without their pixels, one per seed, from 0 to 1.
        control: The same with random pixels replaced instead.
    """

    share: float
    accuracies: tuple[float, ...]
    control: tuple[float, ...]

    @property
    def gain(self) -> float:
        """How much the mean accuracy differs from that of random pixels; above 0 is better."""
        return sum(self.control) / len(self.control) - sum(self.accuracies) / len(self.accuracies)

    @property
    def error(self) -> float:
        """The standard error of the difference over the seeds; NaN for one seed."""
        pairs = zip(self.control, self.accuracies, strict=True)
        differences = torch.tensor([a - b for a, b in pairs], dtype=torch.float64)
        if len(differences) < LEAST:
            return float("nan")
        return float(differences.std() / len(differences) ** 0.5)


def roar(
    trained: Train,
    data: tuple[TensorData, Tensor],
    test: tuple[TensorData, Tensor],
    *,
    settings: Retraining | None = None,
    progress: Progress = silent,
) -> list[RetrainingCell]:
    """Train networks without the pixels that maps name, and without as many random ones.

    Args:
        trained: Trains a new network from data and a seed: ``trained(data, seed)`` returns it in
            eval mode. It is called twice for each share and seed.
        data: Training images and one map for each.
        test: Test images and one map for each, made as those of the training images.
        settings: How much is replaced, by what, and how often.
        progress: Is told of each training.

    Returns:
        One cell per share. The same seed trains with the maps and with the control.

    Raises:
        DataError: If images have no labels.
        ShapeError: If there is not one map of the image's size for each image.
    """
    chosen = (Retraining() if settings is None else settings).settled(data[0])
    labels = labelled_by(test[0], "test")
    labelled_by(data[0], "training")
    random = tuple(random_maps(part.images, seed) for seed, (part, _) in enumerate((data, test)))
    total = 2 * chosen.seeds * len(chosen.shares)
    done = 0
    cells: list[RetrainingCell] = []
    for share in chosen.shares:
        found: list[tuple[float, ...]] = []
        for maps in ((data[1], test[1]), random):
            left = chosen.masked(data[0], maps[0], share)
            seen = chosen.masked(test[0], maps[1], share).images
            accuracies: list[float] = []
            for seed in range(chosen.seeds):
                model = trained(left, seed)
                accuracies.append(accuracy(model, seen, labels, chosen.batch_size))
                done += 1
                progress("retraining", done, total)
            found.append(tuple(accuracies))
        cells.append(RetrainingCell(share=share, accuracies=found[0], control=found[1]))
    return cells


def random_maps(images: Images, seed: int) -> Attributions:
    """Return another random map for each image."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(len(images), 1, *images.shape[2:], generator=generator).to(images)


def labelled_by(data: TensorData, name: str) -> Labels:
    """Return the labels, which there must be."""
    labels = data.labels
    if labels is None or bool((labels < 0).any()):
        msg = f"ROAR trains and measures accuracy: all {name} images need labels."
        raise DataError(msg)
    return labels


def accuracy(
    model: Callable[[Tensor], Any], images: Images, labels: Labels, batch_size: int
) -> float:
    """Return the share of images whose label has the highest logit."""
    return float(hits(model, images, labels, batch_size).double().mean())


@torch.no_grad()
def hits(model: Callable[[Tensor], Any], images: Images, labels: Labels, batch_size: int) -> Tensor:
    """Return which images have their label as the highest logit, ``(n,)``, on the CPU."""
    return torch.cat(
        [
            (logits_from(model, images[rows]).argmax(dim=1).cpu() == labels[rows].cpu())
            for rows in torch.split(torch.arange(len(images)), batch_size)
        ]
    )
