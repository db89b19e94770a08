r"""HOG: how alike two maps are in where their edges point, whatever their exact places."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from whence.core import Attributions, Scalars
from whence.errors import SettingError, ShapeError
from whence.evaluation.agreement import paired
from whence.evaluation.metric import MetricCard
from whence.evaluation.ssim import ranged

__all__ = ["HOGCorrelation"]

TURN: Final = 180.0
"""Degrees in which an edge comes back to itself, its sign left aside."""

LARGEST, SMALL = 0.2, 1e-5
"""Where a block's share is cut (L2-Hys), and what keeps an empty block from a division by zero."""


@final
@dataclass(frozen=True, kw_only=True)
class HOGCorrelation:
    r"""Pearson's correlation of two maps' histograms of oriented gradients.

    Each map is first brought to the range from 0 to 1. The sizes of its gradients (central
    differences, 0 at the border) are added up in each cell by their direction, without sign, in
    as many equal parts of 180 degrees; blocks of neighbouring cells are brought to length 1, cut
    at 0.2 and brought to length 1 again. The last rows and columns that fill no cell are left out.

    Maps of one kind of structure are alike in any case: compare with the floor of maps of
    different images. NaN where a map is constant.

    Args:
        cell: Pixels along a side of a cell.
        orientations: Parts of 180 degrees.
        block: Cells along a side of a block.
        absolute: Compare the sizes of the pixels' values, whatever their signs.

    References:
        Adebayo et al. (2018), "Sanity Checks for Saliency Maps", section 4 (HOG similarity);
        Dalal and Triggs (2005), "Histograms of Oriented Gradients for Human Detection".
    """

    cell: int = 8
    orientations: int = 9
    block: int = 3
    absolute: bool = False

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=-1.0,
        high=1.0,
        chance="that of maps of different images, which is over 0",
        reference="Adebayo et al. (2018), Sanity Checks for Saliency Maps, section 4",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.cell < 1 or self.orientations < 2 or self.block < 1:  # noqa: PLR2004 - directions
            msg = (
                f"cell and block are 1 or more, and orientations 2 or more; got {self.cell}, "
                f"{self.block} and {self.orientations}."
            )
            raise SettingError(msg)

    def __call__(self, values: Attributions, others: Tensor) -> Scalars:
        """Return one correlation per image.

        Raises:
            ShapeError: If the maps differ in their number or size, or no block fits on them.
        """
        size = (values.shape[2], values.shape[3])
        first, second = (
            self.histograms(ranged(one.abs() if self.absolute else one).view(-1, *size))
            for one in paired(values, others)
        )
        first = first - first.mean(dim=1, keepdim=True)
        second = second - second.mean(dim=1, keepdim=True)
        sizes = first.square().sum(dim=1).sqrt() * second.square().sum(dim=1).sqrt()
        found: Tensor = (first * second).sum(dim=1) / sizes
        return found.clamp(-1, 1).to(values.dtype)

    def histograms(self, values: Float[Tensor, "b h w"]) -> Float[Tensor, "b k"]:
        """Return the histograms of each map's blocks.

        Raises:
            ShapeError: If no block fits on the maps.
        """
        height, width = values.shape[1:]
        down, along = height // self.cell, width // self.cell
        if min(down, along) < self.block:
            msg = (
                f"A block of {self.block} x {self.block} cells of {self.cell} pixels needs maps of "
                f"{self.block * self.cell} x {self.block * self.cell}; got {height} x {width}. "
                f"Give HOGCorrelation a smaller cell or block."
            )
            raise ShapeError(msg)
        rows, columns = torch.zeros_like(values), torch.zeros_like(values)
        rows[:, 1:-1] = values[:, 2:] - values[:, :-2]
        columns[:, :, 1:-1] = values[:, :, 2:] - values[:, :, :-2]
        angles = torch.rad2deg(torch.atan2(rows, columns)) % TURN
        parts = (angles / (TURN / self.orientations)).nan_to_num().long()
        sizes = torch.hypot(rows, columns)[:, None]
        spread = sizes.new_zeros(len(values), self.orientations, height, width)
        spread.scatter_(1, parts.clamp(max=self.orientations - 1)[:, None], sizes)
        cells = functional.avg_pool2d(
            spread[:, :, : down * self.cell, : along * self.cell], self.cell
        )
        blocks = cells.unfold(2, self.block, 1).unfold(3, self.block, 1)
        flat = blocks.permute(0, 2, 3, 1, 4, 5).flatten(3)
        return lengthened(lengthened(flat).clamp(max=LARGEST)).flatten(1)


def lengthened(blocks: Float[Tensor, "b r c k"]) -> Float[Tensor, "b r c k"]:
    """Return blocks brought to length 1, or nearly, where they are nearly empty."""
    squares = blocks.square().sum(dim=3, keepdim=True)
    return blocks / (squares + SMALL**2).sqrt()
