"""Data for training: checked, held out, and kept in memory where they fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch

from whence.core import Batch, ImageData, TensorData, fingerprint_tensor
from whence.errors import DataError

__all__ = ["Part", "check_data", "held_out", "in_memory"]

GIBIBYTE = 2**30
SLICE = 256


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some images of a dataset; batches hold their places in the whole.

    Args:
        whole: The dataset.
        places: Which of its images.
        title: What to call the part.
    """

    whole: ImageData
    places: tuple[int, ...]
    title: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.whole.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image of the whole found unusable so far."""
        return self.whole.skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.places)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.whole.name(self.places[index])

    def label(self, index: int) -> int | None:
        """Return the class of an image."""
        return self.whole.label(self.places[index])

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order."""
        chosen = range(len(self)) if indices is None else indices
        yield from self.whole.batches(size, [self.places[k] for k in chosen])

    def fingerprint(self) -> str:
        """Return the fingerprint of the whole, and which images."""
        return f"{self.whole.fingerprint()}:{fingerprint_tensor(torch.tensor(self.places))}"


def held_out(data: ImageData, share: float, seed: int) -> tuple[Part, Part]:
    """Return the rest of a dataset, and a share of each of its classes, by chance.

    Raises:
        DataError: A part would be empty.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator).tolist()
    by_class: dict[int | None, list[int]] = {}
    for place in order:
        by_class.setdefault(data.label(place), []).append(place)
    held = sorted(p for own in by_class.values() for p in own[: round(share * len(own))])
    out = set(held)
    rest = [place for place in range(len(data)) if place not in out]
    if not held or not rest:
        msg = (
            f"{data.title} has {len(data)} images: too few to hold some out. Give images to "
            f"validate with."
        )
        raise DataError(msg)
    title = f"{len(held)} of {data.title}"
    return (
        Part(whole=data, places=tuple(rest), title=f"{len(rest)} of {data.title}"),
        Part(whole=data, places=tuple(held), title=title),
    )


def check_data(data: ImageData, outputs: int) -> None:
    """Refuse images without labels, and labels without an output.

    Raises:
        DataError: With the first such image.
    """
    if not len(data):
        msg = f"{data.title} holds no images."
        raise DataError(msg)
    for place in range(len(data)):
        label = data.label(place)
        if label is None:
            msg = (
                f"{data.name(place)} in {data.title} has no label. Training needs one for every "
                f"image."
            )
            raise DataError(msg)
        if label >= outputs:
            msg = (
                f"{data.name(place)} in {data.title} is of class {label}, and the model has "
                f"{outputs} outputs. Replace its head (--new-head, new_head=True)."
            )
            raise DataError(msg)


def in_memory(data: ImageData) -> ImageData:
    """Return a dataset whose images were read once, if they fit and all can be used."""
    if isinstance(data, TensorData | Part) or not len(data):
        return data
    first = next(data.batches(1, [0]), None)
    if first is None or first.images.nbytes * len(data) > GIBIBYTE:
        return data
    parts = list(data.batches(SLICE))
    images = torch.cat([part.images for part in parts])
    if len(images) < len(data):
        return data
    return TensorData(
        images=images,
        labels=torch.cat([part.labels for part in parts]),
        classes=data.classes,
        names=tuple(data.name(k) for k in range(len(data))),
        title=data.title,
    )
