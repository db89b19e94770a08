r"""Perturbation: how the explained value follows as an attribution's segments are replaced.

A map orders pixels, squares or superpixels; they are replaced in this order, the most or the least
relevant first, and the function is evaluated along the way. Curves begin with the whole image, and
areas are over the share of segments that is gone, so that neither the number of steps nor that of
segments scales them.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from whence.core import Images, Mean, ScalarFn, Scalars, Uniform, Zero
from whence.errors import SettingError
from whence.evaluation.faithfulness import Curve, check_settings
from whence.evaluation.imputation import NoisyLinear
from whence.evaluation.metric import MetricCard
from whence.evaluation.steps import Fill, Segments, Squares, ordered, removed

__all__ = ["IROF", "ROAD", "SRG", "PixelFlipping", "RegionPerturbation"]

ORDERS: Final = ("most", "least")
CHANCE = "that of random_order(images)"


@final
@dataclass(frozen=True, kw_only=True)
class PixelFlipping:
    r"""The area under the explained value while single pixels are replaced.

    .. math:: \int_0^1 f(x_p)\, dp

    by the trapezoid rule, where a share ``p`` of the pixels is gone. With the most relevant first
    and a fill of zero this is :class:`whence.evaluation.Deletion`.

    Args:
        order: ``most`` or ``least`` relevant pixels first; a lower area is better with the most
            relevant first, a higher one with the least.
        steps: Equal steps; the cost is ``steps + 1`` forward passes.
        fill: What replaces a pixel.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal pixels.

    References:
        Bach et al. (2015), "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by
        Layer-Wise Relevance Propagation" (pixel flipping).
    """

    order: str = "most"
    steps: int = 20
    fill: Fill = field(default_factory=Zero)
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_order(self.order)
        check_settings(self.steps, self.batch_size)

    @property
    def card(self) -> MetricCard:
        """What to know before reading the numbers."""
        return MetricCard(
            better="lower" if self.order == "most" else "higher",
            low=-torch.inf,
            high=torch.inf,
            chance=CHANCE,
            reference="Bach et al. (2015), Layer-Wise Relevance Propagation (pixel flipping)",
        )

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one area per image."""
        return self.curve(f, images, values).area

    def curve(self, f: ScalarFn, images: Images, values: Tensor) -> Curve:
        """Return the explained value after each step."""
        signed = values if self.order == "most" else -values
        pixels = Squares()
        found = shares(f, images, signed, pixels, self.steps, self.fill, self.batch_size, self.seed)
        return Curve(fractions=found.fractions[0], values=found.values)


@final
@dataclass(frozen=True, kw_only=True)
class RegionPerturbation:
    r"""The mean fall of the explained value while regions are replaced one by one (AOPC).

    .. math:: \mathrm{AOPC} = \frac{1}{L + 1} \sum_{k=0}^{L} f(x) - f(x_k)

    where the first ``k`` regions are gone. Regions are ordered by their mean attribution.

    Args:
        order: ``most`` or ``least`` relevant regions first; a higher value is better with the most
            relevant first, a lower one with the least.
        segments: Which pixels form a region; in the paper squares of 9 x 9.
        steps: The number ``L`` of regions that go, or all if there are fewer; the cost is
            ``L + 1`` forward passes.
        fill: What replaces a region; in the paper noise, uniform over the range of the pixels.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal regions.

    References:
        Samek et al. (2017), "Evaluating the Visualization of What a Deep Neural Network Has
        Learned" (area over the MoRF perturbation curve).
    """

    order: str = "most"
    segments: Segments = field(default_factory=lambda: Squares(size=9))
    steps: int = 100
    fill: Fill = field(default_factory=Uniform)
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_order(self.order)
        check_settings(self.steps, self.batch_size)

    @property
    def card(self) -> MetricCard:
        """What to know before reading the numbers."""
        return MetricCard(
            better="higher" if self.order == "most" else "lower",
            low=-torch.inf,
            high=torch.inf,
            chance=CHANCE,
            reference="Samek et al. (2017), Evaluating the Visualization of What a DNN Has Learned",
        )

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one value per image."""
        signed = values if self.order == "most" else -values
        order = ordered(images, signed, self.segments, self.seed)
        steps = min(self.steps, int(order.counts.max()))
        ends = torch.arange(steps + 1, device=images.device).expand(len(images), -1)
        last = order.counts[:, None].clamp(max=steps)
        found = removed(f, images, order, ends.clamp(max=last), self.fill, self.batch_size)
        falls = (found[:, :1] - found).masked_fill(ends > last, 0)
        return falls.sum(dim=1) / (last[:, 0] + 1)


@final
@dataclass(frozen=True, kw_only=True)
class SRG:
    r"""Symmetric relevance gain: the area with the least relevant first, less that of the most.

    .. math:: \mathrm{SRG}(a) = \int_0^1 f(x^{\mathrm{least}}_p) - f(x^{\mathrm{most}}_p)\, dp

    What a fill does to every map alike cancels, so that rankings of methods depend less on it. It
    is exactly antisymmetric, ``SRG(a) = -SRG(-a)``, and 0 in expectation for a random map.

    Args:
        segments: Which pixels are replaced together.
        steps: Equal steps; the cost is twice ``steps + 1`` forward passes, less the ends.
        fill: What replaces a segment.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal segments.

    References:
        Bluecher, Vielhaben and Strodthoff (2024), "Decoupling Pixel Flipping and Occlusion
        Strategy for Consistent XAI Benchmarks".
    """

    segments: Segments = field(default_factory=Squares)
    steps: int = 20
    fill: Fill = field(default_factory=Zero)
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-torch.inf,
        high=torch.inf,
        chance="0",
        reference="Bluecher, Vielhaben and Strodthoff (2024), Decoupling Pixel Flipping",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self.steps, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one gain per image."""
        least, most = (
            shares(
                f,
                images,
                signed,
                self.segments,
                self.steps,
                self.fill,
                self.batch_size,
                self.seed,
            ).area
            for signed in (-values, values)
        )
        return least - most


@final
@dataclass(frozen=True, kw_only=True)
class ROAD:
    r"""The explained value when pixels are removed and debiased: *remove and debias*.

    .. math:: \frac{1}{2s} \sum_{p} f(x^{\mathrm{least}}_p) - f(x^{\mathrm{most}}_p)

    over ``s`` shares ``p`` of the pixels that are gone, for ``order="both"``; for ``most`` and
    ``least`` the mean of ``f`` over the shares. Pixels are imputed from those beside them, so that
    images stay near the data and the mask's shape tells nothing. The paper takes accuracy, for
    which ``f`` is ``ModelScalar(model, Hit(labels))``.

    Args:
        order: ``both``, or ``most`` or ``least`` relevant pixels first.
        shares: Shares of the pixels that are removed, over 0 and under 1.
        fill: The imputation.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal pixels.

    References:
        Rong et al. (2022), "A Consistent and Efficient Evaluation Strategy for Attribution
        Methods".
    """

    order: str = "both"
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    fill: Fill = field(default_factory=NoisyLinear)
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.order != "both":
            check_order(self.order)
        check_settings(1, self.batch_size)
        if not self.shares or min(self.shares) <= 0 or max(self.shares) >= 1:
            msg = f"shares are over 0 and under 1, since something must stay; got {self.shares}."
            raise SettingError(msg)

    @property
    def card(self) -> MetricCard:
        """What to know before reading the numbers."""
        return MetricCard(
            better="lower" if self.order == "most" else "higher",
            low=-torch.inf,
            high=torch.inf,
            chance="0" if self.order == "both" else CHANCE,
            reference="Rong et al. (2022), A Consistent and Efficient Evaluation Strategy (ROAD)",
        )

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one value per image."""
        if self.order == "both":
            least = self.values_of(f, images, -values)
            return (least - self.values_of(f, images, values)).mean(dim=1) / 2
        signed = values if self.order == "most" else -values
        return self.values_of(f, images, signed).mean(dim=1)

    def values_of(self, f: ScalarFn, images: Images, values: Tensor) -> Tensor:
        """Return the value after each share of the highest pixels has gone, ``(b, s)``."""
        order = ordered(images, values, Squares(), self.seed)
        shares = torch.tensor(self.shares, dtype=torch.float64, device=images.device)
        ends = (shares * order.counts[:, None]).round().long()
        ends = ends.clamp(max=order.counts[:, None] - 1)
        return removed(f, images, order, ends, self.fill, self.batch_size)


@final
@dataclass(frozen=True, kw_only=True)
class IROF:
    r"""The area over the curve of the class's probability while superpixels are removed.

    .. math:: 1 - \int_0^1 \frac{f(x_p)}{f(x)}\, dp

    where a share ``p`` of the superpixels is gone, those of the highest mean attribution first. A
    flat curve gives 0, whatever the number of superpixels. NaN where ``f(x)`` is 0.

    Args:
        segments: The superpixels, such as ``whence.attribution.SLIC()``.
        fill: What replaces a superpixel; in the paper the image's mean colour.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal superpixels.

    References:
        Rieger and Hansen (2020), "IROF: a low resource evaluation metric for explanation methods".
    """

    segments: Segments
    fill: Fill = field(default_factory=Mean)
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-torch.inf,
        high=1.0,
        chance=CHANCE,
        reference="Rieger and Hansen (2020), IROF",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(1, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one area per image.

        Args:
            f: The probability of a class, such as ``ModelScalar(model, Custom(lambda z:
                z.softmax(1)[:, 3]))``.
            images: Preprocessed images ``(b, c, h, w)``.
            values: One map per image.

        Raises:
            SettingError: If the function's values are no probabilities.
        """
        order = ordered(images, values, self.segments, self.seed)
        every = torch.arange(int(order.counts.max()) + 1, device=images.device)
        ends = torch.minimum(every, order.counts[:, None])
        found = removed(f, images, order, ends, self.fill, self.batch_size)
        if found.min() < 0:
            msg = (
                f"IROF divides by the explained value, which must be a probability; its values "
                f"begin at {float(found.min()):.3g}. Explain a probability: "
                f"Custom(lambda logits: logits.softmax(1)[:, 3])."
            )
            raise SettingError(msg)
        pairs = (found[:, 1:] + found[:, :-1]) / 2
        inside = every[1:] <= order.counts[:, None]
        area = (pairs * inside).sum(dim=1) / order.counts
        return 1 - area / torch.where(found[:, 0] > 0, found[:, 0], torch.nan)


def shares(
    f: ScalarFn,
    images: Images,
    values: Tensor,
    segments: Segments,
    steps: int,
    fill: Fill,
    batch_size: int,
    seed: int,
) -> Curve:
    """Return the explained value while the highest segments go in equal steps.

    The fractions are each image's own, ``(b, s)``, since its segments are of its own number.
    """
    order = ordered(images, values, segments, seed)
    counts = order.counts[:, None].double()
    even = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=images.device)
    ends = (even * counts).round()
    found = removed(f, images, order, ends.long(), fill, batch_size)
    return Curve(fractions=ends / counts, values=found)


def check_order(order: str) -> None:
    """Refuse an order that is none."""
    if order not in ORDERS:
        msg = f"order must be one of {', '.join(ORDERS)}; got {order!r}."
        raise SettingError(msg)
