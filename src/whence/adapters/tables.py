"""Images in arrays: NumPy files and scikit-learn's handwritten digits."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from whence.adapters.preprocessing import Picture
from whence.core import fingerprint_tensor
from whence.core.sniff import impostor
from whence.errors import DataError

__all__ = ["ArraySource", "array_source", "digits_arrays", "label_array", "read_npy", "read_npz"]

IMAGE_KEYS = ("x", "images", "image", "data", "x_all")
LABEL_KEYS = ("y", "labels", "label", "targets", "target", "y_all")
PARTS = ("train", "test", "val", "valid", "validation")
DEEP = 65535
HELD_OUT = 5
"""Of the digits, every fifth is in the test part."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySource:
    """Pictures in one array ``(n, h, w)`` or ``(n, h, w, c)``, 8-bit or in [0, 1].

    Args:
        pictures: The array; may be mapped from a file.
        stem: What to call the array; a picture is ``stem[place]``.
        numbers: The place of each picture, where they do not count up from 0.
    """

    pictures: NDArray[Any]
    stem: str
    numbers: tuple[int, ...] | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.pictures)

    def name(self, index: int) -> str:
        """Return the array's name and the picture's place."""
        place = index if self.numbers is None else self.numbers[index]
        return f"{self.stem}[{place}]"

    def read(self, index: int) -> Picture:
        """Return a picture."""
        return np.asarray(self.pictures[index])

    def digest(self, index: int) -> str:
        """Return a SHA-256 of a picture's values."""
        return fingerprint_tensor(torch.from_numpy(np.array(self.pictures[index])))


def array_source(images: NDArray[Any], stem: str) -> ArraySource:
    """Return the pictures in an array.

    Args:
        images: ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)`` with 1 or 3 channels; 8-bit,
            16-bit without sign (divided by 65535), booleans, other integers in 0 to 255, or
            floating point in [0, 1].
        stem: What to call the array.

    Raises:
        DataError: Another shape, or another range of values.
    """
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):  # noqa: PLR2004 - n c h w
        images = images.transpose(0, 2, 3, 1)
    channels = images.shape[3] if images.ndim == 4 else 1  # noqa: PLR2004 - n h w c
    if images.ndim not in (3, 4) or channels not in (1, 3) or not images.size:
        msg = (
            f"{stem} has shape {images.shape}; images (n, h, w), (n, h, w, c) or (n, c, h, w) with "
            f"1 or 3 channels were needed. Reshape the array."
        )
        raise DataError(msg)
    return ArraySource(pictures=in_range(images, stem), stem=stem)


def in_range(images: NDArray[Any], stem: str) -> NDArray[Any]:
    """Return images as 8-bit or as floating point in [0, 1]."""
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype == np.uint16:
        return (images / DEEP).astype(np.float32)
    integers = np.issubdtype(images.dtype, np.integer)
    if not (integers or np.issubdtype(images.dtype, np.floating)):
        msg = f"{stem} holds {images.dtype}; numbers were needed. Store the images as uint8."
        raise DataError(msg)
    finite = images[np.isfinite(images)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    most = 255 if integers else 1
    if low < 0 or high > most:
        msg = (
            f"{stem} holds {images.dtype} from {low:g} to {high:g}; {images.dtype} images run from "
            f"0 to {most}. Scale them, without the model's normalisation, or store them as uint8."
        )
        raise DataError(msg)
    return images.astype(np.uint8) if integers else images


def read_npz(path: Path, split: str | None) -> tuple[NDArray[Any], NDArray[Any] | None, str]:
    """Read images, labels if there are any, and the images' key from an ``.npz`` file.

    Args:
        path: The file, with ``x`` and ``y`` or ``images`` and ``labels``, or with a suffix for
            each part: ``x_train``, ``y_train``, ``x_test``, ...
        split: Which part; needed where there are several.

    Raises:
        DataError: The file cannot be read, or has no such arrays.
    """
    try:
        # The file is opened here, because NumPy leaves it open if it cannot read it.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            key, label_key = choose_keys(tuple(stored.files), split, path)
            return stored[key], None if label_key is None else stored[label_key], key
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise unreadable(path, error) from error


def choose_keys(keys: tuple[str, ...], split: str | None, path: Path) -> tuple[str, str | None]:
    """Return the keys of images and labels."""
    plain = [key for key in IMAGE_KEYS if key in keys]
    parts = [p for p in PARTS if any(f"{key}_{p}" in keys for key in IMAGE_KEYS)]
    if split is None and not plain and len(parts) == 1:
        split = parts[0]
    suffix = "" if split is None else f"_{split}"
    chosen = [f"{key}{suffix}" for key in IMAGE_KEYS if f"{key}{suffix}" in keys]
    if not chosen:
        what = f"images of a split {split!r}" if split else "arrays x and y, or images and labels"
        hint = f" Choose one of the splits {', '.join(parts)}." if parts else ""
        msg = f"{path} has no {what}; it has the arrays {', '.join(keys) or 'none'}.{hint}"
        raise DataError(msg)
    labels = [f"{key}{suffix}" for key in LABEL_KEYS if f"{key}{suffix}" in keys]
    return chosen[0], labels[0] if labels else None


def read_npy(path: Path) -> NDArray[Any]:
    """Read an ``.npy`` file, mapped into memory, so that large ones are not copied."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise unreadable(path, error) from error
    return array


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for an array file that cannot be read."""
    if not path.is_file():
        return DataError(f"There is no file {path}. Check the path.")
    with path.open("rb") as file:
        known = impostor(file.read(200))
    if known:
        return DataError(f"{path} is {known}.")
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return DataError(
            f"{path} holds Python objects, which are not read because they may run code. Store "
            f"plain numeric arrays."
        )
    return DataError(f"{path} is truncated or no NumPy file ({error}). Write or fetch it again.")


def label_array(labels: NDArray[Any], count: int, title: str) -> NDArray[Any]:
    """Return labels, ``(n,)`` or ``(n, 1)``, as one whole number or one name for each image."""
    flat = labels.reshape(-1) if labels.shape in ((count,), (count, 1)) else labels
    if flat.shape != (count,):
        msg = (
            f"{title} has {count} images and labels of shape {labels.shape}; one class index or "
            f"class name per image was needed."
        )
        raise DataError(msg)
    if np.issubdtype(flat.dtype, np.floating) and (flat == np.rint(flat)).all():
        flat = flat.astype(np.int64)
    if not (np.issubdtype(flat.dtype, np.integer) or flat.dtype.kind in "UT"):
        msg = f"{title} has labels of type {flat.dtype}; whole numbers or names were needed."
        raise DataError(msg)
    return flat


def digits_arrays(split: str | None) -> tuple[ArraySource, tuple[int, ...]]:
    """Return scikit-learn's 1 797 handwritten digits, 8 x 8, in [0, 1], and their labels.

    Args:
        split: "test" for every fifth image, "train" for the others, None for all.

    Raises:
        DataError: Another split.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    places: Sequence[int] = range(len(labels))
    if split is not None and split not in ("train", "test"):
        msg = f"The digits have the splits train and test; there is no {split!r}."
        raise DataError(msg)
    if split is not None:
        held = split == "test"
        places = [k for k in places if (k % HELD_OUT == HELD_OUT - 1) == held]
    chosen = np.asarray(places)
    pictures = (images.reshape(-1, 8, 8) / 16).astype(np.float32)[chosen]
    source = ArraySource(pictures=pictures, stem="digits", numbers=tuple(int(k) for k in places))
    return source, tuple(int(k) for k in labels[chosen])
