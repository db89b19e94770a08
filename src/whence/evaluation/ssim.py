r"""SSIM: how alike two maps look, their local means, contrasts and patterns together."""

import math
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

__all__ = ["SSIM"]

LIGHT, CONTRAST = 0.01, 0.03
"""The constants K1 and K2 of the paper, for a range of 1."""

TRUNCATE: Final = 3.5
"""Where the Gaussian window ends, in standard deviations: 11 pixels for 1.5."""


@final
@dataclass(frozen=True, kw_only=True)
class SSIM:
    r"""The mean structural similarity of two maps, each first brought to the range from 0 to 1.

    .. math:: \frac{(2 \mu \mu' + c_1)(2 \sigma_{xy} + c_2)}
                   {(\mu^2 + \mu'^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}

    with means, variances and covariance under a Gaussian window, averaged over the places where
    the whole window lies on the map. Sparse maps are alike nearly everywhere, because both are
    nearly zero there: compare with the floor of maps of different images. NaN where a map is
    constant, which has no range.

    Args:
        absolute: Compare the sizes of the pixels' values, whatever their signs.
        sigma: Of the window, in pixels.

    References:
        Wang et al. (2004), "Image Quality Assessment: From Error Visibility to Structural
        Similarity", Eq. 13.
    """

    absolute: bool = False
    sigma: float = 1.5

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=-1.0,
        high=1.0,
        chance="that of maps of different images, which is over 0 for sparse maps",
        reference="Wang et al. (2004), Image Quality Assessment, Eq. 13",
    )

    def __post_init__(self) -> None:
        """Check the window."""
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            msg = f"sigma is the window's width in pixels, over 0; got {self.sigma}."
            raise SettingError(msg)

    def __call__(self, values: Attributions, others: Tensor) -> Scalars:
        """Return one similarity per image.

        Raises:
            ShapeError: If the maps differ in their number or size, or the window does not fit.
        """
        first, second = (
            ranged(one.abs() if self.absolute else one) for one in paired(values, others)
        )
        size = tuple(values.shape[2:])
        kernel = window(self.sigma).to(first)
        if len(kernel) > min(size):
            fits = ((min(size) - 1) // 2 + 0.4) / TRUNCATE
            msg = (
                f"A window of {len(kernel)} pixels (sigma {self.sigma}) does not fit on maps of "
                f"{size}. Give SSIM a smaller sigma, at most {fits:.2f}."
            )
            raise ShapeError(msg)
        one, two = (x.view(-1, 1, *size) for x in (first, second))
        together = torch.cat([one, two, one * one, two * two, one * two], dim=1)
        mean, other, square, other_square, product = smoothed(together, kernel).unbind(dim=1)
        light, contrast = LIGHT**2, CONTRAST**2
        alike = (2 * mean * other + light) / (mean * mean + other * other + light)
        spread = (square - mean * mean) + (other_square - other * other) + contrast
        found: Tensor = alike * (2 * (product - mean * other) + contrast) / spread
        return found.mean(dim=(1, 2)).to(values.dtype)


def ranged(values: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
    """Return each map brought to the range from 0 to 1, in double precision; NaN if constant."""
    double = values.double()
    low = double.amin(dim=1, keepdim=True)
    return (double - low) / (double.amax(dim=1, keepdim=True) - low)


def window(sigma: float) -> Tensor:
    """Return a Gaussian of sum 1, cut where the paper's window of 11 pixels ends."""
    radius = int(TRUNCATE * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    return kernel / kernel.sum()


def smoothed(values: Float[Tensor, "b k h w"], kernel: Tensor) -> Tensor:
    """Return local means under the window, where all of it lies on the map."""
    count = values.shape[1]
    rows = kernel.view(1, 1, -1, 1).expand(count, 1, -1, 1)
    columns = kernel.view(1, 1, 1, -1).expand(count, 1, 1, -1)
    return functional.conv2d(functional.conv2d(values, rows, groups=count), columns, groups=count)
