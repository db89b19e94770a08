"""Influence: exact scores of all training images for some queries, in one pass over the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import (
    ImageData,
    Images,
    Logits,
    Margin,
    Progress,
    Target,
    check_images,
    silent,
)
from whence.errors import DataError, NumericsError, SettingError
from whence.gradients import ExampleGradients, Recorder
from whence.influence.batches import check_labels, images_per_batch
from whence.influence.query import QueryVectors, joined, query_vectors, residuals_of
from whence.influence.scorers import GradCos, Scorer
from whence.influence.select import choose_parameters
from whence.network import Network

__all__ = ["Influence", "Ranking", "influence"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The training images that matter most for each query.

    Args:
        indices: Places in the training set, ``(q, k)``, strongest first.
        scores: Their scores, ``(q, k)``.
    """

    indices: Tensor
    scores: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Influence:
    """Scores of training images for queries, and what the pass learnt on its way.

    Args:
        scores: ``(n, q)``; positive for proponents.
        indices: Places in the training set, ``(n,)``; unusable images are not among them.
        labels: Labels of the training images, ``(n,)``.
        predictions: Predicted classes of the training images, ``(n,)``.
        confidences: Probabilities of the predicted classes, ``(n,)``.
        residuals: ``1 - p`` of the labels, ``(n,)``.
        squared_norms: Squared norms of the margins' gradients, ``(n,)``.
        parameters: Names of the parameters compared.
        coverage: Their share of all of the model's parameters.
        queries: The query vectors, for training-feature maps.
        scorer: How gradients became scores.
        passes: Passes over the training data.
        recorder: What recorded the gradients; training-feature maps use it again.
    """

    scores: Tensor
    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor
    residuals: Tensor
    squared_norms: Tensor
    parameters: tuple[str, ...]
    coverage: float
    queries: QueryVectors
    scorer: Scorer
    passes: int
    recorder: Recorder

    @property
    def self_influence(self) -> Tensor:
        """Squared norm of each training image's loss gradient, ``(n,)``.

        High for images that the model fits only with effort: mislabelled and odd ones.
        """
        return self.residuals.square() * self.squared_norms

    @property
    def zero_gradients(self) -> int:
        """How many training images have no gradient at all."""
        return int((self.squared_norms == 0).sum())

    def proponents(self, k: int) -> Ranking:
        """Return the ``k`` training images with the highest scores for each query.

        They speak for it as far as their scores are above 0.
        """
        return self.top(k, largest=True)

    def opponents(self, k: int) -> Ranking:
        """Return the ``k`` training images with the lowest scores for each query.

        They speak against it as far as their scores are below 0.
        """
        return self.top(k, largest=False)

    def top(self, k: int, *, largest: bool) -> Ranking:
        """Return the highest or lowest scores of each query, with their places."""
        if k < 1:
            msg = f"At least one training image must be asked for; got k={k}."
            raise SettingError(msg)
        found = self.scores.T.topk(min(k, len(self.scores)), dim=1, largest=largest)
        return Ranking(indices=self.indices[found.indices], scores=found.values)


@torch.inference_mode(mode=False)
def influence(
    network: Network,
    train: ImageData,
    images: Images,
    target: Target,
    *,
    scorer: Scorer | None = None,
    parameters: str | Sequence[str] = "all",
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> Influence:
    """Return exact scores of every training image for every query.

    Each training image's gradients are formed once, multiplied with all queries, and dropped. The
    cost per training image is about one forward pass and two backward passes, however many
    queries there are, as long as their vectors fit into ``memory``; else several passes are made.

    Args:
        network: The network.
        train: Training images with labels.
        images: Queries, ``(q, c, h, w)``, in the model's units.
        target: What is asked about each query; ``Margin(predicted classes)`` for "where does
            this prediction come from?".
        scorer: How gradients become scores; :class:`GradCos` by default.
        parameters: Over which parameters; see :func:`choose_parameters`.
        batch_size: Training images at a time; chosen by memory if not given.
        memory: Bytes for the query vectors, and as many again for the batch.
        progress: Told how many training images are done.

    Raises:
        DataError: If there are no usable training images, or one has no label.
        TargetError: If a label is not one of the model's classes.
        NumericsError: If a gradient is NaN or infinite.
    """
    check_images(images)
    names = choose_parameters(network, parameters)
    recorder = Recorder(network, names)
    scorer = scorer or GradCos()
    if batch_size is not None and batch_size < 1:
        msg = f"batch_size must be at least 1; got {batch_size}."
        raise SettingError(msg)
    size = batch_size or images_per_batch(recorder, memory)
    at_once = queries_at_once(network, names, memory)
    columns, vectors, facts = [], [], None
    starts = range(0, len(images), at_once)
    for number, start in enumerate(starts):
        rows = torch.arange(start, min(start + at_once, len(images)))
        some = query_vectors(recorder, images[rows.to(images.device)], target.at(rows), scorer)
        pass_name = "influence" if len(starts) == 1 else f"influence {number + 1}/{len(starts)}"
        facts = one_pass(recorder, train, some, scorer, size, progress, pass_name)
        columns.append(facts.scores)
        vectors.append(some)
    if facts is None:
        msg = "Influence needs at least one query image."
        raise DataError(msg)
    total = sum(p.numel() for p in network.parameters.values())
    return Influence(
        scores=torch.cat(columns, dim=1),
        indices=facts.indices,
        labels=facts.labels,
        predictions=facts.predictions,
        confidences=facts.confidences,
        residuals=facts.residuals,
        squared_norms=facts.squared_norms,
        parameters=names,
        coverage=sum(network.parameters[n].numel() for n in names) / total,
        queries=joined(vectors),
        scorer=scorer,
        passes=len(starts),
        recorder=recorder,
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What one pass over the training data gives."""

    scores: Tensor
    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor
    residuals: Tensor
    squared_norms: Tensor


def one_pass(
    recorder: Recorder,
    train: ImageData,
    queries: QueryVectors,
    scorer: Scorer,
    size: int,
    progress: Progress,
    stage: str,
) -> Facts:
    """Go over the training data once."""
    device = recorder.network.example.device
    rows: list[Facts] = []
    done = 0
    progress(stage, 0, len(train))
    for batch in train.batches(size):
        labels = batch.labels.to(device)
        target = Margin(labels)
        check_labels(train, batch.indices, labels, recorder.network)
        recorded = recorder.record(batch.images.to(device), target)
        rows.append(facts_of(recorded, target, queries, scorer, batch.indices, batch.labels))
        done += len(batch.indices)
        progress(stage, done, len(train))
    if not rows:
        msg = f"{train.title} holds no usable training image."
        raise DataError(msg)
    progress(stage, len(train), len(train))
    return Facts(
        **{name: torch.cat([getattr(r, name) for r in rows]) for name in Facts.__dataclass_fields__}
    )


def facts_of(
    recorded: ExampleGradients,
    target: Margin,
    queries: QueryVectors,
    scorer: Scorer,
    indices: Tensor,
    labels: Tensor,
) -> Facts:
    """Return the scores and facts of one batch, on the CPU."""
    logits: Logits = recorded.logits
    residuals = residuals_of(logits, target)
    squared = recorded.squared_norm()
    scores = recorded.dot(queries.blocks) * scorer.weights(squared, residuals)[:, None]
    finite = scores.isfinite().all(dim=1) & squared.isfinite()
    if not finite.all():
        bad = indices[~finite.cpu()].tolist()
        msg = f"The gradients of training images {bad[:5]} are NaN or infinite."
        raise NumericsError(msg)
    confidences, predictions = logits.softmax(dim=1).max(dim=1)
    return Facts(
        scores=scores.cpu(),
        indices=indices,
        labels=labels,
        predictions=predictions.cpu(),
        confidences=confidences.cpu(),
        residuals=residuals.cpu(),
        squared_norms=squared.cpu(),
    )


def queries_at_once(network: Network, names: Sequence[str], memory: int) -> int:
    """Return how many query vectors fit into memory."""
    per_query = sum(
        network.parameters[n].numel() * network.parameters[n].element_size() for n in names
    )
    return max(1, memory // max(per_query, 1))
