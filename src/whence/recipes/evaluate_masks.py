"""Object masks and maps of other makers, from files."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.adapters import load_data
from whence.adapters.preprocessing import Preprocessing
from whence.adapters.streamed import PictureData
from whence.adapters.tables import read_npy, unreadable
from whence.core import Normalisation
from whence.errors import DataError, ImageError

__all__ = ["load_array", "load_maps", "load_object_masks"]

ARRAYS = (".npy", ".npz")


def load_object_masks(source: str, data: PictureData, places: Sequence[int]) -> Tensor:
    """Return object masks as a network sees them, zeros and ones ``(n, 1, h, w)``.

    A mask goes the way of its image: resized, without mixing pixels, and cropped. Inside is what
    is over half of the mask's highest value, so that masks of 0 and 1 and of 0 and 255 both do.

    Args:
        source: A folder or archive of pictures with the names of the images, whatever their
            endings; or an array file ``.npy``, ``.npz#KEY``, ``(n, h, w)`` in the images' order.
        data: The images as the network takes them.
        places: The images that are needed; the masks of others are empty.

    Raises:
        DataError: A mask is missing, or does not fit.
    """
    geometry = replace(
        data.preprocessing,
        channels=1,
        interpolation="nearest",
        normalisation=Normalisation(),
    )
    found = torch.zeros(len(data), 1, *geometry.size)
    if Path(source.partition("#")[0]).suffix.lower() in ARRAYS:
        array = load_array(source)
        array = array[:, 0] if array.ndim == 4 and array.shape[1] == 1 else array  # noqa: PLR2004 - n 1 h w
        if array.ndim != 3 or len(array) != len(data):  # noqa: PLR2004 - n h w
            msg = (
                f"{source} must hold one mask for each of the {len(data)} images, (n, h, w); got "
                f"{array.shape}."
            )
            raise DataError(msg)
        for place in places:
            found[place] = inside(np.asarray(array[place]), geometry, f"mask {place} of {source}")
        return found
    pictures = load_data(source, geometry)
    known = named(pictures)
    for place in places:
        name = data.name(place)
        own = next((known[key] for key in keys(name) if key in known), None)
        if own is None:
            msg = (
                f"{source} has no mask for {name}: none is called "
                f"{PurePosixPath(name).stem!r}, with any ending. Give one for each image; one "
                f"that is empty leaves its image out."
            )
            raise DataError(msg)
        try:
            picture = pictures.source.read(own)
        except ImageError as error:
            msg = f"The mask {pictures.name(own)} in {source} cannot be used: {error}"
            raise DataError(msg) from error
        found[place] = inside(picture, geometry, pictures.name(own))
    return found


def keys(name: str) -> tuple[str, ...]:
    """Return what a mask of an image may be called, the most exact first."""
    path = PurePosixPath(name)
    return name, path.with_suffix("").as_posix(), path.stem


def named(pictures: PictureData) -> dict[str, int]:
    """Return the place of each picture under every name that is its alone."""
    every = [
        (key, k) for k in range(len(pictures)) for key in dict.fromkeys(keys(pictures.name(k)))
    ]
    counts = Counter(key for key, _ in every)
    return {key: place for key, place in every if counts[key] == 1}


def inside(picture: Any, geometry: Preprocessing, name: str) -> Tensor:  # noqa: ANN401 - a picture or an array
    """Return a mask as the network's image has it, ``(1, h, w)``."""
    if isinstance(picture, np.ndarray):
        array = picture if picture.dtype == np.uint8 else picture.astype(np.float32)
        if not np.isfinite(array).all():
            msg = f"{name} holds NaN or infinity. Masks are 0 outside and 1 inside."
            raise DataError(msg)
        high = float(array.max())
        picture = (array > high / 2).astype(np.uint8) * np.uint8(255)
        if picture.shape == geometry.size:
            return torch.from_numpy(picture.astype(np.float32) / 255)[None]
    try:
        values = geometry.tensor(picture)
    except ImageError as error:
        msg = f"{name} does not fit the images: {error}"
        raise DataError(msg) from error
    high_value = values.max()
    return (values > high_value / 2).float()


def load_maps(source: str) -> Tensor:
    """Return maps of other makers from ``.npy`` or ``.npz#KEY``, ``(n, h, w)`` or ``(n, c, h, w)``.

    Raises:
        DataError: The file does not exist, cannot be read, or holds something else.
    """
    array = load_array(source)
    if array.ndim not in (3, 4) or not np.issubdtype(array.dtype, np.number):
        msg = (
            f"{source} must hold maps (n, h, w) or (n, c, h, w) of numbers; got {array.dtype} of "
            f"shape {array.shape}."
        )
        raise DataError(msg)
    return torch.from_numpy(np.array(array, dtype=np.float32))


def load_array(source: str) -> NDArray[Any]:
    """Return an array of a file, ``file.npy`` or ``file.npz#KEY``; a lone key need not be named.

    Raises:
        DataError: The file does not exist or cannot be read, or the key is not there.
    """
    name, _, key = source.partition("#")
    path = Path(name)
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    if path.suffix.lower() != ".npz":
        msg = f"An array file is .npy or .npz#KEY; got {source!r}."
        raise DataError(msg)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            there = list(archive.files)
            chosen = key or (there[0] if len(there) == 1 else "")
            found: NDArray[Any] | None = archive[chosen] if chosen in there else None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise unreadable(path, error) from error
    if found is None:
        msg = f"{path} holds {', '.join(there)}; name one of them: {path}#{there[0]}."
        raise DataError(msg)
    return found
