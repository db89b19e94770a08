"""The pictures: digits at random places on canvases of smooth noise, and CIFAR-10.

A canvas comes with the exact mask of its object: the pixels that the digit changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from reproductions.xdnn.pictures import BUILD as PICTURES
from reproductions.xdnn.pictures import DATA, REPOSITORY, cifar, pixels, read
from whence.adapters.preprocessing import IMAGENET
from whence.core import Normalisation

__all__ = [
    "BUILD",
    "CIFAR",
    "DATA",
    "DATASETS",
    "DIGITS",
    "PICTURES",
    "Scenes",
    "canvases",
    "scenes",
    "varied",
]

BUILD = REPOSITORY / "build" / "harmonizing"
DIGITS, CIFAR = "digits on canvas", "CIFAR-10"
DATASETS = (DIGITS, CIFAR)
SIDE, DIGIT = 24, 14
"""Pixels a side of a canvas and of a digit on it."""

TEST = 500
"""Test images of each data set."""

LEARNT = 1200
"""Digits that training canvases are made of; the rest are for the test canvases."""

VALIDATION = 1000
"""Images by which the accuracy is watched in training; not among the test images."""

CANVAS = Normalisation(mean=(0.35,), std=(0.25,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes:
    """A task, in pixels from 0 to 1.

    Args:
        train: Training images, ``(n, c, h, w)``; digits that are not placed yet.
        train_labels: Their classes.
        validation: Images by which a training is watched.
        validation_labels: Their classes.
        test: Test images.
        test_labels: Their classes.
        masks: Where the objects of the test images are, ``(m, 1, h, w)``, if that is known.
        normalisation: The units of the networks.
    """

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    test: Tensor
    test_labels: Tensor
    masks: Tensor | None
    normalisation: Normalisation


@lru_cache(maxsize=2)
def scenes(dataset: str) -> Scenes:
    """Return a task by its name."""
    return on_canvas() if dataset == DIGITS else photographs()


def on_canvas() -> Scenes:
    """Return digits on canvases; those of the training images are placed anew in every epoch."""
    parts = [read("digits", split, pixels(8, 1)) for split in ("train", "test")]
    images, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    test, masks = canvases(images[LEARNT:][:TEST], torch.Generator().manual_seed(1))
    again = torch.arange(VALIDATION) % LEARNT
    validation, _ = canvases(images[again], torch.Generator().manual_seed(2))
    return Scenes(
        train=images[:LEARNT],
        train_labels=labels[:LEARNT],
        validation=validation,
        validation_labels=labels[again],
        test=test,
        test_labels=labels[LEARNT:][:TEST],
        masks=masks,
        normalisation=CANVAS,
    )


def photographs() -> Scenes:
    """Return CIFAR-10; the test images are spread over the whole test set."""
    train, train_labels, _ = cifar("train")
    test, test_labels, _ = cifar("test")
    chosen = torch.linspace(0, len(test) - 1, TEST).round().long()
    return Scenes(
        train=train[:-VALIDATION],
        train_labels=train_labels[:-VALIDATION],
        validation=train[-VALIDATION:],
        validation_labels=train_labels[-VALIDATION:],
        test=test[chosen],
        test_labels=test_labels[chosen],
        masks=None,
        normalisation=IMAGENET,
    )


def canvases(digits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return digits at random places on canvases of smooth noise, and the masks of the digits.

    Args:
        digits: ``(n, 1, 8, 8)`` from 0 to 1: how far a pixel is ink.
        generator: Of noise and places.
    """
    count = len(digits)
    coarse = torch.rand(count, 1, 6, 6, generator=generator)
    noise = 0.7 * functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)
    ink = functional.interpolate(digits, size=(DIGIT, DIGIT), mode="bilinear").clamp(0, 1)
    places = torch.randint(0, SIDE - DIGIT + 1, (count, 2), generator=generator)
    across = torch.arange(DIGIT)
    rows = (places[:, :1] + across)[:, :, None].expand(-1, -1, DIGIT)
    columns = (places[:, 1:] + across)[:, None, :].expand(-1, DIGIT, -1)
    laid = torch.zeros(count, SIDE, SIDE)
    laid[torch.arange(count)[:, None, None], rows, columns] = ink[:, 0]
    laid = laid[:, None]
    return noise * (1 - laid) + laid, laid > 0


def varied(dataset: str, task: Scenes, generator: torch.Generator, size: int) -> Iterator[Tensor]:
    """Yield the places in the training data and the images of one epoch, changed by chance."""
    order = torch.randperm(len(task.train), generator=generator)
    for some in order.split(size):
        if dataset == DIGITS:
            images = canvases(task.train[some], generator)[0]
        else:
            images = moved(task.train[some], generator)
        yield some, images


def moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images that are mirrored by chance, and moved by up to four pixels."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    side = images.shape[3]
    down, right = torch.randint(0, 9, (2, len(images)), generator=generator)
    padded = functional.pad(images, (4, 4, 4, 4), mode="reflect")
    every = torch.arange(side)
    rows = (down[:, None] + every)[:, None, :, None]
    columns = (right[:, None] + every)[:, None, None, :]
    which = torch.arange(len(images))[:, None, None, None]
    colours = torch.arange(images.shape[1])[None, :, None, None]
    return padded[which, colours, rows, columns]
