"""Training-feature maps: any Method, applied to the influence of training images on a query."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.attribution import Attribution, Gradient, InputXGradient, attribute
from whence.core import Batch, ImageData, Method, ScalarFn
from whence.display import Panel, card, strip
from whence.errors import DataError, SettingError
from whence.gradients import Recorder
from whence.influence import Influence
from whence.training_features.influence_fn import held_weights, influence_fn
from whence.training_features.normalisers import Normalisers, split_influence
from whence.training_features.readings import (
    Reduction,
    TrainingMap,
    check_reduction,
    map_named,
    reduced,
)

__all__ = ["DEFAULT_MAP", "TrainingFeatures", "training_features"]

DEFAULT_MAP = map_named("shared-evidence")
"""The map that is made if none is asked for; of scores of features, ``"input-x-gradient"``."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingFeatures:
    """Which pixels of some training images carry their influence on one query.

    Args:
        indices: Places of the images in the training set, ``(b,)``.
        images: The training images as the model takes them, ``(b, c, h, w)``.
        labels: Their labels, ``(b,)``.
        attribution: The maps, with the influence that they explain.
        reduction: How the channels of a pixel become one number.
    """

    indices: Tensor
    images: Tensor
    labels: Tensor
    attribution: Attribution
    reduction: Reduction = "signed"

    @property
    def maps(self) -> Tensor:
        """Maps ``(b, h, w)`` as the reduction reads them, never rescaled."""
        return reduced(self.attribution.values, self.reduction)

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The training images with their maps, for figures; colours fill each image's own range."""
        shown = self.images.detach().float().cpu()
        shown = shown if shown.shape[1] in (1, 3) else shown.mean(dim=1, keepdim=True)
        low, high = shown.amin(dim=(1, 2, 3), keepdim=True), shown.amax(dim=(1, 2, 3), keepdim=True)
        pixels = (shown - low) / (high - low).clamp_min(torch.finfo(shown.dtype).tiny)
        pictures = (pixels * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
        return tuple(
            Panel(
                picture=picture.permute(1, 2, 0).contiguous().numpy(),
                values=values.detach().float().cpu().numpy(),
                title=f"image {index}",
                note=f"label {label}, {score:+.3g}",
            )
            for picture, values, index, label, score in zip(
                pictures,
                self.maps,
                self.indices.tolist(),
                self.labels.tolist(),
                self.attribution.explained.tolist(),
                strict=True,
            )
        )

    def _repr_html_(self) -> str:
        """Show the maps in a notebook."""
        return card("Training features", strip(self.panels))


@torch.inference_mode(mode=False)
def training_features(
    influence: Influence,
    query: int,
    train: ImageData,
    indices: Sequence[int],
    method: Method | TrainingMap | str | None = None,
    *,
    hold_weights: bool | None = None,
    reduction: Reduction | None = None,
    kept: Normalisers | None = None,
    batch_size: int = 16,
) -> TrainingFeatures:
    """Return the training-feature maps of some training images for one query.

    All images of a batch share the query, so that a gradient method costs one batched
    second-order pass: about two training steps per image where the weights of the score are held
    or need no norms, about four otherwise.

    For what speaks for one prediction *rather than* another, or beyond what all predictions have
    in common, take the difference of queries first: ``influence.combined(coefficients)``.

    Args:
        influence: Scores that were computed, with their queries.
        query: Which of the queries.
        train: The training data.
        indices: Places of the training images wanted.
        method: How pixels are found: a method, or the name of one of :data:`MAPS`, ``"tfa"`` for
            the plain map of the paper; :data:`DEFAULT_MAP` by default, and
            ``"input-x-gradient"`` for scores that compare features instead of gradients.
        hold_weights: Take the training images' weights in the score (one over the gradient's
            norm, for a cosine) as constants: half the cost, and a map of the inner product alone.
            By default as the named map says; for a method, False.
        reduction: How maps are read; by default as the named map says; for a method, ``"signed"``,
            and for :class:`Gradient`, ``"absolute-maximum"``.
        kept: The parts of a normalised score's maps that know no query, from
            :func:`whence.training_features.normalisers`: maps with differentiated weights then
            cost as much as with held ones. For ``Gradient`` and ``InputXGradient``.
        batch_size: Training images at a time.

    Raises:
        DataError: If one of the images does not exist or cannot be used.
        SettingError: If there is no such query, map or reduction.

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
    chosen = chosen_map(default_map(influence) if method is None else method)
    if reduction is not None:
        check_reduction(reduction)
    chosen = replace(
        chosen,
        hold_weights=chosen.hold_weights if hold_weights is None else hold_weights,
        reduction=reduction or chosen.reduction,
    )
    device = influence.recorder.network.example.device
    batches: list[Batch] = []
    parts: list[Attribution] = []
    for batch in train.batches(batch_size, list(indices)):
        f = explained(influence, query, batch, chosen, kept)
        parts.append(attribute(chosen.method, f, batch.images.to(device)))
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
        reduction=chosen.reduction,
    )


def default_map(influence: Influence) -> TrainingMap:
    """Return the map that is made if none is asked for."""
    gradients = all(isinstance(m.recorder, Recorder) for m in influence.members)
    return DEFAULT_MAP if gradients else map_named("input-x-gradient")


def chosen_map(method: Method | TrainingMap | str) -> TrainingMap:
    """Return the map that was asked for, with every setting."""
    if isinstance(method, str):
        return map_named(method)
    if isinstance(method, TrainingMap):
        return method
    plain = isinstance(method, Gradient)
    return TrainingMap(
        name=type(method).__name__,
        method=method,
        hold_weights=False,
        reduction="absolute-maximum" if plain else "signed",
        says="a method of the caller's",
    )


def explained(
    influence: Influence,
    query: int,
    batch: Batch,
    chosen: TrainingMap,
    kept: Normalisers | None,
) -> ScalarFn:
    """Return the influence on a query as a function of some training images."""
    device = influence.recorder.network.example.device
    labels = batch.labels.to(device)
    if chosen.hold_weights:
        weights = held_weights(influence, batch.indices).to(device)
        return influence_fn(influence, query, labels, weights)
    if kept is None:
        return influence_fn(influence, query, labels)
    if not isinstance(chosen.method, (Gradient, InputXGradient)):
        msg = (
            f"Kept normalisers hold at the training images alone, and "
            f"{type(chosen.method).__name__} looks at others. Take Gradient or InputXGradient, "
            f"or leave kept out."
        )
        raise SettingError(msg)
    return split_influence(influence, query, batch.indices, labels, kept)


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
