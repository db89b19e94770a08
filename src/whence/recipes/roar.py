r"""ROAR: networks are trained again on images without their most relevant pixels.

If a map names the pixels that hold the information, a network that never sees them does worse. It
judges the ranking of a method over a whole dataset, not the maps of one network: what another
network can still learn counts, redundant pixels included. The shape of the hole may itself tell
the class, so the accuracy is read beside the one of random holes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from whence.core import (
    Attributions,
    Images,
    Labels,
    Mean,
    Progress,
    TensorData,
    logits_from,
    silent,
)
from whence.errors import DataError, SettingError
from whence.evaluation import Fill
from whence.evaluation.faithfulness import places_of
from whence.evaluation.steps import filled

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


@final
@dataclass(frozen=True, kw_only=True)
class Retraining:
    """ROAR, or KAR where pixels are kept instead.

    Args:
        shares: Shares of the pixels that are replaced, over 0 and under 1.
        order: ``remove`` replaces the most relevant pixels (ROAR: a lower accuracy than that of
            random ones is better), ``keep`` the least relevant (KAR: a higher one).
        fill: What replaces a pixel; in the paper the mean colour.
        seeds: Networks per cell; the cost is two trainings for each seed and share.
        batch_size: Test images per forward pass.

    References:
        Hooker et al. (2019), "A Benchmark for Interpretability Methods in Deep Neural Networks".
    """

    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    order: str = "remove"
    fill: Fill = field(default_factory=Mean)
    seeds: int = 3
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.shares or min(self.shares) <= 0 or max(self.shares) >= 1:
            msg = f"shares are over 0 and under 1; got {self.shares}."
            raise SettingError(msg)
        if self.order not in ("remove", "keep"):
            msg = f"order must be remove (ROAR) or keep (KAR); got {self.order!r}."
            raise SettingError(msg)
        for name, value in (("seeds", self.seeds), ("batch_size", self.batch_size)):
            if value < 1:
                msg = f"{name} must be at least 1; got {value}."
                raise SettingError(msg)

    def masked(self, data: TensorData, values: Tensor, share: float) -> TensorData:
        """Return the data with a share of each image's pixels replaced.

        Pixels with equal attributions are replaced in one fixed random order.

        Raises:
            ShapeError: If there is not one map of the image's size for each image.
        """
        signed = values if self.order == "remove" else -values
        parts: list[Tensor] = []
        for rows in torch.split(torch.arange(len(data.images)), self.batch_size):
            images = data.images[rows]
            places = places_of(images, signed[rows], 0)
            count = round(share * places.shape[1])
            stays = (places >= count).view(len(images), 1, *images.shape[2:])
            every = torch.arange(len(images), device=images.device)
            parts.append(filled(images, self.fill)(every, stays))
        return TensorData(images=torch.cat(parts), labels=data.labels)


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
    chosen = Retraining() if settings is None else settings
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


@torch.no_grad()
def accuracy(
    model: Callable[[Tensor], Any], images: Images, labels: Labels, batch_size: int
) -> float:
    """Return the share of images whose label has the highest logit."""
    hits = [
        logits_from(model, images[rows]).argmax(dim=1) == labels[rows]
        for rows in torch.split(torch.arange(len(images)), batch_size)
    ]
    return float(torch.cat(hits).double().mean())
