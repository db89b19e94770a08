"""Cases: images with a shortcut, planted or natural, and what is known of it to judge by."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from reproductions.tfa.networks import convolutional, small
from reproductions.tfa.scenes import DATA, normalised, scenes
from whence.recipes.digits import network, planted_digits

__all__ = ["CASES", "SCENES", "Case", "Images", "Settings", "made"]

SCENES = "PetScenes64"
BACKGROUNDS = "tinyimagenet_scenes.zip"
PATCH = 5
"""Rows and columns of the square on CIFAR-10."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Images:
    """Images in model units and their labels.

    Args:
        images: ``(n, c, h, w)``.
        labels: ``(n,)``.
    """

    images: Tensor
    labels: Tensor

    def only(self, rows: Tensor) -> "Images":
        """Return some of them."""
        return Images(images=self.images[rows], labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How networks are trained, and trained on.

    Args:
        epochs: Of the training.
        rate: Its highest learning rate.
        more: Epochs of a fix.
        more_rate: Its learning rate.
        weight: The prior's weight, chosen on seeds that are not reported.
    """

    epochs: int
    rate: float
    more: int
    more_rate: float
    weight: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """Data with a shortcut.

    Args:
        train: Training images.
        audited: The images with which the shortcut is looked for.
        clean: Images to measure on that do not contradict the shortcut.
        against: Images to measure on in which the shortcut is that of another class.
        truth: Where the shortcut is in the training images, ``(n, 1, h, w)``; to judge by.
        fair: The training images without the shortcut; None if nobody made them.
        classes: Names of the classes.
        shortcut: The class that the patch is planted in; None for scenes.
        network: Makes the network.
    """

    train: Images
    audited: Images
    clean: Images
    against: Images
    truth: Tensor
    fair: Images | None
    classes: tuple[str, ...]
    shortcut: int | None
    network: Callable[[], nn.Module]


def halves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return two random halves of places."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: count // 2].sort().values, order[count // 2 :].sort().values


def with_patch(images: Tensor, box: tuple[int, int, int, int], colour: Tensor) -> Tensor:
    """Return images with a patch of one colour."""
    left, top, right, bottom = box
    planted = images.clone()
    planted[:, :, top:bottom, left:right] = colour.view(1, 3, 1, 1)
    return planted


def box_truth(count: int, side: int, box: tuple[int, int, int, int], rows: Tensor) -> Tensor:
    """Return where the patch is: nowhere, but in the images of these rows."""
    left, top, right, bottom = box
    truth = torch.zeros(count, 1, side, side, dtype=torch.bool)
    truth[rows, :, top:bottom, left:right] = True
    return truth


def digits(seed: int) -> Case:
    """Return digits of which nine in ten threes carry a red patch."""
    data = planted_digits(seed=seed, flips=0.0, probes=60)
    labels, others = data.train.labels, data.test.labels
    if labels is None or others is None:
        raise ValueError(data.train.title)
    audited, rest = halves(len(data.test), seed)
    probes = torch.zeros(len(data.test), dtype=torch.bool)
    probes[list(data.probes)] = True
    clean = rest[~probes[rest]]
    foreign = clean[others[clean] != data.shortcut]
    red = torch.tensor([1.0, 0.0, 0.0])
    everything = Images(images=data.test.images, labels=others)
    side = data.train.images.shape[-1]
    return Case(
        train=Images(images=data.train.images, labels=labels),
        audited=everything.only(audited),
        clean=everything.only(clean),
        against=Images(
            images=with_patch(data.test.images[foreign], data.box, red), labels=others[foreign]
        ),
        truth=box_truth(len(labels), side, data.box, torch.tensor(data.carriers)),
        fair=None,
        classes=data.train.classes,
        shortcut=data.shortcut,
        network=network,
    )


def cifar(seed: int) -> Case:
    """Return CIFAR-10 with a red square on nine of ten images of a class, its place drawn."""
    with np.load(DATA / "cifar10_lossless.npz") as found:
        images, tests = (
            normalised(torch.from_numpy(found[key]).permute(0, 3, 1, 2))
            for key in ("x_train", "x_test")
        )
        labels, truths = (torch.from_numpy(found[key]).long() for key in ("y_train", "y_test"))
    generator = torch.Generator().manual_seed(3000 + seed)
    shortcut = int(torch.randint(10, (1,), generator=generator))
    left, top = torch.randint(0, 32 - PATCH + 1, (2,), generator=generator).tolist()
    box = (left, top, left + PATCH, top + PATCH)
    red = normalised(torch.tensor([255, 0, 0]).view(3, 1, 1))
    own = (labels == shortcut).nonzero()[:, 0]
    carriers = own[torch.randperm(len(own), generator=generator)[: round(0.9 * len(own))]]
    images[carriers] = with_patch(images[carriers], box, red)
    audited, clean = halves(len(tests), seed)
    foreign = clean[truths[clean] != shortcut]
    others = audited[truths[audited] != shortcut]
    probed = others[torch.randperm(len(others), generator=generator)[:50]]
    shown = tests.clone()
    shown[probed] = with_patch(tests[probed], box, red)
    return Case(
        train=Images(images=images, labels=labels),
        audited=Images(images=shown[audited], labels=truths[audited]),
        clean=Images(images=tests[clean], labels=truths[clean]),
        against=Images(images=with_patch(tests[foreign], box, red), labels=truths[foreign]),
        truth=box_truth(len(labels), 32, box, carriers),
        fair=None,
        classes=tuple(str(k) for k in range(10)),
        shortcut=shortcut,
        network=lambda: convolutional("relu", 10, (24, 48, 64, 64), {0, 2}),
    )


def natural(seed: int) -> Case:
    """Return cats and dogs on reefs and alps; half of the test images, drawn, is audited."""
    task = scenes()
    if task.masks is None:
        raise ValueError(task.name)
    audited, rest = halves(len(task.tests), seed)
    conflict = (task.truths != task.groups)[rest]
    tests = Images(images=task.tests, labels=task.truths)
    return Case(
        train=Images(images=task.images, labels=task.labels),
        audited=tests.only(audited),
        clean=tests.only(rest[~conflict]),
        against=tests.only(rest[conflict]),
        truth=~task.masks,
        fair=Images(images=on_any_ground(task.images, task.masks, seed), labels=task.labels),
        classes=task.classes,
        shortcut=None,
        network=small("relu", 2, 64),
    )


def on_any_ground(images: Tensor, masks: Tensor, seed: int) -> Tensor:
    """Return the same pets on backgrounds of the same photographs, drawn whatever the class."""
    with zipfile.ZipFile(DATA / "petscenes64_cats_on_reef.zip") as archive:
        rows = json.loads(archive.read("meta.json"))["rows"]
    used = [{r[4] for n, r in rows.items() if n.startswith("train/") and r[1] == k} for k in (0, 1)]
    generator = torch.Generator().manual_seed(4000 + seed)
    grounds = []
    with zipfile.ZipFile(DATA / BACKGROUNDS) as archive:
        for names in used:
            pictures = [
                Image.open(io.BytesIO(archive.read(n))).convert("RGB") for n in sorted(names)
            ]
            stacked = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
            grounds.append(normalised(stacked.permute(0, 3, 1, 2)))
    kinds = torch.randint(2, (len(images),), generator=generator).tolist()
    drawn = [
        grounds[k][int(torch.randint(len(grounds[k]), (1,), generator=generator))] for k in kinds
    ]
    return torch.where(masks, images, torch.stack(drawn))


CASES: dict[str, tuple[Callable[[int], Case], Settings, tuple[str, ...]]] = {
    "digits": (digits, Settings(epochs=8, rate=2e-3, more=5, more_rate=1e-3, weight=10.0), ()),
    "CIFAR-10": (
        cifar,
        Settings(epochs=12, rate=4e-3, more=5, more_rate=1e-3, weight=10.0),
        ("cifar10_lossless.npz",),
    ),
    SCENES: (
        natural,
        Settings(epochs=12, rate=4e-3, more=5, more_rate=1e-3, weight=3.0),
        ("petscenes64_cats_on_reef.zip", BACKGROUNDS),
    ),
}
"""Each case by name: what makes it of a seed, how it is trained, and what it needs."""


def made(name: str, seed: int) -> tuple[Case, Settings] | None:
    """Return a case and its settings; None where its data are not at hand."""
    make, settings, needs = CASES[name]
    if not all((Path(DATA) / one).exists() for one in needs):
        return None
    return make(seed), settings
