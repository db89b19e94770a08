"""Normalisation: between pixels in [0, 1] and the numbers that a model takes."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core.types import Images
from whence.errors import SettingError

__all__ = ["Normalisation"]


@final
@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """``model units = (pixel - mean) / std``, channel by channel, pixels in [0, 1].

    Args:
        mean: One value per channel, or one for all.
        std: One positive value per channel, or one for all.

    Example:
        >>> grey = Normalisation(mean=(0.5,), std=(0.5,))
        >>> grey.to_model(torch.zeros(1, 1, 1, 1)).item()
        -1.0
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Check that the deviations are positive."""
        if not self.mean or not self.std or min(self.std) <= 0:
            msg = f"Normalisation needs means and positive deviations; got {self.mean}, {self.std}."
            raise SettingError(msg)

    def to_model(self, pixels: Tensor) -> Images:
        """Return pixels in [0, 1] as the model takes them."""
        mean, std = self.constants(pixels)
        return (pixels - mean) / std

    def to_pixels(self, images: Images) -> Tensor:
        """Return the model's input as pixels in [0, 1]."""
        mean, std = self.constants(images)
        return images * std + mean

    def span(self, images: Images) -> Tensor:
        """Return the width of the pixel range in model units, ``(1, c, 1, 1)``."""
        return 1 / self.constants(images)[1]

    def constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and deviation shaped to broadcast over images."""
        channels = like.shape[1]
        for values in (self.mean, self.std):
            if len(values) not in (1, channels):
                msg = (
                    f"The normalisation has {len(values)} channels, the images have {channels}. "
                    f"Give one value per channel, or one for all."
                )
                raise SettingError(msg)
        mean, std = (
            torch.tensor(v, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
            for v in (self.mean, self.std)
        )
        return mean, std
