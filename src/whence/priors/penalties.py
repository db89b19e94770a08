r"""Penalties: what a prior says about attributions, as one number to be made small.

All are zero at best, and unchanged if a map is scaled: otherwise the loss could be lowered by
shrinking the attributions (and with them the logits) instead of moving them.
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Attributions, gini
from whence.errors import DataError, ShapeError

__all__ = ["GiniSparsity", "OutsideMask", "Penalty", "TotalVariation"]

Scalar = Float[Tensor, ""]


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

    over all pixels and channels of each image. A map of zeros counts as 0.

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
@dataclass(frozen=True, kw_only=True, eq=False)
class OutsideMask:
    r"""The share of the attribution's energy that lies outside the mask: right reasons.

    .. math:: \Omega = \frac{1}{b} \sum_b
              \frac{\sum_{i \notin M_b} a_{bi}^2}{\sum_i a_{bi}^2}

    A map of zeros counts as 0. Unlike the original, which penalises the bare energy outside, it
    cannot be lowered by shrinking all gradients.

    Args:
        masks: Where attributions may be, ``(n, 1, h, w)``, true or 1 inside: one for each image
            of the dataset, or a single one for all.

    References:
        Ross, Hughes and Doshi-Velez (2017), "Right for the Right Reasons".
    """

    masks: Tensor

    def __post_init__(self) -> None:
        """Check that the masks are masks."""
        flat = self.masks.flatten()
        if self.masks.ndim != 4 or self.masks.shape[1] != 1 or not len(flat):  # noqa: PLR2004 - n 1 h w
            msg = f"Masks must have shape (n, 1, h, w); got {tuple(self.masks.shape)}."
            raise ShapeError(msg)
        if not ((flat == 0) | (flat == 1)).all():
            msg = "Masks must hold 0 (outside) and 1 (inside). Threshold soft masks first."
            raise DataError(msg)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If there is neither one mask for all nor one for each image.
        """
        count = len(self.masks)
        if count not in (1, len(values)) or self.masks.shape[2:] != values.shape[2:]:
            msg = (
                f"{len(values)} attributions of {tuple(values.shape[2:])} need as many masks of "
                f"that size, or one; got {count} of {tuple(self.masks.shape[2:])}. For a batch of "
                f"a dataset take penalty.at(indices)."
            )
            raise ShapeError(msg)
        energy = values.square()
        outside = (energy * (1 - self.masks.to(values))).flatten(1).sum(dim=1)
        return share(outside, energy.flatten(1).sum(dim=1)).mean()

    def at(self, rows: Tensor) -> "OutsideMask":
        """Return the penalty with the masks of these images."""
        if len(self.masks) == 1:
            return self
        return OutsideMask(masks=self.masks[rows.to(self.masks.device)])


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


def share(part: Float[Tensor, " b"], whole: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Return ``part / whole``; zero, with a gradient of zero, where the whole is zero."""
    something = whole > 0
    safe = torch.where(something, whole, torch.ones_like(whole))
    return torch.where(something, part / safe, torch.zeros_like(part))
