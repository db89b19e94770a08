r"""Monotonicity: does the value rise with every part that a map puts back?"""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence.core import Images, ScalarFn, Scalars, Zero
from whence.evaluation.faithfulness import check_settings
from whence.evaluation.metric import MetricCard
from whence.evaluation.steps import Fill, Segments, Tiles, evaluated, filled, ordered

__all__ = ["Monotonicity"]


@final
@dataclass(frozen=True, kw_only=True)
class Monotonicity:
    r"""Whether the value never falls while segments are put onto a fill, the least first.

    .. math:: \mathbb 1\big[f(x_0) \le f(x_1) \le \ldots \le f(x_m) = f(x)\big]

    where :math:`x_0` is the fill and :math:`x_k` holds the ``k`` segments of the lowest mean
    attribution. The definition is made for importances of 0 or more: a signed map rightly puts
    what speaks against the class first, and the value falls. On many segments it is nearly
    never 1; ``graded`` says how many of the steps do not fall.

    Args:
        segments: Which pixels go together; the cost is half a pass for each.
        fill: What the image starts from.
        graded: Return the share of the steps that do not fall, instead of 1 or 0.
        batch_size: Changed images per forward pass.
        seed: Seed of the order of equal segments.

    References:
        Luss et al. (2021), "Leveraging Latent Features for Local Explanations", section 4; Arya
        et al. (2019), "One Explanation Does Not Fit All".
    """

    segments: Segments = field(default_factory=lambda: Tiles(across=4))
    fill: Fill = field(default_factory=Zero)
    graded: bool = False
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_settings(1, self.batch_size)

    @property
    def card(self) -> MetricCard:
        """What to know before reading the numbers."""
        return MetricCard(
            better="higher",
            low=0.0,
            high=1.0,
            chance="that of random_order(images); about 0.5 if graded, nearly 0 if not",
            reference="Luss et al. (2021), Leveraging Latent Features for Local Explanations",
        )

    def __call__(self, f: ScalarFn, images: Images, values: Tensor) -> Scalars:
        """Return 1 or 0 per image, or a share.

        Raises:
            NumericsError: If an attribution is NaN or infinite.
            ShapeError: If the attributions or the segments do not fit the images.
        """
        order = ordered(images, -values, self.segments, self.seed)
        every = torch.arange(int(order.counts.max()) + 1, device=images.device)
        stops = torch.minimum(every, order.counts[:, None])[:, None]
        changed = filled(images, self.fill)
        starts = torch.zeros_like(stops)
        found = evaluated(f, images, order.places, starts, stops, changed, self.batch_size)[:, 0]
        inside = every[1:] <= order.counts[:, None]
        rises = (found.diff(dim=1) >= 0) & inside
        share = rises.sum(dim=1) / order.counts
        return (share if self.graded else (share == 1)).to(images.dtype)
