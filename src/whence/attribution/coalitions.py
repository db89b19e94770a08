r"""Methods that fit a linear model to coalitions of superpixels: KernelSHAP and LIME."""

from dataclasses import dataclass, field
from math import comb
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size, forward_pace
from whence.attribution.gradient import evaluate, observing, owned
from whence.attribution.occlusion import seen_through
from whence.attribution.stepwise import start_of
from whence.attribution.superpixels import Grid, Superpixels
from whence.core import Baseline, Images, ScalarFn, Zero
from whence.errors import SettingError, ShapeError

__all__ = ["LIME", "KernelSHAP"]


@final
@dataclass(frozen=True, kw_only=True)
class KernelSHAP:
    r"""Shapley values of superpixels, by a weighted linear fit over coalitions.

    .. math:: \min_\phi \sum_z w(|z|)\big(f(x_z) - f(x_\emptyset) - z^\top \phi\big)^2
              \quad\text{with}\quad \sum_s \phi_s = f(x) - f(x_\emptyset), \qquad
              w(k) = \frac{m - 1}{\binom{m}{k}\, k\, (m - k)}

    where :math:`x_z` shows the superpixels of the coalition ``z`` and the fill elsewhere. Exact
    Shapley values if all :math:`2^m - 2` coalitions fit into ``samples``; otherwise coalitions
    are drawn by their weight, each with its complement, and the values are an estimate. They
    always add up to ``f(x)`` less ``f`` of the fill. A superpixel's value is shared out evenly
    among its pixels. Cost: half a pass for each coalition, and one.

    Args:
        superpixels: Which pixels belong together.
        samples: The most coalitions; an odd one is left out where they are drawn in pairs.
        fill: What is seen where a superpixel is hidden.
        seed: Seed of the draws.
        batch_size: Masked images per internal batch; chosen by memory if None.

    References:
        Lundberg and Lee (2017), "A Unified Approach to Interpreting Model Predictions",
        theorem 2; Covert and Lee (2021), "Improving KernelSHAP", section 3.3, for the pairs.
    """

    superpixels: Superpixels = field(default_factory=Grid)
    samples: int = 1000
    fill: Baseline = field(default_factory=Zero)
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_samples(self.samples)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one value per pixel, ``(b, 1, h, w)``."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the values with their cost and what they add up to."""
        with observing():
            game = Game.of(f, images, self.fill, self.superpixels, self.batch_size)
            full = evaluate(f, game.images, game.pace)
            empty = evaluate(f, game.behind, game.pace)
            shares, visited = [], 0
            for index, labels in enumerate(game.labels):
                count = int(labels.max()) + 1
                coalitions, weights = self.coalitions(count)
                visited += len(coalitions)
                gains = game.values(index, coalitions) - empty[index].double().cpu()
                change = (full - empty)[index].double().cpu()
                shares.append(constrained(coalitions.double(), gains, weights, change))
            return Account(
                values=game.shared(shares),
                passes=FORWARD * (2 + visited / len(images)),
                explained=full,
                reference=full - empty,
            )

    def coalitions(self, count: int) -> tuple[Tensor, Tensor]:
        """Return coalitions ``(n, count)`` of superpixels, and the weight of each."""
        if count < 2:  # noqa: PLR2004 - a coalition leaves one out and takes one in
            return torch.zeros(0, count, dtype=torch.bool), torch.zeros(0, dtype=torch.float64)
        sizes = torch.arange(1, count, dtype=torch.float64)
        kernel = (count - 1) / (sizes * (count - sizes))
        if count <= 30 and 2**count - 2 <= self.samples:  # noqa: PLR2004 - bits of a number
            numbers = torch.arange(1, 2**count - 1)
            every = (numbers[:, None] >> torch.arange(count)) % 2 == 1
            ways = torch.tensor([comb(count, k) for k in range(1, count)], dtype=torch.float64)
            return every, (kernel / ways)[every.sum(dim=1) - 1]
        generator = torch.Generator().manual_seed(self.seed)
        pairs = max(self.samples // 2, 1)
        size = torch.multinomial(kernel, pairs, replacement=True, generator=generator) + 1
        order = torch.rand(pairs, count, generator=generator).argsort(dim=1).argsort(dim=1)
        drawn = order < size[:, None]
        both = torch.stack([drawn, ~drawn], dim=1).flatten(0, 1)
        return both, torch.ones(len(both), dtype=torch.float64)


def constrained(coalitions: Tensor, gains: Tensor, weights: Tensor, change: Tensor) -> Tensor:
    """Return the weighted least squares fit whose coefficients add up to ``change``."""
    count = coalitions.shape[1]
    system = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    system[:count, :count] = coalitions.T @ (weights[:, None] * coalitions)
    system[count, :count] = system[:count, count] = 1.0
    right = torch.cat([coalitions.T @ (weights * gains), change.reshape(1)])
    fit = solved(system, right)[:count]
    return fit + (change - fit.sum()) / count


def solved(system: Tensor, right: Tensor) -> Tensor:
    """Return the shortest solution of a linear system that may be singular."""
    solution: Tensor = torch.linalg.lstsq(system, right[:, None], driver="gelsd").solution
    return solution[:, 0]


@final
@dataclass(frozen=True, kw_only=True)
class LIME:
    r"""A local linear model over superpixels.

    .. math:: \min_{\beta, b} \sum_s \pi(z_s)\big(f(x_{z_s}) - b - z_s^\top \beta\big)^2
              + \lambda \lVert \beta \rVert^2, \qquad
              \pi(z) = \exp\Big(-\frac{(1 - \sqrt{|z| / m})^2}{\sigma^2}\Big)

    over random coalitions, in which each superpixel is shown with probability one half; the first
    shows all. The distance is the cosine's to the whole image. A superpixel's coefficient is
    shared out evenly among its pixels. The values add up to nothing in particular: the intercept
    takes what is left, and the ridge shrinks them. Cost: half a pass for each sample.

    Args:
        superpixels: Which pixels belong together.
        samples: Coalitions per image.
        width: The kernel's :math:`\sigma`.
        ridge: The penalty :math:`\lambda`.
        fill: What is seen where a superpixel is hidden.
        seed: Seed of the draws.
        batch_size: Masked images per internal batch; chosen by memory if None.

    References:
        Ribeiro, Singh and Guestrin (2016), "Why Should I Trust You? Explaining the Predictions of
        Any Classifier", Eq. 1 and section 3.4.
    """

    superpixels: Superpixels = field(default_factory=Grid)
    samples: int = 1000
    width: float = 0.25
    ridge: float = 1.0
    fill: Baseline = field(default_factory=Zero)
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_samples(self.samples)
        if not (self.width > 0 and self.ridge >= 0):
            msg = f"width is above 0 and ridge at least 0; got {self.width} and {self.ridge}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one value per pixel, ``(b, 1, h, w)``."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the values with their cost."""
        with observing():
            game = Game.of(f, images, self.fill, self.superpixels, self.batch_size)
            shares = []
            for index, labels in enumerate(game.labels):
                coalitions = self.coalitions(int(labels.max()) + 1)
                values = game.values(index, coalitions)
                shares.append(self.fit(coalitions.double(), values))
            return Account(values=game.shared(shares), passes=FORWARD * self.samples)

    def coalitions(self, count: int) -> Tensor:
        """Return random coalitions ``(samples, count)``; the first shows everything."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.rand(self.samples, count, generator=generator) < 0.5  # noqa: PLR2004 - a coin
        drawn[0] = True
        return drawn

    def fit(self, coalitions: Tensor, values: Tensor) -> Tensor:
        """Return the coefficients of the weighted ridge regression with an intercept."""
        distance = 1 - coalitions.mean(dim=1).sqrt()
        weights = torch.exp(-((distance / self.width) ** 2))
        weights = weights / weights.max()
        centre = (weights[:, None] * coalitions).sum(dim=0) / weights.sum()
        level = (weights * values).sum() / weights.sum()
        around = coalitions - centre
        square = around.T @ (weights[:, None] * around)
        square.diagonal().add_(self.ridge)
        right = around.T @ (weights * (values - level))
        return solved(square, right)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Game:
    """Images of which superpixels can be hidden.

    Args:
        f: The function to explain.
        images: The images, ``(b, c, h, w)``.
        behind: What is seen where they are hidden.
        labels: The superpixel of each pixel, ``(b, h, w)``.
        pace: How many masked images at a time.
    """

    f: ScalarFn
    images: Images
    behind: Images
    labels: Tensor
    pace: Pace

    @staticmethod
    def of(
        f: ScalarFn,
        images: Images,
        fill: Baseline,
        superpixels: Superpixels,
        batch_size: int | None,
    ) -> "Game":
        """Return the game, if there is a superpixel for every pixel."""
        images = owned(images)
        labels = superpixels(images)
        wanted = (len(images), *images.shape[2:])
        if tuple(labels.shape) != wanted or labels.is_floating_point() or labels.min() < 0:
            msg = (
                f"Superpixels must be whole numbers from 0, of shape {wanted}; {superpixels} "
                f"returned {labels.dtype} of shape {tuple(labels.shape)}."
            )
            raise ShapeError(msg)
        return Game(
            f=f,
            images=images,
            behind=start_of(fill, images),
            labels=labels.to(images.device).long(),
            pace=forward_pace(f, images, batch_size),
        )

    def values(self, index: int, coalitions: Tensor) -> Tensor:
        """Return ``f`` of an image for each coalition, ``(n,)``, in double precision."""
        if not len(coalitions):
            return torch.zeros(0, dtype=torch.float64)
        image, labels = self.images[index : index + 1], self.labels[index]
        behind = self.behind[index : index + 1]
        shown = coalitions.to(image)

        def masks(begin: int, end: int) -> Tensor:
            return shown[begin:end][:, labels][:, None]

        row = torch.tensor([index], device=image.device)
        values = seen_through(self.f.at(row), image, lambda _: behind, len(shown), masks, self.pace)
        return values[:, 0].double().cpu()

    def shared(self, shares: list[Tensor]) -> Tensor:
        """Return each superpixel's value, spread evenly over its pixels, ``(b, 1, h, w)``."""
        maps = []
        for share, labels in zip(shares, self.labels, strict=True):
            area = labels.flatten().bincount(minlength=len(share)).clamp(min=1)
            maps.append((share.to(area.device) / area)[labels])
        return torch.stack(maps)[:, None].to(self.images)


def check_samples(samples: int) -> None:
    """Refuse fewer than two coalitions."""
    if samples < 2:  # noqa: PLR2004 - a coalition and its complement
        msg = f"samples must be at least 2; got {samples}."
        raise SettingError(msg)
