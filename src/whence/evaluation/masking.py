r"""Masking: what is left of a prediction when only some pixels stay and the rest is blurred?

Six areas of one protocol. A map is split by sign, its pixels are ordered by size, and 16 growing
shares of them stay; what does not stay is taken from a blurred image. *Keep* leaves the highest
pixels first, *remove* the lowest, so that the highest are the last to come back.

========  ==========================  =======  =====================  ======
metric    ordered by                  stays    area under             better
========  ==========================  =======  =====================  ======
``KPM``   positive part               highest  the explained value    higher
``KNM``   negative part, its size     highest  the explained value    lower
``KAM``   size, whatever the sign     highest  the share of hits      higher
``RPM``   positive part               lowest   the explained value    lower
``RNM``   negative part, its size     lowest   the explained value    higher
``RAM``   size, whatever the sign     lowest   the share of hits      lower
========  ==========================  =======  =====================  ======

Pixels that are zero in the part which orders them never stay, not even at a share of one: a map
without a negative part has the value of the blurred image as its whole KNM curve. So RPM shows only
positive pixels, of which a random map has half that are none: it gets *less* than a true map, and
more of RNM. These two compare orders of pixels of one sign, not maps with a random one.

Logits differ in size between models, so KPM, KNM, RPM and RNM compare methods on one model, never
two models.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from whence.core import (
    Images,
    Labels,
    Logit,
    Logits,
    ModelScalar,
    ScalarFn,
    Scalars,
)
from whence.errors import SettingError
from whence.evaluation.faithfulness import Curve, places_of
from whence.evaluation.metric import MetricCard, pixel_map
from whence.evaluation.steps import Fill, evaluated, filled

__all__ = ["MASKING", "Hit", "MaskedArea", "WindowBlur", "masked_areas"]

MASKING: Final = ("KPM", "KNM", "KAM", "RPM", "RNM", "RAM")
"""The six metrics: keep or remove; the positive, negative or absolute part of the map."""

FRACTIONS = tuple(0.01 * 100 ** (k / 15) for k in range(16))
REFERENCE = (
    "Hesse, Schaub-Meyer and Roth (2021), Fast Axiomatic Attribution, Table 2; the family is "
    "Lundberg et al. (2020), From Local Explanations to Global Understanding with Trees"
)


@final
@dataclass(frozen=True, kw_only=True)
class WindowBlur:
    """The image after a Gaussian blur that is cut off at a window; the border is mirrored.

    A window much smaller than the Gaussian is nearly a mean over the window.

    Args:
        size: Pixels along a side of the window, odd.
        sigma: Standard deviation, in pixels. In the paper's released code the exponent is
            halved once more, which is ``sigma=58`` here.
        side: The shorter side of the images for which ``size`` and ``sigma`` are given. Both
            shrink and grow with other images, to a window of 3 pixels at least; None takes them
            as they are.
    """

    size: int = 51
    sigma: float = 41.0
    side: int | None = 224

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.size < 3 or self.size % 2 == 0 or not self.sigma > 0:  # noqa: PLR2004 - a window
            msg = (
                f"WindowBlur needs an odd size of 3 pixels or more and a positive sigma; got "
                f"{self.size} and {self.sigma}."
            )
            raise SettingError(msg)
        if self.side is not None and self.side < 1:
            msg = f"side is a number of pixels, or None; got {self.side}."
            raise SettingError(msg)

    def window(self, images: Images) -> tuple[int, float]:
        """Return size and sigma in pixels of these images."""
        if self.side is None:
            return self.size, self.sigma
        scale = min(images.shape[2:]) / self.side
        return max(3, 2 * round((self.size * scale - 1) / 2) + 1), self.sigma * scale

    def __call__(self, images: Images) -> Images:
        """Return the blurred images.

        Raises:
            SettingError: If the window reaches over an image whose border is mirrored once.
        """
        size, sigma = self.window(images)
        margin = size // 2
        if margin >= min(images.shape[2:]):
            msg = (
                f"A window of {size} pixels needs images of more than {margin}; got "
                f"{tuple(images.shape[2:])}. Take a smaller size."
            )
            raise SettingError(msg)
        at = torch.arange(-margin, margin + 1, dtype=images.dtype, device=images.device)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
        groups = images.shape[1]
        padded = functional.pad(images, (margin,) * 4, mode="reflect")
        across = functional.conv2d(padded, kernel, groups=groups)
        return functional.conv2d(across, kernel.transpose(2, 3), groups=groups)


@final
@dataclass(frozen=True, eq=False)
class Hit:
    """A target: 1 where a class has the highest logit, 0 elsewhere.

    Classes that tie for the highest share the 1, so that equal logits count as a guess.

    Args:
        classes: One class for all images, or one per image.
    """

    classes: int | Labels

    def __call__(self, logits: Logits) -> Scalars:
        """Return one value from 0 to 1 per row of ``logits``."""
        top = logits.amax(dim=1)
        own = Logit(self.classes)(logits) == top
        return own.to(logits.dtype) / (logits == top[:, None]).sum(dim=1)

    def at(self, rows: Tensor) -> "Hit":
        """Return the target of these rows."""
        return Hit(Logit(self.classes).at(rows).classes)


@final
@dataclass(frozen=True, kw_only=True)
class MaskedArea:
    r"""One of the six masking metrics: the area under what a share of the pixels keeps.

    .. math:: \int_{p_1}^{p_s} f\big(m_p \odot x + (1 - m_p) \odot \tilde x\big)\, dp

    by the trapezoid rule over the ``fractions``, with the fill :math:`\tilde x`. The mask holds
    :math:`\min(\lfloor p n \rfloor, k)` of the image's ``n`` pixels, the highest (*keep*) or the
    lowest (*remove*) of the ``k`` that are not zero in the part of the map that orders them.
    The map is the sum over the channels. Equal pixels stand in one fixed random order.

    The paper integrates the mean over images, which is the mean of these areas. KAM and RAM need
    a function from 0 to 1, ``ModelScalar(model, Hit(labels))``; the paper prints them times 100.

    Cost: half a pass for each different mask, at most one per fraction.

    Args:
        metric: One of :data:`MASKING`.
        fractions: Shares of the pixels, growing; the paper's 16 go from 0.01 to 1 by a constant
            factor. On an image of fewer than 100 pixels the first of them keep none.
        fill: What stands where a pixel does not stay.
        batch_size: Masked images per forward pass.
        seed: Seed of the order of equal pixels.

    References:
        Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
        Table 2; settings of the released code.
    """

    metric: str
    fractions: tuple[float, ...] = FRACTIONS
    fill: Fill = field(default_factory=WindowBlur)
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.metric not in MASKING:
            msg = f"metric must be one of {', '.join(MASKING)}; got {self.metric!r}."
            raise SettingError(msg)
        check_fractions(self.fractions)
        if self.batch_size < 1:
            msg = f"batch_size must be at least 1; got {self.batch_size}."
            raise SettingError(msg)

    @property
    def card(self) -> MetricCard:
        """What to know before reading the numbers."""
        hits = self.metric.endswith("AM")
        negative = self.metric.endswith("NM")
        return MetricCard(
            better="lower" if self.metric.startswith("K") == negative else "higher",
            low=0.0 if hits else -torch.inf,
            high=1.0 if hits else torch.inf,
            chance=(
                "the area of random values: KPM and KNM, RPM and RNM, KAM and RAM are then alike"
                if self.metric not in ("RPM", "RNM")
                else "none: a random map splits the pixels otherwise, and scores better for it"
            ),
            reference=REFERENCE,
        )

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one area per image."""
        return self.curve(f, images, values).area

    def curve(self, f: ScalarFn, images: Images, values: Tensor) -> Curve:
        """Return the value for each share of the pixels.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            SettingError: If KAM or RAM are asked of a function that is no share of hits.
            ShapeError: If the attributions do not fit the images.
        """
        return curves((self,), f, images, values, filled(images, self.fill))[0]


def masked_areas(
    model: Callable[[Tensor], Any],
    classes: int | Labels,
    images: Images,
    values: Tensor,
    *,
    like: MaskedArea | None = None,
) -> dict[str, Scalars]:
    """Return all six areas, one per image each, from one pass over the masked images.

    The fill is made once, each part of the map is ordered once for *keep* and *remove*, and masks
    that coincide (such as all of both at a share of one) are evaluated once: at most 93 forwards
    an image with the paper's fractions, where six metrics one by one take 96.

    Args:
        model: From images to logits: a module in eval mode, or a network.
        classes: The class whose logit is explained and whose hits count.
        images: ``(b, c, h, w)``, preprocessed.
        values: One map per image.
        like: A metric whose settings count for all six.
    """
    settings = MaskedArea(metric="KPM") if like is None else like
    changed = filled(images, settings.fill)
    explained, hits = ModelScalar(model, Logit(classes)), ModelScalar(model, Hit(classes))
    areas: dict[str, Scalars] = {}
    for part, f in (("P", explained), ("N", explained), ("A", hits)):
        names = [name for name in MASKING if name[1] == part]
        metrics = tuple(
            MaskedArea(
                metric=name,
                fractions=settings.fractions,
                fill=settings.fill,
                batch_size=settings.batch_size,
                seed=settings.seed,
            )
            for name in names
        )
        found = curves(metrics, f, images, values, changed)
        areas |= {name: curve.area for name, curve in zip(names, found, strict=True)}
    return {name: areas[name] for name in MASKING}


def curves(
    metrics: tuple[MaskedArea, ...],
    f: ScalarFn,
    images: Images,
    values: Tensor,
    changed: Callable[[Tensor, Tensor], Tensor],
) -> list[Curve]:
    """Return the curves of metrics that order the pixels by the same part of the map."""
    first = metrics[0]
    size = part_of(pixel_map(values), first.metric)
    places = places_of(images, size.view(-1, 1, *values.shape[2:]), first.seed)
    present = (size > 0).sum(dim=1)
    pixels = images.shape[2] * images.shape[3]
    shares = [int(fraction * pixels) for fraction in first.fractions]
    asked = torch.tensor(shares, device=images.device).expand(len(images), -1)
    count = torch.minimum(asked, present[:, None])
    whole = present[:, None].expand_as(count)
    ends = [
        (torch.zeros_like(count), count) if metric.metric[0] == "K" else (whole - count, whole)
        for metric in metrics
    ]
    starts, stops = (torch.stack(one, dim=1) for one in zip(*ends, strict=True))
    found = evaluated(f, images, places, starts, stops, changed, first.batch_size)
    if first.metric.endswith("AM"):
        check_hits(found, first.metric)
    fractions = torch.tensor(first.fractions, dtype=torch.float64, device=images.device)
    return [Curve(fractions=fractions, values=found[:, k]) for k in range(len(metrics))]


def part_of(values: Float[Tensor, "b n"], metric: str) -> Float[Tensor, "b n"]:
    """Return how much each pixel counts: a metric's part of the map, zero elsewhere."""
    if metric[1] == "A":
        return values.abs()
    return (values if metric[1] == "P" else -values).clamp(min=0)


def check_fractions(fractions: tuple[float, ...]) -> None:
    """Refuse shares of the pixels that do not grow from 0 or more to 1 or less."""
    growing = all(a < b for a, b in pairwise(fractions))
    if len(fractions) < 2 or not growing or fractions[0] < 0 or fractions[-1] > 1:  # noqa: PLR2004
        msg = f"fractions must be two or more, growing, from 0 to 1; got {fractions}."
        raise SettingError(msg)


def check_hits(values: Tensor, metric: str) -> None:
    """Refuse values that cannot be hits."""
    if values.min() < 0 or values.max() > 1:
        msg = (
            f"{metric} is an area under the share of hits, from 0 to 1; the function's values "
            f"reach from {float(values.min()):.3g} to {float(values.max()):.3g}. Give it "
            f"ModelScalar(model, Hit(labels))."
        )
        raise SettingError(msg)
