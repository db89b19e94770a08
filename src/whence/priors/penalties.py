r"""Penalties: what a prior says about attributions, as one number to be made small.

Unless their documentation says otherwise, all are zero at best and unchanged if a map is scaled:
otherwise the loss could be lowered by shrinking the attributions (and with them the logits)
instead of moving them. Those that need masks are in :mod:`whence.priors.masks`, those that relate
pixels or images to each other in :mod:`whence.priors.relations`.
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Attributions, gini
from whence.errors import SettingError

__all__ = [
    "L1",
    "L2",
    "Entropy",
    "GiniSparsity",
    "Magnitude",
    "MeanMap",
    "Penalty",
    "TotalVariation",
    "share",
]

Scalar = Float[Tensor, ""]
Row = Float[Tensor, " b"]


@runtime_checkable
class Penalty(Protocol):
    """One differentiable number from the attributions of a batch; small is good."""

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty of the images."""
        ...

    def at(self, rows: Tensor) -> "Penalty":
        """Return the penalty for these images of the dataset, in this order."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class GiniSparsity:
    r"""One minus the Gini coefficient: low if few pixels carry the attribution.

    .. math:: \Omega = 1 - \frac{1}{b} \sum_b G(|a_b|)

    over all pixels and channels of each image. A map of zeros counts as 0. The prior of the paper
    is ``MeanMap(penalty=GiniSparsity())``: features that are used in no image.

    References:
        Erion et al. (2021), "Improving performance of deep learning models with axiomatic
        attribution priors and expected gradients" (there for the mean attribution of all images).
    """

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty."""
        amounts = values.flatten(1).abs()
        something = amounts.detach().sum(dim=1) > 0
        sparse = 1 - gini(torch.where(something[:, None], amounts, torch.ones_like(amounts)))
        return torch.where(something, sparse, torch.zeros_like(sparse)).mean()

    def at(self, rows: Tensor) -> "GiniSparsity":
        """Return itself: it asks the same of every image."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True)
class Entropy:
    r"""The entropy of the attribution over the pixels: low if few pixels carry it.

    .. math:: \Omega = -\frac{1}{b} \sum_b \frac{1}{\log n} \sum_i p_{bi} \log p_{bi},
              \qquad p_{bi} = \frac{|a_{bi}|}{\sum_j |a_{bj}|}

    over all ``n`` pixels and channels; 0 for one pixel alone, 1 if all are equal. A map of zeros
    counts as 0.
    """

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty."""
        shares = absolute_shares(values)
        if shares.shape[1] == 1:
            return (0 * shares).sum()
        positive = torch.where(shares > 0, shares, torch.ones_like(shares))
        nats = -(shares * positive.log()).sum(dim=1)
        return (nats / torch.tensor(shares.shape[1]).to(nats).log()).mean()

    def at(self, rows: Tensor) -> "Entropy":
        """Return itself: it asks the same of every image."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True)
class L1:
    r"""The L1 norm relative to the L2 norm: low if few pixels carry the attribution.

    .. math:: \Omega = \frac{1}{b} \sum_b
              \frac{\lVert a_b \rVert_1 / \lVert a_b \rVert_2 - 1}{\sqrt n - 1}

    over all ``n`` pixels and channels; 0 for one pixel alone, 1 if all are equally large. A map
    of zeros counts as 0. The bare norm is :class:`Magnitude`.

    References:
        Hoyer (2004), "Non-negative matrix factorization with sparseness constraints", section
        3.1, whose sparseness is one minus this.
    """

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty."""
        amounts = values.flatten(1).abs()
        return above_one(amounts.sum(dim=1), norm(amounts), amounts.shape[1]).mean()

    def at(self, rows: Tensor) -> "L1":
        """Return itself: it asks the same of every image."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True)
class L2:
    r"""The L2 norm relative to the L1 norm: low if all pixels carry the attribution alike.

    .. math:: \Omega = \frac{1}{b} \sum_b
              \frac{\sqrt n\, \lVert a_b \rVert_2 / \lVert a_b \rVert_1 - 1}{\sqrt n - 1}

    over all ``n`` pixels and channels; 0 if all are equally large, 1 for one pixel alone: the
    opposite of :class:`L1`. A map of zeros counts as 0. The bare norm is :class:`Magnitude`.
    """

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty."""
        amounts = values.flatten(1).abs()
        count = amounts.shape[1]
        return above_one(count**0.5 * norm(amounts), amounts.sum(dim=1), count).mean()

    def at(self, rows: Tensor) -> "L2":
        """Return itself: it asks the same of every image."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True)
class Magnitude:
    r"""The bare size of the attributions, which is *not* relative to anything.

    .. math:: \Omega = \frac{1}{b n} \sum_{bi} |a_{bi}|^p

    Where attributions add up to the logits it is lowered by shrinking the logits: a large weight
    drives the network to zero. Prefer :class:`L1` and :class:`L2`.

    Args:
        power: 1 for the mean absolute value, 2 for the mean square.
    """

    power: int = 1

    def __post_init__(self) -> None:
        """Check the power."""
        if self.power not in (1, 2):
            msg = f"Magnitude takes power 1 (absolute values) or 2 (squares); got {self.power}."
            raise SettingError(msg)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty."""
        return values.abs().mean() if self.power == 1 else values.square().mean()

    def at(self, rows: Tensor) -> "Magnitude":
        """Return itself: it asks the same of every image."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True)
class TotalVariation:
    r"""How much neighbouring pixels differ, relative to the attribution's total: smoothness.

    .. math:: \Omega = \frac{1}{b} \sum_b \frac{\sum_{ij} |a_{i+1,j} - a_{ij}|
              + |a_{i,j+1} - a_{ij}|}{\sum_{ij} |a_{ij}|}

    A map of zeros counts as 0.

    References:
        Erion et al. (2021), as above (the prior for images); here relative to the total.
    """

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty."""
        down = values.diff(dim=2).abs().flatten(1).sum(dim=1)
        right = values.diff(dim=3).abs().flatten(1).sum(dim=1)
        return share(down + right, values.abs().flatten(1).sum(dim=1)).mean()

    def at(self, rows: Tensor) -> "TotalVariation":
        """Return itself: it asks the same of every image."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True)
class MeanMap:
    r"""Another penalty, of the mean absolute map of all images instead of each image's own map.

    .. math:: \Omega = \Omega'\Big(\frac{1}{b} \sum_b |a_b|\Big)

    A statement about features, not about single images: with :class:`GiniSparsity` the network
    shall use few features at all. The mean over a small batch is a noisy one.

    Args:
        penalty: What is made small.

    References:
        Erion et al. (2021), as above (the priors for tables of features).
    """

    penalty: Penalty

    def __call__(self, values: Attributions) -> Scalar:
        """Return the penalty of the mean map."""
        return self.penalty(values.abs().mean(dim=0, keepdim=True))

    def at(self, rows: Tensor) -> "MeanMap":
        """Return itself: there is one map."""
        del rows
        return self


def share(part: Row, whole: Row) -> Row:
    """Return ``part / whole``; zero, with a gradient of zero, where the whole is zero."""
    something = whole > 0
    safe = torch.where(something, whole, torch.ones_like(whole))
    return torch.where(something, part / safe, torch.zeros_like(part))


def absolute_shares(values: Attributions) -> Float[Tensor, "b n"]:
    """Return absolute attributions as shares of their sum; zeros for a map of zeros."""
    amounts = values.flatten(1).abs()
    totals = amounts.sum(dim=1)
    return amounts / torch.where(totals > 0, totals, torch.ones_like(totals))[:, None]


def norm(amounts: Float[Tensor, "b n"]) -> Row:
    """Return the L2 norm of each row; its gradient is zero for a row of zeros."""
    largest = amounts.detach().amax(dim=1, keepdim=True)
    scaled = amounts / torch.where(largest > 0, largest, torch.ones_like(largest))
    squares = scaled.square().sum(dim=1)
    root = torch.where(squares > 0, squares, torch.ones_like(squares)).sqrt()
    return torch.where(squares > 0, root * largest[:, 0], torch.zeros_like(squares))


def above_one(part: Row, whole: Row, count: int) -> Row:
    """Return how far ``part / whole``, from 1 to the root of the count, is above 1, in [0, 1]."""
    if count == 1:
        return 0 * part
    excess = (share(part, whole) - 1) / (count**0.5 - 1)
    return torch.where(whole > 0, excess, torch.zeros_like(excess))
