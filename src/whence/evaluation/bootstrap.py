r"""Bootstrap: intervals of means, of curves, and of differences that are paired by image.

Resamples are the same as those of :class:`whence.evaluation.Mean`: of the same values, with the
same settings, they give the same interval. Where trainings were repeated, the interval grows by
what another training may change.
"""

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation.mean import UNDEFINED, Estimate

__all__ = ["Band", "Bootstrap", "Comparison"]

HELD = 2**22
"""Numbers of resamples in memory at a time."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """The mean of curves over images, with an interval at each point.

    Args:
        mean: ``(s,)``.
        low: Lower ends, ``(s,)``.
        high: Upper ends, ``(s,)``.
        count: Images whose curve is defined everywhere; the others are left out.
    """

    mean: Tensor
    low: Tensor
    high: Tensor
    count: int


@final
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method against a control on the same images.

    Args:
        difference: The mean over images of the method's value less the control's, with its
            interval; over the images on which both are defined. None if there are none.
        verdict: ``better`` or ``worse`` where the interval lies on one side of 0; ``no claim``
            where it covers 0, where there are too few images for any claim, or where nothing is
            better by definition.
        reason: Why there is no claim; empty if there is one.
    """

    difference: Estimate | None
    verdict: Literal["better", "worse", "no claim"]
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """Percentile intervals from resamples of the images.

    Args:
        confidence: Between 0 and 1.
        draws: Resamples.
        seed: Seed of the resamples.
    """

    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.confidence < 1 or self.draws < 1:
            msg = (
                f"A bootstrap needs a confidence between 0 and 1 and at least one draw; "
                f"got {self.confidence} and {self.draws}."
            )
            raise SettingError(msg)

    @property
    def least(self) -> int:
        r"""The fewest images on which any claim can hold.

        A difference without direction has the same sign on all of ``n`` images with probability
        :math:`2^{1 - n}`, which must be at most 1 - confidence: 6 images for 95 %.
        """
        return 1 + math.ceil(-math.log2(1 - self.confidence) - 1e-9)

    def estimate(self, values: Float[Tensor, "*r n"]) -> Estimate | None:
        r"""Return the mean of the defined values with its interval; None if none is defined.

        Values of repetitions, ``(r, n)``, are averaged over them, and what another image may change
        (the bootstrap) and what another training may change (Student's t over the means of the
        repetitions, of ``r - 1`` degrees) add up in squares:
        :math:`\bar v - \sqrt{(\bar v - low)^2 + t^2 s^2 / r}`. One repetition says nothing of the
        second, so that its interval is that of the images alone.

        Args:
            values: One value per image, or one per repetition and image; an image with a NaN in
                any repetition is left out.
        """
        every = values.double()
        images = every if every.ndim == 1 else every.mean(dim=0)
        defined = images[~images.isnan()]
        if not len(defined):
            return None
        mean = float(defined.mean())
        low, high = (float(end) for end in self.ends(self.means(defined[:, None])[:, 0]))
        if every.ndim > 1 and len(every) > 1:
            repeated = every[:, ~images.isnan()].mean(dim=1)
            more = student(self.confidence, len(every) - 1) * float(repeated.std())
            more /= math.sqrt(len(every))
            low, high = mean - math.hypot(mean - low, more), mean + math.hypot(high - mean, more)
        undefined = len(images) - len(defined)
        return Estimate(
            mean=mean,
            low=low,
            high=high,
            count=len(defined),
            undefined=undefined,
            reasons={UNDEFINED: undefined} if undefined else {},
        )

    def band(self, curves: Float[Tensor, "n s"]) -> Band:
        """Return the mean curve with an interval at each point.

        Raises:
            DataError: If no curve is defined everywhere.
        """
        defined = curves.double()[~curves.isnan().any(dim=1)]
        if not len(defined):
            msg = f"A band needs a defined curve; there are {len(curves)}, all with a NaN."
            raise DataError(msg)
        low, high = self.ends(self.means(defined))
        return Band(mean=defined.mean(dim=0), low=low, high=high, count=len(defined))

    def compare(
        self,
        values: Float[Tensor, "*r n"],
        control: Tensor,
        better: Literal["higher", "lower", "neither"],
    ) -> Comparison:
        """Return how values differ from a control's on the same images, and what may be claimed.

        Args:
            values: One value per image, or per repetition and image; NaN where it is undefined.
            control: The control's values of the same images, in the same order; another method's
                where two methods are compared.
            better: Which direction is better.

        Raises:
            ShapeError: If there is not one value of the control for each.
        """
        if values.shape != control.shape:
            msg = (
                f"A paired comparison needs one value of the control per image; got "
                f"{tuple(control.shape)} for {tuple(values.shape)}."
            )
            raise ShapeError(msg)
        found = self.estimate(values.double() - control.double())
        if found is None:
            return Comparison(
                difference=None, verdict="no claim", reason="no image on which both are defined"
            )
        if better == "neither":
            reason = "neither direction is better"
        elif found.count < self.least:
            reason = f"{found.count} images, and a claim needs {self.least}"
        elif found.low <= 0 <= found.high:
            reason = "the interval of the difference covers 0"
        else:
            up = found.low > 0
            verdict: Literal["better", "worse"] = (
                "better" if up == (better == "higher") else "worse"
            )
            return Comparison(difference=found, verdict=verdict, reason="")
        return Comparison(difference=found, verdict="no claim", reason=reason)

    def means(self, values: Float[Tensor, "n s"]) -> Float[Tensor, "d s"]:
        """Return the means of resamples of the rows, drawn with replacement."""
        count = len(values)
        generator = torch.Generator().manual_seed(self.seed)
        parts: list[Tensor] = []
        size = max(1, HELD // values.numel())
        for start in range(0, self.draws, size):
            drawn = min(size, self.draws - start)
            rows: Int[Tensor, "d n"] = torch.randint(count, (drawn, count), generator=generator)
            parts.append(values[rows].mean(dim=1))
        return torch.cat(parts)

    def ends(self, means: Float[Tensor, "d ..."]) -> tuple[Tensor, Tensor]:
        """Return the lower and upper end of the percentile interval."""
        tail = (1 - self.confidence) / 2
        low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
        return low, high


def student(confidence: float, degrees: int) -> float:
    r"""Return the end of the interval that holds a share of Student's t, by halving.

    The share inside :math:`\pm t` is a finite sum in :math:`\theta = \arctan(t / \sqrt d)`: for
    even d :math:`\sin\theta\,(1 + \frac{1}{2}\cos^2\theta + \dots)`, for odd d
    :math:`\frac{2}{\pi}(\theta + \sin\theta\,(\cos\theta + \frac{2}{3}\cos^3\theta + \dots))`.

    Args:
        confidence: The share, between 0 and 1.
        degrees: Degrees of freedom, from 1.

    References:
        Abramowitz and Stegun (1964), "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    odd = degrees % 2

    def inside(theta: float) -> float:
        total, term = 0.0, math.cos(theta) if odd else 1.0
        for k in range(2 + odd, degrees + 1, 2):
            total += term
            term *= math.cos(theta) ** 2 * (k - 1) / k
        total *= math.sin(theta)
        return 2 / math.pi * (theta + total) if odd else total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)
