"""The pictures that the networks learn from: scikit-learn's digits, and CIFAR-10 as JPEG."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from whence.adapters import load_data
from whence.adapters.preprocessing import IMAGENET, Preprocessing, declared_preprocessing
from whence.core import ImageData, Normalisation, TensorData
from whence.recipes.fit_data import held_out

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
BUILD = REPOSITORY / "build" / "xdnn"
ARCHIVE = DATA / "cifar10_jpeg.zip"
LOSSLESS = DATA / "cifar10_lossless.npz"
DIGITS, CIFAR = "digits", "CIFAR-10"
DATASETS = (DIGITS, CIFAR)
GREY = Normalisation(mean=(0.305,), std=(0.376,))
"""Mean and deviation of the digits' pixels."""

HELD_OUT = 0.1
"""Share of the training images by which an epoch is chosen."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """A task: images in the models' units, their labels, and what these units are."""

    train: ImageData
    validation: ImageData
    test: TensorData
    normalisation: Normalisation

    def some(self, count: int) -> Tensor:
        """Return training images, spread over the classes, the same every time."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(0))
        parts = self.train.batches(count, order[:count].tolist())
        return torch.cat([part.images for part in parts])


@lru_cache(maxsize=2)
def pictures(dataset: str) -> Pictures:
    """Return a task by its name."""
    if dataset == DIGITS:
        plain, normalisation = digits, GREY
    else:
        plain, normalisation = cifar, IMAGENET
    train, test = (in_units(*plain(split), normalisation) for split in ("train", "test"))
    rest, validation = held_out(train, HELD_OUT, 0)
    return Pictures(train=rest, validation=validation, test=test, normalisation=normalisation)


def in_units(images: Tensor, labels: Tensor, title: str, to: Normalisation) -> TensorData:
    """Return pixels in [0, 1] as a dataset in model units."""
    classes = tuple(str(k) for k in range(10))
    return TensorData(images=to.to_model(images), labels=labels, classes=classes, title=title)


def digits(split: str) -> tuple[Tensor, Tensor, str]:
    """Return the digits of a split, ``(n, 1, 8, 8)`` in [0, 1]."""
    return *read("digits", split, pixels(8, 1)), f"digits ({split})"


def cifar(split: str) -> tuple[Tensor, Tensor, str]:
    """Return CIFAR-10 from the archive of JPEG files; decoded once."""
    cache = BUILD / f"cifar10-{split}.npz"
    if not cache.is_file():
        images, labels = read(ARCHIVE, split, pixels(32, 3))
        cache.parent.mkdir(parents=True, exist_ok=True)
        part = cache.with_suffix(".part.npz")
        np.savez(part, x=(255 * images).round().to(torch.uint8).numpy(), y=labels.numpy())
        part.replace(cache)
    held = np.load(cache)
    images = torch.from_numpy(held["x"]).float() / 255
    return images, torch.from_numpy(held["y"]), f"CIFAR-10, JPEG ({split})"


def lossless() -> TensorData:
    """Return 500 lossless test images of CIFAR-10."""
    images, labels = read(LOSSLESS, "test", pixels(32, 3))
    return in_units(images, labels, "CIFAR-10, lossless (test)", IMAGENET)


def pixels(side: int, channels: int) -> Preprocessing:
    """Return the preprocessing that leaves pixels as they are."""
    settings = {"size": side, "channels": channels, "mean": 0.0, "std": 1.0}
    return declared_preprocessing(settings, "the experiment")


def read(source: str | Path, split: str, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Return images and labels of a split."""
    parts = list(load_data(source, preprocessing, split=split).batches(500))
    return torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
