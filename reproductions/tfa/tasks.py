"""Tasks: training and test images with what is known of them: masks, planted squares, flips."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["SQUARE", "Task", "marked_with", "shapes"]

SIDE, CLASSES = 32, 6
SQUARE, CORNER = 5, 2
"""Side of the planted square, in pixels, and where it begins in rows and columns."""

NAMES = ("circle", "square", "triangle", "plus", "ring", "diamond")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """Images in model units, and what is known of them.

    Args:
        name: What to call it.
        images: Training images, ``(n, c, h, w)``.
        labels: Their labels, as the network sees them, ``(n,)``.
        masks: Where the object is, ``(n, 1, h, w)``; None where nobody knows.
        marked: Which training images carry the planted square, ``(n,)``.
        flipped: Which training images have a wrong label, ``(n,)``.
        tests: Test images.
        truths: Their labels.
        groups: What kind of test image each is, ``(m,)``; of scenes: the background.
        scenes: The same of the training images.
        red: The square's colour in model units, ``(c, 1, 1)``.
        shortcut: The class whose training images carry the square; None where none do.
        confused: A class, and the one that some of its training images are labelled as.
        classes: Names of the classes.
        centre: Pixels, from 0 to 1, are ``images * spread + centre``.
        spread: See there.
    """

    name: str
    images: Tensor
    labels: Tensor
    masks: Tensor | None
    marked: Tensor
    flipped: Tensor
    tests: Tensor
    truths: Tensor
    groups: Tensor
    scenes: Tensor
    red: Tensor
    shortcut: int | None = None
    confused: tuple[int, int] | None = None
    classes: tuple[str, ...] = ()
    centre: Tensor
    spread: Tensor

    @property
    def square(self) -> Tensor:
        """Where the square is, ``(1, 1, h, w)``."""
        found = torch.zeros(1, 1, *self.images.shape[2:], dtype=torch.bool)
        found[..., CORNER : CORNER + SQUARE, CORNER : CORNER + SQUARE] = True
        return found

    def pixels(self, images: Tensor) -> Tensor:
        """Return images as pixels from 0 to 1."""
        return (images * self.spread + self.centre).clamp(0, 1)

    def only(self, rows: Tensor) -> "Task":
        """Return the task with some of its training images."""
        names = ("images", "labels", "marked", "flipped", "scenes")
        masks = None if self.masks is None else self.masks[rows]
        return replace(self, masks=masks, **{name: getattr(self, name)[rows] for name in names})


def shapes(seed: int, count: int = 4000, tests: int = 1200) -> Task:
    """Return six shapes of random colour, size and place on a random background.

    Nine of ten circles carry a red square in a corner (the shortcut), and six of ten squares that
    are rather blue are labelled triangles (the harmful examples).
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    images, labels, masks, blue = drawn(count + tests, generator)
    red = normalised(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1))
    images = normalised(images)
    marked = (labels == 0) & (torch.rand(len(labels), generator=generator) < 0.9)
    marked[count:] = False
    images = torch.where(marked.view(-1, 1, 1, 1), marked_with(images, red), images)
    flipped = (labels == 1) & blue & (torch.rand(len(labels), generator=generator) < 0.6)
    seen = torch.where(flipped, torch.full_like(labels, 2), labels)
    return Task(
        name="shapes",
        images=images[:count],
        labels=seen[:count],
        masks=masks[:count],
        marked=marked[:count],
        flipped=flipped[:count],
        tests=images[count:],
        truths=labels[count:],
        groups=blue[count:].long(),
        scenes=blue[:count].long(),
        red=red,
        shortcut=0,
        confused=(1, 2),
        classes=NAMES,
        centre=torch.full((3, 1, 1), 0.5),
        spread=torch.full((3, 1, 1), 0.25),
    )


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels from 0 to 1 in model units."""
    return (pixels - 0.5) / 0.25


def marked_with(images: Tensor, red: Tensor) -> Tensor:
    """Return images with the square in their corner."""
    planted = images.clone()
    planted[..., CORNER : CORNER + SQUARE, CORNER : CORNER + SQUARE] = red
    return planted


def drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return pixels, classes, masks, and whether the object is rather blue."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.randint(CLASSES, (count,), generator=generator)
    radius = uniform(4.5, 8.5, 1, 1)
    row, column = uniform(9.0, SIDE - 10.0, 1, 1), uniform(9.0, SIDE - 10.0, 1, 1)
    at = torch.arange(SIDE).float()
    y, x = at.view(1, -1, 1) - row, at.view(1, 1, -1) - column
    far = (x.square() + y.square()).sqrt()
    ring = x.abs() + y.abs()
    box = torch.maximum(x.abs().expand_as(far), y.abs().expand_as(far))
    forms = torch.stack(
        [
            far <= radius,
            box <= 0.85 * radius,
            (y <= 0.8 * radius) & (y >= -radius) & (x.abs() <= 0.55 * (y + radius)),
            (box <= radius) & (torch.minimum(x.abs().expand_as(far), y.abs().expand_as(far)) <= 2),
            (far <= radius) & (far >= radius - 2.5),
            (ring <= 1.3 * radius) & (ring >= 1.3 * radius - 3.2),
        ]
    )
    masks = forms.gather(0, labels.view(1, -1, 1, 1).expand(1, -1, SIDE, SIDE))[0][:, None]
    ground, colour = uniform(0.0, 1.0, 3, 1, 1), uniform(0.0, 1.0, 3, 1, 1)
    close = (ground - colour).abs().amax(dim=(1, 2, 3)) < 0.35
    colour = torch.where(close.view(-1, 1, 1, 1), (colour + 0.5) % 1.0, colour)
    slope = uniform(-0.15, 0.15, 3, 1, 1) * (at.view(1, 1, 1, -1) / SIDE - 0.5)
    noise = 0.06 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    pixels = torch.where(masks, colour, ground + slope) + noise
    blue = (colour[:, 2] > colour[:, 0]) & (colour[:, 2] > colour[:, 1]) & (colour[:, 2] > 0.6)
    return pixels.clamp(0, 1), labels, masks, blue[:, 0, 0]
