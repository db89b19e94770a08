"""Pictures from any source, decoded ahead by threads, preprocessed, in batches."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from whence.adapters.preprocessing import Picture, Preprocessing
from whence.core import Batch, batch_indices, fingerprint_data
from whence.errors import DataError, ImageError, SettingError

__all__ = ["PictureData", "PictureSource"]

THREADS = 4
"""Threads that decode; Pillow lets go of the interpreter while it decodes and resizes."""

NAMED = 3
"""Unusable images that an error names."""


@runtime_checkable
class PictureSource(Protocol):
    """Numbered pictures: a folder, an archive, an array."""

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def name(self, index: int) -> str:
        """Return what to call a picture."""
        ...

    def read(self, index: int) -> Picture:
        """Return a picture; raises :class:`~whence.errors.ImageError` if it is unusable."""
        ...

    def digest(self, index: int) -> str:
        """Return a hash of the stored bytes of a picture, readable or not."""
        ...


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PictureData:
    """A dataset of pictures; implements :class:`whence.core.ImageData`.

    An unusable image is left out of its batch and listed once in :attr:`skipped`. While one batch
    is used the pictures of the next are decoded.

    Args:
        source: The pictures.
        preprocessing: How each becomes the model's input.
        title: What to call the dataset in a report.
        classes: Names of the classes, in the order of the labels.
        labels: One class index for each picture; None where there are no labels.
        mapping: How labels came to mean these classes: "by name", "by position", ...
    """

    source: PictureSource
    preprocessing: Preprocessing
    title: str
    classes: tuple[str, ...]
    labels: tuple[int, ...] | None
    mapping: str
    reasons: dict[int, str] = field(default_factory=dict, init=False, repr=False)
    known: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Check that each picture has a label, and each label a class."""
        count = len(self.source)
        if self.labels is None:
            return
        if len(self.labels) != count:
            msg = f"{self.title} has {count} images and {len(self.labels)} labels. Give one each."
            raise DataError(msg)
        for index, label in enumerate(self.labels):
            if not 0 <= label < len(self.classes):
                msg = (
                    f"{self.source.name(index)} in {self.title} has label {label}, and there are "
                    f"{len(self.classes)} classes, numbered from 0. Correct the label, or load a "
                    f"model with more classes."
                )
                raise DataError(msg)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far, in the order of the dataset."""
        return tuple((self.name(index), self.reasons[index]) for index in sorted(self.reasons))

    def __len__(self) -> int:
        """Return the number of images, unusable ones included."""
        return len(self.source)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.source.name(index)

    def label(self, index: int) -> int | None:
        """Return the class of an image, or None where there is none."""
        return None if self.labels is None else self.labels[index]

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order; unusable images are left out.

        Args:
            size: Images in a batch.
            indices: Which images; all of them by default.

        Raises:
            DataError: Not one of the images asked for can be used.
            SettingError: The size is not positive, or an index is outside the dataset.
        """
        chosen = list(range(len(self))) if indices is None else [int(i) for i in indices]
        if size < 1:
            msg = f"A batch holds at least one image; got size {size}."
            raise SettingError(msg)
        outside = [i for i in chosen if not 0 <= i < len(self)]
        if outside:
            msg = f"{self.title} has {len(self)} images; there is no image {outside[0]}."
            raise SettingError(msg)
        return self.stream(size, chosen)

    def stream(self, size: int, chosen: list[int]) -> Iterator[Batch]:
        """Yield the batches of :meth:`batches`, whose arguments were checked."""
        ahead: deque[list[Future[Tensor | None]]] = deque()
        used = False
        pool = ThreadPoolExecutor(max_workers=min(THREADS, os.cpu_count() or 1))
        try:
            groups = list(batch_indices(len(self), size, chosen))
            for number, group in enumerate(groups):
                for later in groups[number + len(ahead) : number + 2]:
                    ahead.append([pool.submit(self.load, index) for index in later])
                images = [future.result() for future in ahead.popleft()]
                kept = [(i, x) for i, x in zip(group, images, strict=True) if x is not None]
                if kept:
                    used = True
                    yield self.batch(kept)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        if chosen and not used:
            raise self.all_unusable(chosen)

    def batch(self, kept: list[tuple[int, Tensor]]) -> Batch:
        """Return the usable images of a batch."""
        indices = [index for index, _ in kept]
        labels = [-1 if self.labels is None else self.labels[index] for index in indices]
        return Batch(
            indices=torch.tensor(indices),
            images=torch.stack([image for _, image in kept]),
            labels=torch.tensor(labels),
        )

    def load(self, index: int) -> Tensor | None:
        """Return one image in model units, or None with the reason kept."""
        try:
            return self.preprocessing.tensor(self.source.read(index))
        except ImageError as error:
            self.reasons[index] = str(error)
            return None

    def all_unusable(self, chosen: list[int]) -> DataError:
        """Return the error for a request of which nothing is left."""
        reasons = [self.reasons[index] for index in dict.fromkeys(chosen)]
        listed = " ".join(reasons[:NAMED])
        more = f" And {len(reasons) - NAMED} more." if len(reasons) > NAMED else ""
        return DataError(
            f"None of the {len(reasons)} images asked for in {self.title} can be used. "
            f"{listed}{more}"
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of the stored bytes and the labels; the first call reads them all."""
        if "fingerprint" not in self.known:
            labels = (-1,) * len(self) if self.labels is None else self.labels
            self.known["fingerprint"] = fingerprint_data(
                (self.source.digest(index), label) for index, label in enumerate(labels)
            )
        return self.known["fingerprint"]
