"""Superpixels: which pixels of an image belong together. The one door to scikit-image."""

from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from whence.core import Images
from whence.errors import MissingExtra, SettingError

__all__ = ["SLIC", "Grid", "Superpixels", "superpixels_named", "superpixels_written"]


@runtime_checkable
class Superpixels(Protocol):
    """Maps images to the superpixel of each pixel."""

    def __call__(self, images: Images) -> Tensor:
        """Return labels ``(b, h, w)``, whole numbers from 0, none of them left out."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Grid:
    """Superpixels that are the cells of a regular grid.

    Args:
        cells: Cells along each side.
    """

    cells: int = 7

    def __post_init__(self) -> None:
        """Check that there is a cell."""
        if self.cells < 1:
            msg = f"cells must be at least 1; got {self.cells}."
            raise SettingError(msg)

    def __call__(self, images: Images) -> Tensor:
        """Return the cell of each pixel."""
        rows, columns = (
            torch.arange(size, device=images.device) * min(self.cells, size) // size
            for size in images.shape[2:]
        )
        labels = rows[:, None] * min(self.cells, images.shape[3]) + columns
        return labels.expand(len(images), -1, -1)


@final
@dataclass(frozen=True, kw_only=True)
class SLIC:
    """Superpixels that follow the image: clusters of neighbouring pixels of like colour.

    Needs scikit-image: ``pip install whence[superpixels]``.

    Args:
        segments: About how many.
        compactness: How much nearness counts beside colour; images are scaled to [0, 1].

    References:
        Achanta et al. (2012), "SLIC Superpixels Compared to State-of-the-Art Superpixel Methods".
    """

    segments: int = 50
    compactness: float = 0.1

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.segments < 1 or not self.compactness > 0:
            msg = (
                f"segments is at least 1 and compactness above 0; got {self.segments} and "
                f"{self.compactness}."
            )
            raise SettingError(msg)

    def __call__(self, images: Images) -> Tensor:
        """Return the superpixel of each pixel, image by image."""
        slic = open_slic()
        low, high = images.flatten(1).aminmax(dim=1)
        span = torch.where(high > low, high - low, 1.0).view(-1, 1, 1, 1)
        pixels = ((images - low.view(-1, 1, 1, 1)) / span).movedim(1, 3).double().cpu()
        labels = []
        for image in pixels:
            found = slic(
                image.numpy(),
                n_segments=self.segments,
                compactness=self.compactness,
                convert2lab=False,
                start_label=0,
                channel_axis=-1,
            )
            _, dense = torch.unique(torch.from_numpy(found), return_inverse=True)
            labels.append(dense.reshape(found.shape))
        return torch.stack(labels).to(images.device)


def open_slic() -> Any:  # noqa: ANN401 - scikit-image's own type
    """Import scikit-image's SLIC.

    Raises:
        MissingExtra: If scikit-image is not installed.
    """
    try:
        from skimage.segmentation import slic  # noqa: PLC0415 - the door opens late
    except ModuleNotFoundError as error:
        raise MissingExtra("scikit-image", "superpixels", "SLIC superpixels") from error  # noqa: EM101 - a package's name
    return slic


def superpixels_named(name: str) -> Superpixels:
    """Return superpixels by name: ``grid``, ``grid:9`` (cells), ``slic``, ``slic:80`` (segments).

    Raises:
        SettingError: If the name is another, or what follows it is no number.
    """
    kind, _, number = name.partition(":")
    if kind in ("grid", "slic") and (not number or number.isdecimal()):
        if kind == "grid":
            return Grid(cells=int(number)) if number else Grid()
        return SLIC(segments=int(number)) if number else SLIC()
    msg = f"Unknown superpixels {name!r}. Choose grid, grid:9, slic or slic:80, for example."
    raise SettingError(msg)


def superpixels_written(superpixels: Superpixels) -> str:
    """Return the name that :func:`superpixels_named` reads."""
    if isinstance(superpixels, Grid):
        return f"grid:{superpixels.cells}"
    return f"slic:{superpixels.segments}" if isinstance(superpixels, SLIC) else str(superpixels)
