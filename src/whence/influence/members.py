"""Members: the networks over which a score is summed, each with its scoring and its queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import ImageData, Progress, silent
from whence.errors import DataError
from whence.gradients import Recorder
from whence.influence.batches import images_per_batch
from whence.influence.checkpoints import Checkpoint, network_at
from whence.influence.query import QueryVectors
from whence.influence.scoring import Records, Scorer, Scoring
from whence.network import Network

__all__ = ["Fitted", "Member", "combined", "fitted"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A scorer fitted to one network, before there are queries.

    Args:
        scoring: What the scorer became.
        factor: By what the network's scores are multiplied in the sum.
    """

    scoring: Scoring
    factor: float = 1.0

    @property
    def recorder(self) -> Records:
        """What records the vectors of images."""
        return self.scoring.recorder


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One network of a score, with its queries.

    Args:
        scoring: How its gradients become scores.
        queries: The query vectors, for training-feature maps.
        factor: By what its scores are multiplied in the sum.
    """

    scoring: Scoring
    queries: QueryVectors
    factor: float = 1.0

    @property
    def recorder(self) -> Records:
        """What records the vectors of images."""
        return self.scoring.recorder

    def combined(self, coefficients: Tensor) -> "Member":
        """Return the member with linear combinations of its queries."""
        return replace(self, queries=self.queries.combined(coefficients))


def fitted(
    network: Network,
    train: ImageData,
    scorer: Scorer,
    names: Sequence[str],
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> tuple[Fitted, ...]:
    """Fit a scorer to a network, or to each of its checkpoints.

    Args:
        network: The network.
        train: Training images with labels.
        scorer: How gradients become scores.
        names: Names of the parameters that are compared.
        checkpoints: Weights over which scores are added up; the network's own by default.
        batch_size: Training images at a time; chosen by memory if not given.
        memory: Bytes for a batch with all that is recorded of it.
        progress: Told how many training images are done.

    Raises:
        DataError: If there is no checkpoint.
        MismatchError: If a checkpoint does not fit.
    """
    if checkpoints is not None and not checkpoints:
        msg = "checkpoints needs at least one; give None for the network as it is."
        raise DataError(msg)
    moments = checkpoints or (Checkpoint(weights=network),)
    found = []
    for moment in moments:
        recorder = Recorder(network_at(network, moment), names)
        size = batch_size or images_per_batch(recorder, memory)
        scoring = scorer.fit(recorder, train, batch_size=size, progress=progress)
        factor = moment.learning_rate if scoring.ensemble == "rates" else 1 / len(moments)
        found.append(Fitted(scoring=scoring, factor=factor))
    return tuple(found)


def combined(members: Sequence[Fitted | Member], products: Tensor, weights: Tensor) -> Tensor:
    """Return scores from the inner products and weights of members.

    Args:
        members: Whose they are.
        products: Inner products with the queries, ``(m, b, q)``.
        weights: Weights of the training images, ``(m, b)``.

    Returns:
        Scores, ``(b, q)``.
    """
    factors = torch.tensor(
        [m.factor for m in members], dtype=products.dtype, device=products.device
    )
    if members[0].scoring.ensemble == "pooled":
        weights = weights.mean(dim=0, keepdim=True).expand_as(weights)
    return torch.einsum("m,mb,mbq->bq", factors, weights, products)
