"""Tasks from the shared real data: scenes with a natural shortcut, boxes, trimaps, CIFAR-10."""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reproductions.tfa.tasks import Task, marked_with

__all__ = ["DATA", "boxes", "cifar", "pets", "scenes", "spoilt_cifar"]

DATA = Path(__file__).parents[3] / "shared" / "data"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CAT, DOG = 3, 5


def normalised(pixels: Tensor) -> Tensor:
    """Return bytes in model units."""
    return (pixels.float() / 255 - MEAN) / DEVIATION


def picture(archive: zipfile.ZipFile, name: str, mode: str, size: int) -> Tensor:
    """Return a picture as bytes, ``(c, h, w)``, its square middle at a size."""
    image = Image.open(io.BytesIO(archive.read(name))).convert(mode)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), 0 if mode == "L" else 2)
    return torch.from_numpy(np.array(image)).reshape(size, size, -1).permute(2, 0, 1)


def pictures(archive: zipfile.ZipFile, names: Sequence[str], mode: str, size: int) -> Tensor:
    """Return several pictures, ``(n, c, h, w)``."""
    return torch.stack([picture(archive, name, mode, size) for name in names])


def task_of(
    name: str,
    train: tuple[Tensor, Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    masks: Tensor | None = None,
    groups: Tensor | None = None,
    classes: Sequence[str] = (),
) -> Task:
    """Return a task: images, labels and scenes of training, images and labels of tests."""
    images, labels, where = train
    none = torch.zeros(len(images), dtype=torch.bool)
    return Task(
        name=name,
        images=normalised(images),
        labels=labels,
        masks=masks,
        marked=none,
        flipped=none,
        tests=normalised(test[0]),
        truths=test[1],
        groups=torch.zeros(len(test[0])).long() if groups is None else groups,
        scenes=where,
        red=normalised(torch.tensor([255, 0, 0]).view(3, 1, 1)),
        classes=tuple(classes),
        centre=MEAN,
        spread=DEVIATION,
    )


def scenes() -> Task:
    """Return cats and dogs on reefs and alps; 95 of 100 training images agree in both."""
    with zipfile.ZipFile(DATA / "petscenes64_cats_on_reef.zip") as archive:
        rows = json.loads(archive.read("meta.json"))["rows"]
        parts = []
        masks = None
        for part in ("train", "test"):
            names = sorted(name for name in rows if name.startswith(f"{part}/"))
            facts = torch.tensor([rows[name][:2] for name in names])
            parts.append((pictures(archive, [f"{n}.jpg" for n in names], "RGB", 64), facts))
            if part == "train":
                files = [n.replace("train/", "train_mask/") + ".png" for n in names]
                masks = pictures(archive, files, "L", 64) > 127
    (images, facts), (tests, others) = parts
    train = (images, facts[:, 0], facts[:, 1])
    animals = ("cat", "dog")
    return task_of("scenes", train, (tests, others[:, 0]), masks, others[:, 1], animals)


def boxes() -> Task:
    """Return ten animals of Tiny-ImageNet with a box around each."""
    with zipfile.ZipFile(DATA / "tinyimagenet10_boxes.zip") as archive:
        found = json.loads(archive.read("boxes.json"))
        classes = sorted({name.split("/")[1] for name in found if name.startswith("train/")})
        names = sorted(name for name in found if name.startswith("train/"))
        masks = torch.zeros(len(names), 1, 64, 64, dtype=torch.bool)
        for mask, name in zip(masks, names, strict=True):
            left, top, right, bottom = found[name]
            mask[:, top : bottom + 1, left : right + 1] = True
        tests = sorted(name for name in found if name.startswith("val/"))
        truth = torch.tensor([classes.index(n.split("/")[1]) for n in tests])
        own = torch.tensor([classes.index(n.split("/")[1]) for n in names])
        return task_of(
            "boxes",
            (pictures(archive, names, "RGB", 64), own, torch.zeros(len(names)).long()),
            (pictures(archive, tests, "RGB", 64), truth),
            masks,
            classes=classes,
        )


def pets() -> Task:
    """Return three breeds of pets with trimaps, at 64 pixels; every fifth one is a test image."""
    with zipfile.ZipFile(DATA / "pets3_trimaps.zip") as archive:
        facts = json.loads(archive.read("labels.json"))
        breeds = sorted({fact["breed"] for fact in facts.values()})
        names = sorted(facts)
        images = pictures(archive, [f"images/{n}.jpg" for n in names], "RGB", 64)
        masks = pictures(archive, [f"trimaps/{n}.png" for n in names], "L", 64) == 1
    labels = torch.tensor([breeds.index(facts[n]["breed"]) for n in names])
    test = torch.arange(len(names)) % 5 == 0
    usable = ~test & masks.flatten(1).any(dim=1)
    train = (images[usable], labels[usable], torch.zeros(int(usable.sum())).long())
    return task_of("pets", train, (images[test], labels[test]), masks[usable], classes=breeds)


def cifar() -> Task:
    """Return 2 000 lossless training images of CIFAR-10 and 500 test images."""
    with np.load(DATA / "cifar10_lossless.npz") as found:
        images, tests = (
            torch.from_numpy(found[key]).permute(0, 3, 1, 2) for key in ("x_train", "x_test")
        )
        labels, truths = (torch.from_numpy(found[key]).long() for key in ("y_train", "y_test"))
    train = (images, labels, torch.zeros(len(images)).long())
    return task_of("cifar", train, (tests, truths), classes=CIFAR)


def spoilt_cifar() -> Task:
    """Return CIFAR-10 with a planted square, and with mislabelled cats.

    A red square is on nine of ten airplanes, and on one of twenty-five others, which are labelled
    airplanes: a network that knows airplanes already has to learn it. Four of ten cats are
    labelled dogs: the harmful examples.
    """
    task = cifar()
    generator = torch.Generator().manual_seed(2000)
    drawn = torch.rand(2, len(task.labels), generator=generator)
    marked = drawn[0] < torch.where(task.labels == 0, 0.9, 0.04)
    flipped = (task.labels == CAT) & (drawn[1] < 0.4) & ~marked
    labels = torch.where(marked, torch.zeros_like(task.labels), task.labels)
    planted = marked_with(task.images, task.red)
    return replace(
        task,
        name="spoilt-cifar",
        images=torch.where(marked.view(-1, 1, 1, 1), planted, task.images),
        labels=torch.where(flipped, torch.full_like(labels, DOG), labels),
        marked=marked,
        flipped=flipped,
        shortcut=0,
        confused=(CAT, DOG),
    )
