"""Tests of appearances: whose evidence fails on audited images, and is that more than chance?"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Reading", "chance_of_drops", "leaning", "reliability", "smoothed", "split", "told_by"]

PRIOR = 0.02
"""How much evidence of the usual reliability each appearance is given, as a share of the mean."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What clusters of cells are worth, one clustering per row.

    Args:
        reliability: Share of the evidence of each cluster that points to the label,
            ``(runs, clusters)``.
        usual: The same of all evidence.
        mass: Each cluster's share of all evidence, ``(runs, clusters)``.
    """

    reliability: Tensor
    usual: float
    mass: Tensor


def reliability(assigned: Tensor, evidence: Tensor, count: int) -> Reading:
    r"""Return how reliable the evidence of each cluster is on some images.

    .. math:: r_k = \frac{\sum_q \max(e_{qk}, 0)}{\sum_q |e_{qk}|}, \qquad
              e_{qk} = \sum_{t \in k} e_{qt}

    over images q and their cells t of cluster k: 1 if all that the network reads from this
    appearance points to the label, 0 if it always points away, 1/2 if it tells nothing. Clusters
    with little evidence are drawn towards the usual.

    Args:
        assigned: The cluster of each cell, ``(runs, n, cells)``.
        evidence: How each cell speaks for the label, ``(n, cells)``.
        count: How many clusters.
    """
    sums = torch.stack([grouped(own, evidence, count) for own in assigned])
    towards, away = sums.clamp(min=0).sum(dim=1), (-sums).clamp(min=0).sum(dim=1)
    whole = (towards + away).sum(dim=1, keepdim=True).clamp(min=1e-12)
    usual = towards.sum(dim=1, keepdim=True) / whole
    prior = PRIOR * whole / count
    return Reading(
        reliability=(towards + prior * usual) / (towards + away + prior),
        usual=float(usual.mean()),
        mass=(towards + away) / whole,
    )


def grouped(assigned: Tensor, values: Tensor, count: int) -> Tensor:
    """Return the sum of each image's values over each cluster, ``(n, count)``."""
    found = torch.zeros(len(assigned), count, dtype=values.dtype)
    return found.scatter_add_(1, assigned, values)


def split(reading: Reading) -> float:
    """Return the reliability that parts the clusters best into failing ones and others (Otsu).

    Each cluster counts as much as its evidence. Of all thresholds the one with the largest
    variance between the two parts.
    """
    values, weights = reading.reliability.flatten(), reading.mass.flatten()
    order = values.argsort()
    values, weights = values[order].double(), weights[order].double()
    weights = weights / weights.sum().clamp(min=1e-12)
    below, mean = weights.cumsum(0)[:-1], (weights * values).cumsum(0)
    above = 1 - below
    gain = (mean[-1] * below - mean[:-1]).square() / (below * above).clamp(min=1e-12)
    if not len(gain):
        return reading.usual
    at = int(gain.argmax())
    return float((values[at] + values[at + 1]) / 2)


def leaning(assigned: Tensor, labels: Tensor, count: int, classes: int) -> Tensor:
    """Return how much more often each cluster is seen in a class than anywhere.

    Args:
        assigned: The cluster of each cell of training images, ``(runs, n, cells)``.
        labels: Their labels, ``(n,)``.
        count: How many clusters.
        classes: How many classes.

    Returns:
        ``(runs, count, classes)``: the share of the class's cells that are of the cluster, over
        the sum of these shares; the rows add up to 1.
    """
    found = []
    for own in assigned:
        ones = torch.ones(own.shape, dtype=torch.float64)
        seen = grouped(own, ones, count)
        by_class = torch.zeros(classes, count, dtype=torch.float64).index_add_(0, labels, seen)
        sizes = torch.bincount(labels, minlength=classes).clamp(min=1)[:, None] * own.shape[1]
        shares = by_class / sizes
        found.append((shares / shares.sum(dim=0).clamp(min=1e-12)).T)
    return torch.stack(found)


def smoothed(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return values of cells ``(n, cells)``, averaged with those around them.

    The weights are 4 for the cell, 2 for each side and 1 for each corner.
    """
    side = torch.tensor([1.0, 2.0, 1.0], dtype=values.dtype)
    kernel = (side[:, None] * side)[None, None]
    maps = values.view(len(values), 1, *grid)
    whole = functional.conv2d(torch.ones_like(maps[:1]), kernel, padding=1)
    return (functional.conv2d(maps, kernel, padding=1) / whole).flatten(1)


def told_by(amounts: Tensor, own: Tensor) -> float:
    """Return how well an amount tells a class from the others: the area under the ROC curve.

    Ties count half; 1/2 if there is nothing to tell.

    Args:
        amounts: ``(n,)``.
        own: Which are of the class, ``(n,)`` truths.
    """
    first, others = int(own.sum()), int((~own).sum())
    if not first or not others:
        return 0.5
    _, where, sizes = torch.unique(amounts, return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0).double()
    ranks = (ends - (sizes.double() - 1) / 2)[where]
    return float((ranks[own].sum() - first * (first + 1) / 2) / (first * others))


def chance_of_drops(
    train: Tensor,
    train_labels: Tensor,
    audited: Tensor,
    audited_labels: Tensor,
    *,
    shuffles: int,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how well amounts tell their classes in training and in audited images, and chance.

    As chance images of the same label are dealt out anew to the two sets: if appearance and class
    went together in both alike, that changes nothing. For each shuffle the largest drop over all
    classes is kept, so that looking at many classes makes no findings.

    Args:
        train: How much of each class's appearance training images show, ``(n, classes)``.
        train_labels: Their labels.
        audited: The same of audited images, ``(m, classes)``.
        audited_labels: Their labels.
        shuffles: How often; the least p value is 1 over this number and one.
        seed: Of the shuffles.

    Returns:
        The areas under the ROC curve in training and in audited images, and p values; one of each
        per class.
    """
    amounts = torch.cat([train, audited])
    labels = torch.cat([train_labels, audited_labels])
    inside = torch.arange(len(labels)) < len(train)
    before, after = tellings(amounts, labels, inside)
    drops = before - after
    generator = torch.Generator().manual_seed(seed)
    more = torch.zeros_like(drops)
    for _ in range(shuffles):
        dealt = torch.empty_like(inside)
        for label in sorted(set(labels.tolist())):
            rows = (labels == label).nonzero()[:, 0]
            dealt[rows] = inside[rows[torch.randperm(len(rows), generator=generator)]]
        one, two = tellings(amounts, labels, dealt)
        more += ((one - two).max() >= drops).double()
    return before, after, (1 + more) / (1 + shuffles)


def tellings(amounts: Tensor, labels: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Return how well each column tells its class among the rows inside, and outside."""
    found = [
        [told_by(amounts[rows, k], labels[rows] == k) for k in range(amounts.shape[1])]
        for rows in (inside, ~inside)
    ]
    both = torch.tensor(found, dtype=torch.float64)
    return both[0], both[1]
