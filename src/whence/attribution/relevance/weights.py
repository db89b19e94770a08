r"""Differences through softmax and attention: shares that move with what they share out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from whence.attribution.relevance.differences import multiplied, paired
from whence.errors import UnsupportedOperation

__all__ = ["attention", "softmax"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """A softmax of an image and of its baseline.

    The exponential follows the rescale rule; of its product with the inverse of the sum each
    receives its part. What multiplies by it is exact.

    Args:
        powers: Exponentials of both, less a common maximum.
        scales: The inverses of their sums.
        rate: How fast the exponential rises between the two.
        dim: The axis over which the shares add up to 1.
    """

    powers: tuple[Tensor, Tensor]
    scales: tuple[Tensor, Tensor]
    rate: Tensor
    dim: int

    @staticmethod
    def of(here: Tensor, other: Tensor, dim: int) -> "Shares":
        """Return the softmax of two tensors."""
        top = torch.maximum(here.amax(dim, keepdim=True), other.amax(dim, keepdim=True))
        first, second = (here - top).exp_(), (other - top).exp_()
        change = here - other
        close = change.abs() <= torch.finfo(here.dtype).eps ** 0.5
        rate = (first - second).div_(change.masked_fill_(close, 1))
        rate = torch.where(close, (first + second).mul_(0.5), rate)
        return Shares(
            powers=(first, second),
            scales=(1 / first.sum(dim, keepdim=True), 1 / second.sum(dim, keepdim=True)),
            rate=rate.nan_to_num_(0.0),  # masked in both
            dim=dim,
        )

    def mean(self) -> Tensor:
        """Return the mean of both shares."""
        return (self.powers[0] * self.scales[0]).add_(self.powers[1] * self.scales[1]).mul_(0.5)

    def back(self, gradient: Tensor) -> Tensor:
        """Return the multipliers of the scores."""
        total = (gradient * (self.powers[0] + self.powers[1])).sum(self.dim, keepdim=True)
        direct = gradient * ((self.scales[0] + self.scales[1]) / 2)
        total.mul_(self.scales[0]).mul_(self.scales[1]).mul_(0.5)
        return direct.sub_(total).mul_(self.rate)


def softmax(
    operation: Callable[..., Tensor],
    values: Tensor,
    dim: int,
    *rest: Any,  # noqa: ANN401 - a type
) -> Tensor:
    r"""Apply a softmax: an exponential by the rescale rule, times the inverse of its sum."""
    found = paired(values)
    if found is None:
        return operation(values, dim, *rest)
    with torch.no_grad():
        results = operation(values, dim, *rest)
        shares = Shares.of(values.detach(), found[0], dim)
    return multiplied(results, lambda gradient: (shares.back(gradient),), values)


def attention(
    operation: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the operation's signature
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend: two products and a softmax, each shared out exactly.

    The weights of image and baseline are made again on the way back instead of being kept.
    """
    if dropout_p or enable_gqa:
        msg = "Attention with dropout or grouped queries has no rule for differences yet."
        raise UnsupportedOperation(msg)
    found = paired(query, key, value)
    with torch.no_grad():
        results = operation(query, key, value, attn_mask, 0.0, is_causal, scale=scale)
    if found is None:
        return results
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    here = (query.detach(), key.detach(), value.detach())

    def scores(query: Tensor, key: Tensor) -> Tensor:
        found = torch.matmul(query * factor, key.mT)
        if is_causal:
            found.masked_fill_(torch.ones_like(found[0, 0]).triu(1).bool(), -torch.inf)
        if attn_mask is None:
            return found
        if attn_mask.dtype == torch.bool:
            return found.masked_fill_(~attn_mask, -torch.inf)
        return found + attn_mask.detach()

    def back(gradient: Tensor) -> tuple[Tensor, ...]:
        queries, keys, values = ((a + b).mul_(0.5) for a, b in zip(here, found, strict=True))
        shares = Shares.of(scores(here[0], here[1]), scores(found[0], found[1]), -1)
        of_value = torch.matmul(shares.mean().mT, gradient)
        of_scores = shares.back(torch.matmul(gradient, values.mT)).mul_(factor)
        return torch.matmul(of_scores, keys), torch.matmul(of_scores.mT, queries), of_value

    return multiplied(results, back, query, key, value)
