r"""Build: the gradients of a training set go into an index; queries are looked up in it.

Scores from an index are estimates: gradients are projected and stored in half precision. Take
more candidates than are needed and score those exactly.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from whence.core import ImageData, Images, Margin, Progress, Target, check_images, silent
from whence.errors import MismatchError, RecordError
from whence.gradients import Projection, Projector, Recorder, flat
from whence.gradients.project import STREAM
from whence.index import (
    MakeRows,
    Manifest,
    Neighbours,
    Provenance,
    Rows,
    manifest_of,
    query,
    verify,
)
from whence.index import build as build_index
from whence.influence.batches import check_labels
from whence.influence.select import choose_parameters
from whence.network import Network

__all__ = ["index_gradients", "repair_gradients", "search_gradients"]


def index_gradients(
    network: Network,
    train: ImageData,
    folder: str | Path,
    *,
    projection: Projection | None = None,
    parameters: str | Sequence[str] = "all",
    batch_size: int = 32,
    shard_size: int = 4096,
    progress: Progress = silent,
) -> Manifest:
    """Store the projected gradients of a training set's margins in a folder.

    It costs less than one epoch of training, can be killed and run again, and refuses a folder
    that holds the index of another model, other data or other settings.

    Args:
        network: The network.
        train: Training images with labels.
        folder: Where to.
        projection: How gradients are projected; :class:`Projection` by default.
        parameters: Over which parameters; see ``choose_parameters``.
        batch_size: Training images at a time.
        shard_size: Training images per file.
        progress: Called after every shard.

    Raises:
        DataError: If a training image has no label.
        MismatchError: If the folder holds an index of something else.
    """
    projection = projection or Projection()
    recorder = Recorder(network, choose_parameters(network, parameters))
    projector = projector_of(recorder, projection)
    return build_index(
        folder,
        provenance=provenance_of(recorder, train, projection),
        indices=range(len(train)),
        rows=rows_of(recorder, train, projector, batch_size),
        dimension=sum(projector.sizes.values()),
        shard_size=shard_size,
        progress=progress,
    )


def repair_gradients(
    network: Network, train: ImageData, folder: str | Path, *, batch_size: int = 32
) -> tuple[str, ...]:
    """Rebuild the damaged shards of an index, and return their names.

    Raises:
        MismatchError: If the index is of another model or other data.
    """
    recorder, projection = recorder_of(network, folder)
    projector = projector_of(recorder, projection)
    ours = provenance_of(recorder, train, projection)
    ours.check_same(manifest_of(folder).provenance, Path(folder))
    return verify(folder, repair=rows_of(recorder, train, projector, batch_size))


def search_gradients(
    network: Network,
    folder: str | Path,
    images: Images,
    target: Target,
    *,
    count: int,
    score: Literal["cosine", "dot"] = "cosine",
) -> Neighbours:
    """Return the training images whose stored gradients fit best with each query's.

    Cosines are those of gradients, estimated; ``dot`` is the inner product of margins' gradients.
    A query without any gradient gets scores of 0.

    Args:
        network: The network that the index is of.
        folder: A complete index.
        images: Queries, ``(q, c, h, w)``.
        target: What is asked about each query.
        count: Training images per query.
        score: Whether the lengths of gradients count.

    Raises:
        MismatchError: If the index is of another model.
    """
    check_images(images)
    recorder, projection = recorder_of(network, folder)
    recorded = recorder.record(images, target)
    rows = flat(projector_of(recorder, projection).project(recorded))
    if score == "cosine":
        norms = recorded.norm()
        rows = rows / torch.where(norms > 0, norms, torch.ones_like(norms))[:, None]
    return query(folder, rows, count=count, score=score)


def projector_of(recorder: Recorder, projection: Projection) -> Projector:
    """Return the projection for the gradients of a network."""
    example = recorder.network.example[:1]
    labels = torch.zeros(1, dtype=torch.int64, device=example.device)
    return projection.projector(recorder.record(example, Margin(labels)))


def provenance_of(recorder: Recorder, train: ImageData, projection: Projection) -> Provenance:
    """Return of what an index is made."""
    return Provenance(
        model=recorder.network.fingerprint(),
        data=train.fingerprint(),
        parameters=recorder.names,
        settings={
            "target": "margin of the label",
            "projection": STREAM,
            "dimension": projection.dimension,
            "seed": projection.seed,
        },
        code=version("whence"),
    )


def recorder_of(network: Network, folder: str | Path) -> tuple[Recorder, Projection]:
    """Return what records and projects as an index did, for the same model."""
    made = manifest_of(folder).provenance
    if network.fingerprint() != made.model:
        msg = (
            f"{folder} is an index of another model than this one: weights or graph differ. Load "
            f"the model that it was built with, or build an index of this one."
        )
        raise MismatchError(msg)
    if made.settings.get("projection") != STREAM:
        msg = (
            f"{folder} was projected by {made.settings.get('projection')!r}, this version of "
            f"whence projects by {STREAM!r}. Build the index again."
        )
        raise RecordError(msg)
    projection = Projection(
        dimension=int(made.settings["dimension"]), seed=int(made.settings["seed"])
    )
    return Recorder(network, made.parameters), projection


def rows_of(
    recorder: Recorder, train: ImageData, projector: Projector, batch_size: int
) -> MakeRows:
    """Return what makes the rows of some training images."""
    device = recorder.network.example.device

    def rows(indices: Sequence[int]) -> Iterator[Rows]:
        for batch in train.batches(batch_size, indices):
            labels = batch.labels.to(device)
            check_labels(train, batch.indices, labels, recorder.network)
            recorded = recorder.record(batch.images.to(device), Margin(labels))
            yield Rows(
                indices=batch.indices,
                labels=batch.labels,
                norms=recorded.norm(),
                projected=flat(projector.project(recorded)),
            )

    return rows
