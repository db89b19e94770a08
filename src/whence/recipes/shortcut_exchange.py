"""Exchange: training images whose shortcut is that of other images, drawn anew every time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import Batch, ImageData, Images, fingerprint_tensor
from whence.errors import ShapeError

__all__ = ["Exchanged", "exchanged"]

DONORS = 8
"""Other images that are asked for pixels of their own shortcut, one after the other."""

POOL = 256
"""Images kept as donors: those of the batches before."""

STAMP = 0.25
"""Up to this share of an image a shortcut is something put on it, and is put on others, too."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Exchanged:
    """A dataset in which the shortcut of every image is exchanged for that of others.

    Pixels inside an image's mask are taken from other images, whatever their class: of a ground,
    where it is inside their masks as well (a place that is inside none of them keeps its own); of
    a stamp, which covers up to a quarter of an image, from one image as it is there, whose own
    stamp is put on as well. So the shortcut is still
    there, but tells nothing of the class any more. What is outside an image's mask stays, unless
    a stamp is put on it.

    Donors are images of the same batch and of those before, so that no image is read twice; every
    pass over the data draws anew. The data are for training alone: two passes differ.

    Args:
        whole: The dataset.
        inside: Where the shortcut is, ``(n, 1, h, w)`` of truths, one for each image, or a single
            one for all.
        generator: What is drawn with.
        share: How many of the images are changed, 0 to 1.
    """

    whole: ImageData
    inside: Tensor
    generator: torch.Generator
    share: float = 1.0

    @property
    def title(self) -> str:
        """What to call the dataset."""
        return self.whole.title

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.whole.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far."""
        return self.whole.skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.whole)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.whole.name(index)

    def label(self, index: int) -> int | None:
        """Return the class of an image."""
        return self.whole.label(index)

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order, their shortcuts exchanged."""
        pool: Images | None = None
        theirs: Tensor | None = None
        for batch in self.whole.batches(size, indices):
            inside = self.masks(batch.indices)
            pool = batch.images if pool is None else torch.cat([pool, batch.images])[-POOL:]
            theirs = inside if theirs is None else torch.cat([theirs, inside])[-POOL:]
            new = exchanged(batch.images, inside, pool, theirs, self.generator, stamp=self.is_stamp)
            drawn = torch.rand(len(new), 1, 1, 1, generator=self.generator) < self.share
            yield replace(batch, images=torch.where(drawn.to(new.device), new, batch.images))

    @property
    def is_stamp(self) -> bool:
        """Whether the shortcut is something put on images, which covers little of those it is on.

        A mean over the images that have it, so that all are treated alike.
        """
        shares = self.inside.flatten(1).double().mean(dim=1)
        return not bool((shares > 0).any()) or float(shares[shares > 0].mean()) <= STAMP

    def masks(self, places: Tensor) -> Tensor:
        """Return the masks of some images, ``(b, 1, h, w)``.

        Raises:
            ShapeError: There are neither as many masks as images, nor one.
        """
        if len(self.inside) not in (1, len(self.whole)):
            msg = (
                f"{len(self.whole)} images need as many masks, or one for all; got "
                f"{len(self.inside)}."
            )
            raise ShapeError(msg)
        if len(self.inside) == 1:
            return self.inside.bool().expand(len(places), *self.inside.shape[1:])
        return self.inside[places].bool()

    def fingerprint(self) -> str:
        """Return the fingerprint of the dataset and of the masks."""
        return f"{self.whole.fingerprint()}:{fingerprint_tensor(self.inside.to(torch.uint8))}"


def exchanged(
    images: Images,
    inside: Tensor,
    donors: Tensor,
    theirs: Tensor,
    generator: torch.Generator,
    *,
    stamp: bool,
) -> Images:
    """Return images whose shortcut is that of donors drawn at random.

    Args:
        images: ``(b, c, h, w)``.
        inside: Where the shortcut is in them, ``(b, 1, h, w)`` of truths.
        donors: Images to draw from, ``(m, c, h, w)``.
        theirs: Where the shortcut is in those, ``(m, 1, h, w)`` of truths.
        generator: What is drawn with.
        stamp: Whether the shortcut is something put on images; otherwise it is a ground.

    Raises:
        ShapeError: Masks that do not fit the images.
    """
    for some, masks in ((images, inside), (donors, theirs)):
        if masks.shape != (len(some), 1, *some.shape[2:]):
            msg = f"Images {tuple(some.shape)} need masks (b, 1, h, w); got {tuple(masks.shape)}."
            raise ShapeError(msg)
    device = images.device
    inside = inside.to(device)
    drawn = [torch.randint(len(donors), (len(images),), generator=generator) for _ in range(DONORS)]
    if stamp:
        first, theirs_on = donors[drawn[0]].to(device), theirs[drawn[0]].to(device)
        return torch.where(inside | theirs_on, first, images)
    found, missing = images, inside
    for rows in drawn:
        use = missing & theirs[rows].to(device)
        found = torch.where(use, donors[rows].to(device), found)
        missing = missing & ~use
    return found
