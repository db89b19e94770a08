"""Image data as whence reads them: numbered, named, labelled, preprocessed, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from whence.core.fingerprint import fingerprint_data, fingerprint_tensor
from whence.core.types import Images, Labels
from whence.errors import DataError, SettingError

__all__ = ["Batch", "ImageData", "TensorData", "batch_indices"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Some images of a dataset with their places in it.

    Args:
        indices: Places in the dataset, ``(b,)``. Results are keyed by these, never by order.
        images: Preprocessed images, ``(b, c, h, w)``.
        labels: Class indices ``(b,)``; -1 where there is no label.
    """

    indices: Labels
    images: Images
    labels: Labels


@runtime_checkable
class ImageData(Protocol):
    """A dataset of images."""

    @property
    def title(self) -> str:
        """What to call the dataset in a report."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels."""
        ...

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def name(self, index: int) -> str:
        """Return the file name, or another name, of an image."""
        ...

    def label(self, index: int) -> int | None:
        """Return the class of an image, or None where there is none."""
        ...

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order; unusable images are left out.

        Args:
            size: Images in a batch.
            indices: Which images; all of them by default.
        """
        ...

    def fingerprint(self) -> str:
        """Return a SHA-256 of the images' bytes and the labels."""
        ...


def batch_indices(count: int, size: int, indices: Sequence[int] | None) -> Iterator[list[int]]:
    """Yield lists of at most ``size`` indices.

    Raises:
        SettingError: If ``size`` is less than one.
    """
    if size < 1:
        msg = f"A batch needs at least one image; got size={size}."
        raise SettingError(msg)
    chosen = list(range(count)) if indices is None else list(indices)
    for start in range(0, len(chosen), size):
        yield chosen[start : start + size]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TensorData:
    """Preprocessed images that are already in memory.

    Args:
        images: ``(n, c, h, w)``, in model units.
        labels: ``(n,)`` class indices, -1 where there is none; or None.
        classes: Names of the classes; ``"0"``, ``"1"``, ... by default.
        names: Names of the images; their numbers by default.
        title: What to call the dataset in a report.
    """

    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    title: str = "images in memory"
    skipped: tuple[tuple[str, str], ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        """Check that the parts fit together and fill in the names."""
        count = len(self.images)
        if self.images.ndim != 4 or not self.images.is_floating_point():  # noqa: PLR2004 - n c h w
            msg = (
                f"TensorData needs preprocessed images (n, c, h, w) in floating point; "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}."
            )
            raise DataError(msg)
        if self.labels is not None and self.labels.shape != (count,):
            msg = f"{count} images need {count} labels; got shape {tuple(self.labels.shape)}."
            raise DataError(msg)
        if self.labels is not None and self.labels.is_floating_point():
            msg = f"Labels must be integers, class indices from 0; got {self.labels.dtype}."
            raise DataError(msg)
        if self.names and len(self.names) != count:
            msg = f"{count} images need {count} names; got {len(self.names)}."
            raise DataError(msg)
        if not self.classes and self.labels is not None and count:
            top = int(self.labels.max()) + 1
            object.__setattr__(self, "classes", tuple(str(k) for k in range(top)))
        self.check_labels()

    def check_labels(self) -> None:
        """Check that every label has a class, or is -1 for an image without a label."""
        if self.labels is None:
            return
        wrong = ((self.labels < -1) | (self.labels >= len(self.classes))).nonzero()
        if len(wrong):
            first = int(wrong[0, 0])
            msg = (
                f"The label {int(self.labels[first])} of image {first} does not exist: there are "
                f"{len(self.classes)} classes, so labels run from 0 to {len(self.classes) - 1} "
                f"(or are -1 where there is none)."
            )
            raise DataError(msg)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.names[index] if self.names else f"{index}"

    def label(self, index: int) -> int | None:
        """Return the class of an image, or None where there is none."""
        label = -1 if self.labels is None else int(self.labels[index])
        return None if label < 0 else label

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order."""
        for chosen in batch_indices(len(self), size, indices):
            at = torch.tensor(chosen)
            none = torch.full((len(chosen),), -1)
            labels = none if self.labels is None else self.labels[at].long()
            yield Batch(indices=at, images=self.images[at], labels=labels)

    def fingerprint(self) -> str:
        """Return a SHA-256 of images and labels."""
        labels = [-1] * len(self) if self.labels is None else self.labels.tolist()
        return fingerprint_data(
            (fingerprint_tensor(image), label)
            for image, label in zip(self.images, labels, strict=True)
        )
