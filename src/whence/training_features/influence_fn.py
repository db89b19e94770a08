r"""The influence of a training image on a query, as a ScalarFn of the training image.

Any gradient Method applied to it is a *training-feature map*: which pixels of the training image
carry its influence on this very prediction.

References:
    Bacha and George (2025), "Training Feature Attribution for Vision Models".
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.autograd import forward_ad

from whence.core import Images, Labels, Margin, Scalars
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence import Influence, QueryVectors, Scorer
from whence.influence.query import residuals_of

__all__ = ["InfluenceFn", "held_weights", "influence_fn"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceFn:
    r"""``f(images)[i]``: the influence on one query of training on ``(images[i], labels[i])``.

    .. math:: f(x) = w(x) \, \langle \nabla_\theta m(x, y), u \rangle

    Unnormalised scores come from one forward-mode pass: the change of the margin along ``u``; its
    gradient with respect to the images is then one batched reverse pass over it (together about
    two training steps). Normalised scores also need the norm of each image's gradient, as a
    differentiable function of the image, and come from one backward pass whose graph is kept
    (about four steps), unless the weights are held.

    Held weights are constants: ``f`` has the same value at the image itself, but only the inner
    product answers to its pixels. For a cosine, which no scaling of the gradient changes, this is
    often the better question: *which pixels make the two gradients agree*, and not which would
    make this one shorter.

    Args:
        recorder: Records gradients of the network for the chosen parameters.
        query: The vector ``u`` of one query.
        prepared: For scorers without norms: every value made of parameters, with its change
            along ``u``.
        labels: Labels of the training images, ``(b,)``.
        scorer: How gradients become scores.
        weights: The weights ``w``, held constant, ``(b,)``; None to differentiate them.
    """

    recorder: Recorder
    query: QueryVectors
    prepared: tuple[tuple[Tensor, Tensor | None], ...]
    labels: Labels
    scorer: Scorer
    weights: Scalars | None = None

    def __call__(self, images: Images) -> Scalars:
        """Return one influence per image; differentiable with respect to the images."""
        target = Margin(self.labels)
        if self.scorer.normalised and self.weights is None:
            return self.by_double_backward(images, target)
        return self.by_forward_mode(images, target)

    def at(self, rows: Tensor) -> "InfluenceFn":
        """Return the function of these rows of the batch."""
        return InfluenceFn(
            recorder=self.recorder,
            query=self.query,
            prepared=self.prepared,
            labels=self.labels[rows.to(self.labels.device)],
            scorer=self.scorer,
            weights=None if self.weights is None else self.weights[rows.to(self.weights.device)],
        )

    def by_forward_mode(self, images: Images, target: Margin) -> Scalars:
        """Return the scores from the margin's change along the query's vector."""
        self.recorder.network.check(images)
        with quiet(), forward_ad.dual_level():
            values = [
                primal if tangent is None else forward_ad.make_dual(primal, tangent)  # type: ignore[no-untyped-call]
                for primal, tangent in self.prepared
            ]
            logits = self.recorder.staged.run(values, images)
            margin, change = forward_ad.unpack_dual(target(logits))  # type: ignore[no-untyped-call]
            weights = self.weights
            if weights is None:
                weights = self.scorer.weights(None, torch.sigmoid(-margin))
            changed: Tensor = torch.zeros_like(margin) if change is None else change
            return weights * changed

    def by_double_backward(self, images: Images, target: Margin) -> Scalars:
        """Return the scores from gradients whose graph is kept."""
        keep = torch.is_grad_enabled()
        recorded = self.recorder.record(images, target, create_graph=keep)
        dot = recorded.dot(self.query.blocks)[:, 0]
        residuals = residuals_of(recorded.logits, target)
        return dot * self.scorer.weights(recorded.squared_norm(), residuals)


@torch.inference_mode(mode=False)
def influence_fn(
    influence: Influence, query: int, labels: Labels, weights: Scalars | None = None
) -> InfluenceFn:
    """Return the influence on one of the queries of an :class:`Influence`.

    Args:
        influence: Scores that were computed; their scorer, parameters and vectors are used.
        query: Which query.
        labels: Labels of the training images that will be given, ``(b,)``.
        weights: Their weights, to hold them constant (:func:`held_weights`); None to
            differentiate them too.

    Raises:
        SettingError: If there is no such query.
    """
    if not 0 <= query < len(influence.queries):
        msg = f"There is no query {query}: queries run from 0 to {len(influence.queries) - 1}."
        raise SettingError(msg)
    vector = influence.queries.only(query)
    double = influence.scorer.normalised and weights is None
    return InfluenceFn(
        recorder=influence.recorder,
        query=vector,
        prepared=() if double else prepared(influence.recorder, vector),
        labels=labels,
        scorer=influence.scorer,
        weights=weights,
    )


def held_weights(influence: Influence, indices: Tensor) -> Scalars:
    """Return the weights of training images at their places in the training set, ``(b,)``."""
    rows = torch.searchsorted(influence.indices, indices.to(influence.indices))
    weights = influence.scorer.weights(influence.squared_norms, influence.residuals)
    return weights[rows]


def prepared(recorder: Recorder, vector: QueryVectors) -> tuple[tuple[Tensor, Tensor | None], ...]:
    """Return every value made of parameters, with its change along a query's vector."""
    dense = vector.dense()
    with quiet(), torch.no_grad(), forward_ad.dual_level():
        parameters = {
            name: forward_ad.make_dual(p.detach(), dense[name][0])  # type: ignore[no-untyped-call]
            if name in dense
            else p.detach()
            for name, p in recorder.network.parameters.items()
        }
        pairs = [forward_ad.unpack_dual(v) for v in recorder.staged.prepare(parameters)]  # type: ignore[no-untyped-call]
        return tuple((primal, tangent) for primal, tangent in pairs)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide a deprecation inside PyTorch, which the first forward-mode pass of a process trips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
