r"""Gini: how unequally a quantity is shared out."""

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core.types import Scalars

__all__ = ["gini"]


def gini(amounts: Float[Tensor, "b n"]) -> Scalars:
    r"""Return the Gini coefficient of each row of nonnegative amounts.

    .. math:: G = \frac{\sum_{ij} |v_i - v_j|}{2 n \sum_i v_i}
                = \frac{2 \sum_i i\, v_{(i)}}{n \sum_i v_i} - \frac{n + 1}{n}

    Zero if all are equal, ``(n - 1) / n`` if one has everything; NaN, with a gradient of zero,
    if there is nothing to share out. Differentiable; costs one sort.
    """
    count = amounts.shape[1]
    places = torch.arange(1, count + 1, dtype=amounts.dtype, device=amounts.device)
    totals = amounts.sum(dim=1)
    safe = torch.where(totals > 0, totals, torch.ones_like(totals))
    shares = amounts.sort(dim=1).values / safe[:, None]
    found = 2 * (places * shares).sum(dim=1) / count - (count + 1) / count
    return torch.where(totals > 0, found, torch.full_like(found, torch.nan))
