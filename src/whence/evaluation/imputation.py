r"""Imputation: pixels that are gone are guessed from those beside them, as ROAD does."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from whence.core import Images
from whence.errors import NumericsError, SettingError

__all__ = ["NoisyLinear"]

KERNEL = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
"""Weights of the eight neighbours: a sixth beside, a twelfth across the corner."""

ROUNDS = 40
"""Steps of the solver at most, for each pixel of the image's sides."""


@final
@dataclass(frozen=True, kw_only=True)
class NoisyLinear:
    r"""Each missing pixel is the weighted mean of its eight neighbours, plus a little noise.

    .. math:: x_i \sum_{j \in N(i)} w_j = \sum_{j \in N(i)} w_j x_j

    for all missing pixels at once, with :math:`w = 1/6` beside and :math:`1/12` across a corner,
    over the neighbours that lie in the image. So the mask's shape, from which a network could tell
    the class, hardly shows. The system is symmetric and positive, and is solved for a whole batch
    on its device by preconditioned conjugate gradients, to the ``tolerance``.

    Constant images are reproduced, and linear ramps in holes that do not touch the border. Where
    nothing is left of an image, all its pixels are its mean colour.

    Args:
        noise: Standard deviation of the noise, as a fraction of each image's range of values.
        tolerance: Of the residual, relative to the right-hand side.
        seed: Seed of the noise; one draw for all images, made on the CPU.

    References:
        Rong et al. (2022), "A Consistent and Efficient Evaluation Strategy for Attribution
        Methods", which calls it noisy linear imputation.
    """

    noise: float = 0.01
    tolerance: float = 1e-6
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.noise < 0 or not self.tolerance > 0:
            msg = (
                f"NoisyLinear needs noise of 0 or more and a tolerance above 0; got {self.noise} "
                f"and {self.tolerance}."
            )
            raise SettingError(msg)

    def impute(self, images: Images, gone: Bool[Tensor, "b 1 h w"]) -> Images:
        """Return the images with the pixels that are gone imputed.

        Raises:
            NumericsError: If the solver does not reach the tolerance.
        """
        lost = gone.flatten(1).all(dim=1).view(-1, 1, 1, 1)
        guessed = self.solved(images.double(), gone & ~lost).to(images)
        guessed = torch.where(lost, images.mean(dim=(2, 3), keepdim=True), guessed)
        low, high = images.flatten(1).aminmax(dim=1)
        drawn = torch.randn(
            images.shape[1:],
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float64,
        ).to(images)
        span = (high - low).view(-1, 1, 1, 1)
        return torch.where(gone, guessed + self.noise * span * drawn, images)

    def solved(self, images: Images, gone: Bool[Tensor, "b 1 h w"]) -> Images:
        """Return the solution of the system at the missing pixels, zero elsewhere."""
        missing = gone.to(images)
        known = images * (1 - missing)
        weight = neighbours(torch.ones_like(images[:1, :1]))
        left = (1 - missing).sum(dim=(2, 3), keepdim=True)
        # The mean of what is left is nearer to the solution than zero is.
        x = missing * known.sum(dim=(2, 3), keepdim=True) / left
        wanted = missing * neighbours(known)
        enough = self.tolerance**2 * inner(wanted, wanted).clamp(min=torch.finfo(x.dtype).tiny)
        rest = wanted - missing * (weight * x - neighbours(x))
        scaled = rest / weight
        way, size = scaled, inner(rest, scaled)
        for _ in range(ROUNDS * sum(images.shape[2:])):
            open_ones = inner(rest, rest) > enough
            if not bool(open_ones.any()):
                return x
            moved = missing * (weight * way - neighbours(way))
            step = torch.where(open_ones, size / inner(way, moved), 0.0)
            x, rest = x + step * way, rest - step * moved
            scaled = rest / weight
            new = inner(rest, scaled)
            way = scaled + torch.where(open_ones, new / size, 0.0) * way
            size = new
        msg = (
            f"The imputation did not come to a tolerance of {self.tolerance:g}. Look for values "
            f"that are not finite in the images, or raise the tolerance."
        )
        raise NumericsError(msg)


def neighbours(images: Images) -> Images:
    """Return the weighted sum of each pixel's neighbours that lie in the image."""
    channels = images.shape[1]
    kernel = torch.tensor(KERNEL, dtype=images.dtype, device=images.device)
    return functional.conv2d(images, kernel.expand(channels, 1, 3, 3), padding=1, groups=channels)


def inner(one: Images, other: Tensor) -> Float[Tensor, "b 1 1 1"]:
    """Return the inner product of each image with another."""
    return (one * other).sum(dim=(1, 2, 3), keepdim=True)
