r"""The completeness gap: how far a map is from adding up to what it explains."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool
from torch import Tensor

from whence.core import Baseline, Images, ScalarFn, Scalars, Zero
from whence.errors import SettingError, ShapeError
from whence.evaluation.metric import MetricCard, pixel_map

__all__ = ["CompletenessGap"]


@final
@dataclass(frozen=True, kw_only=True)
class CompletenessGap:
    r"""How far the values are from adding up to the difference that they explain.

    .. math:: \frac{\big|\sum_i a_i - (f(x) - f(\tilde x))\big|}{|f(x) - f(\tilde x)|}

    in double precision; the numerator alone if not ``relative``. Exact; two forward passes. Ask
    for equality and rounding answers: :meth:`complete` asks for a tolerance. NaN for a relative
    gap where the difference is zero but the sum is not; 0 where both are.

    Args:
        fill: The baseline that the method compares with; None for methods whose values add up to
            ``f(x)`` itself, such as relevance.
        relative: Divide by the difference.
        tolerance: Of :meth:`complete`, for the gap.

    References:
        Sundararajan, Taly and Yan (2017), "Axiomatic Attribution for Deep Networks",
        Proposition 1 (completeness).
    """

    fill: Baseline | None = field(default_factory=Zero)
    relative: bool = True
    tolerance: float = 0.01

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=0.0,
        high=torch.inf,
        chance="1 for a relative gap of a map that adds up to zero",
        reference="Sundararajan, Taly and Yan (2017), Axiomatic Attribution, Proposition 1",
    )

    def __post_init__(self) -> None:
        """Check the tolerance."""
        if not self.tolerance >= 0:
            msg = f"tolerance is a gap of 0 or more; got {self.tolerance}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one gap per image.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            ShapeError: If there is not one map of the image's size per image.
        """
        total = pixel_map(values).double().sum(dim=1)
        if (len(values), *values.shape[2:]) != (len(images), *images.shape[2:]):
            msg = (
                f"One map per image is needed, of the image's size; got {tuple(values.shape)} for "
                f"images {tuple(images.shape)}."
            )
            raise ShapeError(msg)
        with torch.no_grad():
            difference = f(images).double()
            if self.fill is not None:
                difference = difference - f(self.fill(images)).double()
        miss = (total - difference).abs()
        if not self.relative:
            return miss
        sizes = torch.where(difference == 0, torch.nan, difference.abs())
        return torch.where(miss == 0, miss, miss / sizes)

    def complete(self, f: ScalarFn, images: Images, values: Tensor) -> Bool[Tensor, " b"]:
        """Return which maps add up within the tolerance; an undefined gap does not."""
        return self(f, images, values) <= self.tolerance
