"""Findings: what an audit holds to be suspicious, and by what measure."""

from collections.abc import Mapping

import torch
from torch import Tensor

from whence.core import ImageData
from whence.influence import Influence
from whence.recipes.neighbours import Neighbours
from whence.results import HarmfulImage, SuspectLabel

__all__ = ["harmful_images", "sampled", "suspect_labels"]

HIGH = 0.9
"""Self-influence is evidence from here on, as a share of the training images."""

MOST = 0.5
"""Disagreement is evidence beyond even odds."""


def suspect_labels(
    influence: Influence,
    train: ImageData,
    count: int | None = None,
    neighbours: Neighbours | None = None,
) -> tuple[SuspectLabel, ...]:
    """Return the training images whose label looks wrong, the most suspicious first.

    Three kinds of evidence are put together. *Self-influence*, the squared norm of the loss
    gradient: the model had to bend most for the image. *Prediction*: the model would label it
    otherwise. And what is around it: its *neighbours*, the training images most like it to the
    model, have another label, or the *influences* on its label by the last layer's gradients
    mostly speak against it. The last two also find labels that the model has learnt by heart,
    which the others miss. The order is by the rank of the self-influence plus the neighbours'
    disagreement.

    Args:
        influence: Scores of the training data; their squared norms are used, not the scores.
        train: The training data, for names.
        count: How many; by default all that the model contradicts with more than even odds, or
            whose neighbours do and something else with them, and at most one in ten of the
            training images.
        neighbours: What is around them; without it only the model's predictions disagree.
    """
    own = influence.self_influence
    rank = own.argsort().argsort().double() / max(len(own) - 1, 1)
    wrong = influence.predictions != influence.labels
    sure = wrong & (influence.confidences > MOST)
    suggested, chance = influence.predictions.clone(), influence.confidences.clone()
    around: dict[str, Tensor] = {}
    chosen = (wrong if count is not None else sure).clone()
    order = own.double()
    if neighbours is not None:
        around = {
            "neighbours": neighbours.disagreement,
            "influences": neighbours.opposition,
        }
        apart = around["neighbours"] > MOST
        chosen |= apart & ((rank >= HIGH) | (around["influences"] > MOST))
        told = ~wrong & apart
        suggested[told] = neighbours.labels[told]
        chance[told] = neighbours.probabilities[told].to(chance)
        order = rank + around["neighbours"].nan_to_num(0.0).double()
        chosen &= suggested != influence.labels
    places = chosen.nonzero().flatten()
    ranked = places[order[places].argsort(descending=True, stable=True)]
    most = count if count is not None else max(1, len(wrong) // 10)
    found = []
    for i in ranked[:most].tolist():
        index = int(influence.indices[i])
        values = {name: float(value[i]) for name, value in around.items()}
        evidence = [
            *(["self-influence"] if rank[i] >= HIGH else []),
            *(["prediction"] if sure[i] else []),
            *(name for name, value in values.items() if value > MOST),
        ]
        known = {name: None if value != value else value for name, value in values.items()}  # noqa: PLR0124 - NaN
        found.append(
            SuspectLabel(
                index=index,
                name=train.name(index),
                label=int(influence.labels[i]),
                suggested=int(suggested[i]),
                confidence=float(chance[i]),
                score=float(own[i]),
                rank=float(rank[i]),
                disagreement=known.get("neighbours"),
                opposition=known.get("influences"),
                evidence=tuple(evidence),
            )
        )
    return tuple(found)


def harmful_images(
    harm: Mapping[int, Tensor],
    influence: Influence,
    train: ImageData,
    *,
    first: int = 10,
    most: int = 24,
) -> tuple[HarmfulImage, ...]:
    """Return the training images that harm the most predictions.

    Args:
        harm: For each wrongly predicted test image, by place, how much every training image
            speaks for the prediction rather than for the label, ``(n,)``.
        influence: Scores of the same training images.
        train: The training data, for names.
        first: How many images of each prediction are counted.
        most: How many are returned.
    """
    queries: dict[int, list[int]] = {}
    shares = torch.zeros(len(influence.indices), dtype=torch.float64)
    for place, scores in harm.items():
        positive = scores.double().clamp(min=0)
        shares += positive / positive.sum().clamp(min=torch.finfo(torch.float64).tiny)
        top = positive.topk(min(first, len(positive)))
        for row, value in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            if value > 0:
                queries.setdefault(row, []).append(place)
    shares /= max(len(harm), 1)
    rows = sorted(queries, key=lambda row: (-len(queries[row]), -float(shares[row]), row))
    return tuple(
        HarmfulImage(
            index=int(influence.indices[row]),
            name=train.name(int(influence.indices[row])),
            label=int(influence.labels[row]),
            queries=tuple(queries[row]),
            share=float(shares[row]),
        )
        for row in rows[:most]
    )


def sampled(count: int, most: int, seed: int = 0) -> list[int]:
    """Return at most so many of ``count`` places, drawn without repetition, in order."""
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=generator)[:most].tolist())
