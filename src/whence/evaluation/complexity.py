r"""Complexity: how few pixels an attribution needs."""

from dataclasses import dataclass
from typing import ClassVar, final

from whence.core import Attributions, Scalars, gini
from whence.evaluation.metric import MetricCard, pixel_map

__all__ = ["Gini"]


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
