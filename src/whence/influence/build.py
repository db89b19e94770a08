r"""Build: the gradients of a training set go into an index; queries are looked up in it.

Scores from an index are estimates: gradients are projected and stored in half precision. Take
more candidates than are needed and score those exactly: :func:`whence.influence.retrieve` does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from whence.core import ImageData, Images, Margin, Progress, Target, check_images, silent
from whence.errors import MismatchError, RecordError
from whence.gradients import Projection, Projector, Recorder, SparseProjection, flat
from whence.gradients.project import SPARSE_STREAM, STREAM
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
from whence.influence.query import residuals_of
from whence.influence.select import choose_parameters
from whence.network import Network

__all__ = ["Norms", "check_data", "index_gradients", "repair_gradients", "search_gradients"]

Norms = Literal["projected", "exact"]
"""By which length a stored gradient is divided: that of its projection, or its own."""


def index_gradients(
    network: Network,
    train: ImageData,
    folder: str | Path,
    *,
    projection: Projection | SparseProjection | None = None,
    parameters: str | Sequence[str] = "all",
    norms: Norms = "projected",
    batch_size: int = 32,
    shard_size: int = 4096,
    progress: Progress = silent,
) -> Manifest:
    """Store the projected gradients of a training set's margins, and their norms, in a folder.

    It costs less than one epoch of training, can be killed and run again, and refuses a folder
    that holds the index of another model, other data or other settings.

    Args:
        network: The network.
        train: Training images with labels.
        folder: Where to.
        projection: How gradients are projected; a :class:`Projection` with an oversampling of 2
            by default, or a :class:`SparseProjection`.
        parameters: Over which parameters; see ``choose_parameters``.
        norms: Divide by the length of the projection, which costs nothing, or by the gradient's
            own, which makes cosines unbiased and costs about half a training step more.
        batch_size: Training images at a time.
        shard_size: Training images per file.
        progress: Called after every shard.

    Raises:
        DataError: If a training image has no label.
        MismatchError: If the folder holds an index of something else.
    """
    projection = projection or Projection(oversampling=2)
    recorder = Recorder(network, choose_parameters(network, parameters))
    projector = projector_of(recorder, projection)
    return build_index(
        folder,
        provenance=provenance_of(recorder, train, projection, norms),
        indices=range(len(train)),
        rows=rows_of(recorder, train, projector, batch_size, norms),
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
    recorder, projection, norms = recorder_of(network, folder)
    projector = projector_of(recorder, projection)
    ours = provenance_of(recorder, train, projection, norms)
    ours.check_same(manifest_of(folder).provenance, Path(folder))
    return verify(folder, repair=rows_of(recorder, train, projector, batch_size, norms))


def check_data(network: Network, train: ImageData, folder: str | Path) -> None:
    """Refuse an index of another model or of other data.

    Raises:
        MismatchError: If it is; the message names what differs.
    """
    recorder, projection, norms = recorder_of(network, folder)
    ours = provenance_of(recorder, train, projection, norms)
    ours.check_same(manifest_of(folder).provenance, Path(folder))


def search_gradients(
    network: Network,
    folder: str | Path,
    images: Images,
    target: Target,
    *,
    count: int,
    score: Literal["cosine", "dot", "loss"] = "cosine",
    opponents: bool = False,
) -> Neighbours:
    """Return the training images whose stored gradients fit best with each query's.

    Cosines are those of gradients, estimated; ``dot`` is the inner product of margins' gradients,
    ``loss`` that of losses': Grad-Dot.
    A query without any gradient gets scores of 0.

    Args:
        network: The network that the index is of.
        folder: A complete index.
        images: Queries, ``(q, c, h, w)``.
        target: What is asked about each query.
        count: Training images per query.
        score: Whether the lengths of gradients count.
        opponents: Return those with the lowest scores instead.

    Raises:
        MismatchError: If the index is of another model.
    """
    check_images(images)
    recorder, projection, norms = recorder_of(network, folder)
    recorded = recorder.record(images, target)
    rows = flat(projector_of(recorder, projection).project(recorded))
    if score == "cosine":
        lengths = recorded.norm() if norms == "exact" else rows.norm(dim=1)
        rows = rows / torch.where(lengths > 0, lengths, torch.ones_like(lengths))[:, None]
    if score == "loss":
        rows = rows * residuals_of(recorded.logits, target)[:, None]
    if not opponents:
        return query(folder, rows, count=count, score=score)
    lowest = query(folder, -rows, count=count, score=score)
    return replace(lowest, scores=-lowest.scores)


def projector_of(recorder: Recorder, projection: Projection | SparseProjection) -> Projector:
    """Return the projection for the gradients of a network."""
    example = recorder.network.example[:1]
    labels = torch.zeros(1, dtype=torch.int64, device=example.device)
    return projection.projector(recorder.record(example, Margin(labels)))


def provenance_of(
    recorder: Recorder,
    train: ImageData,
    projection: Projection | SparseProjection,
    norms: Norms,
) -> Provenance:
    """Return of what an index is made."""
    kind: dict[str, str | int] = {"projection": STREAM}
    if isinstance(projection, SparseProjection):
        kind = {"projection": SPARSE_STREAM, "spread": projection.spread}
    elif projection.oversampling > 1:
        kind["oversampling"] = projection.oversampling
    return Provenance(
        model=recorder.network.fingerprint(),
        data=train.fingerprint(),
        parameters=recorder.names,
        settings={
            "target": "margin of the label",
            "dimension": projection.dimension,
            "seed": projection.seed,
            "norms": norms,
            **kind,
        },
        code=version("whence"),
    )


def recorder_of(
    network: Network, folder: str | Path
) -> tuple[Recorder, Projection | SparseProjection, Norms]:
    """Return what records and projects as an index did, for the same model."""
    made = manifest_of(folder).provenance
    if network.fingerprint() != made.model:
        msg = (
            f"{folder} is an index of another model than this one: weights or graph differ. Load "
            f"the model that it was built with, or build an index of this one."
        )
        raise MismatchError(msg)
    if made.settings.get("projection") not in (STREAM, SPARSE_STREAM):
        msg = (
            f"{folder} was projected by {made.settings.get('projection')!r}, this version of "
            f"whence projects by {STREAM!r}. Build the index again."
        )
        raise RecordError(msg)
    dimension, seed = int(made.settings["dimension"]), int(made.settings["seed"])
    projection: Projection | SparseProjection = Projection(
        dimension=dimension, seed=seed, oversampling=int(made.settings.get("oversampling", 1))
    )
    if made.settings["projection"] == SPARSE_STREAM:
        spread = int(made.settings["spread"])
        projection = SparseProjection(dimension=dimension, seed=seed, spread=spread)
    norms: Norms = "projected" if made.settings.get("norms") == "projected" else "exact"
    return Recorder(network, made.parameters), projection, norms


def rows_of(
    recorder: Recorder, train: ImageData, projector: Projector, batch_size: int, norms: Norms
) -> MakeRows:
    """Return what makes the rows of some training images."""
    device = recorder.network.example.device

    def rows(indices: Sequence[int]) -> Iterator[Rows]:
        for batch in train.batches(batch_size, indices):
            labels = batch.labels.to(device)
            check_labels(train, batch.indices, labels, recorder.network)
            recorded = recorder.record(batch.images.to(device), Margin(labels))
            projected = flat(projector.project(recorded))
            yield Rows(
                indices=batch.indices,
                labels=batch.labels,
                norms=recorded.norm() if norms == "exact" else projected.norm(dim=1),
                projected=projected,
                residuals=residuals_of(recorded.logits, Margin(labels)),
            )

    return rows
