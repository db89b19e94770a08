r"""Agreement: how alike two attributions of the same image are."""

from dataclasses import dataclass
from typing import ClassVar, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Attributions, Scalars
from whence.errors import SettingError, ShapeError
from whence.evaluation.metric import MetricCard, mean_ranks, membership, pixel_map

__all__ = ["Pairwise", "Spearman", "TopOverlap"]


@runtime_checkable
class Pairwise(Protocol):
    """How alike two maps of each image are."""

    def __call__(self, values: Attributions, others: Tensor) -> Scalars:
        """Return one number per image; NaN where it is undefined."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Spearman:
    """The rank correlation of two maps of the same image; tied pixels share their mean rank.

    Exact; costs two sorts. NaN where a map is constant and thus ranks nothing.

    Args:
        absolute: Compare the sizes of the pixels' values, whatever their signs.
    """

    absolute: bool = False

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=-1.0,
        high=1.0,
        chance="0",
        reference="Spearman (1904), The Proof and Measurement of Association between Two Things",
    )

    def __call__(self, values: Attributions, others: Tensor) -> Scalars:
        """Return one correlation per image.

        Raises:
            ShapeError: If the maps differ in their number or size.
        """
        ours, theirs = paired(values, others)
        if self.absolute:
            ours, theirs = ours.abs(), theirs.abs()
        first, second = mean_ranks(ours), mean_ranks(theirs)
        first = first - first.mean(dim=1, keepdim=True)
        second = second - second.mean(dim=1, keepdim=True)
        sizes = first.square().sum(dim=1).sqrt() * second.square().sum(dim=1).sqrt()
        found: Tensor = (first * second).sum(dim=1) / sizes
        return found.clamp(-1, 1).to(values.dtype)


@final
@dataclass(frozen=True, kw_only=True)
class TopOverlap:
    r"""The overlap of the highest pixels of two maps: intersection over union.

    .. math:: J = \frac{\sum_i \min(m_i, m'_i)}{\sum_i \max(m_i, m'_i)}

    where ``m`` says how far a pixel belongs to the highest ones; pixels that tie for the last
    places share them.

    Args:
        fraction: The share of the pixels that counts as highest, over 0 and at most 1.
    """

    fraction: float = 0.1

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="about p / (2 - p) for a fraction p",
        reference="Jaccard (1912), The Distribution of the Flora in the Alpine Zone",
    )

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0 < self.fraction <= 1:
            msg = f"fraction is a share of the pixels over 0 and at most 1; got {self.fraction}."
            raise SettingError(msg)

    def __call__(self, values: Attributions, others: Tensor) -> Scalars:
        """Return one overlap per image.

        Raises:
            ShapeError: If the maps differ in their number or size.
        """
        ours, theirs = paired(values, others)
        count = max(1, round(self.fraction * ours.shape[1]))
        counts = ours.new_full((len(ours),), count)
        first, second = membership(ours, counts), membership(theirs, counts)
        return torch.minimum(first, second).sum(dim=1) / torch.maximum(first, second).sum(dim=1)


def paired(
    values: Attributions, others: Tensor
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
    """Return two maps of each image, checked to be of one size."""
    ours, theirs = pixel_map(values), pixel_map(others)
    if values[:, 0].shape != others[:, 0].shape:
        msg = (
            f"Two maps of each image are needed; got {len(values)} of "
            f"{tuple(values.shape[2:])} and {len(others)} of {tuple(others.shape[2:])}. "
            f"Resize the coarser ones first."
        )
        raise ShapeError(msg)
    return ours, theirs
