r"""Antithetic differences: the gradient of a smoothed influence, from its values alone."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.attribution import Account
from whence.core import Attributions, Images, ScalarFn, check_images
from whence.errors import SettingError

__all__ = ["AntitheticDifferences"]

FORWARD = 0.5
"""Passes that one evaluation counts for: an unnormalised influence costs three of six forwards."""


@final
@dataclass(frozen=True, kw_only=True)
class AntitheticDifferences:
    r"""The gradient of the influence averaged over noise, from pairs of opposite noise.

    .. math:: a = \frac{1}{2 n \sigma^2} \sum_{k=1}^{n}
              \big( S(x + \varepsilon_k) - S(x - \varepsilon_k) \big) \, \varepsilon_k , \qquad
              \varepsilon_k \sim \mathcal N(0, \sigma^2 I)

    Its mean is :math:`\nabla_x \, \mathbb E\, S(x + \varepsilon)`, jumps of the influence
    included, which the mean of gradients (SmoothGrad) leaves out wherever ReLUs or maxima make the
    influence jump. On a smooth network both agree. The error falls as one over the root of
    ``pairs``, and grows with the number of pixels: one noisy pixel is told from another only by
    many pairs, so take coarse noise (``cell``) for large images. All images see the same draws.

    Cost: ``2 * pairs`` evaluations, and no gradient.

    Args:
        pairs: Pairs of noisy copies per image.
        sigma: Standard deviation of the noise, as a fraction of the image's range.
        cell: Side of the squares in which noise is constant; the map is constant there, too.
        seed: Seed of the draws.
        batch_size: Noisy copies at a time.

    References:
        Nesterov and Spokoiny (2017), "Random Gradient-Free Minimization of Convex Functions",
        Eq. 22, in its symmetric form.
    """

    pairs: int = 64
    sigma: float = 0.1
    cell: int = 1
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, value in (("pairs", self.pairs), ("cell", self.cell)):
            if value < 1:
                msg = f"{name} must be at least 1; got {value}."
                raise SettingError(msg)
        if self.batch_size < 1:
            msg = f"batch_size must be at least 1; got {self.batch_size}."
            raise SettingError(msg)
        if not 0 < self.sigma < float("inf"):
            msg = (
                f"sigma is the noise as a fraction of the image's range, over 0 and usually 0.05 "
                f"to 0.2; got {self.sigma}."
            )
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the estimated gradient, shaped like the images."""
        return self.account(f, images).values

    @torch.inference_mode(mode=False)
    @torch.no_grad()
    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the estimated gradient with its cost."""
        images = check_images(images).clone()
        count = len(images)
        low, high = images.flatten(1).aminmax(dim=1)
        spread = (self.sigma * (high - low)).view(-1, 1, 1, 1)
        squares = torch.where(spread > 0, spread.square(), torch.ones_like(spread))
        total = torch.zeros_like(images)
        generator = torch.Generator().manual_seed(self.seed)
        at_once = max(1, self.batch_size // (2 * count))
        for start in range(0, self.pairs, at_once):
            pairs = min(at_once, self.pairs - start)
            noise = torch.stack([self.draw(images, generator) for _ in range(pairs)])
            steps = noise[:, None] * spread
            both = torch.cat([images + steps, images - steps]).flatten(0, 1)
            rows = torch.arange(count, device=images.device).repeat(2 * pairs)
            up, down = f.at(rows)(both).view(2, pairs, count)
            total += ((up - down).view(pairs, count, 1, 1, 1) * steps).sum(dim=0)
        values = total / (2 * self.pairs * squares)
        if self.cell > 1:
            values = values / self.cell**2
        return Account(values=values, passes=FORWARD * 2 * self.pairs)

    def draw(self, images: Images, generator: torch.Generator) -> Tensor:
        """Return the next noise, ``(c, h, w)``."""
        channels, height, width = images.shape[1:]
        cells = (channels, -(-height // self.cell), -(-width // self.cell))
        coarse = torch.randn(cells, generator=generator, dtype=torch.float64).to(images)
        fine = coarse.repeat_interleave(self.cell, dim=1).repeat_interleave(self.cell, dim=2)
        return fine[:, :height, :width]
