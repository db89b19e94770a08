"""Swap: images whose region shows what other images show there."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Batch, ImageData, Images, fingerprint_tensor

__all__ = ["AlsoSwapped", "donors_of", "pasted"]

Masks = Tensor
"""``(b, 1, h, w)`` of truths, true inside the region."""


def pasted(images: Images, inside: Masks, donors: Images, theirs: Masks | None = None) -> Images:
    """Return images that show in a region what their donors show there.

    Args:
        images: ``(b, c, h, w)``.
        inside: The region in the images, ``(b, 1, h, w)``.
        donors: Images of the same shape.
        theirs: The region in the donors; where it does not reach, the mean colour of their region
            is taken. All of the donor's pixels if None.
    """
    if theirs is None:
        return torch.where(inside, donors, images)
    count = theirs.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = (donors * theirs).sum(dim=(2, 3), keepdim=True) / count
    return torch.where(inside, torch.where(theirs, donors, mean), images)


def donors_of(
    labels: Sequence[int], generator: torch.Generator, wanted: Collection[int] = ()
) -> list[int]:
    """Return for each image one of another class, by chance; itself if there is no other class.

    Args:
        labels: The classes of the images.
        generator: What is drawn with.
        wanted: Classes that donors shall be of, where there is one that is not the image's own.
    """
    truth = torch.tensor(labels)
    liked = torch.isin(truth, torch.tensor(sorted(wanted), dtype=truth.dtype))
    found = []
    for place, label in enumerate(labels):
        other = truth != label
        among = (other & liked if bool((other & liked).any()) else other).nonzero()[:, 0]
        pick = int(torch.randint(max(len(among), 1), (1,), generator=generator))
        found.append(int(among[pick]) if len(among) else place)
    return found


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AlsoSwapped:
    """Images twice: as they are, and with the region's pixels of an image of another class.

    A network that heeds a shortcut is wrong on the second half, whether or not there are images
    without the shortcut; so its accuracy on both halves tells networks apart.

    Args:
        data: The images.
        inside: Returns the regions of images at places of ``data``, ``(b, 1, h, w)``.
        moves: Whether the region is elsewhere in each image, so that a donor's has to be known.
        wanted: Classes whose images are donors to all others: those of the shortcut.
        seed: Of the donors.
    """

    data: ImageData
    inside: Callable[[Sequence[int]], Tensor]
    moves: bool
    wanted: frozenset[int] = frozenset()
    seed: int = 0

    def __post_init__(self) -> None:
        """Draw the donors."""
        generator = torch.Generator().manual_seed(self.seed)
        labels = [-1 if (one := self.data.label(k)) is None else one for k in range(len(self.data))]
        object.__setattr__(self, "_donors", tuple(donors_of(labels, generator, self.wanted)))

    @property
    def title(self) -> str:
        """What to call the images."""
        return f"{self.data.title}, and again with the region swapped"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.data.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far."""
        return self.data.skipped

    @property
    def donors(self) -> tuple[int, ...]:
        """Whose region each image gets."""
        drawn: tuple[int, ...] = self.__dict__["_donors"]
        return drawn

    def __len__(self) -> int:
        """Return the number of images, both halves."""
        return 2 * len(self.data)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.data.name(index % len(self.data))

    def label(self, index: int) -> int | None:
        """Return the class of an image."""
        return self.data.label(index % len(self.data))

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order; unusable images are left out."""
        chosen = list(range(len(self)) if indices is None else indices)
        for start in range(0, len(chosen), size):
            batch = self.batch(chosen[start : start + size])
            if len(batch.images):
                yield batch

    def batch(self, chosen: Sequence[int]) -> Batch:
        """Return some images."""
        count = len(self.data)
        own = self.known([place % count for place in chosen])
        swapped = [place for place in chosen if place >= count]
        others = self.known([self.donors[place - count] for place in swapped])
        images, labels, places = [], [], []
        for place in chosen:
            found = own.get(place % count)
            if found is None:
                continue
            image, label = found
            if place >= count:
                donor = others.get(self.donors[place - count])
                if donor is None:
                    continue
                image = self.swapped(image, place - count, donor[0])
            images.append(image)
            labels.append(label)
            places.append(place)
        shape = next(iter(own.values()))[0].shape if own else (0, 0, 0)
        return Batch(
            indices=torch.tensor(places, dtype=torch.int64),
            images=torch.stack(images) if images else torch.empty(0, *shape),
            labels=torch.tensor(labels, dtype=torch.int64),
        )

    def known(self, places: Sequence[int]) -> dict[int, tuple[Tensor, int]]:
        """Return images and labels by place; those that cannot be used are missing."""
        wanted = sorted(set(places))
        if not wanted:
            return {}
        whole = list(self.data.batches(len(wanted), wanted))
        if sum(len(batch.labels) for batch in whole) == len(wanted):
            images = [image for batch in whole for image in batch.images]
            labels = [label for batch in whole for label in batch.labels.tolist()]
            return dict(zip(wanted, zip(images, labels, strict=True), strict=True))
        return {
            place: (batch.images[0], int(batch.labels[0]))
            for place in wanted
            for batch in self.data.batches(1, [place])
        }

    def swapped(self, image: Tensor, place: int, donor: Tensor) -> Tensor:
        """Return an image with the region of its donor."""
        own = self.inside([place])
        theirs = self.inside([self.donors[place]]) if self.moves else None
        return pasted(image[None], own, donor[None], theirs)[0]

    def fingerprint(self) -> str:
        """Return the fingerprint of the images, their regions and the donors."""
        regions = fingerprint_tensor(self.inside(range(len(self.data))))
        return f"{self.data.fingerprint()}:{regions}:{sorted(self.wanted)}:{self.seed}"
