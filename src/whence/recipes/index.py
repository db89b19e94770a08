"""Index: the gradients of a training set on disk, and predictions traced by way of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch

from whence.adapters import LoadedModel
from whence.core import ImageData, Margin, Progress, silent
from whence.display import card, facts, table
from whence.errors import DataError, MismatchError
from whence.gradients import Projection, SparseProjection
from whence.index import Manifest, manifest_of, verify
from whence.influence import index_gradients, repair_gradients, retrieve
from whence.influence.build import Norms
from whence.network import Network

__all__ = ["Answer", "Found", "build_index", "query_index", "verify_index"]


@final
@dataclass(frozen=True, kw_only=True)
class Found:
    """A training image that was found.

    Args:
        index: Its place in the training data.
        name: Its name.
        label: Its class.
        score: Its exact score.
    """

    index: int
    name: str
    label: int
    score: float


@final
@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where one prediction comes from.

    Args:
        index: The place of the image in the test data.
        name: Its name.
        prediction: Its predicted class.
        confidence: The probability of that.
        found: Training images, strongest first.
        recall: Share of these that were among its candidates; None if it was not measured.
        candidates: Candidates that the index gave.
        scored: Training images that were scored exactly, for all images that were asked about.
        rows: Training images in the index.
    """

    index: int
    name: str
    prediction: int
    confidence: float
    found: tuple[Found, ...]
    recall: float | None
    candidates: int
    scored: int
    rows: int

    def _repr_html_(self) -> str:
        """Show in a notebook what was found."""
        told = {"predicted": self.prediction, "confidence": f"{self.confidence:.1%}"}
        rows = [(one.index, one.name, one.label, f"{one.score:+.3g}") for one in self.found]
        return card(self.name, facts(told), table(("image", "name", "label", "score"), rows))


def build_index(
    model: LoadedModel,
    train: ImageData,
    out: str | Path,
    *,
    projection: Projection | SparseProjection | None = None,
    parameters: str | Sequence[str] = "all",
    norms: Norms = "projected",
    batch_size: int = 32,
    shard_size: int = 4096,
    progress: Progress = silent,
) -> Manifest:
    """Store the projected gradients of a model's training data; see :func:`index_gradients`.

    Costs less than an epoch of training. It may be stopped and run again, and then goes on.

    Args:
        model: The model.
        train: Its training images, with labels.
        out: The folder of the index; one of the same model, data and settings is completed.
        projection: How gradients are projected; :class:`Projection` by default.
        parameters: Over which parameters; see :func:`whence.influence.choose_parameters`.
        norms: By which length gradients are divided.
        batch_size: Training images at a time.
        shard_size: Training images per file.
        progress: Told how far the work is.

    Raises:
        DataError: If an image has no label, or there are none.
        MismatchError: If the folder holds an index of something else.
        OutputError: If the folder holds other files, or another process is building there.
    """
    return index_gradients(
        read(model, train),
        train,
        out,
        projection=projection,
        parameters=parameters,
        norms=norms,
        batch_size=batch_size,
        shard_size=shard_size,
        progress=progress,
    )


def query_index(  # noqa: PLR0913 - keywords, each with a default
    model: LoadedModel,
    train: ImageData,
    images: ImageData,
    folder: str | Path,
    *,
    places: Sequence[int] | None = None,
    label: Literal["predicted", "true"] = "predicted",
    score: str = "grad-cos",
    side: Literal["proponents", "opponents"] = "proponents",
    k: int = 5,
    candidates: int = 100,
    sample: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> tuple[Answer, ...]:
    """Return for each image the training images that speak most for its prediction, exactly.

    Args:
        model: The model of the index.
        train: The training images of the index.
        images: The images that are asked about.
        folder: The index.
        places: Which of the images; all by default.
        label: Ask about the predicted class, or about the images' own labels.
        score: ``"grad-cos"`` or ``"grad-dot"``.
        side: The highest scores, or the lowest.
        k: Training images for each image.
        candidates: How many the index proposes for each.
        sample: Training images drawn at random to measure what the index missed; 0 for none.
        seed: Seed of the draw.
        batch_size: Training images at a time.
        progress: Told how far the work is.

    Raises:
        DataError: If an image cannot be used, or has no label where that is asked about.
        MismatchError: If the index is of another model, or of other training data.
        RecordError: If there is no complete index, or a shard is damaged.
        SettingError: If the index holds fewer than ``k`` images, or has no candidates for the
            score.
    """
    network = read(model, images)
    parts = list(images.batches(batch_size, None if places is None else list(places)))
    wanted = list(range(len(images))) if places is None else list(places)
    got = [int(i) for part in parts for i in part.indices]
    if got != wanted or not got:
        missing = [images.name(i) for i in wanted if i not in got] or ["(there is no image)"]
        msg = f"The images {missing[:5]} cannot be used. Leave them out, or repair the files."
        raise DataError(msg)
    device = network.example.device
    pixels = torch.cat([part.images for part in parts]).to(device)
    with torch.no_grad():
        logits = torch.cat([network(part.images.to(device)) for part in parts])
    confidences, predictions = logits.softmax(dim=1).max(dim=1)
    asked = predictions if label == "predicted" else torch.cat([p.labels for p in parts]).to(device)
    if int(asked.min()) < 0:
        first = images.name(got[int((asked < 0).nonzero()[0, 0])])
        msg = f"The image {first!r} has no label. Ask about the predicted class instead."
        raise DataError(msg)
    retrieved = retrieve(
        network,
        train,
        folder,
        pixels,
        Margin(asked),
        k=k,
        candidates=max(k, candidates),
        score=score,
        side=side,
        sample=sample,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return tuple(
        Answer(
            index=place,
            name=images.name(place),
            prediction=int(predictions[row]),
            confidence=float(confidences[row]),
            found=tuple(
                Found(index=i, name=train.name(i), label=y, score=s)
                for i, y, s in zip(
                    retrieved.indices[row].tolist(),
                    retrieved.labels[row].tolist(),
                    retrieved.scores[row].tolist(),
                    strict=True,
                )
            ),
            recall=None if retrieved.recall is None else float(retrieved.recall[row]),
            candidates=retrieved.candidates,
            scored=retrieved.scored,
            rows=retrieved.rows,
        )
        for row, place in enumerate(got)
    )


def verify_index(
    folder: str | Path,
    *,
    model: LoadedModel | None = None,
    train: ImageData | None = None,
    batch_size: int = 32,
) -> tuple[str, ...]:
    """Return the names of damaged shards, by their checksums; with model and data rebuild them.

    Args:
        folder: The index.
        model: Its model, to rebuild damaged shards.
        train: Its training data, to rebuild damaged shards.
        batch_size: Training images at a time.

    Raises:
        MismatchError: If only one of model and data is given, or they are not the index's.
        RecordError: If there is no complete index.
    """
    if model is not None and train is not None:
        return repair_gradients(read(model, train), train, folder, batch_size=batch_size)
    if model is not None or train is not None:
        msg = "Rebuilding shards needs the model and the training data; only one was given."
        raise MismatchError(msg)
    manifest_of(folder)
    return verify(folder)


def read(model: LoadedModel, data: ImageData) -> Network:
    """Return the network of a loaded model, read with one of the images."""
    batch = next(iter(data.batches(1)), None)
    if batch is None:
        msg = f"{data.title} holds no usable image."
        raise DataError(msg)
    device = next(model.module.parameters()).device
    return Network.read(model.module, batch.images.to(device))
