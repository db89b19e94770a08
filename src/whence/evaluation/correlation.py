r"""Correlations of what a map says of random subsets with what the function loses without them.

Each subset is removed from the whole image, never on top of another.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.core import Images, Mean, ScalarFn, Scalars, Zero
from whence.errors import SettingError
from whence.evaluation.faithfulness import Curve, check_settings
from whence.evaluation.metric import MetricCard, pixel_map
from whence.evaluation.pearson import POINTS, pearson, rounding, summed
from whence.evaluation.steps import Fill, Segments, Squares, answers, filled, labelled

__all__ = ["FaithfulnessCorrelation", "SensitivityN"]


@final
@dataclass(frozen=True, kw_only=True)
class FaithfulnessCorrelation:
    r"""Correlation of a map's sum over random subsets with the fall of the value without them.

    .. math:: \operatorname{corr}_S\Big(\sum_{i \in S} a_i,\;
              f(x) - f(x_{S \leftarrow \tilde x})\Big)

    Pearson's, over subsets of one size, which are the same for all images. On a linear function
    it is 1 for the true contributions. With a small share of single pixels of a large image every
    fall is rounding and noise: take a larger share, or segments.

    NaN where a map gives all subsets one sum, or where no subset changes the value.

    Args:
        share: How many of the segments are in a subset, over 0 and under 1.
        subsets: How many are drawn; the cost is half a pass for each, and one for the image.
        segments: Which pixels go together.
        fill: What replaces a pixel.
        batch_size: Changed images per forward pass.
        seed: Seed of the subsets.

    References:
        Bhatt, Weller and Moura (2020), "Evaluating and Aggregating Feature-based Model
        Explanations", Definition 4.
    """

    share: float = 0.1
    subsets: int = 100
    segments: Segments = field(default_factory=Squares)
    fill: Fill = field(default_factory=Mean)
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0",
        reference="Bhatt, Weller and Moura (2020), Evaluating and Aggregating Explanations",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_subsets((self.share,), self.subsets, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one correlation per image.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            SettingError: If all subsets of this size are the same.
            ShapeError: If the attributions or the segments do not fit the images.
        """
        draws = Draws(count=self.subsets, segments=self.segments, fill=self.fill, seed=self.seed)
        return correlations(f, images, values, draws, (self.share,), self.batch_size)[:, 0]


@final
@dataclass(frozen=True, kw_only=True)
class SensitivityN:
    r"""The mean of :class:`FaithfulnessCorrelation` over growing sizes ``n`` of the subsets.

    A map satisfies sensitivity-n if its sums over all subsets of ``n`` pixels equal the falls of
    the value; how far that holds is measured by their correlation, for each size by itself.
    :meth:`curve` returns it size by size. NaN where a size has none.

    Args:
        shares: Sizes, as shares of the segments; over 0, under 1.
        subsets: Drawn for each size; the cost is half a pass for each.
        segments: Which pixels go together.
        fill: What replaces a pixel; in the paper zero.
        batch_size: Changed images per forward pass.
        seed: Seed of the subsets.

    References:
        Ancona et al. (2018), "Towards better understanding of gradient-based attribution methods
        for Deep Neural Networks", section 4: 100 subsets, sizes up to 80 % of the pixels.
    """

    shares: tuple[float, ...] = (0.01, 0.03, 0.1, 0.2, 0.4, 0.8)
    subsets: int = 100
    segments: Segments = field(default_factory=Squares)
    fill: Fill = field(default_factory=Zero)
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0",
        reference="Ancona et al. (2018), Towards better understanding, section 4",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_subsets(self.shares, self.subsets, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one mean correlation per image; see :class:`FaithfulnessCorrelation`."""
        return self.curve(f, images, values).values.mean(dim=1)

    def curve(self, f: ScalarFn, images: Images, values: Tensor) -> Curve:
        """Return the correlation for each size."""
        draws = Draws(count=self.subsets, segments=self.segments, fill=self.fill, seed=self.seed)
        found = correlations(f, images, values, draws, self.shares, self.batch_size)
        return Curve(fractions=torch.tensor(self.shares, dtype=torch.float64), values=found)


@final
@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random subsets of segments, and what replaces them."""

    count: int
    segments: Segments
    fill: Fill
    seed: int

    def orders(self, most: int) -> Int[Tensor, "m k"]:
        """Return so many random orders of as many segments as an image may have."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.stack([torch.randperm(most, generator=generator) for _ in range(self.count)])


def correlations(
    f: ScalarFn,
    images: Images,
    values: Tensor,
    draws: Draws,
    shares: tuple[float, ...],
    batch_size: int,
) -> Float[Tensor, "b s"]:
    """Return the correlation of sums and falls over random subsets of each size."""
    ranked = pixel_map(values).double()
    labels = labelled(images, values, draws.segments)
    present, sums = summed(ranked, labels)
    counts = present.sum(dim=1)
    orders = draws.orders(present.shape[1]).to(images.device)
    whole = answers(f, images, 1, lambda rows, _: images[rows], batch_size)
    changed = filled(images, draws.fill)
    height, width = images.shape[2:]
    found: list[Tensor] = []
    for share in shares:
        sizes = (share * counts).round().clamp(min=1)
        if bool((sizes >= counts).any()):
            k = int((sizes >= counts).nonzero()[0, 0])
            msg = (
                f"A share of {share:g} of the {int(counts[k])} segments of image {k} is all of "
                f"them, so all subsets are the same. Take a smaller share or smaller segments."
            )
            raise SettingError(msg)
        members = torch.stack(
            [subset(orders, int(size), p) for size, p in zip(sizes, present, strict=True)]
        )

        def without(rows: Tensor, which: Tensor, members: Tensor = members) -> Images:
            gone = members[rows, which].gather(1, labels[rows])
            made: Images = changed(rows, ~gone.view(len(rows), 1, height, width))
            return made

        seen = answers(f, images, draws.count, without, batch_size)
        told = (members.double() @ sums[:, :, None])[..., 0]
        every = torch.ones_like(told, dtype=torch.bool)
        found.append(pearson(told, whole - seen, every, rounding(images, whole, seen)))
    return torch.stack(found, dim=1)


def subset(
    orders: Int[Tensor, "m k"], size: int, present: Bool[Tensor, " k"]
) -> Bool[Tensor, "m k"]:
    """Return the first ``size`` of the segments that an image has, in each order."""
    inside = present[orders]
    first = inside & (inside.cumsum(dim=1) <= size)
    return torch.zeros_like(first).scatter_(1, orders, first)


def check_subsets(shares: tuple[float, ...], subsets: int, batch_size: int) -> None:
    """Refuse shares that leave nothing to draw, and too few points for a correlation."""
    check_settings(1, batch_size)
    if not shares or min(shares) <= 0 or max(shares) >= 1:
        msg = f"The share of a subset is over 0 and under 1; got {shares}."
        raise SettingError(msg)
    if subsets < POINTS:
        msg = f"A correlation needs at least {POINTS} subsets, better 100; got {subsets}."
        raise SettingError(msg)
