"""Shard: the rows of some images, in one safetensors file."""

import hashlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from whence.core import Labels, Scalars
from whence.errors import NumericsError, RecordError, ShapeError
from whence.index.manifest import ShardEntry, as_runs
from whence.results.folder import write_whole

__all__ = ["Rows", "opened", "sha256_of", "write_shard"]

PIECE = 2**20


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Projected gradients of some images, as they are made.

    Args:
        indices: Places of the images in the dataset, ``(b,)``.
        labels: Their classes; -1 where there is none.
        norms: By what they are divided before they are stored: the norms of the gradients, or
            of the projected ones.
        projected: Their projected gradients, ``(b, k)``.
        residuals: The factors that make margins' gradients those of losses; 1 if not given.
    """

    indices: Labels
    labels: Labels
    norms: Scalars
    projected: Float[Tensor, "b k"]
    residuals: Scalars | None = None


def write_shard(
    folder: Path, file: str, asked: list[int], batches: Iterable[Rows], dimension: int
) -> ShardEntry:
    """Write the rows of some images to a file, whole or not at all.

    Directions are stored in half precision: projected gradients divided by the exact norm of the
    gradient, so that their length is near one and their inner products estimate cosines without
    bias. Norms are stored in single precision. A gradient of zero has a direction of zeros.

    Raises:
        NumericsError: If a row is not finite.
        ShapeError: If the rows are not those that were asked for.
    """
    parts = [checked(batch, asked, dimension) for batch in batches]
    none = torch.zeros(0, dtype=torch.int64)
    indices = torch.cat([none, *(part.indices.cpu() for part in parts)])
    if len(set(indices.tolist())) < len(indices):
        msg = f"The rows of {file} hold an image twice. Give each image once."
        raise ShapeError(msg)
    norms = torch.cat([torch.zeros(0), *(part.norms.detach().float().cpu() for part in parts)])
    directions = torch.cat(
        [torch.zeros(0, dimension, dtype=torch.float16), *(direction(part) for part in parts)]
    )
    content = save(
        {
            "indices": indices,
            "labels": torch.cat([none, *(part.labels.cpu() for part in parts)]),
            "norms": norms,
            "residuals": torch.cat([torch.zeros(0), *map(residuals, parts)]),
            "directions": directions,
        }
    )
    write_whole(folder / file, content)
    return ShardEntry(
        file=file,
        runs=as_runs(asked),
        rows=len(indices),
        zeros=int((norms == 0).sum()),
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


def checked(rows: Rows, asked: list[int], dimension: int) -> Rows:
    """Return rows that are finite, of the right width, and of images that were asked for."""
    if rows.projected.shape[1] != dimension:
        msg = (
            f"Rows of {dimension} numbers were announced; got {rows.projected.shape[1]}. "
            f"Use one projection for the whole index."
        )
        raise ShapeError(msg)
    strange = set(rows.indices.tolist()) - set(asked)
    if strange:
        msg = f"Image {min(strange)} was not asked for. Yield the rows of the given indices only."
        raise ShapeError(msg)
    finite = (rows.projected.isfinite().all(dim=1) & rows.norms.isfinite()).cpu()
    if not finite.all():
        first = int(rows.indices.cpu()[~finite][0])
        msg = (
            f"The gradient of image {first} holds NaN or infinity, which cannot be stored. Look "
            f"for such values in this image, and in the model's weights and activations."
        )
        raise NumericsError(msg)
    return rows


def residuals(rows: Rows) -> Tensor:
    """Return the factors of rows, in single precision."""
    if rows.residuals is None:
        return torch.ones(len(rows.indices))
    return rows.residuals.detach().float().cpu()


def direction(rows: Rows) -> Tensor:
    """Return projected gradients over the norm of the gradient, in half precision."""
    norms = rows.norms.double()
    safe = torch.where(norms > 0, norms, torch.ones_like(norms))
    unit = rows.projected.detach().double() / safe[:, None]
    return torch.where(norms[:, None] > 0, unit, torch.zeros_like(unit)).half().cpu()


def opened(folder: Path, entry: ShardEntry) -> AbstractContextManager[Any]:
    """Open a shard by memory map.

    Raises:
        RecordError: If it is missing, or is no safetensors file.
    """
    path = folder / entry.file
    size = path.stat().st_size if path.is_file() else 0
    if entry.size and size != entry.size:
        raise damaged(path, f"{entry.size} bytes were written, {size} are there")
    try:
        file: AbstractContextManager[Any] = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise damaged(path, str(error)) from error
    return file


def damaged(path: Path, reason: str) -> RecordError:
    """Return the error that a shard cannot be used."""
    return RecordError(
        f"The shard {path} is missing or damaged ({reason}). Rebuild it alone: "
        f"whence index verify --repair, or repair_gradients()."
    )


def sha256_of(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    except OSError:
        return None
    return digest.hexdigest()
