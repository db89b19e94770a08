r"""Methods that walk a path step by step: IDGI, guided integrated gradients, blurred paths."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import evaluate, owned, recording, sum_dtype, value_and_gradient
from whence.attribution.quadrature import quadrature
from whence.core import Attributions, Baseline, Blur, Images, ScalarFn, Scalars, Zero
from whence.errors import SettingError, ShapeError

__all__ = ["IDGI", "BlurIG", "GuidedIG"]


@final
@dataclass(frozen=True, kw_only=True)
class IDGI:
    r"""Integrated gradients that keep, of each step, only its part along the gradient.

    .. math:: a_i = \sum_{k=0}^{n-1} \frac{g_{k,i}^2}{\lVert g_k \rVert^2}
              \big(f(x_{k+1}) - f(x_k)\big), \qquad g_k = \nabla f(x_k)

    on the straight line :math:`x_k = x' + \frac{k}{n}(x - x')`. The steps telescope: the values
    add up to ``f(x) - f(x')`` for any number of steps. A step at whose start the gradient
    vanishes has no direction and adds nothing; then the gap shows what it was worth (a network
    without biases is dead at a zero baseline). All pixels of a step share the sign of its change.
    Cost: ``steps`` passes and half a one.

    Args:
        steps: Steps along the path.
        baseline: Maps images to what the path starts from, ``(b, c, h, w)`` both.
        batch_size: Points per internal batch; chosen by memory if None.

    References:
        Yang, Wang and Bilgic (2023), "IDGI: A Framework to Eliminate Explanation Noise from
        Integrated Gradients", algorithm 1.
    """

    steps: int = 32
    baseline: Baseline = field(default_factory=Zero)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        quadrature("midpoint", self.steps)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the attributions, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the attributions with their cost and what they add up to."""
        with recording():
            images = owned(images)
            start = start_of(self.baseline, images)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            ends = evaluate(f, images, pace)
            parts, begins = [], []
            for span in pace.spans(len(images)):
                rows = slice(*span)
                begin_at, change = start[rows], images[rows] - start[rows]

                def line(
                    begin: int, end: int, at: Tensor = begin_at, change: Tensor = change
                ) -> Tensor:
                    places = torch.arange(begin, end).to(at)[:, None] / self.steps
                    return at + per_image(places) * change

                part, begin = telescoped(walked(f, span, self.steps, line, pace), ends[rows])
                parts.append(part)
                begins.append(begin)
        return Account(
            values=torch.cat(parts).to(images.dtype),
            passes=self.steps + FORWARD,
            explained=ends,
            reference=ends - torch.cat(begins),
        )


def telescoped(
    steps: Iterator[tuple[Tensor, Tensor]], ends: Scalars
) -> tuple[Attributions, Scalars]:
    """Return the sum of all changes of ``f``, each along its gradient; and ``f`` at the start.

    Args:
        steps: Values ``(k, b)`` and gradients ``(k, b, c, h, w)`` of the next ``k`` points.
        ends: ``f`` at the end of the path, ``(b,)``.
    """
    total: Tensor | None = None
    begins = value = share = ends
    for values, gradients in steps:
        square = gradients.to(sum_dtype(gradients)).square()
        norm = square.sum(dim=(2, 3, 4), keepdim=True)
        shares = torch.where(norm > 0, square / norm, 0.0)
        if total is None:
            begins, total = values[0], torch.zeros_like(shares[0])
        else:
            total = total + per_image(values[0] - value) * share
        total = total + (per_image(values.diff(dim=0)) * shares[:-1]).sum(dim=0)
        value, share = values[-1], shares[-1]
    change = per_image(ends - value) * share
    return (change if total is None else total + change), begins


def per_image(values: Tensor) -> Tensor:
    """Return values ``(..., b)`` as factors of images ``(..., b, c, h, w)``."""
    return values[..., None, None, None]


@final
@dataclass(frozen=True, kw_only=True)
class BlurIG:
    r"""Integrated gradients along the path on which the image is sharpened out of its blur.

    .. math:: a_i = \sum_{k=1}^{n} \partial_i f\big(L(x, \bar\sigma_k)\big)
              \big(L_i(x, \sigma_{k-1}) - L_i(x, \sigma_k)\big)

    with Gaussian blurs :math:`L(x, \sigma)` from :math:`\sigma_0 = 0` to ``sigma``, and the
    gradient in the middle of each step. The differences of a linear model's values telescope
    exactly; otherwise the values add up to ``f(x)`` less ``f`` of the most blurred image as steps
    grow, and the gap is reported. Nothing that is not in the image is brought in by the path.
    The border is repeated outwards, where zeros would darken it. Cost: ``steps`` passes; the
    account adds one for both ends.

    Args:
        steps: Steps along the path.
        sigma: The widest blur, as a fraction of the image's shorter side.
        batch_size: Points per internal batch; chosen by memory if None.

    References:
        Xu, Venugopalan and Sundararajan (2020), "Attribution in Scale and Space", Eq. 4.
    """

    steps: int = 64
    sigma: float = 0.22
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        quadrature("midpoint", self.steps)
        Blur(sigma=self.sigma)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the attributions, shaped like the images."""
        with recording():
            return self.summed(f, owned(images))

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the attributions with their cost and what they should add up to."""
        with recording():
            images = owned(images)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            explained = evaluate(f, images, pace)
            reference = explained - evaluate(f, Blur(sigma=self.sigma)(images), pace)
            values = self.summed(f, images)
        return Account(
            values=values,
            passes=self.steps + 2 * FORWARD,
            explained=explained,
            reference=reference,
        )

    def summed(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the sum over the steps."""
        pace = Pace(f=f, images=images, batch_size=self.batch_size)
        parts = []
        for first, last in pace.spans(len(images)):
            own = images[first:last]
            total = torch.zeros_like(own, dtype=sum_dtype(own))

            def middles(begin: int, end: int, own: Tensor = own) -> Tensor:
                return torch.stack([self.blurred(own, k + 0.5) for k in range(begin, end)])

            done = 0
            for _, gradients in walked(f, (first, last), self.steps, middles, pace):
                edges = [self.blurred(own, done + k) for k in range(len(gradients) + 1)]
                total += (gradients * -torch.stack(edges).diff(dim=0)).sum(dim=0)
                done += len(gradients)
            parts.append(total)
        return torch.cat(parts).to(images.dtype)

    def blurred(self, images: Images, step: float) -> Images:
        """Return the images after a number of steps towards the widest blur."""
        return Blur(sigma=self.sigma * step / self.steps)(images) if step else images


@final
@dataclass(frozen=True, kw_only=True)
class GuidedIG:
    r"""Integrated gradients along a path that moves the least sensitive pixels first.

    .. math:: a_i = \sum_{k=0}^{n-1} \partial_i f(x_k)\,(x_{k+1,i} - x_{k,i})

    In each step the distance to the image, :math:`\lVert x - x_k \rVert_1`, falls by one part in
    ``steps``, by moving the fraction of the pixels with the smallest absolute gradient as far as
    the corridor around the straight line allows, and if need be the next ones. The path avoids
    directions in which ``f`` is steep, where integrated gradients gather noise. The gradient at
    the start of a step stands for the whole step, so completeness holds up to an error that falls
    as one over ``steps``; the gap is reported. Each step waits for the one before: only images
    are batched. Cost: ``steps`` passes; the account adds half a pass for ``f(x)``.

    Args:
        steps: Steps along the path.
        fraction: Share of the pixels that move at a time, from 0 (one at a time) to 1.
        corridor: How far a pixel may be ahead of, or behind, the straight line, in parts of its
            way; 0 gives integrated gradients with the left rule.
        baseline: Maps images to what the path starts from, ``(b, c, h, w)`` both.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Kapishnikov et al. (2021), "Guided Integrated Gradients: an Adaptive Path Method for
        Removing Noise", algorithm 1.
    """

    steps: int = 64
    fraction: float = 0.25
    corridor: float = 0.02
    baseline: Baseline = field(default_factory=Zero)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        quadrature("midpoint", self.steps)
        for name, value in (("fraction", self.fraction), ("corridor", self.corridor)):
            if not 0 <= value <= 1:
                msg = f"{name} is a share, from 0 to 1; got {value}."
                raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the attributions, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the attributions with their cost and what they should add up to."""
        with recording():
            images = owned(images)
            start = start_of(self.baseline, images)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            parts, begins = [], []
            for first, last in pace.spans(len(images)):
                rows = torch.arange(first, last, device=images.device)
                part, begin = self.walk(f.at(rows), start[first:last], images[first:last], pace)
                parts.append(part)
                begins.append(begin)
            explained = evaluate(f, images, pace)
        return Account(
            values=torch.cat(parts).to(images.dtype),
            passes=self.steps + FORWARD,
            explained=explained,
            reference=explained - torch.cat(begins),
        )

    def walk(self, f: ScalarFn, start: Tensor, end: Tensor, pace: Pace) -> tuple[Tensor, Scalars]:
        """Return the attributions of one batch of images, and ``f`` where the path starts."""
        change = (end - start).flatten(1)
        place = torch.zeros_like(change)  # how far each pixel has come, from 0 to 1
        total = torch.zeros_like(change, dtype=sum_dtype(change))
        begins = change.new_zeros(len(change))
        for step in range(self.steps):
            points = (start.flatten(1) + place * change).reshape(start.shape)
            with pace.watching(len(points)):
                values, gradient = value_and_gradient(f, points)
            begins = begins if step else values
            moved = self.moved(place, change.abs(), gradient.flatten(1).abs(), step + 1)
            total += gradient.flatten(1) * (moved - place) * change
            place = moved
        return total.reshape(start.shape), begins

    def moved(self, place: Tensor, length: Tensor, steepness: Tensor, step: int) -> Tensor:
        """Return how far each pixel has come after a step.

        Args:
            place: How far each has come before, ``(b, n)``.
            length: The length of each pixel's way.
            steepness: The absolute gradient at each.
            step: The number of the step, from 1.
        """
        along = step / self.steps
        low, high = max(along - self.corridor, 0.0), min(along + self.corridor, 1.0)
        left = length.sum(dim=1) * (1 - along)  # of the way to the image, after this step
        place = place.clamp(min=low)
        slack = 16 * torch.finfo(length.dtype).eps * length.sum(dim=1)
        open_rows = torch.ones_like(slack, dtype=torch.bool)
        while True:
            excess = (length * (1 - place)).sum(dim=1) - left
            free = (place < high) & (length > 0)
            open_rows &= (excess > slack) & free.any(dim=1)
            if not open_rows.any():
                return place
            chosen = least(steepness, free, self.fraction) & open_rows[:, None]
            room = (length * (high - place) * chosen).sum(dim=1)
            share = (excess / torch.where(open_rows, room, 1.0)).clamp(max=1)[:, None]
            forward = torch.where(share < 1, place + share * (high - place), high)
            place = torch.where(chosen, forward, place)
            open_rows &= share[:, 0] == 1


def least(steepness: Tensor, free: Tensor, fraction: float) -> Tensor:
    """Return which free pixels are among this fraction of all with the smallest gradient."""
    ranked = steepness.masked_fill(~free, torch.inf)
    at = int(fraction * (steepness.shape[1] - 1))
    bound = ranked.sort(dim=1).values[:, at : at + 1]
    return free & (ranked <= bound)


def walked(
    f: ScalarFn,
    span: tuple[int, int],
    steps: int,
    points: Callable[[int, int], Tensor],
    pace: Pace,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield values ``(k, b)`` and gradients ``(k, b, c, h, w)`` at the next points of a path.

    Args:
        f: The function to explain.
        span: Which images of the batch.
        steps: The number of points.
        points: Returns the points from one number to another, ``(k, b, c, h, w)``.
        pace: How many at a time.
    """
    first, last = span
    for begin, end in pace.spans(steps, width=last - first):
        batch = points(begin, end)
        rows = torch.arange(first, last, device=batch.device).repeat(end - begin)
        with pace.watching(len(rows)):
            values, gradients = value_and_gradient(f.at(rows), batch.flatten(0, 1))
        yield values.reshape(end - begin, last - first), gradients.reshape(batch.shape)


def start_of(baseline: Baseline, images: Images) -> Images:
    """Return what a baseline makes of images, if it has their shape."""
    start = baseline(images)
    if start.shape != images.shape:
        msg = (
            f"The baseline must be shaped like the images, {tuple(images.shape)}; {baseline} "
            f"returned {tuple(start.shape)}."
        )
        raise ShapeError(msg)
    return start.detach()
