r"""The influence of a training image on a query, as a ScalarFn of the training image.

Any gradient Method applied to it is a *training-feature map*: which pixels of the training image
carry its influence on this very prediction.

References:
    Bacha and George (2025), "Training Feature Attribution for Vision Models".
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from whence.core import Images, Labels, Margin, Scalars
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.gradients.record import side_by_side
from whence.influence import Influence, Member
from whence.influence.members import combined
from whence.influence.query import QueryVectors, residuals_of

__all__ = ["InfluenceFn", "held_weights", "influence_fn"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceFn:
    r"""``f(images)[i]``: the influence on one query of training on ``(images[i], labels[i])``.

    .. math:: f(x) = \sum_c w_c(x) \, \langle \nabla_\theta m_c(x, y), u_c \rangle

    with one term for each network of the score. It is so for every scorer: what a scorer does to
    queries is done once, and is in :math:`u`.

    Unnormalised scores come from one forward-mode pass: the change of the margin along ``u``; its
    gradient with respect to the images is then one batched reverse pass over it (together about
    two training steps). Normalised scores also need the norm of each image's gradient, as a
    differentiable function of the image, and come from one backward pass whose graph is kept
    (about four steps), unless the weights are held. Similarities of features come from one
    forward pass, and their maps from an ordinary backward pass.

    Held weights are constants: ``f`` has the same value at the image itself, but only the inner
    product answers to its pixels. For a cosine, which no scaling of the gradient changes, this is
    often the better question: *which pixels make the two gradients agree*, and not which would
    make this one shorter.

    Args:
        terms: The networks of the score, each with the vector of one query.
        labels: Labels of the training images, ``(b,)``.
        weights: The weights ``w``, held constant, ``(b, m)``; None to differentiate them.
    """

    terms: tuple["Term", ...]
    labels: Labels
    weights: Tensor | None = None

    def __call__(self, images: Images) -> Scalars:
        """Return one influence per image; differentiable with respect to the images."""
        target = Margin(self.labels)
        found = [term(images, target, held=self.weights is not None) for term in self.terms]
        products = torch.stack([product for product, _ in found])[:, :, None]
        if self.weights is None:
            weights = torch.stack([weight for _, weight in found])
        else:
            weights = self.weights.T.to(products)
        return combined([t.member for t in self.terms], products, weights)[:, 0]

    def at(self, rows: Tensor) -> "InfluenceFn":
        """Return the function of these rows of the batch."""
        return replace(
            self,
            labels=self.labels[rows.to(self.labels.device)],
            weights=None if self.weights is None else self.weights[rows.to(self.weights.device)],
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """One network's part of an influence.

    Args:
        member: The network with its scoring, and the vector ``u`` of one query.
        along: What runs the network along ``u``; None where the score comes from recorded
            vectors.
    """

    member: Member
    along: "Along | None"

    def __call__(self, images: Images, target: Margin, *, held: bool) -> tuple[Scalars, Scalars]:
        """Return the inner products and the weights of images.

        Args:
            images: Training images.
            target: The margins of their labels.
            held: Whether the weights are not needed.
        """
        if self.along is None:
            return self.by_recording(images, target, held=held)
        margin, change = self.along(images, target)
        return change, self.member.scoring.weights(None, torch.sigmoid(-margin))

    def by_recording(
        self, images: Images, target: Margin, *, held: bool = False
    ) -> tuple[Scalars, Scalars]:
        """Return the inner products from vectors whose graph is kept."""
        scoring = self.member.scoring
        keep = torch.is_grad_enabled()
        recorded = self.member.recorder.record(images, target, create_graph=keep)
        queries = self.member.queries.blocks
        residuals = residuals_of(recorded.logits, target)
        if scoring.normalised and scoring.metric is None and not held:
            together, squared = recorded.paired(queries)
            return together[:, 0], scoring.weights(squared, residuals)
        products = recorded.dot(queries)[:, 0]
        if held:
            return products, torch.zeros_like(products)
        curved = scoring.squared_norms(recorded) if scoring.normalised else None
        return products, scoring.weights(curved, residuals)


@torch.inference_mode(mode=False)
def influence_fn(
    influence: Influence, query: int, labels: Labels, weights: Tensor | None = None
) -> InfluenceFn:
    """Return the influence on one of the queries of an :class:`Influence`.

    Args:
        influence: Scores that were computed; their scorer, parameters and vectors are used.
        query: Which query.
        labels: Labels of the training images that will be given, ``(b,)``.
        weights: Their weights, to hold them constant (:func:`held_weights`), ``(b, m)``; None to
            differentiate them too.

    Raises:
        SettingError: If there is no such query.
    """
    count = influence.scores.shape[1]
    if not 0 <= query < count:
        msg = f"There is no query {query}: queries run from 0 to {count - 1}."
        raise SettingError(msg)
    return InfluenceFn(
        terms=tuple(term_of(m, query, held=weights is not None) for m in influence.members),
        labels=labels,
        weights=weights,
    )


def held_weights(influence: Influence, indices: Tensor) -> Tensor:
    """Return the weights of training images at their places in the training set, ``(b, m)``."""
    rows = torch.searchsorted(influence.indices, indices.to(influence.indices))
    return influence.weights[rows]


def term_of(member: Member, query: int, *, held: bool) -> Term:
    """Return a network's part of the influence on one query."""
    one = replace(member, queries=member.queries.only(query))
    recorder = member.recorder
    if isinstance(recorder, Recorder) and (held or not member.scoring.normalised):
        return Term(member=one, along=along(recorder, one.queries))
    return Term(member=one, along=None)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Along:
    """Margins, and their change as the parameters move along a vector: one forward-mode pass.

    Args:
        recorder: Of the network.
        values: Every value made of parameters, with its change along the vector.
    """

    recorder: Recorder
    values: tuple[tuple[Tensor, Tensor | None], ...]

    def __call__(self, images: Images, target: Margin) -> tuple[Scalars, Scalars]:
        """Return margins and their changes, both differentiable with respect to the images."""
        self.recorder.network.check(images)
        images = side_by_side(images)
        with quiet(), forward_ad.dual_level():
            values = [
                primal if tangent is None else forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
                for primal, tangent in self.values
            ]
            logits = self.recorder.staged.run(values, images)
            margin, change = forward_ad.unpack_dual(target(logits))  # type: ignore[no-untyped-call]
            return margin, torch.zeros_like(margin) if change is None else change


def along(recorder: Recorder, vector: QueryVectors) -> Along:
    """Return what runs a network along a query's vector."""
    dense = vector.dense()
    with quiet(), torch.no_grad(), forward_ad.dual_level():
        parameters = {
            name: forward_ad.make_dual(p.detach(), dense[name][0])  # type: ignore[no-untyped-call]
            if name in dense
            else p.detach()
            for name, p in recorder.network.parameters.items()
        }
        pairs = [forward_ad.unpack_dual(v) for v in recorder.staged.prepare(parameters)]  # type: ignore[no-untyped-call]
        return Along(
            recorder=recorder,
            values=tuple(
                (side_by_side(p), None if t is None else side_by_side(t)) for p, t in pairs
            ),
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Hide a deprecation inside PyTorch, which the first forward-mode pass of a process trips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
