"""Store: an index of gradients in a folder: built, resumed, verified, queried."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Progress, batch_indices, silent
from whence.errors import (
    DataError,
    MismatchError,
    OutputError,
    SettingError,
    ShapeError,
)
from whence.index.lock import one_builder
from whence.index.manifest import DONE, OPEN, Manifest, Provenance, as_runs, read_manifest
from whence.index.shard import Rows, damaged, opened, sha256_of, write_shard

__all__ = ["MakeRows", "Neighbours", "begun", "build", "cleared", "manifest_of", "query", "verify"]

OURS = ("shard-", "manifest.", "run.toml")
"""How the names of the files in an index begin."""

MakeRows = Callable[[Sequence[int]], Iterable[Rows]]
"""Makes the rows of some images; may leave out images that cannot be used."""


def build(
    folder: str | Path,
    *,
    provenance: Provenance,
    indices: Sequence[int],
    rows: MakeRows,
    dimension: int,
    shard_size: int = 4096,
    progress: Progress = silent,
) -> Manifest:
    """Store the projected gradients of a dataset, shard by shard.

    It can be killed at any moment and run again: finished shards whose checksums hold are kept.
    Each is written under a temporary name and renamed; the manifest comes last, so an index with
    a manifest is whole. One process at a time builds in a folder; a second one is refused.

    Args:
        folder: Where to; made if missing.
        provenance: Of what the index is made; a rerun must agree in all of it.
        indices: The images, by their places in the dataset.
        rows: Makes the rows of some images; called once per shard.
        dimension: Numbers per row.
        shard_size: Images per shard; a shard is held in memory while it is made.
        progress: Called after every shard.

    Returns:
        The manifest of the complete index.

    Raises:
        DataError: If there is no image, or one comes twice.
        MismatchError: If the folder holds an index of something else; it names what differs.
        OutputError: If the folder cannot be written, or holds other files.
    """
    folder, chosen = Path(folder), list(indices)
    if not chosen or len(set(chosen)) < len(chosen):
        what = "holds an image twice" if chosen else "has no images"
        msg = f"An index needs each image of a dataset once; the list of indices {what}."
        raise DataError(msg)
    parts = list(batch_indices(0, shard_size, chosen))
    plan = Manifest(
        provenance=provenance,
        dimension=dimension,
        runs=as_runs(chosen),
        shard_size=shard_size,
    )
    found_in(folder, plan)
    with one_builder(folder):
        manifest = found_in(folder, plan)
        for path in folder.glob(".*.part-*"):
            path.unlink()
        journal = DONE if (folder / DONE).is_file() else OPEN
        for place, part in enumerate(parts):
            if not is_whole(folder, manifest, place):
                file = f"shard-{place:05d}.safetensors"
                entry = write_shard(folder, file, part, rows(part), dimension)
                manifest = manifest.with_shard(place, entry)
                manifest.write(folder / journal)
            progress("indexing", min((place + 1) * shard_size, len(chosen)), len(chosen))
        if journal == OPEN:
            manifest.write(folder / DONE)
        (folder / OPEN).unlink(missing_ok=True)
    return manifest


def is_whole(folder: Path, manifest: Manifest, place: int) -> bool:
    """Return whether a shard is done and its file is as it was written."""
    if place >= len(manifest.shards):
        return False
    entry = manifest.shards[place]
    return sha256_of(folder / entry.file) == entry.sha256


def begun(folder: str | Path) -> bool:
    """Return whether a folder holds an index, complete or not."""
    return any((Path(folder) / name).is_file() for name in (DONE, OPEN))


def cleared(folder: str | Path) -> None:
    """Remove the files of an index, to build another one there.

    Raises:
        OutputError: If the folder holds other files (then all stay), another process is building
            there, or a file cannot be removed.
    """
    if not begun(folder):
        return
    refuse_foreign(Path(folder), sorted(path.name for path in Path(folder).iterdir()))
    with one_builder(Path(folder)):
        for path in sorted(Path(folder).iterdir()):
            if path.is_file() and path.name.startswith(OURS[:2]):
                try:
                    path.unlink()
                except OSError as error:
                    msg = f"{path} cannot be removed: {error.strerror}. Give another folder."
                    raise OutputError(msg) from error


def manifest_of(folder: str | Path) -> Manifest:
    """Return the manifest of a complete index.

    Raises:
        RecordError: If the folder holds none.
    """
    return read_manifest(Path(folder) / DONE)


def refuse_foreign(folder: Path, names: Sequence[str]) -> None:
    """Refuse a folder in which something is that no index wrote."""
    foreign = [n for n in names if not n.lstrip(".").startswith(OURS)]
    if foreign:
        msg = (
            f"A new or empty folder was needed, but {folder} holds {foreign[0]!r}. "
            f"Give another folder."
        )
        raise OutputError(msg)


def found_in(folder: Path, plan: Manifest) -> Manifest:
    """Return what is there of the plan, complete or not; make the folder if it is missing."""
    stored = next((folder / name for name in (DONE, OPEN) if (folder / name).is_file()), None)
    if stored is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            msg = f"{folder} cannot be written: {error.strerror}. Give a place that can."
            raise OutputError(msg) from error
        refuse_foreign(folder, names)
        return plan
    manifest = read_manifest(stored)
    plan.provenance.check_same(manifest.provenance, folder)
    for name in ("dimension", "runs", "shard_size"):
        ours, theirs = getattr(plan, name), getattr(manifest, name)
        if ours != theirs:
            msg = (
                f"{folder} holds an index that differs in {name}: {str(theirs)[:60]} stored, "
                f"{str(ours)[:60]} now. Give another folder, or remove this one."
            )
            raise MismatchError(msg)
    return manifest


def verify(folder: str | Path, *, repair: MakeRows | None = None) -> tuple[str, ...]:
    """Return the names of damaged shards, by their checksums; with ``repair`` rebuild them.

    Args:
        folder: A complete index.
        repair: Makes the rows of some images, from the same model and data as the index.

    Raises:
        RecordError: If the folder holds no complete index.
    """
    folder = Path(folder)
    if repair is not None:
        manifest_of(folder)
        with one_builder(folder):
            return checked(folder, repair)
    return checked(folder, None)


def checked(folder: Path, repair: MakeRows | None) -> tuple[str, ...]:
    """Return the names of damaged shards, rebuilt where rows can be made."""
    manifest = manifest_of(folder)
    wrong: list[str] = []
    for place, entry in enumerate(manifest.shards):
        if is_whole(folder, manifest, place):
            continue
        wrong.append(entry.file)
        if repair is not None:
            asked = entry.indices
            new = write_shard(folder, entry.file, asked, repair(asked), manifest.dimension)
            manifest = manifest.with_shard(place, new)
            manifest.write(folder / DONE)
    return tuple(wrong)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """The images with the highest scores for each query, best first.

    Args:
        indices: Their places in the dataset, ``(q, k)``.
        labels: Their classes, ``(q, k)``.
        scores: Their scores, ``(q, k)``.
    """

    indices: Tensor
    labels: Tensor
    scores: Tensor


def query(
    folder: str | Path,
    queries: Float[Tensor, "q n"],
    *,
    count: int,
    score: Literal["cosine", "dot", "loss"] = "cosine",
) -> Neighbours:
    r"""Return the images whose stored gradients have the highest scores with each query.

    .. math:: s_i = \langle \phi_i / \lVert g_i \rVert, q \rangle \quad\text{or}\quad
              s_i = \langle \phi_i, q \rangle

    Scores are estimates, by the projection; equal scores go by the image's place. Shards are read
    by memory map, one at a time; the running best are kept. For the lowest scores give the
    negative queries.

    Args:
        folder: A complete index.
        queries: Projected gradients ``(q, k)``; for a true cosine over their exact norms.
        count: Images per query.
        score: ``cosine`` leaves out the length of the training gradients, ``dot`` does not, and
            ``loss`` multiplies it by the stored residuals too.

    Raises:
        RecordError: If the folder holds no complete index, or a shard is damaged.
        SettingError: If ``count`` is less than one.
        ShapeError: If the queries are of another projection.
    """
    folder = Path(folder)
    manifest = manifest_of(folder)
    if count < 1:
        msg = f"count must be at least 1; got {count}."
        raise SettingError(msg)
    if queries.shape[1] != manifest.dimension:
        msg = (
            f"The index holds rows of {manifest.dimension} numbers; the queries have "
            f"{queries.shape[1]}. Project them as the index was."
        )
        raise ShapeError(msg)
    queries = queries.detach().float()
    best = Neighbours(
        indices=torch.zeros(len(queries), 0, dtype=torch.int64),
        labels=torch.zeros(len(queries), 0, dtype=torch.int64),
        scores=torch.zeros(len(queries), 0),
    )
    for entry in manifest.shards:
        with opened(folder, entry) as file:
            try:
                names = ["indices", "labels", "norms", "directions"]
                if score == "loss":
                    names.append("residuals")
                parts = {n: file.get_tensor(n) for n in names}
            except Exception as error:
                raise damaged(folder / entry.file, str(error)) from error
        found = queries @ parts["directions"].to(queries).T
        if score != "cosine":
            found = found * parts["norms"].to(queries)
        if score == "loss":
            found = found * parts["residuals"].to(queries)
        best = merged(best, found.cpu(), parts["indices"], parts["labels"], count)
    return best


def merged(
    best: Neighbours, scores: Tensor, indices: Tensor, labels: Tensor, count: int
) -> Neighbours:
    """Return the best of those so far and those of a shard."""
    all_scores = torch.cat([best.scores, scores], dim=1)
    all_indices = torch.cat([best.indices, indices.expand_as(scores)], dim=1)
    all_labels = torch.cat([best.labels, labels.expand_as(scores)], dim=1)
    by_place = all_indices.argsort(dim=1)
    ordered = all_scores.gather(1, by_place).argsort(dim=1, descending=True, stable=True)
    chosen = by_place.gather(1, ordered[:, :count])
    return Neighbours(
        indices=all_indices.gather(1, chosen),
        labels=all_labels.gather(1, chosen),
        scores=all_scores.gather(1, chosen),
    )
