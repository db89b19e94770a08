r"""The contrastive explanation method: what would have to be added, and what already suffices."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from whence.attribution.account import Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.classes import classes_of, of_a_class, slope_of
from whence.attribution.gradient import owned, recording
from whence.attribution.stepwise import start_of
from whence.core import (
    Attributions,
    Baseline,
    Images,
    ModelScalar,
    ScalarFn,
    Scalars,
    Zero,
    check_mode,
    logits_from,
)
from whence.errors import SettingError, ShapeError

__all__ = ["Evidence", "PertinentNegatives", "PertinentPositives"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a search found for each image.

    Args:
        values: What is added to the image, or kept of it, less the baseline; zero where the
            search failed; ``(b, c, h, w)``.
        success: Whether it does what was asked; ``(b,)``.
        margin: By how much the logit that had to lead does; of the last try where the search
            failed; ``(b,)``.
    """

    values: Attributions
    success: Tensor
    margin: Scalars


@final
@dataclass(frozen=True, kw_only=True)
class PertinentNegatives:
    r"""The least that would have to be added to the image for it to be another class.

    .. math:: \min_\delta\; c\, \max\big(0,\; f_t(x + \delta) - \max_{i \ne t} f_i(x + \delta)
              + \kappa\big) + \beta \lVert\delta\rVert_1 + \lVert\delta\rVert_2^2
              + \gamma \lVert x + \delta - \mathrm{AE}(x + \delta) \rVert_2^2

    where :math:`\delta` only adds: each pixel moves away from the baseline, which says what "not
    there" is, and stays in the range of the image and the baseline. Not exact: found by a fast
    proximal gradient method, for several weights ``c`` by bisection; of all that succeed, the
    smallest (by the two norms) is returned. With an auto-encoder of likely images, what is added
    is drawn towards images that it returns unchanged. A search may fail: its values are zero, and
    the result says so. The values add up to nothing in particular. Cost: ``steps`` times
    ``searches`` passes.

    Args:
        margin: The lead :math:`\kappa` that the other class must have, in logits.
        sparsity: The weight :math:`\beta` of the sum of absolute values.
        baseline: What nothing looks like; on photographs there is no clear answer.
        autoencoder: From images to images that are likely, both as the model takes them; any
            callable that is differentiable, a module in eval mode. Its cost is not counted.
        plausibility: The weight :math:`\gamma` of what the auto-encoder changes; the paper takes
            100 on digits. It counts only with an auto-encoder.
        steps: Steps of each search; the release takes 1000.
        searches: Weights ``c`` that are tried, from 10 on; the release tries 9.
        rate: Length of the first step; it falls with the root of what is left to do.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: If what is explained is not the logit of a class.

    References:
        Dhurandhar et al. (2018), "Explanations based on the Missing: Towards Contrastive
        Explanations with Pertinent Negatives", Eq. 1.
    """

    margin: float = 0.0
    sparsity: float = 0.1
    baseline: Baseline = field(default_factory=Zero)
    autoencoder: Callable[[Tensor], Tensor] | None = None
    plausibility: float = 100.0
    steps: int = 300
    searches: int = 6
    rate: float = 0.01
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_search(self)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return what is added, shaped like the images."""
        return self.search(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return what is added with its cost, and where the search succeeded."""
        evidence = self.search(f, images)
        return Account(
            values=evidence.values,
            passes=self.steps * self.searches,
            found=evidence.success,
        )

    def search(self, f: ScalarFn, images: Images) -> Evidence:
        """Return what is added, with the success and the margin of each image."""

        def room(own: Images, start: Images) -> Room:
            least = torch.minimum(own, start).amin(dim=(2, 3), keepdim=True)
            most = torch.maximum(own, start).amax(dim=(2, 3), keepdim=True)
            down = torch.where(own <= start, least - own, 0.0)
            up = torch.where(own >= start, most - own, 0.0)
            return Room(origin=own, low=down, high=up, first=torch.zeros_like(own), sign=-1.0)

        return sought(self, f, images, room)


@final
@dataclass(frozen=True, kw_only=True)
class PertinentPositives:
    r"""The least of the image that suffices for it to be the class that it is.

    .. math:: \min_\delta\; c\, \max\big(0,\; \max_{i \ne t} f_i(x' + \delta) - f_t(x' + \delta)
              + \kappa\big) + \beta \lVert\delta\rVert_1 + \lVert\delta\rVert_2^2
              + \gamma \lVert x' + \delta - \mathrm{AE}(x' + \delta) \rVert_2^2

    where each pixel of :math:`x' + \delta` lies between the baseline ``x'``, which says what "not
    there" is, and the image. The search starts from the whole image. Otherwise as
    :class:`PertinentNegatives`. Cost: ``steps`` times ``searches`` passes.

    Args:
        margin: The lead :math:`\kappa` that the class must keep, in logits.
        sparsity: The weight :math:`\beta` of the sum of absolute values.
        baseline: What nothing looks like.
        autoencoder: As in :class:`PertinentNegatives`.
        plausibility: The weight :math:`\gamma` of what the auto-encoder changes.
        steps: Steps of each search; the release takes 1000.
        searches: Weights ``c`` that are tried, from 10 on; the release tries 9.
        rate: Length of the first step.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: If what is explained is not the logit of a class.

    References:
        Dhurandhar et al. (2018), Eq. 2.
    """

    margin: float = 0.0
    sparsity: float = 0.1
    baseline: Baseline = field(default_factory=Zero)
    autoencoder: Callable[[Tensor], Tensor] | None = None
    plausibility: float = 100.0
    steps: int = 300
    searches: int = 6
    rate: float = 0.01
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        check_search(self)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return what is kept, less the baseline, shaped like the images."""
        return self.search(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return what is kept with its cost, and where the search succeeded."""
        evidence = self.search(f, images)
        return Account(
            values=evidence.values,
            passes=self.steps * self.searches,
            found=evidence.success,
        )

    def search(self, f: ScalarFn, images: Images) -> Evidence:
        """Return what is kept, with the success and the margin of each image."""

        def room(own: Images, start: Images) -> Room:
            change = own - start
            return Room(
                origin=start,
                low=change.clamp(max=0),
                high=change.clamp(min=0),
                first=change,
                sign=1.0,
            )

        return sought(self, f, images, room)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Room:
    """Where a change may go.

    Args:
        origin: What the change is added to, ``(b, c, h, w)``.
        low: The least change of each pixel.
        high: The greatest.
        first: Where the search starts.
        sign: 1 if the class has to lead, -1 if another has to.
    """

    origin: Tensor
    low: Tensor
    high: Tensor
    first: Tensor
    sign: float

    def inside(self, change: Tensor) -> Tensor:
        """Return the nearest change that is allowed."""
        return torch.minimum(torch.maximum(change, self.low), self.high)


def sought(
    method: PertinentNegatives | PertinentPositives,
    f: ScalarFn,
    images: Images,
    room: Callable[[Images, Images], Room],
) -> Evidence:
    """Return what the searches found, in internal batches."""
    f = of_a_class(f, type(method).__name__)
    with recording():
        images = owned(images)
        start = start_of(method.baseline, images)
        pace = Pace(f=f, images=images, batch_size=method.batch_size)
        found = []
        for first, last in pace.spans(len(images)):
            rows = torch.arange(first, last, device=images.device)
            own = ModelScalar(f.model, f.target.at(rows))
            where = room(images[first:last], start[first:last])
            found.append(bisected(method, own, where, pace))
    values, success, margin = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Evidence(values=values, success=success, margin=margin)


def bisected(
    method: PertinentNegatives | PertinentPositives, f: ModelScalar, room: Room, pace: Pace
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the smallest change that succeeds for any weight; whether; and its margin.

    A weight at which the descent ends well is halved towards the last at which it did not; one at
    which it does not grows tenfold, or half the way to the last at which it did.
    """
    count = len(room.origin)
    best = Best.none(room.origin)
    weight = torch.full((count,), 10.0, dtype=room.origin.dtype, device=room.origin.device)
    low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
    for _ in range(method.searches):
        tried, settled = descended(method, f, room, weight, pace)
        best = best.with_better(tried)
        high = torch.where(settled, weight, high)
        low = torch.where(settled, low, weight)
        weight = torch.where(high.isinf(), 10 * weight, (low + high) / 2)
    return best.values, best.success, best.margin


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Best:
    """The smallest change that succeeded so far, and its size and margin, per image."""

    values: Tensor
    success: Tensor
    size: Tensor
    margin: Tensor

    @staticmethod
    def none(images: Tensor) -> "Best":
        """Return that nothing was found yet."""
        none = torch.full((len(images),), torch.inf, dtype=images.dtype, device=images.device)
        return Best(values=torch.zeros_like(images), success=none < 0, size=none, margin=-none)

    def with_better(self, other: "Best") -> "Best":
        """Return the smaller of both where the other succeeded; its margin where none did."""
        better = other.success & (other.size < self.size)
        taken = better | ~self.success
        return Best(
            values=torch.where(better[:, None, None, None], other.values, self.values),
            success=self.success | other.success,
            size=torch.where(better, other.size, self.size),
            margin=torch.where(taken, other.margin, self.margin),
        )


def descended(
    method: PertinentNegatives | PertinentPositives,
    f: ModelScalar,
    room: Room,
    weight: Tensor,
    pace: Pace,
) -> tuple[Best, Tensor]:
    """Return the smallest change that succeeds, and whether any does in the last quarter.

    The way may lead through changes that succeed to one that does not: then the weight is too
    small, and what was passed is far from the smallest.
    """
    best = Best.none(room.origin)
    settled = best.success
    change = before = room.first
    for step in range(method.steps):
        lead, slope = lead_and_slope(f, room, change, pace)
        pull = unlikely_slope(method, room.origin + change)
        size = method.sparsity * change.abs().flatten(1).sum(dim=1)
        here = Best(
            values=change,
            success=(lead >= method.margin) & (lead > 0),
            size=size + change.square().flatten(1).sum(dim=1),
            margin=lead,
        )
        best = best.with_better(here)
        settled = settled | (here.success & (4 * step >= 3 * method.steps))
        active = (weight * (lead < method.margin + SLACK)).view(-1, 1, 1, 1)
        rate = method.rate * (1 - step / method.steps) ** 0.5
        moved = change - rate * (2 * change + pull - active * slope)
        after = room.inside(moved.sign() * (moved.abs() - rate * method.sparsity).clamp(min=0))
        change = room.inside(after + step / (step + 3) * (after - before))
        before = after
    return best, settled


SLACK = 1e-6
"""Beyond the margin by this much nothing pushes any more."""


def lead_and_slope(f: ModelScalar, room: Room, change: Tensor, pace: Pace) -> tuple[Tensor, Tensor]:
    """Return by how much the logit that has to lead does, and the gradient of that."""
    leaf = change.detach().clone().requires_grad_()
    with pace.watching(len(leaf)):
        seen = room.origin + leaf
        logits = logits_from(f.model, seen.clone())
    if logits.shape[1] < 2:  # noqa: PLR2004 - a class and another
        msg = f"There must be two classes at least; the output has shape {tuple(logits.shape)}."
        raise SettingError(msg)
    own = torch.nn.functional.one_hot(classes_of(f, logits), logits.shape[1]).bool()
    rival = logits.masked_fill(own, -torch.inf).amax(dim=1)
    lead = room.sign * (f.target(logits) - rival)
    return lead.detach(), slope_of(lead, leaf, seen)


def unlikely_slope(
    method: PertinentNegatives | PertinentPositives, images: Tensor
) -> Tensor | float:
    """Return the gradient of what the auto-encoder changes, by its weight; 0 without one."""
    if method.autoencoder is None or not method.plausibility:
        return 0.0
    leaf = images.detach().clone().requires_grad_()
    likely = method.autoencoder(leaf)
    if likely.shape != images.shape:
        msg = (
            f"The autoencoder must return images of the shape it was given, "
            f"{tuple(images.shape)}; it returned {tuple(likely.shape)}."
        )
        raise ShapeError(msg)
    (slope,) = torch.autograd.grad((leaf - likely).square().sum(), leaf)
    return method.plausibility * slope


def check_search(method: PertinentNegatives | PertinentPositives) -> None:
    """Refuse settings without meaning."""
    if isinstance(method.autoencoder, nn.Module):
        check_mode(method.autoencoder)
    if min(method.steps, method.searches) < 1:
        msg = f"steps and searches must be at least 1; got {method.steps} and {method.searches}."
        raise SettingError(msg)
    if min(method.margin, method.sparsity, method.plausibility) < 0 or not method.rate > 0:
        msg = (
            f"margin, sparsity and plausibility are at least 0 and rate is above 0; got "
            f"{method.margin}, {method.sparsity}, {method.plausibility} and {method.rate}."
        )
        raise SettingError(msg)
