"""Maps of a verification: where predictions come from, before and after, in image and training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.attribution import Attribution, attribute
from whence.core import (
    ImageData,
    Images,
    Margin,
    Method,
    ModelScalar,
    Probability,
    Progress,
    logit,
)
from whence.errors import UnsupportedOperation
from whence.evaluation import (
    CompletenessGap,
    Deletion,
    FaithfulnessCorrelation,
    Insertion,
    random_order,
)
from whence.influence import Influence, Scorer, influence
from whence.network import Network
from whence.recipes.removal import group_influence
from whence.training_features import map_named, training_features
from whence.training_features.maps import default_map

__all__ = ["FAITHFULNESS", "Explained", "Traced", "explained", "faithful", "inside_share", "traced"]

AT_A_TIME = 16


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Explained:
    """What a network makes of some images, and where that comes from.

    Args:
        predictions: ``(b,)``.
        confidences: Their probabilities.
        maps: Attributions of the predictions.
    """

    predictions: Tensor
    confidences: Tensor
    maps: tuple[Attribution, ...]

    @property
    def values(self) -> Tensor:
        """All maps, ``(b, c, h, w)``."""
        return torch.cat([one.values for one in self.maps]).detach()


def explained(network: Network, images: Images, method: Method) -> Explained:
    """Return predictions with their maps, one image at a time."""
    with torch.no_grad():
        parts = [images[at : at + AT_A_TIME] for at in range(0, len(images), AT_A_TIME)]
        chances = torch.cat([network(part) for part in parts]).softmax(dim=1)
    confidences, predictions = chances.max(dim=1)
    maps = tuple(
        attribute(method, ModelScalar(network, logit(predictions[k : k + 1])), images[k : k + 1])
        for k in range(len(images))
    )
    return Explained(predictions=predictions, confidences=confidences, maps=maps)


def inside_share(values: Tensor, inside: Tensor) -> Tensor:
    """Return the share of each map's positive mass inside its region; NaN without any mass.

    Args:
        values: Signed maps, ``(b, c, h, w)`` or ``(b, h, w)``.
        inside: ``(b, 1, h, w)`` of truths.
    """
    summed = values.sum(dim=1) if values.ndim == inside.ndim else values
    positive = summed.double().clamp(min=0)
    total = positive.sum(dim=(1, 2))
    held = (positive * inside[:, 0]).sum(dim=(1, 2))
    return torch.where(total > 0, held / total, torch.nan)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Traced:
    """Where predictions come from in the training data.

    Args:
        inside: For each query the mean share of its proponents' maps inside the region; NaN
            where none has a region.
        carriers: For each query the share of its proponents that show a shortcut.
        group: For each query the mean score of the images left out or relabelled, less that of
            the others; NaN without any.
        map: The name of the maps.
    """

    inside: Tensor
    carriers: Tensor
    group: Tensor
    map: str


def traced(  # noqa: PLR0913 - all that two networks are asked alike
    network: Network,
    train: ImageData,
    images: Images,
    *,
    scorer: Scorer,
    k: int,
    masks: Callable[[Tensor], Tensor] | None,
    carriers: frozenset[int],
    group: Sequence[int],
    wanted: Sequence[int],
    progress: Progress,
) -> Traced:
    """Trace predictions to training images, and to the region in these.

    Cost: a forward and two backward passes per training image, and ``k`` maps for each query.

    Args:
        network: The network.
        train: The training data of the audit, labelled as they were then.
        images: The queries.
        scorer: How gradients become scores.
        k: Proponents of each query.
        masks: Returns where the shortcut is in training images; None if nothing was masked.
        carriers: Training images that show a shortcut.
        group: Training images that were left out or relabelled.
        wanted: Which of the queries are traced to pixels.
        progress: Told how far it is.
    """
    with torch.no_grad():
        predictions = network(images).argmax(dim=1)
    scores = influence(
        network, train, images, Margin(predictions), scorer=scorer, progress=progress
    )
    top = scores.proponents(k)
    inside = torch.full((len(images),), torch.nan, dtype=torch.float64)
    shown = torch.full((len(images),), torch.nan, dtype=torch.float64)
    name = default_map(scores).name
    for query in wanted if masks is not None else ():
        places = [
            int(i)
            for i, score in zip(top.indices[query], top.scores[query], strict=True)
            if score > 0
        ]
        if not places or masks is None:
            continue
        progress("training features", query, len(images))
        values, used = maps_on(scores, query, train, places, name)
        where = masks(torch.tensor(places))
        held = where.flatten(1).any(dim=1)
        shares = inside_share(values.cpu(), where)[held]
        inside[query] = float(shares.nanmean()) if len(shares) else torch.nan
        shown[query] = sum(place in carriers for place in places) / len(places)
        name = used
    apart = torch.full((len(images),), torch.nan, dtype=torch.float64)
    if group:
        member = torch.zeros(1, len(train), dtype=torch.bool)
        member[0, list(group)] = True
        found = group_influence(scores, member)
        apart = (found.means[0] - found.others[0]).double().cpu()
    return Traced(inside=inside, carriers=shown, group=apart, map=name)


def maps_on(
    scores: Influence, query: int, train: ImageData, places: list[int], name: str
) -> tuple[Tensor, str]:
    """Return maps on training images, by a stand-in where a rule is missing, and its name."""
    try:
        return training_features(scores, query, train, places, map_named(name)).maps, name
    except UnsupportedOperation:
        name = "input-x-gradient"
        return training_features(scores, query, train, places, map_named(name)).maps, name


FAITHFULNESS = (
    ("deletion, less a random order", "lower"),
    ("insertion, less a random order", "higher"),
    ("faithfulness correlation", "higher"),
    ("completeness gap", "lower"),
)
"""The metrics of maps, and which direction is better."""


def faithful(network: Network, images: Images, seen: Explained) -> dict[str, Tensor]:
    """Return metrics of a network's maps, one value per image each.

    Deletion and insertion follow the probability of the prediction, so that networks whose logits
    have other sizes can be compared, and are told less what a random order of pixels gives.
    """
    values, random = seen.values, random_order(images)
    found: dict[str, list[Tensor]] = {name: [] for name, _ in FAITHFULNESS}
    for k in range(len(images)):
        image, own, chance = images[k : k + 1], values[k : k + 1], random[k : k + 1]
        wanted = seen.predictions[k : k + 1]
        probability = ModelScalar(network, Probability(wanted))
        number = ModelScalar(network, logit(wanted))
        with torch.no_grad():
            for name, metric in (("deletion", Deletion()), ("insertion", Insertion())):
                less = metric(probability, image, own) - metric(probability, image, chance)
                found[f"{name}, less a random order"].append(less)
            found["faithfulness correlation"].append(FaithfulnessCorrelation()(number, image, own))
        gap = seen.maps[k].gap
        found["completeness gap"].append(
            CompletenessGap()(number, image, own) if gap is None else gap.abs().reshape(1)
        )
    return {name: torch.cat(parts).double().cpu() for name, parts in found.items()}
