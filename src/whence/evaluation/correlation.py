r"""Correlations of what a map says of parts of an image with what the function loses without them.

The parts are random subsets (faithfulness correlation, sensitivity-n) or the segments one by one
(faithfulness estimate, monotonicity correlation). Each is removed from the whole image, never on
top of another.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Final, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.core import Images, Mean, RandomBaseline, ScalarFn, Scalars, Uniform, Zero
from whence.errors import SettingError, ShapeError
from whence.evaluation.faithfulness import Curve, check_settings
from whence.evaluation.metric import MetricCard, mean_ranks, pixel_map
from whence.evaluation.steps import Fill, Segments, Squares, Tiles, answers, filled, labelled

__all__ = [
    "FaithfulnessCorrelation",
    "FaithfulnessEstimate",
    "MonotonicityCorrelation",
    "SensitivityN",
]

POINTS: Final = 3
"""A correlation of fewer points says nothing: two always lie on a line."""


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
class FaithfulnessEstimate:
    r"""Correlation of each segment's attribution with the fall of the value without it alone.

    .. math:: \operatorname{corr}_k\Big(\sum_{i \in S_k} a_i,\;
              f(x) - f(x_{S_k \leftarrow \tilde x})\Big)

    Exact. Single pixels of a large image change little, and cost a pass each; so tiles are the
    default. NaN where a map gives all segments one value, or where none changes the value.

    Args:
        segments: Which pixels go together; the cost is half a pass for each segment.
        fill: What replaces a segment.
        batch_size: Changed images per forward pass.

    References:
        Alvarez-Melis and Jaakkola (2018), "Towards Robust Interpretability with Self-Explaining
        Neural Networks", section 5.
    """

    segments: Segments = field(default_factory=Tiles)
    fill: Fill = field(default_factory=Zero)
    batch_size: int = 64

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0",
        reference="Alvarez-Melis and Jaakkola (2018), Self-Explaining Neural Networks, section 5",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(1, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one correlation per image.

        Raises:
            ShapeError: If an image has fewer than three segments, or something does not fit.
        """
        ranked = pixel_map(values).double()
        labels = labelled(images, values, self.segments)
        present, sums = summed(ranked, labels)
        found = alone(f, images, labels, self.fill, self.batch_size)
        whole = answers(f, images, 1, lambda rows, _: images[rows], self.batch_size)
        return pearson(sums, whole - found, present, rounding(images, whole, found))


@final
@dataclass(frozen=True, kw_only=True)
class MonotonicityCorrelation:
    r"""Rank correlation of a segment's absolute attribution with the squared change without it.

    .. math:: \rho_S\Big(|\sum_{i \in S_k} a_i|,\;
              \mathbb E_{\tilde x} \big[(f(x) - f(x_{S_k \leftarrow \tilde x}))^2\big]\Big)

    over draws of a random fill; another fill is drawn once. The factor :math:`1 / f(x)^2` of other
    implementations changes no rank and is left out. NaN where a map ranks nothing, or no segment
    changes the value.

    Args:
        segments: Which pixels go together.
        fill: What replaces a segment.
        samples: Draws of the fill; the cost is half a pass for each draw and segment.
        batch_size: Changed images per forward pass.
        seed: Seed of the draws.

    References:
        Nguyen and Martinez (2020), "On quantitative aspects of model interpretability",
        section 3 (monotonicity).
    """

    segments: Segments = field(default_factory=Tiles)
    fill: Fill = field(default_factory=Uniform)
    samples: int = 5
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0",
        reference="Nguyen and Martinez (2020), On quantitative aspects of model interpretability",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(1, self.batch_size)
        if self.samples < 1:
            msg = f"samples must be at least 1; got {self.samples}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one correlation per image.

        Raises:
            ShapeError: If an image has fewer than three segments, or something does not fit.
        """
        ranked = pixel_map(values).double()
        labels = labelled(images, values, self.segments)
        present, sums = summed(ranked, labels)
        whole = answers(f, images, 1, lambda rows, _: images[rows], self.batch_size)
        generator = torch.Generator().manual_seed(self.seed)
        fills: list[Fill] = [self.fill]
        if isinstance(self.fill, RandomBaseline):
            drawn = [self.fill.draw(images, generator) for _ in range(self.samples)]
            fills = [Given(images=some) for some in drawn]
        seen = torch.stack([alone(f, images, labels, fill, self.batch_size) for fill in fills])
        changes = (whole - seen).square().mean(dim=0)
        least = rounding(images, whole, whole).square()
        return torch.stack(
            [
                pearson(mean_ranks(a[None, p]), mean_ranks(c[None, p]), p[None, p], 0 * s[None])[0]
                if c[p].amax() - c[p].amin() > s
                else torch.full_like(s, torch.nan)
                for a, c, p, s in zip(sums.abs(), changes, present, least, strict=True)
            ]
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """A fill that was drawn already."""

    images: Tensor

    def __call__(self, images: Images) -> Images:
        """Return it."""
        del images
        return self.images


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
        means = sums.sum(dim=1) / counts
        even = ((sums - means[:, None]).abs() * present).amax(dim=1)
        told = told.masked_fill((even <= 1e-12 * sums.abs().amax(dim=1))[:, None], 0)
        every = torch.ones_like(told, dtype=torch.bool)
        found.append(pearson(told, whole - seen, every, rounding(images, whole, seen)))
    return torch.stack(found, dim=1)


def alone(
    f: ScalarFn, images: Images, labels: Int[Tensor, "b n"], fill: Fill, batch_size: int
) -> Float[Tensor, "b k"]:
    """Return the value without each segment, one at a time."""
    changed = filled(images, fill)

    def without(rows: Tensor, which: Tensor) -> Images:
        stays = labels[rows] != which[:, None]
        return changed(rows, stays.view(len(rows), 1, *images.shape[2:]))

    return answers(f, images, int(labels.max()) + 1, without, batch_size)


def subset(
    orders: Int[Tensor, "m k"], size: int, present: Bool[Tensor, " k"]
) -> Bool[Tensor, "m k"]:
    """Return the first ``size`` of the segments that an image has, in each order."""
    inside = present[orders]
    first = inside & (inside.cumsum(dim=1) <= size)
    return torch.zeros_like(first).scatter_(1, orders, first)


def summed(
    ranked: Float[Tensor, "b n"], labels: Int[Tensor, "b n"]
) -> tuple[Bool[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Return which segments there are, and a map's sum over each of them.

    Raises:
        ShapeError: If an image has fewer than three, which no correlation can be drawn from.
    """
    most = int(labels.max()) + 1
    sums = ranked.new_zeros(len(ranked), most).scatter_add_(1, labels, ranked)
    sizes = torch.zeros_like(sums).scatter_add_(1, labels, torch.ones_like(ranked))
    present = sizes > 0
    few = present.sum(dim=1) < POINTS
    if bool(few.any()):
        k = int(few.nonzero()[0, 0])
        msg = (
            f"A correlation needs at least {POINTS} segments per image; {int(few.sum())} of "
            f"{len(few)} images have fewer, first image {k} with {int(present[k].sum())}. Take "
            f"smaller segments."
        )
        raise ShapeError(msg)
    return present, sums


def rounding(images: Images, whole: Tensor, found: Tensor) -> Scalars:
    """Return the size below which changes of the value are rounding, per image."""
    size = torch.maximum(whole.abs().amax(dim=1), found.abs().amax(dim=1))
    return 16 * torch.finfo(images.dtype).eps * size


def pearson(
    first: Float[Tensor, "b k"],
    second: Float[Tensor, "b k"],
    present: Bool[Tensor, "b k"],
    least: Float[Tensor, " b"],
) -> Scalars:
    """Return the correlation of each row's present points.

    NaN where the first points are equal but for rounding, or the second within ``least``.
    """
    count = present.sum(dim=1, keepdim=True)
    centred = []
    for points in (first, second):
        mean = (points * present).sum(dim=1, keepdim=True) / count
        centred.append((points - mean) * present)
    one, two = centred
    sizes = one.square().sum(dim=1).sqrt() * two.square().sum(dim=1).sqrt()
    found = ((one * two).sum(dim=1) / sizes).clamp(-1, 1)
    flat = one.abs().amax(dim=1) <= 1e-12 * (first.abs() * present).amax(dim=1)
    still = two.abs().amax(dim=1) <= least
    return found.masked_fill(flat | still, torch.nan)


def check_subsets(shares: tuple[float, ...], subsets: int, batch_size: int) -> None:
    """Refuse shares that leave nothing to draw, and too few points for a correlation."""
    check_settings(1, batch_size)
    if not shares or min(shares) <= 0 or max(shares) >= 1:
        msg = f"The share of a subset is over 0 and under 1; got {shares}."
        raise SettingError(msg)
    if subsets < POINTS:
        msg = f"A correlation needs at least {POINTS} subsets, better 100; got {subsets}."
        raise SettingError(msg)
