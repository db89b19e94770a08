"""Passes: one round over the training data, and what it gives of every image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Batch, ImageData, Images, Logits, Margin, Progress
from whence.errors import DataError, NumericsError
from whence.influence.batches import check_labels
from whence.influence.execution import Execution
from whence.influence.members import Member, combined
from whence.influence.query import residuals_of

__all__ = ["Facts", "one_pass"]


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
    weights: Tensor


def one_pass(
    train: ImageData,
    members: Sequence[Member],
    work: Sequence[Execution],
    size: int,
    progress: Progress,
    stage: str,
) -> Facts:
    """Go over the training data once."""
    network = members[-1].recorder.network
    device = network.example.device
    rows: list[Facts] = []
    done = 0
    progress(stage, 0, len(train))
    for batch in train.batches(size):
        labels = batch.labels.to(device)
        check_labels(train, batch.indices, labels, network)
        rows.append(facts_of(members, work, batch, batch.images.to(device), Margin(labels)))
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
    members: Sequence[Member],
    work: Sequence[Execution],
    batch: Batch,
    images: Images,
    target: Margin,
) -> Facts:
    """Return the scores and facts of one batch, on the CPU."""
    seen = [
        member_facts(member, execution, images, target)
        for member, execution in zip(members, work, strict=True)
    ]
    last = seen[-1]
    weights = torch.stack([one.weights for one in seen])
    scores = combined(members, torch.stack([one.products for one in seen]), weights)
    finite = scores.isfinite().all(dim=1)
    if last.squared_norms is not None:
        finite &= last.squared_norms.isfinite()
    if not finite.all():
        bad = batch.indices[~finite.cpu()].tolist()
        msg = f"The gradients of training images {bad[:5]} are NaN or infinite."
        raise NumericsError(msg)
    confidences, predictions = last.logits.softmax(dim=1).max(dim=1)
    return Facts(
        scores=scores.cpu(),
        indices=batch.indices,
        labels=batch.labels,
        predictions=predictions.cpu(),
        confidences=confidences.cpu(),
        residuals=last.residuals.cpu(),
        squared_norms=torch.full_like(last.residuals, torch.nan).cpu()
        if last.squared_norms is None
        else last.squared_norms.cpu(),
        weights=weights.T.cpu(),
    )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What one member sees in a batch."""

    logits: Logits
    products: Tensor
    weights: Tensor
    residuals: Tensor
    squared_norms: Tensor | None


def member_facts(member: Member, execution: Execution, images: Images, target: Margin) -> Seen:
    """Return the inner products, weights and facts of a batch for one member."""
    scoring = member.scoring
    done = execution(images, target)
    residuals = residuals_of(done.logits, target)
    norms = done.squared_norms
    if scoring.normalised and scoring.metric is not None and done.recorded is not None:
        norms = scoring.squared_norms(done.recorded)
    return Seen(
        logits=done.logits,
        products=done.products,
        weights=scoring.weights(norms, residuals),
        residuals=residuals,
        squared_norms=done.squared_norms,
    )
