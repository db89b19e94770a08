"""Removed: the removal curve of an audit, as a record."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from whence.core import ImageData, Images, Progress
from whence.errors import DataError
from whence.influence import Influence
from whence.network import Network
from whence.recipes.removal import RemovalCurve, removal_curve
from whence.recipes.retrain import Removal
from whence.results import RemovalRecord

__all__ = ["removal_record"]


def removal_record(  # noqa: PLR0913 - what an audit knows of its queries
    settings: Removal,
    influence: Influence,
    harm: Mapping[int, Tensor],
    *,
    module: nn.Module,
    network: Network,
    train: ImageData,
    images: Images,
    places: Sequence[int],
    predictions: Tensor,
    labels: Tensor,
    progress: Progress,
) -> RemovalRecord:
    """Return what becomes of predictions without some training images.

    Args:
        settings: What to remove, and how to train again.
        influence: Scores for the predictions.
        harm: For wrong predictions, by place, what speaks for them rather than for the label.
        module: The model.
        network: The same, read.
        train: The training data.
        images: The queries.
        places: Their places in the test data.
        predictions: What was predicted.
        labels: What is true; -1 where it is not known.
        progress: Told how many trainings are done.

    Raises:
        DataError: If harmful images are to be removed, and no prediction is wrong.
    """
    rows = list(range(len(places)))
    scores = influence.scores
    if settings.by == "harmful":
        rows = [row for row in rows if places[row] in harm]
        if not rows:
            msg = (
                "Harmful images were to be removed, but none of the audited predictions is known "
                "to be wrong. Remove proponents instead, or audit wrong predictions."
            )
            raise DataError(msg)
        scores = torch.stack([harm[places[row]] for row in rows], dim=1)
    count = len(influence.indices)
    retrain = settings.retrain.of(module, network, train, influence.indices, images[rows])
    curve = removal_curve(
        replace(influence, scores=scores, indices=torch.arange(count)),
        retrain,
        predictions[rows].cpu(),
        truth=labels[rows] if (labels[rows] >= 0).any() else None,
        counts=settings.counts,
        together=settings.together,
        draws=settings.draws,
        seed=settings.seed,
        at_once=1,
        progress=progress,
    )
    columns = 1 if settings.together else len(rows)
    return record_of(
        curve,
        by=settings.by,
        retrain=str(settings.retrain),
        queries=tuple(places[row] for row in rows),
        trainings=1 + len(settings.counts) * (columns + settings.draws),
    )


def record_of(
    curve: RemovalCurve, *, by: str, retrain: str, queries: tuple[int, ...], trainings: int
) -> RemovalRecord:
    """Return a curve as plain values."""
    return RemovalRecord(
        by=by,
        retrain=retrain,
        counts=curve.counts,
        queries=queries,
        before=tuple(curve.before.tolist()),
        change=rows_of(curve.change),
        flips=rows_of(curve.flips),
        control_change=rows_of(curve.control_change),
        control_flips=rows_of(curve.control_flips),
        right=rows_of(curve.right),
        control_right=rows_of(curve.control_right),
        before_right=() if curve.before_right is None else tuple(curve.before_right.tolist()),
        trainings=trainings,
    )


def rows_of(values: Tensor | None) -> tuple[tuple[float, ...], ...]:
    """Return a matrix as tuples; nothing for None."""
    return () if values is None else tuple(tuple(row) for row in values.tolist())
