"""Image folders, on disk or in a zip archive that is read in place."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Protocol, final, runtime_checkable

from PIL import Image

from whence.adapters.images import EXTENSIONS, decode_image, is_image_name
from whence.errors import DataError, ImageError

__all__ = ["FileSource", "Files", "FolderFiles", "Layout", "ZipFiles", "arrange"]

SPLITS = frozenset({"test", "train", "training", "testing", "val", "valid", "validation", "dev"})
"""Folder names that say a part of a dataset, not a class."""

IGNORED = "__MACOSX"


@runtime_checkable
class Files(Protocol):
    """Named files, read by name."""

    def names(self) -> tuple[str, ...]:
        """Return the relative paths of all files, with ``/``, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class FolderFiles:
    """The files below a folder, links followed once."""

    root: Path

    def names(self) -> tuple[str, ...]:
        """Return the relative paths of all files, sorted."""
        return tuple(sorted(walk(self.root)))

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            msg = f"{name} could not be read: {error.strerror or error}."
            raise ImageError(msg) from error


@final
@dataclass(frozen=True, kw_only=True)
class ZipFiles:
    """The files in a zip archive."""

    path: Path

    def names(self) -> tuple[str, ...]:
        """Return the paths of all files in the archive, sorted."""
        entries = self.archive().namelist()
        return tuple(sorted(n for n in entries if not n.endswith("/") and IGNORED not in n))

    def read(self, name: str) -> bytes:
        """Return the content of a file; the archive's checksum is verified."""
        try:
            return self.archive().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as error:
            msg = f"{name} could not be unpacked: {error}."
            raise ImageError(msg) from error

    def archive(self) -> zipfile.ZipFile:
        """Return the opened archive, which is shared and may be read by several threads."""
        return opened(self.path, self.path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def opened(path: Path, changed: int) -> zipfile.ZipFile:
    """Open an archive once; reading its list of files is slow for large ones."""
    del changed
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        msg = f"{path} is no zip archive, or is truncated ({error}). Fetch it again."
        raise DataError(msg) from error


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class FileSource:
    """Image files as pictures.

    Args:
        files: Where they are.
        members: Their names there.
        prefix: What all names begin with; left out when an image is named to a person.
    """

    files: Files
    members: tuple[str, ...]
    prefix: str = ""

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.members)

    def name(self, index: int) -> str:
        """Return a file's path below the dataset's folder."""
        return self.members[index].removeprefix(self.prefix)

    def read(self, index: int) -> Image.Image:
        """Decode a file."""
        return decode_image(self.files.read(self.members[index]), self.name(index))

    def digest(self, index: int) -> str:
        """Return a SHA-256 of a file's bytes, or of the reason why there are none."""
        try:
            content = self.files.read(self.members[index])
        except ImageError as error:
            content = str(error).encode()
        return hashlib.sha256(content).hexdigest()


@final
@dataclass(frozen=True, kw_only=True)
class Layout:
    """Image files with their classes.

    Args:
        members: Names of the image files, sorted by class and path.
        prefix: What all names begin with: the split's folder.
        folders: The class folders, sorted; empty for a flat folder.
        labels: For each image the number of its class folder; None for a flat folder.
    """

    members: tuple[str, ...]
    prefix: str
    folders: tuple[str, ...]
    labels: tuple[int, ...] | None


def arrange(names: tuple[str, ...], split: str | None, title: str) -> Layout:
    """Find classes and images among the names of files.

    ``CLASS/image.jpg`` (anything below a class folder belongs to it), or ``image.jpg`` without
    classes; either below a folder for the split, and below folders around everything.

    Args:
        names: Relative paths of all files.
        split: Which part: the name of a folder; needed where there are several.
        title: What to call the dataset in errors.

    Raises:
        DataError: No images, no such split, a split that has to be chosen, or images beside
            class folders.
    """
    images = tuple(name for name in names if is_image_name(name))
    if not images:
        msg = (
            f"{title} holds no images. Looked for files that end in {', '.join(EXTENSIONS)}, "
            f"among {len(names)} files."
        )
        raise DataError(msg)
    prefix = common_prefix(images)
    if split is not None and split not in prefix.split("/"):
        prefix = f"{prefix}{split}/"
        tops = top_folders(images, common_prefix(images))
        images = tuple(name for name in images if name.startswith(prefix))
        if not images:
            have = ", ".join(tops) or "no folders"
            msg = f"{title} has no images in a folder {split!r}; it has {have}."
            raise DataError(msg)
    tops = top_folders(images, prefix)
    if split is None and tops and all(top.lower() in SPLITS for top in tops):
        msg = (
            f"{title} is divided into {', '.join(tops)}. Choose one of them as the split, or name "
            f"its folder."
        )
        raise DataError(msg)
    loose = [name for name in images if "/" not in name.removeprefix(prefix)]
    if not tops:
        return Layout(members=tuple(sorted(images)), prefix=prefix, folders=(), labels=None)
    if loose:
        msg = (
            f"{title} has images both in class folders ({', '.join(tops[:3])}) and beside them "
            f"({loose[0]}). Move each image into the folder of its class."
        )
        raise DataError(msg)
    number = {top: k for k, top in enumerate(tops)}
    placed = sorted((number[top_of(name, prefix)], name) for name in images)
    return Layout(
        members=tuple(name for _, name in placed),
        prefix=prefix,
        folders=tops,
        labels=tuple(label for label, _ in placed),
    )


def common_prefix(images: tuple[str, ...]) -> str:
    """Return the folders around everything: those with one folder in them and no image."""
    prefix = ""
    while True:
        tops = top_folders(images, prefix)
        loose = any("/" not in name.removeprefix(prefix) for name in images)
        deeper = f"{prefix}{tops[0]}/" if len(tops) == 1 and not loose else ""
        if not deeper or any("/" not in name.removeprefix(deeper) for name in images):
            return prefix
        prefix = deeper


def top_folders(images: tuple[str, ...], prefix: str) -> tuple[str, ...]:
    """Return the folders directly below a prefix that hold images, sorted."""
    found = {top_of(name, prefix) for name in images if "/" in name.removeprefix(prefix)}
    return tuple(sorted(found))


def top_of(name: str, prefix: str) -> str:
    """Return the first folder of a path below a prefix."""
    return PurePosixPath(name.removeprefix(prefix)).parts[0]


def walk(root: Path) -> Iterator[str]:
    """Yield the relative paths of all files below a folder, visiting each folder once."""
    seen: set[str] = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if name != IGNORED and not name.startswith("."))
        for name in files:
            yield (Path(folder) / name).relative_to(root).as_posix()
