r"""Two repairs of parameter randomisation: maps without noise, and a comparison without pairs."""

from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from whence.core import Attributions, Images, Method, ScalarFn, Scalars, Target
from whence.errors import SettingError
from whence.evaluation.agreement import Pairwise, Spearman
from whence.evaluation.metric import MetricCard, pixel_map
from whence.evaluation.randomisation import (
    Cascade,
    ParameterRandomisation,
    check_order,
    prepared,
    randomised,
)

__all__ = ["EfficientRandomisation", "EntropyRise", "SmoothRandomisation"]

REFERENCE = "Hedstroem et al. (2024), Sanity Checks Revisited, arXiv:2401.06465"


@final
@dataclass(frozen=True, kw_only=True)
class Smoothed:
    """A method's mean over noisy copies of the images, the first of them clean."""

    method: Method
    samples: int
    noise: float
    seed: int

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the mean map; the same noise for every image and every call."""
        generator = torch.Generator().manual_seed(self.seed)
        flat = images.flatten(1)
        reach = (flat.amax(dim=1) - flat.amin(dim=1)).view(-1, 1, 1, 1)
        total = self.method(f, images).detach()
        for _ in range(self.samples - 1):
            drawn = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
            total = total + self.method(f, images + self.noise * reach * drawn.to(images)).detach()
        return total / self.samples


@final
@dataclass(frozen=True, kw_only=True)
class SmoothRandomisation:
    """Parameter randomisation of maps that are averaged over noisy images (sMPRT).

    The noise of gradients looks like forgetting; the mean takes it out. The same noise is added
    at every step, so that a method that ignores the weights keeps its map exactly.

    Cost: ``samples`` runs of the method per layer.

    Args:
        samples: Images that are averaged over, the clean one among them.
        noise: Standard deviation of the noise, as a share of each image's range.
        seed: Seed of the weights and of the noise.
        agreement: How two maps are compared.
        order: As of :class:`ParameterRandomisation`; in the paper bottom-up.

    References:
        Hedstroem et al. (2024), "Sanity Checks Revisited: An Exploration to Repair the Model
        Parameter Randomisation Test", section 4 (sMPRT).
    """

    samples: int = 50
    noise: float = 0.1
    seed: int = 0
    agreement: Pairwise = field(default_factory=Spearman)
    order: str = "bottom-up"

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="0 for maps that forget the weights at once; 1 for maps that ignore them",
        reference=REFERENCE,
    )

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.samples < 1 or not self.noise >= 0:
            msg = (
                f"Smoothing needs one sample or more and noise of 0 or more; got {self.samples} "
                f"and {self.noise}."
            )
            raise SettingError(msg)
        check_order(self.order)

    def __call__(self, model: nn.Module, images: Images, target: Target, method: Method) -> Cascade:
        """Return the likeness after each step; see :class:`ParameterRandomisation`."""
        smooth = Smoothed(method=method, samples=self.samples, noise=self.noise, seed=self.seed)
        check = ParameterRandomisation(seed=self.seed, agreement=self.agreement, order=self.order)
        return check(model, images, target, smooth)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class EntropyRise:
    """How complex maps are before and after all parameters were drawn anew.

    Args:
        original: Entropy of each original map's histogram, in nats, ``(b,)``.
        randomised: The same of the randomised network's map.
    """

    original: Scalars
    randomised: Scalars

    @property
    def score(self) -> Scalars:
        """The rise over the original entropy; NaN where that is 0."""
        rise = (self.randomised - self.original) / self.original
        return rise.masked_fill(self.original == 0, torch.nan)


@final
@dataclass(frozen=True, kw_only=True)
class EfficientRandomisation:
    r"""The rise of a map's complexity when all parameters are drawn anew (eMPRT).

    .. math:: \frac{H(\hat a) - H(a)}{H(a)}

    with the entropy ``H`` of the histogram of the raw, signed values. No two maps are compared,
    so that nothing depends on a similarity. ``H`` depends on the number of bins and is near 0 for
    a map with a single outlier; it is 0 for a constant map, whose rise is NaN.

    Cost: two runs of the method.

    Args:
        bins: Of the histogram, from the map's least to its greatest value.
        seed: Seed of the weights.

    References:
        Hedstroem et al. (2024), "Sanity Checks Revisited: An Exploration to Repair the Model
        Parameter Randomisation Test", section 4 (eMPRT).
    """

    bins: int = 100
    seed: int = 0

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=-1.0,
        high=torch.inf,
        chance="0 for maps that ignore the weights, and for noise",
        reference=REFERENCE,
    )

    def __post_init__(self) -> None:
        """Check the number of bins."""
        if self.bins < 2:  # noqa: PLR2004 - one bin holds everything
            msg = f"A histogram needs two bins or more; got {self.bins}."
            raise SettingError(msg)

    def __call__(
        self, model: nn.Module, images: Images, target: Target, method: Method
    ) -> EntropyRise:
        """Return the entropies before and after; see :class:`ParameterRandomisation`."""
        f, first, layers = prepared(model, images, target, method)
        original = histogram_entropy(first, self.bins)
        deque(randomised(layers, order="top-down", seed=self.seed), maxlen=0)
        after = histogram_entropy(method(f, images).detach(), self.bins)
        return EntropyRise(original=original, randomised=after)


def histogram_entropy(values: Attributions, bins: int) -> Scalars:
    """Return the entropy of each map's histogram over its own range, in nats."""
    flat = pixel_map(values).double()
    low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
    reach = (high - low).where(high > low, torch.ones_like(high))
    places = ((flat - low) / reach * bins).long().clamp(max=bins - 1)
    counts = flat.new_zeros(len(flat), bins).scatter_add_(1, places, torch.ones_like(flat))
    found: Tensor = torch.special.entr(counts / flat.shape[1]).sum(dim=1)
    return found.to(values.dtype)
