r"""IDSDS: do a map's cells rank as the changes do that deleting each cell makes?

*In-domain single deletion*: an image is cut into a few large cells, each is deleted alone, and the
falls of the explained value are compared with the sums of the map over the cells. The network is
first fine-tuned on images of which a cell is missing (:class:`CellDeletion`), so that a missing
cell is nothing new to it.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whence.core import Baseline, Images, ScalarFn, Scalars, Zero, check_images
from whence.errors import SettingError, ShapeError
from whence.evaluation.metric import MetricCard, mean_ranks, pixel_map
from whence.evaluation.steps import Fill, filled

__all__ = ["IDSDS", "CellDeletion", "CellDropout", "Cells", "cells_of"]

REFERENCE = (
    "Hesse, Schaub-Meyer and Roth (2024), Benchmarking the Attribution Quality of Vision Models"
)
TWO = 2


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """What a map says of the cells, and what deleting each of them does.

    Args:
        sums: The map's sum over each cell, ``(b, k)``, cells row by row.
        drops: The fall of the explained value when the cell is deleted, ``(b, k)``.
    """

    sums: Float[Tensor, "b k"]
    drops: Float[Tensor, "b k"]

    @property
    def constant(self) -> Bool[Tensor, " b"]:
        """Which maps give all cells one sum, and so rank nothing."""
        return self.sums.amin(dim=1) == self.sums.amax(dim=1)

    @property
    def correlation(self) -> Scalars:
        """Spearman's correlation of sums and drops; cells that tie share their mean rank.

        0 where the map is constant; NaN where no cell differs in what its deletion does.
        """
        first, second = (
            ranks - ranks.mean(dim=1, keepdim=True)
            for ranks in (mean_ranks(self.sums.contiguous()), mean_ranks(self.drops.contiguous()))
        )
        sizes = first.square().sum(dim=1).sqrt() * second.square().sum(dim=1).sqrt()
        found = ((first * second).sum(dim=1) / sizes).clamp(-1, 1)
        still = self.drops.amin(dim=1) == self.drops.amax(dim=1)
        return found.masked_fill(self.constant, 0.0).masked_fill(still, torch.nan)


@final
@dataclass(frozen=True, kw_only=True)
class IDSDS:
    r"""The rank correlation of a map's cell sums with the effects of deleting the cells.

    .. math:: \rho_S\Big(\big(\sum_{i \in C_k} \sum_c a_{ci}\big)_k,\;
              \big(f(x) - f(x_{C_k \leftarrow \tilde x})\big)_k\Big)

    over the cells :math:`C_k` of a grid. Exact. The map is taken as it is: absolute values and
    smoothing lower the score of most methods.

    A map that gives all cells one sum ranks nothing and gets 0, the chance level, so that a method
    that is silent on difficult images gains nothing by it; :meth:`cells` tells which maps are. An
    image whose value no deletion changes can rank no map and gets NaN.

    Cost: half a pass for each cell, and one for the image.

    Args:
        grid: Cells along each side of the image; they differ by at most a pixel in size.
        fill: What stands where a cell is deleted.
        batch_size: Changed images per forward pass.

    References:
        Hesse, Schaub-Meyer and Roth (2024), "Benchmarking the Attribution Quality of Vision
        Models"; settings of the released code.
    """

    grid: int = 4
    fill: Fill = field(default_factory=Zero)
    batch_size: int = 256

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0, also for a constant map",
        reference=REFERENCE,
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_grid(self.grid)
        if self.batch_size < 1:
            msg = f"batch_size must be at least 1; got {self.batch_size}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one correlation per image."""
        return self.cells(f, images, values).correlation

    def cells(self, f: ScalarFn, images: Images, values: Tensor) -> Cells:
        """Return what is compared, cell by cell."""
        return Cells(sums=self.sums(images, values), drops=self.drops(f, images))

    def sums(self, images: Images, values: Tensor) -> Float[Tensor, "b k"]:
        """Return a map's sum over each cell.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            ShapeError: If the attributions do not fit the images, or these are too small.
        """
        ranked = pixel_map(values).double()
        if (len(values), *values.shape[2:]) != (len(images), *images.shape[2:]):
            msg = (
                f"Attributions must be one map per image, of the image's size; got "
                f"{tuple(values.shape)} for images {tuple(images.shape)}."
            )
            raise ShapeError(msg)
        own = cells_of(images, self.grid).flatten()
        every = torch.arange(self.grid**2, device=images.device)
        return ranked @ (own[:, None] == every).to(ranked)

    def drops(self, f: ScalarFn, images: Images) -> Float[Tensor, "b k"]:
        """Return the fall of the explained value for each cell; one for all maps of the images."""
        own, seen = cells_of(images, self.grid), filled(images, self.fill)
        count, kinds = len(images), self.grid**2 + 1
        every = torch.arange(count * kinds, device=images.device)
        parts: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, len(every), self.batch_size):
                some = every[start : start + self.batch_size]
                rows, which = some % count, some // count
                stays = (own != which.view(-1, 1, 1))[:, None]  # the last kind is the whole image
                parts.append(f.at(rows)(seen(rows, stays)))
        values = torch.cat(parts).double().view(kinds, count).T
        return values[:, -1:] - values[:, :-1]


@final
@dataclass(frozen=True, kw_only=True)
class CellDeletion:
    """Images of which some have one cell deleted: what a network learns before IDSDS judges it.

    The paper fine-tunes for 30 epochs with stochastic gradient descent, rate 1e-3 (a tenth of it
    after every 10), momentum 0.9, weight decay 1e-4, and 256 images a step.

    Args:
        grid: Cells along each side of the image, as in :class:`IDSDS`.
        share: How many of the images lose a cell, from 0 to 1.
        fill: What stands where a cell is deleted.

    References:
        Hesse, Schaub-Meyer and Roth (2024), "Benchmarking the Attribution Quality of Vision
        Models".
    """

    grid: int = 4
    share: float = 0.5
    fill: Baseline = field(default_factory=Zero)

    def __post_init__(self) -> None:
        """Check the settings."""
        check_grid(self.grid)
        if not 0 <= self.share <= 1:
            msg = f"share is one of the images, from 0 to 1; got {self.share}."
            raise SettingError(msg)

    def __call__(self, images: Images, generator: torch.Generator | None = None) -> Images:
        """Return the images, each with its own draw.

        Args:
            images: ``(b, c, h, w)``, preprocessed.
            generator: Of the draws, on the CPU; PyTorch's own, as for dropout, if None.
        """
        count = len(images)
        chosen = torch.rand(count, generator=generator) < self.share
        which = torch.randint(self.grid**2, (count,), generator=generator)
        which = which.masked_fill(~chosen, -1).to(images.device)
        gone = (cells_of(images, self.grid) == which.view(-1, 1, 1))[:, None]
        return torch.where(gone, self.fill(images), images)


@final
class CellDropout(nn.Module):
    """:class:`CellDeletion` in front of a network: in train mode only, as dropout is.

    ``nn.Sequential(CellDropout(), model)`` goes into any training, and afterwards its last part is
    the network. It has no parameters, and deleting cells with zeros is homogeneous, so an X-DNN
    stays one.

    Args:
        deletion: What is deleted, and how often.
    """

    def __init__(self, deletion: CellDeletion | None = None) -> None:
        super().__init__()
        self.deletion = CellDeletion() if deletion is None else deletion

    def forward(self, images: Tensor) -> Tensor:
        """Return the images, some without a cell in train mode."""
        return self.deletion(images) if self.training else images


def cells_of(images: Images, grid: int) -> Int[Tensor, "h w"]:
    """Return for each pixel the number of its cell, row by row.

    Raises:
        ShapeError: If there are more cells than pixels along a side.
    """
    height, width = check_images(images).shape[2:]
    if min(height, width) < grid:
        msg = (
            f"A grid of {grid} x {grid} cells needs images of {grid} x {grid} pixels or more; got "
            f"{height} x {width}. Take a smaller grid."
        )
        raise ShapeError(msg)
    rows = torch.arange(height, device=images.device) * grid // height
    columns = torch.arange(width, device=images.device) * grid // width
    return rows[:, None] * grid + columns


def check_grid(grid: int) -> None:
    """Refuse a grid of one cell, in which nothing can be ranked."""
    if grid < TWO:
        msg = f"grid is the number of cells along a side, 2 or more; got {grid}."
        raise SettingError(msg)
