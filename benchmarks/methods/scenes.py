"""The pictures: digits on smooth noise and on photographs, with exact masks, and a shortcut.

A digit is composed onto a background, so the pixels that it changed are known. In the variant with
a shortcut half of the training images carry a small patch, whose colour alone decides the class.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional

from reproductions.xdnn.pictures import pixels, read

__all__ = [
    "NOISE",
    "PHOTOGRAPHS",
    "SHORTCUT",
    "SIDE",
    "Layout",
    "Scene",
    "backgrounds",
    "composed",
    "digits",
    "laid_out",
    "patched",
    "scene",
    "training_batch",
]

NOISE, PHOTOGRAPHS, SHORTCUT = "noise", "photographs", "shortcut"
SIDE, DIGIT, PATCH = 32, 20, 6
"""Pixels a side of an image, of a digit and of a patch."""

GRID = 4
"""Digits lie at multiples of so many pixels: what a small transformer can learn in two minutes."""

INK = 0.4
"""Fainter strokes are left out, so that every pixel of a mask is visibly the digit's."""

DARK = 0.6
"""The highest value of a background; digits are brighter, so that each of their pixels differs."""

LEARNT = 1200
"""Digits for training; the other 597 are for the images that methods are judged on."""

LEFT = 480
"""Columns of the photographs for training; those to the right are for judging."""

CROPS = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Where digits lie and how they are tinted.

    Args:
        places: Row and column of the upper left corner, ``(n, 2)``.
        tints: Colour of the ink, ``(n, 3, 1, 1)``.
    """

    places: Tensor
    tints: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Composed images with all that they are made of.

    Args:
        images: ``(n, 3, 32, 32)``, pixels from 0 to 1.
        labels: What decides the class: the digit, or the patch where there is one.
        objects: The pixels that the digit changed, ``(n, 1, 32, 32)``.
        patches: The pixels of the patch; nowhere true without one.
        digits: The digits, ``(n, 1, 8, 8)``.
        shown: Which digit is shown.
        backgrounds: The images without digit and patch.
        layout: Where the digits lie.
    """

    images: Tensor
    labels: Tensor
    objects: Tensor
    patches: Tensor
    digits: Tensor
    shown: Tensor
    backgrounds: Tensor
    layout: Layout

    @property
    def truth(self) -> Tensor:
        """The pixels that decide the class: the patch's where there is one, or the digit's."""
        has = self.patches.flatten(1).any(dim=1)[:, None, None, None]
        return torch.where(has, self.patches, self.objects)

    def some(self, rows: Tensor) -> "Scene":
        """Return some of the images, with all that belongs to them."""
        return Scene(
            images=self.images[rows],
            labels=self.labels[rows],
            objects=self.objects[rows],
            patches=self.patches[rows],
            digits=self.digits[rows],
            shown=self.shown[rows],
            backgrounds=self.backgrounds[rows],
            layout=Layout(places=self.layout.places[rows], tints=self.layout.tints[rows]),
        )


@lru_cache(maxsize=2)
def digits(*, judged: bool) -> tuple[Tensor, Tensor]:
    """Return digits ``(n, 1, 8, 8)`` and their labels, for training or for judging."""
    parts = [read("digits", split, pixels(8, 1)) for split in ("train", "test")]
    images, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    order = order[LEARNT:] if judged else order[:LEARNT]
    return images[order], labels[order].long()


@lru_cache(maxsize=2)
def crops(*, judged: bool) -> Tensor:
    """Return crops of scikit-learn's two photographs, ``(400, 3, 32, 32)``, 32 to 160 pixels."""
    generator = torch.Generator().manual_seed(3 + int(judged))
    photographs = [
        torch.tensor(each).permute(2, 0, 1).float() / 255 for each in load_sample_images().images
    ]
    found = []
    for k in range(CROPS):
        whole = photographs[k % 2]
        half = whole[:, :, LEFT:] if judged else whole[:, :, :LEFT]
        side = int(torch.randint(SIDE, 161, (), generator=generator))
        top, left = (
            int(torch.randint(0, extent - side + 1, (), generator=generator))
            for extent in half.shape[1:]
        )
        crop = half[None, :, top : top + side, left : left + side]
        found.append(functional.interpolate(crop, size=(SIDE, SIDE), mode="area"))
    return torch.cat(found)


def backgrounds(kind: str, count: int, generator: torch.Generator, *, judged: bool) -> Tensor:
    """Return dark backgrounds ``(n, 3, 32, 32)`` of smooth noise or of photographs."""
    if kind == PHOTOGRAPHS:
        bank = crops(judged=judged)
        return DARK * bank[torch.randint(len(bank), (count,), generator=generator)]
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return DARK * functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1)


def laid_out(count: int, generator: torch.Generator) -> Layout:
    """Return random places and tints."""
    steps = (SIDE - DIGIT) // GRID + 1
    return Layout(
        places=GRID * torch.randint(steps, (count, 2), generator=generator),
        tints=0.75 + 0.25 * torch.rand(count, 3, 1, 1, generator=generator),
    )


def composed(shown: Tensor, behind: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return digits on backgrounds, and the masks of the pixels that they changed.

    Args:
        shown: Digits ``(n, 1, 8, 8)`` from 0 to 1: how far a pixel is ink.
        behind: Backgrounds ``(n, 3, 32, 32)``.
        layout: Where the digits lie, and their colour.
    """
    count = len(shown)
    ink = functional.interpolate(shown, size=(DIGIT, DIGIT), mode="bilinear").clamp(0, 1)
    ink = torch.where(ink > INK, ink, 0)
    across = torch.arange(DIGIT)
    rows = (layout.places[:, :1] + across)[:, :, None]
    columns = (layout.places[:, 1:] + across)[:, None, :]
    laid = torch.zeros(count, 1, SIDE, SIDE)
    laid[torch.arange(count)[:, None, None], 0, rows, columns] = ink[:, 0]
    return behind * (1 - laid) + laid * layout.tints, laid > 0


def patched(images: Tensor, layout: Layout, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return images with a patch in the colour of a class, and the masks of the patches.

    The patch lies in the corner farthest from the digit, which no digit reaches.
    """
    far = torch.where(layout.places < (SIDE - DIGIT) // 2, SIDE - PATCH, 0)
    across = torch.arange(SIDE)
    inside = (across >= far[:, :, None]) & (across < far[:, :, None] + PATCH)
    masks = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    return torch.where(masks, colours()[classes][:, :, None, None], images), masks


def colours() -> Tensor:
    """Return ten saturated colours, one for each class, ``(10, 3)``."""
    hue = torch.arange(10)[:, None] * 0.6 + torch.tensor([0.0, 4.0, 2.0])
    return ((hue % 6 - 3).abs() - 1).clamp(0, 1)


def scene(kind: str, count: int, *, judged: bool, seed: int) -> Scene:
    """Return composed images of a kind; those with a shortcut show a digit of another class.

    Args:
        kind: ``noise``, ``photographs``, or ``shortcut``: half of each, all with a patch.
        count: Images.
        judged: Whether of the digits and photographs that nothing was trained on.
        seed: Of all that is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    bank, labels = digits(judged=judged)
    chosen = torch.randint(len(bank), (count,), generator=generator)
    if kind == SHORTCUT:
        parts = [
            backgrounds(one, part, generator, judged=judged)
            for one, part in ((NOISE, count - count // 2), (PHOTOGRAPHS, count // 2))
        ]
        behind = torch.cat(parts)[torch.randperm(count, generator=generator)]
    else:
        behind = backgrounds(kind, count, generator, judged=judged)
    layout = laid_out(count, generator)
    images, objects = composed(bank[chosen], behind, layout)
    shown = labels[chosen]
    classes, patches = shown, torch.zeros_like(objects)
    if kind == SHORTCUT:
        classes = (shown + torch.randint(1, 10, (count,), generator=generator)) % 10
        images, patches = patched(images, layout, classes)
    return Scene(
        images=images,
        labels=classes,
        objects=objects,
        patches=patches,
        digits=bank[chosen],
        shown=shown,
        backgrounds=behind,
        layout=layout,
    )


def training_batch(
    count: int, generator: torch.Generator, *, shortcut: bool
) -> tuple[Tensor, Tensor]:
    """Return training images on both kinds of backgrounds with their labels.

    Args:
        count: Images.
        generator: Of all that is drawn.
        shortcut: Whether half of the images carry a patch of a random class, their label.
    """
    bank, labels = digits(judged=False)
    chosen = torch.randint(len(bank), (count,), generator=generator)
    noise, photographs = (
        backgrounds(kind, count, generator, judged=False) for kind in (NOISE, PHOTOGRAPHS)
    )
    half = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    layout = laid_out(count, generator)
    images, _ = composed(bank[chosen], torch.where(half, noise, photographs), layout)
    if not shortcut:
        return images, labels[chosen]
    carries = torch.rand(count, generator=generator) < 0.5
    classes = torch.where(carries, torch.randint(10, (count,), generator=generator), labels[chosen])
    marked, _ = patched(images, layout, classes)
    return torch.where(carries[:, None, None, None], marked, images), classes
