r"""Training-feature maps: do they show what of a training image made it influential?

A map is of a training image and a query. The metrics take maps, and the influence as a function
of the training image; what made either, they do not know. Each is to be read beside its controls:
an ordinary attribution of the training image for its own label, which knows no query (*retrieve,
then explain*), a random order of the pixels, and a network whose weights were drawn anew.
"""

from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence.core import Attributions, Baseline, Images, Mean, ScalarFn, Scalars, Shuffled
from whence.errors import SettingError, ShapeError
from whence.evaluation.agreement import Spearman
from whence.evaluation.faithfulness import places_of
from whence.evaluation.localisation import RelevanceMass, mask_share
from whence.evaluation.metric import MetricCard, pixel_map

__all__ = [
    "Concentration",
    "KeptPixels",
    "MapStability",
    "QueryShift",
    "RegionFidelity",
    "precision_at",
]

SOURCE = "Bacha and George (2025), Training Feature Attribution for Vision Models"


@final
@dataclass(frozen=True, kw_only=True)
class Concentration:
    r"""How much more of the positive map lies in a region than the region's area would get.

    .. math:: \frac{\sum_{i \in M} a^+_i}{\sum_i a^+_i} \Big/ \frac{|M|}{n}

    NaN where nothing is positive.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher", low=0.0, high=torch.inf, chance="1", reference=SOURCE
    )

    def __call__(self, values: Attributions, masks: Tensor) -> Scalars:
        """Return one ratio per image; masks are ``(b, 1, h, w)``."""
        return RelevanceMass()(values, masks) / mask_share(masks).to(values)


@final
@dataclass(frozen=True, kw_only=True)
class QueryShift:
    """By how much a region's concentration rises from one query to another, on the same images.

    The one query shares the region's content (a planted patch, an object), the other does not. A
    map that ignores the query gets 0, as does any ordinary attribution of the training image.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher", low=-torch.inf, high=torch.inf, chance="0", reference=SOURCE
    )

    def __call__(self, values: Attributions, others: Attributions, masks: Tensor) -> Scalars:
        """Return one difference per image.

        Args:
            values: Maps for the query that shares the region's content, ``(b, c, h, w)``.
            others: Maps of the same images for the other query.
            masks: The region, ``(b, 1, h, w)``.
        """
        measure = Concentration()
        return measure(values, masks) - measure(others, masks)


@final
@dataclass(frozen=True, kw_only=True)
class KeptPixels:
    r"""The influence that is left when only the highest pixels are kept, less when they are gone.

    .. math:: \frac{1}{|F|\,|P|} \sum_{f \in F} \sum_{p \in P} \frac{
              S(x \text{ on } f \text{ in its highest } p)
              - S(x \text{ without them, with } f)}{|S(x)|}

    over fractions ``P`` of the pixels and fills ``F``. To first order the influence of a masked
    image is what one training step on it does to the query, so that no step is taken. Take fills
    that the map was not made with. Cost: two evaluations per fraction and fill, and one.

    Args:
        fractions: Shares of the pixels, over 0 and below 1.
        fills: What replaces pixels.
        batch_size: Changed images at a time.
        seed: Seed of the order of equal pixels.
    """

    fractions: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
    fills: tuple[Baseline, ...] = field(default_factory=lambda: (Mean(), Shuffled()))
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-torch.inf,
        high=torch.inf,
        chance="that of random_order(images), about 0",
        reference=SOURCE + " (insertion)",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        if not self.fractions or not all(0 < p < 1 for p in self.fractions):
            msg = f"fractions are shares of the pixels over 0 and below 1; got {self.fractions}."
            raise SettingError(msg)
        if not self.fills:
            msg = "KeptPixels needs at least one fill."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one difference per image."""
        kept, gone = self.curves(f, images, values)
        return (kept - gone).mean(dim=(1, 2))

    def curves(
        self, f: ScalarFn, images: Images, values: Tensor
    ) -> tuple[Float[Tensor, "b f p"], Float[Tensor, "b f p"]]:
        """Return the influence with only the highest pixels, and without them.

        Args:
            f: The influence of training images on a query.
            images: The training images, ``(b, c, h, w)``.
            values: Their maps, ``(b, a, h, w)``.

        Returns:
            Both relative to the size of the whole image's influence; NaN where that is 0.
        """
        places = places_of(images, values, self.seed).view(len(images), 1, *images.shape[2:])
        pixels = images.shape[2] * images.shape[3]
        changed: list[Tensor] = []
        for fill in self.fills:
            other = fill(images)
            for share in self.fractions:
                high = places < max(1, round(share * pixels))
                changed += [torch.where(high, images, other), torch.where(high, other, images)]
        rows = torch.arange(len(images), device=images.device)
        found = evaluated(f, torch.cat(changed), rows.repeat(len(changed)), self.batch_size)
        whole = evaluated(f, images, rows, self.batch_size).abs()
        shape = (len(self.fills), len(self.fractions), 2, len(images))
        shares = found.view(shape).movedim(3, 0) / whole.view(-1, 1, 1, 1)
        return shares[..., 0], shares[..., 1]


@final
@dataclass(frozen=True, kw_only=True)
class RegionFidelity:
    r"""The correlation of what a map says of a region with what hiding the region does.

    .. math:: \operatorname{corr}_r \Big( \sum_{i \in r} a_i ,\; S(x) - S(x_{\setminus r}) \Big)

    over random rectangles ``r``, for maps that share out the influence. A gradient has to be
    multiplied by the change of the pixels first. NaN where either side does not vary.

    Args:
        regions: Rectangles per image; the same for all.
        fill: What hides a region: one that the map was not made with.
        smallest: The shortest side of a rectangle, as a fraction of the image's.
        largest: The longest.
        batch_size: Changed images at a time.
        seed: Seed of the rectangles.
    """

    regions: int = 32
    fill: Baseline = field(default_factory=Mean)
    smallest: float = 0.1
    largest: float = 0.4
    batch_size: int = 64
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=1.0,
        chance="0",
        reference="Yeh et al. (2019), On the (In)fidelity and Sensitivity of Explanations, as a "
        "correlation",
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.regions < 2:  # noqa: PLR2004 - a correlation takes two
            msg = f"A correlation needs at least 2 regions; got {self.regions}."
            raise SettingError(msg)
        if not 0 < self.smallest <= self.largest <= 1:
            msg = (
                f"Sides are fractions of the image's, 0 < smallest <= largest <= 1; got "
                f"{self.smallest} and {self.largest}."
            )
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return one correlation per image."""
        return self.compared(values, self.falls(f, images))

    def falls(self, f: ScalarFn, images: Images) -> Float[Tensor, "r b"]:
        """Return by how much the influence falls as each region is hidden, for several maps."""
        hidden = self.hidden(images)
        changed = torch.where(hidden[:, None, None], self.fill(images), images).flatten(0, 1)
        rows = torch.arange(len(images), device=images.device)
        found = evaluated(f, changed, rows.repeat(self.regions), self.batch_size)
        whole = evaluated(f, images, rows, self.batch_size)
        return whole - found.view(self.regions, len(images))

    def compared(self, values: Tensor, falls: Float[Tensor, "r b"]) -> Scalars:
        """Return one correlation per image of a map with the falls that were measured."""
        ranked = pixel_map(values).view(len(values), *values.shape[2:])
        said = torch.einsum("bhw,rhw->rb", ranked, self.hidden(values).to(ranked))
        pairs = [v.double() - v.double().mean(dim=0) for v in (said, falls)]
        sizes = pairs[0].norm(dim=0) * pairs[1].norm(dim=0)
        found: Tensor = (pairs[0] * pairs[1]).sum(dim=0) / sizes
        return found.to(values.dtype)

    def hidden(self, images: Images) -> Bool[Tensor, "r h w"]:
        """Return the rectangles."""
        generator = torch.Generator().manual_seed(self.seed)
        found = torch.zeros(self.regions, *images.shape[2:], dtype=torch.bool)
        for one in found:
            spans = []
            for side in images.shape[2:]:
                low, high = max(1, round(self.smallest * side)), max(1, round(self.largest * side))
                length = int(torch.randint(low, high + 1, (1,), generator=generator))
                start = int(torch.randint(0, side - length + 1, (1,), generator=generator))
                spans.append(slice(start, start + length))
            one[spans[0], spans[1]] = True
        return found.to(images.device)


@final
@dataclass(frozen=True, kw_only=True)
class MapStability:
    """The mean rank correlation of several maps of the same images, over all pairs.

    The maps come from other seeds of noise, other settings, or networks trained again. Together
    with :class:`QueryShift`: a map may be stable because it ignores the query.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="higher", low=-1.0, high=1.0, chance="0", reference=SOURCE + " (appendix)"
    )

    def __call__(self, values: Float[Tensor, "r b c h w"]) -> Scalars:
        """Return one mean correlation per image.

        Raises:
            ShapeError: If there are fewer than two maps of each image.
        """
        if len(values) < 2:  # noqa: PLR2004 - a pair
            msg = f"Stability compares at least two maps of each image; got {len(values)}."
            raise ShapeError(msg)
        alike = Spearman()
        pairs = [alike(one, other) for one, other in combinations(values, 2)]
        return torch.stack(pairs).mean(dim=0)


def precision_at(ranked: Tensor, relevant: Bool[Tensor, " n"]) -> Float[Tensor, " q"]:
    """Return the share of relevant training images among those ranked first for each query.

    Args:
        ranked: Places in the training set, ``(q, k)``, such as the bottom ``k`` of the true label.
        relevant: Which training images are relevant, such as those with a flipped label.
    """
    return relevant[ranked].double().mean(dim=1)


def evaluated(f: ScalarFn, images: Images, rows: Tensor, batch_size: int) -> Scalars:
    """Return the function of many images, each with the row that it belongs to."""
    parts: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            stop = start + batch_size
            parts.append(f.at(rows[start:stop])(images[start:stop]))
    return torch.cat(parts)
