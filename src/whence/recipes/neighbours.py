r"""Neighbours: do the training images around an image, as the model sees them, share its label?

Both questions need one forward pass, since the gradient of the last layer is a product of the
features :math:`h` that enter it and the errors :math:`\delta = p - e_y` that leave it:
:math:`\langle g_i, g_j \rangle =
(\langle h_i, h_j \rangle + 1) \langle \delta_i, \delta_j \rangle`.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from whence.core import ImageData, Logit, Progress, silent
from whence.errors import NumericsError
from whence.influence import Influence
from whence.influence.features import FeatureRecorder, last_layer
from whence.network import Network

__all__ = ["Neighbours", "Seen", "neighbours_of", "seen_by"]

FEATURES = "features"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Training images as the last layer sees them.

    Args:
        indices: Their places in the training set, ``(n,)``.
        features: What enters the last layer, ``(n, d)``.
        logits: What leaves it, ``(n, k)``.
        labels: Their labels, ``(n,)``.
    """

    indices: Tensor
    features: Tensor
    logits: Tensor
    labels: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """What the training images around each image say of its label, in the order of the scores.

    Args:
        disagreement: Share of the nearest images that have another label, weighted by the cosine
            of the features; NaN where it was not looked up.
        opposition: Share of the strongest influences, by cosine of the last layer's gradients,
            that speak against the label.
        labels: The label of most of the nearest.
        probabilities: The model's probability of that.
    """

    disagreement: Tensor
    opposition: Tensor
    labels: Tensor
    probabilities: Tensor


def seen_by(
    network: Network,
    train: ImageData,
    *,
    wanted: Tensor | None = None,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Seen:
    """Return training images as the last layer sees them; costs one forward pass over them.

    Args:
        network: The network.
        train: The training data.
        wanted: Places of the images wanted; all by default.
        batch_size: Images at a time.
        progress: Told how far it is.

    Raises:
        UnsupportedOperation: If no linear layer makes the logits.
        NumericsError: If a feature is NaN or infinite.
    """
    recorder = FeatureRecorder(network=network, node=last_layer(network).source)
    places = None if wanted is None else wanted.tolist()
    total = len(train) if places is None else len(places)
    parts: list[tuple[Tensor, ...]] = []
    done = 0
    progress("neighbours", 0, total)
    for batch in train.batches(batch_size, places):
        found = recorder.record(batch.images.to(network.example.device), Logit(0))
        values = found.blocks[FEATURES][0].materialise()
        if not values.isfinite().all():
            msg = f"The features of training images {batch.indices[:5].tolist()} are not finite."
            raise NumericsError(msg)
        parts.append((batch.indices, values.cpu(), found.logits.detach().cpu(), batch.labels))
        done += len(batch.indices)
        progress("neighbours", done, total)
    progress("neighbours", total, total)
    indices, features, logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return Seen(indices=indices, features=features, logits=logits, labels=labels)


def neighbours_of(
    network: Network,
    train: ImageData,
    influence: Influence,
    *,
    count: int = 10,
    most: int = 5000,
    memory: int = 2**30,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Neighbours:
    """Return what the training images around each image say of its label.

    Costs one forward pass over the training images, and ``most`` times ``n`` inner products.

    Args:
        network: The network.
        train: The training data.
        influence: Scores of it; only the images of highest self-influence are looked up.
        count: How many images around each.
        most: How many are looked up.
        memory: Bytes for features; of more training images a random part is compared with.
        batch_size: Images at a time.
        progress: Told how far it is.

    Raises:
        UnsupportedOperation: If no linear layer makes the logits.
    """
    total = len(influence.indices)
    asked = influence.self_influence.topk(min(most, total)).indices.sort().values
    first = seen_by(network, train, wanted=influence.indices[:1])
    fitting = max(count + 1, memory // (4 * max(first.features.shape[1], 1)))
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(total, generator=generator)[: max(fitting - len(asked), 0)]
    rows = torch.cat([asked, drawn]).unique()  # type: ignore[no-untyped-call]
    seen = seen_by(
        network, train, wanted=influence.indices[rows], batch_size=batch_size, progress=progress
    )
    where = torch.full((total,), -1)
    where[rows] = torch.arange(len(rows))
    found = around(seen, where[asked], min(count, len(rows) - 1))
    made = [torch.full((total,), torch.nan), torch.full((total,), torch.nan)]
    labels, chances = influence.predictions.clone(), influence.confidences.clone()
    made[0][asked], made[1][asked], labels[asked], chances[asked] = found
    return Neighbours(
        disagreement=made[0], opposition=made[1], labels=labels, probabilities=chances
    )


def around(
    seen: Seen, asked: Tensor, count: int, chunk: int = 256
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return disagreement, opposition, the neighbours' label and its probability."""
    unit = functional.normalize(seen.features.float(), dim=1)
    ones = torch.ones_like(seen.features[:, :1])
    extended = functional.normalize(torch.cat([seen.features, ones], dim=1).float(), dim=1)
    chances = seen.logits.double().softmax(dim=1)
    classes = chances.shape[1]
    errors = functional.normalize(chances - functional.one_hot(seen.labels, classes), dim=1).float()
    if count < 1:
        none = torch.full((len(asked),), torch.nan)
        return none, none, seen.labels[asked], chances.gather(1, seen.labels[:, None])[asked, 0]
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(asked), chunk):
        rows = asked[start : start + chunk]
        itself = torch.arange(len(rows)), rows
        alike = unit[rows] @ unit.T
        alike[itself] = -torch.inf
        near = alike.topk(count, dim=1)
        weights = near.values.double().clamp(min=0) + 1e-12
        votes = torch.zeros(len(rows), classes, dtype=torch.float64)
        votes.scatter_add_(1, seen.labels[near.indices], weights / weights.sum(1, keepdim=True))
        own = votes.gather(1, seen.labels[rows][:, None])[:, 0]
        likely = votes.argmax(dim=1)
        speaks = (extended[rows] @ extended.T) * (errors[rows] @ errors.T)
        speaks[itself] = 0
        strongest = speaks.abs().topk(count, dim=1).indices
        against = (speaks.gather(1, strongest) < 0).double().mean(dim=1)
        chance = chances[rows].gather(1, likely[:, None])[:, 0]
        parts.append(((1 - own).float(), against.float(), likely, chance.float()))
    one, two, three, four = (torch.cat(each) for each in zip(*parts, strict=True))
    return one, two, three, four
