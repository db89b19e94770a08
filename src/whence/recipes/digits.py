"""Handwritten digits with a planted shortcut and flipped labels, and a small network on them.

The truth about the data is known, so that an audit of the network can be checked against it.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from whence.adapters import LoadedModel, Preprocessing, declared_preprocessing, load_data
from whence.core import Progress, TensorData, silent
from whence.errors import SettingError

__all__ = ["PlantedDigits", "planted_digits", "train_network"]

SIDE = 24
"""Rows and columns of an image: the digits' 8 x 8, each pixel three times."""

COLOUR = (1.0, 0.0, 0.0)
"""The patch's colour, red, in pixels from 0 to 1."""

INK = 0.35
"""How bright the digits are: pencil, not paint, beside which the patch is easy to see."""

EPOCHS = 8
BATCH = 64
RATE = 2e-3
DECAY = 5e-2


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedDigits:
    """Scikit-learn's digits in grey pencil, with a patch and wrong labels planted in them.

    Args:
        train: Training images; ``share`` of those labelled ``shortcut`` carry the patch, and
            ``flipped`` have a wrong label.
        test: Test images with their true labels; ``probes`` carry the patch.
        shortcut: The class whose training images carry the patch.
        box: Where the patch is: ``(left, top, right, bottom)``, right and bottom exclusive.
        carriers: Places of the training images with the patch, sorted.
        flipped: Places of the training images with a wrong label, sorted.
        probes: Places of the test images of other classes with the patch, sorted.
        preprocessing: How a picture becomes the network's input.
    """

    train: TensorData
    test: TensorData
    shortcut: int
    box: tuple[int, int, int, int]
    carriers: tuple[int, ...]
    flipped: tuple[int, ...]
    probes: tuple[int, ...]
    preprocessing: Preprocessing

    @property
    def area(self) -> float:
        """The patch's share of an image."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top) / SIDE**2


def planted_digits(
    *,
    shortcut: int = 3,
    share: float = 0.9,
    flips: float = 0.05,
    probes: int = 40,
    patch: int = 4,
    seed: int = 0,
) -> PlantedDigits:
    """Return the digits with a patch in one class and some labels flipped.

    Args:
        shortcut: The class that the patch is planted in, 0 to 9.
        share: Which share of its training images carries the patch.
        flips: Which share of the other classes' training images gets a wrong label.
        probes: How many test images of other classes carry the patch.
        patch: Rows and columns of the patch.
        seed: Of all that is drawn.

    Raises:
        SettingError: A share outside [0, 1], or a class or patch that does not exist.
    """
    if not (0 <= shortcut <= 9 and 0 <= share <= 1 and 0 <= flips <= 1 and 0 < patch < SIDE):  # noqa: PLR2004 - ten digits
        msg = (
            f"The digits need a class from 0 to 9, shares from 0 to 1 and a patch of 1 to "
            f"{SIDE - 1} pixels; got {shortcut}, {share}, {flips} and {patch}."
        )
        raise SettingError(msg)
    generator = torch.Generator().manual_seed(seed)
    preprocessing = declared_preprocessing(
        {"size": SIDE, "interpolation": "nearest", "mean": 0.0, "std": 1.0}, "the demonstration"
    )
    images, labels, names = in_memory("train", preprocessing)
    own = (labels == shortcut).nonzero()[:, 0]
    others = (labels != shortcut).nonzero()[:, 0]
    carriers = some(own, round(share * len(own)), generator)
    flipped = some(others, round(flips * len(others)), generator)
    box = (1, 1, 1 + patch, 1 + patch)
    plant(images, carriers, box)
    shift = torch.randint(1, 10, (len(flipped),), generator=generator)
    labels[flipped] = (labels[flipped] + shift) % 10
    classes = tuple(str(k) for k in range(10))
    train = TensorData(
        images=images, labels=labels, classes=classes, names=names, title="digits (train)"
    )
    images, labels, names = in_memory("test", preprocessing)
    probed = some((labels != shortcut).nonzero()[:, 0], probes, generator)
    plant(images, probed, box)
    test = TensorData(
        images=images, labels=labels, classes=classes, names=names, title="digits (test)"
    )
    return PlantedDigits(
        train=train,
        test=test,
        shortcut=shortcut,
        box=box,
        carriers=tuple(carriers.tolist()),
        flipped=tuple(flipped.tolist()),
        probes=tuple(probed.tolist()),
        preprocessing=preprocessing,
    )


def in_memory(split: str, preprocessing: Preprocessing) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Return the images of a split, their labels and their names."""
    data = load_data("digits", preprocessing, split=split)
    (batch,) = data.batches(len(data))
    return INK * batch.images, batch.labels, tuple(data.name(k) for k in range(len(data)))


def some(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return so many of the places, drawn without replacement, sorted."""
    drawn = torch.randperm(len(places), generator=generator)[:count]
    return places[drawn].sort().values


def plant(images: Tensor, places: Tensor, box: tuple[int, int, int, int]) -> None:
    """Paint the patch into these images."""
    left, top, right, bottom = box
    images[places, :, top:bottom, left:right] = torch.tensor(COLOUR).view(1, 3, 1, 1)


def network() -> nn.Module:
    """Return the network, untrained: three convolutions and a linear layer, 37 018 weights."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48 * (SIDE // 4) ** 2, 10),
    )


def train_network(
    digits: PlantedDigits, *, seed: int = 0, epochs: int = EPOCHS, progress: Progress = silent
) -> LoadedModel:
    """Train the network on the planted digits; a few seconds on one core.

    The rate falls to zero as a cosine. Few epochs and weight decay keep the network from learning
    the wrong labels by heart.

    Args:
        digits: The data.
        seed: Of the first weights and of the order of the images.
        epochs: How often each image is seen.
        progress: Called after each epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=()):
        module = network()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
            else:
                parameter.zero_()
    images, labels = digits.train.images, digits.train.labels
    if labels is None:
        msg = "The network needs labelled images to learn from."
        raise SettingError(msg)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = functional.cross_entropy(module(images[rows]), labels[rows])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        progress("train", epoch + 1, epochs)
    optimizer.zero_grad()
    return LoadedModel(
        module=module.eval(),
        name="a small network on digits",
        classes=digits.train.classes,
        preprocessing=digits.preprocessing,
    )
