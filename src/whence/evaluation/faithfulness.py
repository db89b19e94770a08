r"""Faithfulness: does the explained value follow the pixels that an attribution ranks highest?

Pixels are replaced step by step in the order of their attribution, and the function is evaluated
at every step. The area under that curve is compared with the one of a random order,
:func:`random_order`: without that control an area says nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from whence.core import (
    Attributions,
    Blur,
    Images,
    ScalarFn,
    Scalars,
    Zero,
    check_images,
)
from whence.errors import SettingError, ShapeError
from whence.evaluation.metric import MetricCard, ascending, pixel_map
from whence.evaluation.steps import Fill, kept, layered, shortened, swept

__all__ = ["Curve", "Deletion", "Insertion", "random_order"]

REFERENCE = "Petsiuk, Das and Saenko (2018), RISE (causal metrics)"
CHANCE = "the area of a random order: the same metric of random_order(images)"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """The explained value while pixels are replaced.

    Args:
        fractions: Share of the pixels changed at each point, ``(s,)`` from 0 to 1.
        values: The explained value at each point, ``(b, s)``.
    """

    fractions: Tensor
    values: Tensor

    @property
    def area(self) -> Scalars:
        """The area under each image's curve, by the trapezoid rule."""
        return torch.trapezoid(self.values, self.fractions.to(self.values), dim=1)


@final
@dataclass(frozen=True, kw_only=True)
class Deletion:
    """The area under the explained value while the highest pixels are removed first.

    Pixels with equal attributions are removed in one fixed random order, never row by row.
    Removed pixels leave the data's distribution; so compare methods under several fills.

    Args:
        steps: Equal steps from the image to the fill; the cost is ``steps + 1`` forward passes.
        fill: What replaces a pixel.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal pixels.
    """

    steps: int = 20
    fill: Fill = field(default_factory=Zero)
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="lower", low=-torch.inf, high=torch.inf, chance=CHANCE, reference=REFERENCE
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self.steps, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one area per image."""
        return self.curve(f, images, values).area

    def curve(self, f: ScalarFn, images: Images, values: Tensor) -> Curve:
        """Return the explained value after each step."""
        places = places_of(images, values, self.seed)
        return traced(f, images, places, torch.ge, self)


@final
@dataclass(frozen=True, kw_only=True)
class Insertion:
    """The area under the explained value while the highest pixels are put onto a fill first.

    Args:
        steps: Equal steps from the fill to the image; the cost is ``steps + 1`` forward passes.
        fill: What the image starts from.
        batch_size: Changed images per forward pass at most; on a CPU fewer if they are large.
        seed: Seed of the order of equal pixels.
    """

    steps: int = 20
    fill: Fill = field(default_factory=Blur)
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher", low=-torch.inf, high=torch.inf, chance=CHANCE, reference=REFERENCE
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(self.steps, self.batch_size)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one area per image."""
        return self.curve(f, images, values).area

    def curve(self, f: ScalarFn, images: Images, values: Tensor) -> Curve:
        """Return the explained value after each step."""
        places = places_of(images, values, self.seed)
        return traced(f, images, places, torch.lt, self)


def random_order(images: Images, seed: int = 0) -> Attributions:
    """Return attributions ``(b, 1, h, w)`` that rank the pixels at random, alike for all images.

    The order does not depend on how a dataset is cut into batches.
    """
    height, width = images.shape[2:]
    order = shuffled(height * width, seed).view(1, 1, height, width)
    return order.to(images).expand(len(images), -1, -1, -1).clone()


def shuffled(count: int, seed: int) -> Tensor:
    """Return the numbers below ``count`` in a random order, drawn on the CPU."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def check_settings(steps: int, batch_size: int) -> None:
    """Refuse fewer than one step, or one image."""
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            msg = f"{name} must be at least 1; got {value}."
            raise SettingError(msg)


def places_of(images: Images, values: Tensor, seed: int) -> Tensor:
    """Return each pixel's place in the order of attribution, highest first: ``(b, n)``."""
    check_images(images)
    ranked = pixel_map(values)
    if (len(values), *values.shape[2:]) != (len(images), *images.shape[2:]):
        msg = (
            f"Attributions must be one map per image, of the image's size; got "
            f"{tuple(values.shape)} for images {tuple(images.shape)}."
        )
        raise ShapeError(msg)
    mix = shuffled(ranked.shape[1], seed).to(ranked.device)
    order = mix[ascending(-ranked[:, mix])]
    counted = torch.arange(ranked.shape[1], device=ranked.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, counted)


def traced(
    f: ScalarFn,
    images: Images,
    places: Tensor,
    stays: Callable[[Tensor, Tensor], Tensor],
    metric: Deletion | Insertion,
) -> Curve:
    """Return the curve of ``f`` over images changed in ever more pixels, batched over both.

    Args:
        f: What is explained.
        images: ``(b, c, h, w)``.
        places: Each pixel's place in the order, ``(b, n)``.
        stays: Says of places, and of the number of pixels changed, which pixels are the image's.
        metric: Its steps, fill and batch size.
    """
    pixels = images.shape[2] * images.shape[3]
    ends = torch.linspace(0, pixels, metric.steps + 1, dtype=torch.float64).round().long()
    ends = ends.to(images.device)
    short, seen = shortened(places), layered(images, metric.fill)
    bounds = ends.to(short.dtype)

    def changed(numbers: Tensor) -> Callable[[slice], Images]:
        return lambda span: seen(
            span, kept(stays(short[span, None], bounds[numbers, None]), images)
        )

    values = swept(f, images, metric.steps + 1, changed, metric.batch_size)
    return Curve(fractions=ends.double() / pixels, values=values)
