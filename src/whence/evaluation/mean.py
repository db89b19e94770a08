r"""Mean: a metric's value over a dataset, with the uncertainty that comes from the images."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Labels
from whence.errors import DataError, SettingError, ShapeError

__all__ = ["Estimate", "Mean"]

UNDEFINED: Final = "the metric is undefined there"
"""The reason where none is given: the metric's description says when it is undefined."""


@final
@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over images.

    Args:
        mean: The mean of the defined values.
        low: Lower end of the bootstrap interval.
        high: Upper end of the bootstrap interval.
        count: Images with a defined value.
        undefined: Images without a value, left out of the mean.
        reasons: Why, and how many images for each reason; as many as are undefined together.
    """

    mean: float
    low: float
    high: float
    count: int
    undefined: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the mean with its interval, and what was left out."""
        if self.count > 1:
            text = f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}], {self.count} images"
        else:
            text = f"{self.mean:.4g}, 1 image, which has no interval"
        if not self.undefined:
            return text
        text = f"{text}, {self.undefined} undefined"
        why = "; ".join(f"{number}: {reason}" for reason, number in self.reasons.items())
        return f"{text} ({why})" if why else text


@final
@dataclass(kw_only=True)
class Mean:
    """A statistic of one value per image: its mean and a bootstrap interval over images.

    Values are kept under the image's number, so ``whole == left.merge(right)`` holds to the bit,
    whatever the order; 100 bytes or so per image.

    Args:
        confidence: Of the percentile interval, between 0 and 1.
        draws: Resamples of the images.
        seed: Seed of the resamples.
    """

    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0
    values: dict[int, float] = field(default_factory=dict, repr=False)
    reasons: dict[int, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.confidence < 1 or self.draws < 1:
            msg = (
                f"A bootstrap needs a confidence between 0 and 1 and at least one draw; "
                f"got {self.confidence} and {self.draws}."
            )
            raise SettingError(msg)

    def update(
        self,
        indices: Labels,
        values: Float[Tensor, " n"],
        reasons: Sequence[str] | None = None,
    ) -> None:
        """Take in one value per image.

        Args:
            indices: The images' places in the dataset.
            values: What a metric returned for them; NaN where it is undefined.
            reasons: Why an image has no value, empty where it has one: those of
                :func:`whence.evaluation.judge`. None to leave it at that it has none.

        Raises:
            DataError: If an image was taken in before.
            ShapeError: If there is not one of everything for each image.
        """
        if indices.shape != values.shape:
            msg = f"One number per value is needed; got {len(indices)} for {len(values)} values."
            raise ShapeError(msg)
        if reasons is not None and len(reasons) != len(values):
            msg = f"One reason per value is needed; got {len(reasons)} for {len(values)} values."
            raise ShapeError(msg)
        new = dict(zip(indices.tolist(), values.double().tolist(), strict=True))
        repeated = self.values.keys() & new.keys()
        if repeated or len(new) < len(indices):
            which = min(repeated) if repeated else "of the batch"
            msg = f"Image {which} came twice, and would count twice. Give each image once."
            raise DataError(msg)
        self.values.update(new)
        for k, index in enumerate(indices.tolist()):
            if math.isnan(self.values[index]):
                self.reasons[index] = (reasons[k] if reasons is not None else "") or UNDEFINED

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed.

        Raises:
            DataError: If the parts share an image.
            SettingError: If they differ in their settings.
        """
        mine = (self.confidence, self.draws, self.seed)
        if mine != (other.confidence, other.draws, other.seed):
            msg = (
                f"Parts of one mean need one confidence, draws and seed; got {mine} and "
                f"{(other.confidence, other.draws, other.seed)}."
            )
            raise SettingError(msg)
        shared = self.values.keys() & other.values.keys()
        if shared:
            msg = f"Image {min(shared)} is in both parts, and would count twice. Cut them apart."
            raise DataError(msg)
        return Mean(
            confidence=self.confidence,
            draws=self.draws,
            seed=self.seed,
            values=self.values | other.values,
            reasons=self.reasons | other.reasons,
        )

    def result(self) -> Estimate:
        """Return the mean and its interval.

        Raises:
            DataError: If there is no defined value.
        """
        every = torch.tensor([self.values[i] for i in sorted(self.values)], dtype=torch.float64)
        defined = every[~every.isnan()]
        why = Counter(self.reasons[i] for i in sorted(self.reasons))
        if not len(defined):
            told = "".join(f" {number}: {reason}." for reason, number in why.items())
            msg = f"A mean needs a defined value; there are {len(every)} values, all NaN.{told}"
            raise DataError(msg)
        means = self.resampled(defined)
        tail = (1 - self.confidence) / 2
        ends = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64))
        return Estimate(
            mean=float(defined.mean()),
            low=float(ends[0]),
            high=float(ends[1]),
            count=len(defined),
            undefined=len(every) - len(defined),
            reasons=dict(sorted(why.items())),
        )

    def resampled(self, values: Tensor) -> Tensor:
        """Return the means of resamples of the values, drawn with replacement."""
        generator = torch.Generator().manual_seed(self.seed)
        means = [
            values[torch.randint(len(values), (len(values),), generator=generator)].mean()
            for _ in range(self.draws)
        ]
        return torch.stack(means)
