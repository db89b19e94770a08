r"""Normalisers: what of a cosine's map does not depend on the query, computed once per image.

A normalised influence is a weight times an inner product, and its slope has two parts,

.. math:: \nabla_x \big( w(x) \, \langle g(x), u \rangle \big)
          = w \, \nabla_x \langle g(x), u \rangle + \langle g, u \rangle \, \nabla_x w .

The second needs the image's own gradient and is dear, but :math:`\nabla_x w` knows no query. Kept
for some training images, it makes the maps of every further query as cheap as those of an
unnormalised score.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import ImageData, Images, Margin, Scalars
from whence.errors import DataError
from whence.influence import Influence, Member
from whence.influence.query import residuals_of
from whence.training_features.influence_fn import InfluenceFn, held_weights, influence_fn

__all__ = ["Normalisers", "SplitInfluence", "normalisers", "split_influence"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Normalisers:
    """Slopes of the weights of some training images, for the maps of any query.

    Args:
        indices: Places of the images in the training set, ``(b,)``.
        images: The training images, ``(b, c, h, w)``.
        slopes: Slopes of their weights for each member of the score, ``(b, m, c, h, w)``.
    """

    indices: Tensor
    images: Tensor
    slopes: Tensor

    def rows(self, indices: Tensor) -> Tensor:
        """Return the rows of these training images.

        Raises:
            DataError: If one of them is not among those that were computed.
        """
        places = {int(index): row for row, index in enumerate(self.indices.tolist())}
        missing = [i for i in indices.tolist() if i not in places]
        if missing:
            msg = (
                f"The normalisers hold {len(places)} training images, and {missing[:5]} are not "
                f"among them. Give normalisers(influence, train, indices) all that are asked for."
            )
            raise DataError(msg)
        return torch.tensor([places[i] for i in indices.tolist()])


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SplitInfluence:
    """The influence with its weights replaced by their tangent at the training images.

    Its value and its gradient at these images are exact; anywhere else it is another function.
    So it is for methods that look at the image alone, Gradient and InputXGradient.

    Args:
        held: The influence with held weights.
        origin: The training images, ``(b, c, h, w)``.
        slopes: Slopes of the weights, ``(b, m, c, h, w)``.
    """

    held: InfluenceFn
    origin: Tensor
    slopes: Tensor

    def __call__(self, images: Images) -> Scalars:
        """Return one influence per image."""
        moved = torch.einsum("bmchw,bchw->bm", self.slopes, images - self.origin)
        weights = torch.zeros_like(moved) if self.held.weights is None else self.held.weights
        return replace(self.held, weights=weights.to(moved) + moved)(images)

    def at(self, rows: Tensor) -> "SplitInfluence":
        """Return the function of these rows of the batch."""
        here = rows.to(self.origin.device)
        return SplitInfluence(
            held=self.held.at(rows), origin=self.origin[here], slopes=self.slopes[here]
        )


@torch.inference_mode(mode=False)
def normalisers(
    influence: Influence, train: ImageData, indices: Sequence[int], *, batch_size: int = 16
) -> Normalisers:
    """Return the slopes of the weights of some training images; about three steps per image.

    Args:
        influence: Scores that were computed; any of its queries can be asked about later.
        train: The training data.
        indices: Places of the training images.
        batch_size: Training images at a time.

    Raises:
        DataError: If one of the images cannot be used.
    """
    device = influence.recorder.network.example.device
    images, slopes, found = [], [], []
    for batch in train.batches(batch_size, sorted(set(indices))):
        labels = batch.labels.to(device)
        own = batch.images.to(device)
        slopes.append(torch.stack([slope_of(m, own, labels) for m in influence.members], dim=1))
        images.append(own)
        found.append(batch.indices)
    if not found or sum(map(len, found)) < len(set(indices)):
        msg = f"Not all of the training images {list(indices)[:5]}, ... can be used."
        raise DataError(msg)
    return Normalisers(indices=torch.cat(found), images=torch.cat(images), slopes=torch.cat(slopes))


def slope_of(member: Member, images: Images, labels: Tensor) -> Tensor:
    """Return the slope of each image's weight under one member, shaped like the images."""
    scoring = member.scoring
    target = Margin(labels)
    with torch.enable_grad():
        own = images.detach().clone().requires_grad_()
        recorded = member.recorder.record(own, target, create_graph=True)
        squared = scoring.squared_norms(recorded) if scoring.normalised else None
        weights = scoring.weights(squared, residuals_of(recorded.logits, target))
        if not weights.requires_grad:
            return torch.zeros_like(images)
        (slope,) = torch.autograd.grad(
            weights.sum(), own, allow_unused=True, materialize_grads=True
        )
    return slope.detach()


def split_influence(
    influence: Influence, query: int, indices: Tensor, labels: Tensor, kept: Normalisers
) -> SplitInfluence:
    """Return the influence on one query at some training images, with kept normalisers.

    Raises:
        DataError: If the normalisers of an image were not computed.
    """
    rows = kept.rows(indices)
    weights = held_weights(influence, indices).to(kept.slopes)
    return SplitInfluence(
        held=influence_fn(influence, query, labels, weights),
        origin=kept.images[rows.to(kept.images.device)],
        slopes=kept.slopes[rows.to(kept.slopes.device)],
    )
