"""Retrieval: candidates from an index, scored exactly, and how many of the best they hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from whence.core import Batch, ImageData, Images, Progress, Target, silent
from whence.errors import SettingError
from whence.index import manifest_of
from whence.influence.build import check_data, search_gradients
from whence.influence.rank import influence
from whence.influence.scorers import GradCos, GradDot
from whence.influence.scoring import Scorer
from whence.network import Network

__all__ = ["Retrieval", "Some", "retrieve"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """The training images that matter most for each query, with their exact scores.

    Args:
        indices: Places in the training set, ``(q, k)``, strongest first.
        labels: Their labels, ``(q, k)``.
        scores: Their exact scores, ``(q, k)``: those that :func:`influence` gives.
        recall: For each query the share of its best ``k``, of all images that were scored, that
            were its candidates, ``(q,)``; None without a sample. If the sample is the whole
            training set this is the recall itself, else it is an estimate from above.
        candidates: Candidates for each query.
        scored: Different training images that were scored exactly.
        sampled: Training images drawn at random to measure the recall.
        rows: Training images in the index.
    """

    indices: Tensor
    labels: Tensor
    scores: Tensor
    recall: Tensor | None
    candidates: int
    scored: int
    sampled: int
    rows: int


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Some:
    """Some images of a dataset, at their places in it.

    Args:
        data: The dataset.
        places: Which images.
    """

    data: ImageData
    places: tuple[int, ...]

    @property
    def title(self) -> str:
        """What to call the dataset."""
        return self.data.title

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.data.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far."""
        return self.data.skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.places)

    def name(self, index: int) -> str:
        """Return the name of the image at a place of the dataset."""
        return self.data.name(index)

    def label(self, index: int) -> int | None:
        """Return the class of the image at a place of the dataset."""
        return self.data.label(index)

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of these images, with their places in the dataset."""
        return self.data.batches(size, list(self.places) if indices is None else indices)

    def fingerprint(self) -> str:
        """Return the fingerprint of the whole dataset."""
        return self.data.fingerprint()


@torch.inference_mode(mode=False)
def retrieve(  # noqa: PLR0913 - keywords, each with a default
    network: Network,
    train: ImageData,
    folder: str | Path,
    images: Images,
    target: Target,
    *,
    k: int = 10,
    candidates: int = 100,
    score: str | Scorer = "grad-cos",
    side: Literal["proponents", "opponents"] = "proponents",
    sample: int = 200,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress = silent,
) -> Retrieval:
    """Return the training images with the highest scores, by way of an index.

    The index gives candidates; these are scored exactly, all of them for all queries. To know what
    the index missed, some training images drawn at random are scored exactly as well. The cost is
    one forward and one backward pass per query, and a forward and two backward passes for each
    image that is scored: for large training sets a small part of :func:`influence`.

    Args:
        network: The network that the index is of.
        train: The training images that the index is of.
        folder: A complete index.
        images: Queries, ``(q, c, h, w)``.
        target: What is asked about each query.
        k: Training images for each query.
        candidates: Candidates for each query, at least ``k``.
        score: ``"grad-cos"``, ``"grad-dot"`` (of the loss), or a :class:`GradCos` or
            :class:`GradDot`, whose margins or losses are compared.
        side: The highest scores, or the lowest.
        sample: Training images drawn at random to measure the recall with; 0 for none.
        seed: Seed of the draw.
        batch_size: Training images at a time.
        progress: Told how many images are scored.

    Raises:
        MismatchError: If the index is of another model, or of other data.
        RecordError: If there is no index, or a shard is damaged.
        SettingError: If the index holds fewer than ``k`` images, or there are fewer candidates, or
            the index has no candidates for the score.
    """
    scorer = indexed_scorer(score)
    rows = manifest_of(folder).rows
    if not 1 <= k <= rows or candidates < k or sample < 0:
        msg = (
            f"k is from 1 to the {rows} images of the index, and candidates is at least k; got "
            f"k={k}, candidates={candidates}, sample={sample}."
        )
        raise SettingError(msg)
    check_data(network, train, folder)
    opponents = side == "opponents"
    found = search_gradients(
        network, folder, images, target, count=candidates, score=stored(scorer), opponents=opponents
    )
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(train), generator=generator)[:sample]
    parameters = manifest_of(folder).provenance.parameters

    exact = influence(
        network,
        Some(
            data=train,
            places=tuple(sorted({*found.indices.flatten().tolist(), *drawn.tolist()})),
        ),
        images,
        target,
        scorer=scorer,
        parameters=parameters,
        batch_size=batch_size,
        progress=progress,
    )
    scores = -exact.scores.T if opponents else exact.scores.T
    best = scores.topk(min(k, scores.shape[1]), dim=1)
    indices = exact.indices[best.indices]
    known = (indices[:, :, None] == found.indices[:, None]).any(dim=2)
    return Retrieval(
        indices=indices,
        labels=exact.labels[best.indices],
        scores=-best.values if opponents else best.values,
        recall=known.double().mean(dim=1) if len(drawn) else None,
        candidates=found.indices.shape[1],
        scored=len(exact.indices),
        sampled=len(drawn),
        rows=rows,
    )


def indexed_scorer(score: str | Scorer) -> GradCos | GradDot:
    """Return the score that was asked for, if an index of gradients has candidates for it.

    Raises:
        SettingError: If it has none.
    """
    named: dict[str, Scorer] = {one.name: one for one in (GradCos(), GradDot())}
    found = named.get(score) if isinstance(score, str) else score
    if not isinstance(found, (GradCos, GradDot)):
        asked = repr(score) if isinstance(score, str) else score.name
        msg = (
            f"An index holds gradients as they are, and gives candidates for "
            f"{' and '.join(named)}; got {asked}. Other scores are made of curvature or of "
            f"checkpoints: compute them with influence(), or `whence audit --score`."
        )
        raise SettingError(msg)
    return found


def stored(scorer: GradCos | GradDot) -> Literal["cosine", "loss"]:
    """Return what of the stored rows makes the score."""
    return "cosine" if isinstance(scorer, GradCos) else "loss"
