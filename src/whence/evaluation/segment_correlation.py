r"""Correlations of what a map says of each segment with what the function loses without it.

Each segment is removed from the whole image, never on top of another.
"""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence.core import Images, RandomBaseline, ScalarFn, Scalars, Uniform, Zero
from whence.errors import SettingError
from whence.evaluation.faithfulness import check_settings
from whence.evaluation.metric import MetricCard, mean_ranks, pixel_map
from whence.evaluation.pearson import pearson, rounding, summed
from whence.evaluation.steps import Fill, Segments, Tiles, answers, filled, labelled

__all__ = ["FaithfulnessEstimate", "MonotonicityCorrelation"]


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


def alone(
    f: ScalarFn, images: Images, labels: Int[Tensor, "b n"], fill: Fill, batch_size: int
) -> Float[Tensor, "b k"]:
    """Return the value without each segment, one at a time."""
    changed = filled(images, fill)

    def without(rows: Tensor, which: Tensor) -> Images:
        stays = labels[rows] != which[:, None]
        return changed(rows, stays.view(len(rows), 1, *images.shape[2:]))

    return answers(f, images, int(labels.max()) + 1, without, batch_size)
