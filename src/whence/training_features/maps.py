"""Training-feature maps: any Method, applied to the influence of training images on a query."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.attribution import Attribution, InputXGradient, attribute
from whence.core import Batch, ImageData, Method
from whence.errors import DataError
from whence.influence import Influence
from whence.training_features.influence_fn import held_weights, influence_fn

__all__ = ["TrainingFeatures", "training_features"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingFeatures:
    """Which pixels of some training images carry their influence on one query.

    Args:
        indices: Places of the images in the training set, ``(b,)``.
        images: The training images as the model takes them, ``(b, c, h, w)``.
        labels: Their labels, ``(b,)``.
        attribution: The maps, with the influence that they explain.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor
    attribution: Attribution

    @property
    def maps(self) -> Tensor:
        """Signed maps ``(b, h, w)``: channels summed, never rescaled."""
        return self.attribution.values.sum(dim=1)


@torch.inference_mode(mode=False)
def training_features(
    influence: Influence,
    query: int,
    train: ImageData,
    indices: Sequence[int],
    method: Method | None = None,
    *,
    hold_weights: bool = False,
    batch_size: int = 16,
) -> TrainingFeatures:
    """Return the training-feature maps of some training images for one query.

    All images of a batch share the query, so that a gradient method costs one batched
    second-order pass: about two training steps per image for unnormalised scores, about four for
    normalised ones.

    Args:
        influence: Scores that were computed, with their queries.
        query: Which of the queries.
        train: The training data.
        indices: Places of the training images wanted.
        method: How pixels are found; :class:`InputXGradient` by default. ``Gradient()`` gives the
            plain map of the paper, ``SmoothGrad()`` the smoothed one.
        hold_weights: Take the training images' weights in the score (one over the gradient's
            norm, for a cosine) as constants: half the cost, and a map of the inner product alone.
        batch_size: Training images at a time.

    Raises:
        DataError: If one of the images does not exist or cannot be used.
        SettingError: If there is no such query.

    References:
        Bacha and George (2025), "Training Feature Attribution for Vision Models".
    """
    strange = [i for i in indices if not 0 <= i < len(train)]
    if strange or not indices:
        msg = (
            f"There are no training images at {strange[:5] or '(no place was given)'}; places run "
            f"from 0 to {len(train) - 1}."
        )
        raise DataError(msg)
    chosen = method or InputXGradient()
    device = influence.recorder.network.example.device
    batches: list[Batch] = []
    parts: list[Attribution] = []
    for batch in train.batches(batch_size, list(indices)):
        weights = held_weights(influence, batch.indices).to(device) if hold_weights else None
        f = influence_fn(influence, query, batch.labels.to(device), weights)
        parts.append(attribute(chosen, f, batch.images.to(device)))
        batches.append(batch)
    found = torch.cat([b.indices for b in batches]) if batches else torch.zeros(0).long()
    if found.tolist() != list(indices):
        missing = sorted(set(indices) - set(found.tolist()))
        msg = f"The training images {[train.name(i) for i in missing[:5]]} cannot be used."
        raise DataError(msg)
    return TrainingFeatures(
        indices=found,
        images=torch.cat([b.images for b in batches]),
        labels=torch.cat([b.labels for b in batches]),
        attribution=joined(parts),
    )


def joined(parts: Sequence[Attribution]) -> Attribution:
    """Return the attributions of several batches as one."""
    gaps = [p.gap for p in parts if p.gap is not None]
    return Attribution(
        values=torch.cat([p.values for p in parts]),
        explained=torch.cat([p.explained for p in parts]),
        total=torch.cat([p.total for p in parts]),
        gap=torch.cat(gaps) if len(gaps) == len(parts) else None,
        cost=parts[0].cost,
        method=parts[0].method,
    )
