r"""Ranking: what an order of training images is worth, one number per query.

Scores are ``(n, q)``, one column per query, the highest first in the ranking; training images that
tie count as in every order that breaks the tie, on the average.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence.errors import DataError, NumericsError, ShapeError
from whence.evaluation.metric import mean_ranks

__all__ = [
    "area_under_roc",
    "average_precision",
    "check_scores",
    "gains",
    "rank_correlation",
]


def check_scores(scores: Tensor) -> Float[Tensor, "n q"]:
    """Return the scores in double precision, after checking what can be ranked.

    Raises:
        NumericsError: If a score is NaN or infinite.
        ShapeError: If they are not a column of training images per query.
    """
    if scores.ndim != 2 or not scores.numel() or not scores.is_floating_point():  # noqa: PLR2004 - n q
        msg = (
            f"Scores must be floating-point numbers (n, q): one row per training image and one "
            f"column per query; got {scores.dtype} of shape {tuple(scores.shape)}."
        )
        raise ShapeError(msg)
    if not scores.isfinite().all():
        column = int((~scores.isfinite()).any(dim=0).nonzero()[0, 0])
        msg = (
            f"The scores of query {column} hold NaN or infinity, which has no place in a ranking. "
            f"Look for queries or training images without a gradient."
        )
        raise NumericsError(msg)
    return scores.double()


def rank_correlation(first: Float[Tensor, "m q"], second: Float[Tensor, "m q"]) -> Tensor:
    """Return Spearman's correlation of each pair of columns; NaN where a column is constant."""
    ranks = [mean_ranks(part.T.contiguous()) for part in (first, second)]
    one, two = (part - part.mean(dim=1, keepdim=True) for part in ranks)
    sizes = one.square().sum(dim=1).sqrt() * two.square().sum(dim=1).sqrt()
    found: Tensor = (one * two).sum(dim=1) / sizes
    return found.clamp(-1, 1)


def average_precision(scores: Float[Tensor, " n"], relevant: Bool[Tensor, " n"]) -> float:
    r"""Return the area under the precision-recall curve, as its sum of steps.

    .. math:: \frac{1}{|R|} \sum_{i \in R} \frac{|\{j \in R : s_j \ge s_i\}|}{|\{j : s_j \ge s_i\}|}

    Chance is the share of relevant images.

    Raises:
        DataError: If no image is relevant.
    """
    chosen = scores[relevant].sort().values
    if not len(chosen):
        msg = "A precision needs a relevant training image; all of them are marked False."
        raise DataError(msg)
    every = scores.sort().values
    hits = len(chosen) - torch.searchsorted(chosen, chosen)
    seen = len(every) - torch.searchsorted(every, chosen)
    return float((hits.double() / seen.double()).mean())


def area_under_roc(scores: Float[Tensor, " n"], relevant: Bool[Tensor, " n"]) -> float:
    """Return the chance that a relevant image ranks above another; ties count half.

    Raises:
        DataError: If all images are relevant, or none.
    """
    positive = int(relevant.sum())
    negative = len(relevant) - positive
    if not positive or not negative:
        msg = f"Both kinds of training images are needed; got {positive} marked of {len(relevant)}."
        raise DataError(msg)
    ranks = mean_ranks(scores[None])[0]
    above = float(ranks[relevant].sum()) - positive * (positive + 1) / 2
    return above / (positive * negative)


def gains(scores: Float[Tensor, " n"], relevant: Bool[Tensor, " n"]) -> Tensor:
    """Return the share of relevant images among the first 0, 1, ... n of the ranking."""
    values, order = scores.sort(descending=True, stable=True)
    groups = torch.unique_consecutive(values, return_inverse=True)[1]
    hits = relevant[order].double()
    sums = torch.zeros(int(groups[-1]) + 1, dtype=torch.float64).index_add_(0, groups, hits)
    sizes = torch.bincount(groups).double()
    found = (sums / sizes)[groups].cumsum(0) / hits.sum()
    return torch.cat([found.new_zeros(1), found])
