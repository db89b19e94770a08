r"""Complexity: how few pixels an attribution needs."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Attributions, Scalars, gini
from whence.errors import SettingError
from whence.evaluation.metric import MetricCard, pixel_map

__all__ = ["EffectivePixels", "Entropy", "Gini", "MassArea", "Participation"]


@final
@dataclass(frozen=True, kw_only=True)
class Gini:
    r"""The Gini coefficient of the absolute values of an image's pixels.

    .. math:: G = \frac{\sum_{ij} |v_i - v_j|}{2 n \sum_i v_i}, \qquad
              v_i = |\sum_c a_{ci}|

    Exact, and unchanged if the map is scaled. It says how concentrated a map is, not whether it
    is right. NaN for a map that is zero everywhere.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="about 0.41 for normal noise, 0 for a constant map",
        reference="Chalasani et al. (2020), Concise Explanations of Neural Networks (sparsity)",
    )

    def __call__(self, values: Attributions) -> Scalars:
        """Return one coefficient per image."""
        return gini(pixel_map(values).abs())


@final
@dataclass(frozen=True, kw_only=True)
class Entropy:
    r"""The entropy of the shares that the pixels have of a map, in nats: its complexity.

    .. math:: H = -\sum_i p_i \ln p_i, \qquad p_i = \frac{|\sum_c a_{ci}|}{\sum_j |\sum_c a_{cj}|}

    0 for a single pixel, the logarithm of the number of pixels for a constant map. It says how
    many pixels a map needs, not whether they are the right ones. NaN for a map of zeros.

    References:
        Bhatt, Weller and Moura (2020), "Evaluating and Aggregating Feature-based Model
        Explanations", Definition 4 (complexity).
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=torch.inf,
        chance="ln n for a constant map of n pixels, about ln n - 0.28 for normal noise",
        reference="Bhatt, Weller and Moura (2020), arXiv:2005.00631, Definition 4",
    )

    def __call__(self, values: Attributions) -> Scalars:
        """Return one entropy per image."""
        return entropy(shares(values))


@final
@dataclass(frozen=True, kw_only=True)
class EffectivePixels:
    r"""The share of the image's pixels that a map effectively uses.

    .. math:: \frac{e^H}{n}

    with the :class:`Entropy` ``H``: a map that is constant on ``k`` of ``n`` pixels and zero
    elsewhere has ``k / n``. NaN for a map of zeros.

    References:
        Hill (1973), "Diversity and Evenness", of order 1.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="1 for a constant map, about 0.75 for normal noise",
        reference="Hill (1973), Diversity and Evenness, order 1",
    )

    def __call__(self, values: Attributions) -> Scalars:
        """Return one share per image."""
        parts = shares(values)
        return entropy(parts).exp() / parts.shape[1]


@final
@dataclass(frozen=True, kw_only=True)
class Participation:
    r"""The participation ratio: the share of pixels in use, in which large values count more.

    .. math:: \frac{(\sum_i v_i)^2}{n \sum_i v_i^2}, \qquad v_i = |\sum_c a_{ci}|

    A map that is constant on ``k`` of ``n`` pixels has ``k / n``. NaN for a map of zeros.

    References:
        Hill (1973), "Diversity and Evenness", of order 2.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="1 for a constant map, 2 / pi for normal noise",
        reference="Hill (1973), Diversity and Evenness, order 2",
    )

    def __call__(self, values: Attributions) -> Scalars:
        """Return one share per image."""
        parts = shares(values)
        return 1 / parts.square().sum(dim=1) / parts.shape[1]


@final
@dataclass(frozen=True, kw_only=True)
class MassArea:
    """The smallest share of the pixels that holds a given share of a map's absolute values.

    The last pixel counts in part, so that a constant map needs exactly the share of the pixels
    that is asked for. NaN for a map of zeros.

    Args:
        mass: The share of the sum that has to be held, over 0 and at most 1.
    """

    mass: float = 0.9

    card: ClassVar[MetricCard] = MetricCard(
        better="neither",
        low=0.0,
        high=1.0,
        chance="the mass itself for a constant map, about 0.65 of the pixels for normal noise",
        reference="Lorenz (1905), Methods of Measuring the Concentration of Wealth",
    )

    def __post_init__(self) -> None:
        """Check the mass."""
        if not 0 < self.mass <= 1:
            msg = f"mass is a share of the map's sum, over 0 and at most 1; got {self.mass}."
            raise SettingError(msg)

    def __call__(self, values: Attributions) -> Scalars:
        """Return one share per image."""
        parts = shares(values).double().sort(dim=1, descending=True).values
        before = parts.cumsum(dim=1) - parts
        wanted = (self.mass - before).clamp(min=0)
        used = torch.where(parts > 0, (wanted / parts).clamp(max=1), 0 * parts)
        return (used.sum(dim=1) / parts.shape[1]).to(values.dtype)


def entropy(parts: Float[Tensor, "b n"]) -> Scalars:
    """Return the entropy of each row of shares, in nats."""
    found: Tensor = torch.special.entr(parts).sum(dim=1)
    return found


def shares(values: Attributions) -> Float[Tensor, "b n"]:
    """Return the share that each pixel has of the map's absolute values; NaN if all are zero."""
    sizes = pixel_map(values).abs()
    largest = sizes.amax(dim=1, keepdim=True)
    sizes = sizes / largest  # so that tiny maps do not underflow
    return sizes / sizes.sum(dim=1, keepdim=True)
