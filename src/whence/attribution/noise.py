r"""Methods over noisy copies of the image: their mean, mean square and variance."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, is_dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import Gradient, accounted, sum_dtype
from whence.core import Attributions, Images, Method, ScalarFn, check_images
from whence.errors import SettingError

__all__ = ["SmoothGrad", "SmoothGradSquared", "VarGrad"]

Fold = Callable[[Tensor | None, Tensor], Tensor]
"""Takes sums over the copies so far, and the maps of the next ones; returns the new sums."""


@final
@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    r"""The mean of a method over noisy copies of the image.

    .. math:: a = \frac{1}{n} \sum_{s=1}^{n} m(f, x + \varepsilon_s), \qquad
              \varepsilon_s \sim \mathcal N\big(0, (\sigma (\max x - \min x))^2\big)

    A Monte Carlo estimate; its error falls as one over the root of ``samples``. All images see
    the same draws, each scaled by its own range, so that the map of an image depends neither on
    its neighbours nor on how a dataset or a batch was cut. An image of one colour has no range
    and gets no noise. Cost: ``samples`` times the cost of the inner method.

    Args:
        samples: Noisy copies per image.
        sigma: Standard deviation of the noise, as a fraction of the image's range.
        seed: Seed of the draws, which are made on the CPU for every device alike.
        method: What is averaged; any method, :class:`Gradient` by default.
        batch_size: Noisy copies per internal batch; chosen by memory if None.

    References:
        Smilkov et al. (2017), "SmoothGrad: removing noise by adding noise", section 3.
    """

    samples: int = 25
    sigma: float = 0.15
    seed: int = 0
    method: Method = field(default_factory=Gradient)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_noise(self.samples, self.sigma)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the averaged attributions, shaped as the inner method's are."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the averaged attributions with their cost."""
        copies = Copies(samples=self.samples, sigma=self.sigma, seed=self.seed, method=self.method)
        sums, passes = copies.folded(f, images, added, self.batch_size)
        return Account(values=(sums / self.samples).to(images.dtype), passes=passes)


@final
@dataclass(frozen=True, kw_only=True)
class SmoothGradSquared:
    r"""The mean square of a method over noisy copies of the image.

    .. math:: a = \frac{1}{n} \sum_{s=1}^{n} m(f, x + \varepsilon_s)^2

    With the draws of :class:`SmoothGrad` of the same seed, so that it equals SmoothGrad squared
    plus :class:`VarGrad`. Unsigned: it says where ``f`` is sensitive, not in which direction.
    Cost: ``samples`` times the cost of the inner method.

    Args:
        samples: Noisy copies per image.
        sigma: Standard deviation of the noise, as a fraction of the image's range.
        seed: Seed of the draws.
        method: What is squared and averaged; any method.
        batch_size: Noisy copies per internal batch; chosen by memory if None.

    References:
        Hooker et al. (2019), "A Benchmark for Interpretability Methods in Deep Neural Networks",
        section 4.2.
    """

    samples: int = 25
    sigma: float = 0.15
    seed: int = 0
    method: Method = field(default_factory=Gradient)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_noise(self.samples, self.sigma)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the mean squares, shaped as the inner method's attributions are."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the mean squares with their cost."""
        copies = Copies(samples=self.samples, sigma=self.sigma, seed=self.seed, method=self.method)
        sums, passes = copies.folded(f, images, squares_added, self.batch_size)
        return Account(values=(sums / self.samples).to(images.dtype), passes=passes)


@final
@dataclass(frozen=True, kw_only=True)
class VarGrad:
    r"""The variance of a method over noisy copies of the image.

    .. math:: a = \frac{1}{n} \sum_{s=1}^{n} \big(m(f, x + \varepsilon_s) - \bar m\big)^2

    with the mean :math:`\bar m` that :class:`SmoothGrad` of the same seed returns. Zero where the
    inner method does not change with the noise, as on a linear model; it does not show where the
    evidence is, but where it is unsteady. Cost: ``samples`` times the cost of the inner method.

    Args:
        samples: Noisy copies per image.
        sigma: Standard deviation of the noise, as a fraction of the image's range.
        seed: Seed of the draws.
        method: Whose variance it is; any method.
        batch_size: Noisy copies per internal batch; chosen by memory if None.

    References:
        Adebayo et al. (2018), "Local Explanation Methods for Deep Neural Networks Lack
        Sensitivity to Parameter Values", section 2.
    """

    samples: int = 25
    sigma: float = 0.15
    seed: int = 0
    method: Method = field(default_factory=Gradient)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_noise(self.samples, self.sigma)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the variances, shaped as the inner method's attributions are."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the variances with their cost."""
        copies = Copies(samples=self.samples, sigma=self.sigma, seed=self.seed, method=self.method)
        sums, passes = copies.folded(f, images, deviations_added, self.batch_size)
        _, deviation, square = (sums[:, i] / self.samples for i in range(3))
        values = (square - deviation.square()).clamp(min=0)
        return Account(values=values.to(images.dtype), passes=passes)


@final
@dataclass(frozen=True, kw_only=True)
class Copies:
    """Noisy copies of images, and a method on them.

    Args:
        samples: Copies per image.
        sigma: Standard deviation of the noise, as a fraction of the image's range.
        seed: Seed of the draws.
        method: What is computed on the copies.
    """

    samples: int
    sigma: float
    seed: int
    method: Method

    def folded(
        self, f: ScalarFn, images: Images, fold: Fold, batch_size: int | None
    ) -> tuple[Tensor, float]:
        """Return the sums over the copies, and the passes per image that they took."""
        images = check_images(images)
        pace = Pace(f=f, images=images, batch_size=batch_size)
        parts: list[Tensor] = []
        passes = 0.0
        for first, last in pace.spans(len(images)):
            sums: Tensor | None = None
            for maps, cost in self.maps(f, images, first, last, pace):
                passes += cost
                sums = fold(sums, maps)
            parts += [] if sums is None else [sums]
        return torch.cat(parts), passes / len(images)

    def maps(
        self, f: ScalarFn, images: Images, first: int, last: int, pace: Pace
    ) -> Iterator[tuple[Tensor, float]]:
        """Yield the maps ``(copies, b, a, h, w)`` of some images, copy after copy."""
        low, high = images[first:last].detach().flatten(1).aminmax(dim=1)
        spread = (self.sigma * (high - low)).view(-1, 1, 1, 1)
        generator = torch.Generator().manual_seed(self.seed)
        for start, stop in pace.spans(self.samples, width=last - first):
            noise = draws(generator, stop - start, images)
            noisy = images[first:last] + noise[:, None] * spread
            rows = torch.arange(first, last, device=images.device).repeat(stop - start)
            account = at_once(self.method, f.at(rows), noisy.flatten(0, 1), pace)
            shape = (stop - start, last - first, *account.values.shape[1:])
            yield account.values.reshape(shape), account.passes * len(rows)


def at_once(method: Method, f: ScalarFn, images: Images, pace: Pace) -> Account:
    """Return what a method finds, in one internal batch where its size is left to us.

    The copies are as many as fit already. A method that keeps its graph, or whose batches the
    user has cut, does as it was told.
    """
    free = getattr(method, "batch_size", 0) is None and not getattr(method, "create_graph", False)
    if not (free and is_dataclass(method)):
        return accounted(method, f, images)
    with pace.watching(len(images)):
        return accounted(replace(method, batch_size=len(images)), f, images)


def added(sums: Tensor | None, maps: Tensor) -> Tensor:
    """Add up the maps."""
    part = maps.sum(dim=0, dtype=sum_dtype(maps))
    return part if sums is None else sums + part


def squares_added(sums: Tensor | None, maps: Tensor) -> Tensor:
    """Add up the squares of the maps."""
    return added(sums, maps.to(sum_dtype(maps)).square())


def deviations_added(sums: Tensor | None, maps: Tensor) -> Tensor:
    """Add up the first map, deviations from it and their squares: ``(b, 3, a, h, w)``.

    Taken from the first map, differences stay small and their squares exact.
    """
    maps = maps.to(sum_dtype(maps))
    first = maps[0] if sums is None else sums[:, 0]
    deviation = maps - first
    new = torch.stack([deviation.sum(dim=0), deviation.square().sum(dim=0)], dim=1)
    rest = new if sums is None else sums[:, 1:] + new
    return torch.cat([first[:, None], rest], dim=1)


def draws(generator: torch.Generator, count: int, images: Images) -> Tensor:
    """Return the next ``count`` draws ``(count, c, h, w)``, one after the other."""
    noise = [torch.randn(images.shape[1:], generator=generator) for _ in range(count)]
    return torch.stack(noise).to(images)


def check_noise(samples: int, sigma: float) -> None:
    """Refuse fewer than one copy, and noise without a size."""
    if samples < 1:
        msg = f"samples must be at least 1; got {samples}."
        raise SettingError(msg)
    if not 0 <= sigma < float("inf"):
        msg = (
            f"sigma is the noise as a fraction of the image's range, 0 or more and usually "
            f"0.1 to 0.2; got {sigma}."
        )
        raise SettingError(msg)
