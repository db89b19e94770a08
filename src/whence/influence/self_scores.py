"""Self-influence: the score of every training image for its own label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import ImageData, Images, Margin, Progress, silent
from whence.errors import DataError, NumericsError
from whence.influence.batches import check_labels
from whence.influence.checkpoints import Checkpoint
from whence.influence.members import combined, fitted
from whence.influence.query import residuals_of
from whence.influence.scorers import GradDot
from whence.influence.scoring import Scorer, Scoring, quadratic_of
from whence.influence.select import choose_parameters
from whence.network import Network

__all__ = ["SelfInfluence", "self_influence"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SelfInfluence:
    """Scores of training images for themselves.

    Args:
        scores: ``(n,)``.
        indices: Places in the training set, ``(n,)``; unusable images are not among them.
        labels: Labels, ``(n,)``.
        scorer: How gradients became scores.
    """

    scores: Tensor
    indices: Tensor
    labels: Tensor
    scorer: Scorer

    def highest(self, k: int) -> Tensor:
        """Return the places of the ``k`` images that the model had to bend most for."""
        return self.indices[self.scores.topk(min(k, len(self.scores))).indices]


@torch.inference_mode(mode=False)
def self_influence(
    network: Network,
    train: ImageData,
    *,
    scorer: Scorer | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    parameters: str | Sequence[str] = "all",
    batch_size: int = 32,
    progress: Progress = silent,
) -> SelfInfluence:
    r"""Return the diagonal of the scores between all training images, in one pass.

    :math:`S_{ii} = w_i c_i \langle \nabla m_i, A \nabla m_i \rangle`. High for images that the
    model fits only with effort: mislabelled and odd ones. It follows the scorer's own metric, so
    an image counts by what is unusual about its gradient, and not by what all gradients share.
    Cosines have no such diagonal: every image has cosine 1 with itself.

    Args:
        network: The network.
        train: Training images with labels.
        scorer: How gradients become scores; :class:`GradDot` by default. Its map is applied to
            the gradient of every image: dear for one that is solved for iteratively.
        checkpoints: Weights over which scores are added up; the network's own by default.
        parameters: Over which parameters; see :func:`choose_parameters`.
        batch_size: Training images at a time.
        progress: Told how many training images are done.

    Raises:
        DataError: If there are no usable training images, or one has no label.
        NumericsError: If a gradient is NaN or infinite.
    """
    scorer = scorer or GradDot()
    members = fitted(
        network,
        train,
        scorer,
        choose_parameters(network, parameters),
        checkpoints=checkpoints,
        batch_size=batch_size,
        progress=progress,
    )
    device = network.example.device
    scores, indices, labels, done = [], [], [], 0
    for batch in train.batches(batch_size):
        own = batch.labels.to(device)
        check_labels(train, batch.indices, own, network)
        images = batch.images.to(device)
        pairs = [with_itself(m.scoring, images, Margin(own)) for m in members]
        found = combined(
            members,
            torch.stack([product for product, _ in pairs])[:, :, None],
            torch.stack([weight for _, weight in pairs]),
        )[:, 0]
        if not found.isfinite().all():
            bad = batch.indices[~found.isfinite().cpu()].tolist()
            msg = f"The gradients of training images {bad[:5]} are NaN or infinite."
            raise NumericsError(msg)
        scores.append(found.cpu())
        indices.append(batch.indices)
        labels.append(batch.labels)
        done += len(own)
        progress("self-influence", done, len(train))
    if not scores:
        msg = f"{train.title} holds no usable training image."
        raise DataError(msg)
    return SelfInfluence(
        scores=torch.cat(scores),
        indices=torch.cat(indices),
        labels=torch.cat(labels),
        scorer=scorer,
    )


def with_itself(scoring: Scoring, images: Images, target: Margin) -> tuple[Tensor, Tensor]:
    """Return the product of each image's vector with its own query vector, and its weight."""
    recorded = scoring.recorder.record(images, target)
    residuals = residuals_of(recorded.logits, target)
    squared = scoring.squared_norms(recorded) if scoring.normalised else None
    product = quadratic_of(scoring.operator, recorded) * scoring.factors(squared, residuals)
    return product, scoring.weights(squared, residuals)
