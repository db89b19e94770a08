r"""Methods that integrate the gradient along a path."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import evaluate, owned, recording, sum_dtype, value_and_gradient
from whence.attribution.quadrature import Quadrature, Rule, quadrature, refined
from whence.core import Attributions, Baseline, Images, ScalarFn, Scalars, Zero
from whence.errors import SettingError, ShapeError

__all__ = ["IntegratedGradients", "relative_gap"]

FIRST = 5
"""Points of the first round when the number is left to the tolerance."""


@final
@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    r"""Integrated gradients along the straight line from a baseline.

    .. math:: a_i = (x_i - x'_i) \int_0^1 \partial_i f\big(x' + \alpha (x - x')\big)\, d\alpha

    Completeness, ``a.sum() == f(x) - f(x')``, holds up to the error of the quadrature, which
    :func:`whence.attribution.attribute` reports as the relative gap. Fejér's rule is as good as
    the midpoint rule on networks of ReLUs, whose kinks defeat high orders, gains a digit with
    every few points where the network is smooth, as transformers are, and its points are reused
    when their number is doubled.

    Cost: ``steps`` passes. With a ``tolerance``, each image is refined until its own gap is below
    it, and one pass more is spent on ``f(x)`` and ``f(x')``; an image that has not reached it when
    the next round would exceed ``max_steps`` is returned as it is, with its gap.

    Args:
        steps: Points on the path; with a tolerance, of the first round. None leaves the number
            to the tolerance.
        rule: ``fejer``, ``midpoint``, ``right``, ``trapezoid`` or ``gauss-legendre``. On a network
            without biases the trapezoid wastes the point at a zero baseline, where no ReLU is
            active.
        baseline: Maps images to what the path starts from, ``(b, c, h, w)`` both.
        tolerance: Relative completeness gap to reach, such as 0.01.
        max_steps: The most points that a tolerance may lead to.
        create_graph: Keep the graph, so that a loss on the attributions trains the weights;
            all ``steps`` passes then stay in memory.
        batch_size: Points per internal batch; chosen by memory if None.

    References:
        Sundararajan, Taly and Yan (2017), "Axiomatic Attribution for Deep Networks", Eq. 1.
    """

    steps: int | None = 32
    rule: Rule = "fejer"
    baseline: Baseline = field(default_factory=Zero)
    tolerance: float | None = None
    max_steps: int = 1024
    create_graph: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)
        quadrature(self.rule, FIRST if self.steps is None else self.steps)
        if self.steps is None and self.tolerance is None:
            msg = "steps=None leaves the number of steps to a tolerance; give tolerance=0.01."
            raise SettingError(msg)
        if self.tolerance is not None and not self.tolerance > 0:
            msg = f"tolerance is a relative gap above 0, such as 0.01; got {self.tolerance}."
            raise SettingError(msg)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the integrated gradients, shaped like the images."""
        return self.integrated(f, images, law=self.tolerance is not None).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the integrated gradients with their cost and what they should add up to."""
        return self.integrated(f, images, law=True)

    def integrated(self, f: ScalarFn, images: Images, *, law: bool) -> Account:
        """Return the account; ``law`` asks for ``f`` at both ends of the path."""
        with recording():
            images = owned(images, create_graph=self.create_graph)
            start = self.baseline(images)
            if start.shape != images.shape:
                msg = (
                    f"The baseline must be shaped like the images, {tuple(images.shape)}; "
                    f"{self.baseline} returned {tuple(start.shape)}."
                )
                raise ShapeError(msg)
            line = Line(f=f, start=start, change=images - start, create_graph=self.create_graph)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            explained = reference = None
            passes = 0.0
            if law:
                explained = evaluate(f, images, pace)
                reference = explained - evaluate(f, start.detach(), pace)
                passes = 2 * FORWARD
            finest = 0 if self.tolerance is None else self.max_steps
            rule = quadrature(self.rule, FIRST if self.steps is None else self.steps, most=finest)
            everything = torch.arange(len(images), device=images.device)
            sums = line.gradient(everything, rule, pace)
            passes += len(rule.points)
            mean = sums[0]
            if reference is not None and self.tolerance is not None:
                mean, more = self.refine(line, sums, reference, rule, pace)
                passes += more
            values = (line.change * mean).to(images.dtype)
        return Account(values=values, passes=passes, explained=explained, reference=reference)

    def refine(
        self, line: "Line", sums: Tensor, reference: Scalars, rule: Quadrature, pace: Pace
    ) -> tuple[Tensor, float]:
        """Refine the images whose gap is above the tolerance; return their mean passes too.

        Args:
            line: The path.
            sums: Of the first rule, and those made ahead for finer ones, ``(1 + k, b, c, h, w)``.
            reference: What the values should add up to.
            rule: The first rule.
            pace: How many points at a time.
        """
        mean, visited = sums[0], 0
        open_rows = torch.arange(len(mean), device=mean.device)
        while True:
            gap = relative_gap(line.change[open_rows] * mean[open_rows], reference[open_rows])
            still = gap > (self.tolerance or 0.0)
            open_rows = open_rows[still]
            finer = refined(self.rule, rule.total, most=self.max_steps)
            if not len(open_rows) or finer.total > self.max_steps:
                return mean, visited / len(mean)
            before = sums[1:] if rule.ahead else sums
            sums = finer.keep * before[:, still] + line.gradient(open_rows, finer, pace)
            mean = mean.index_copy(0, open_rows, sums[0])
            visited += len(open_rows) * len(finer.points)
            rule = finer


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """The straight line from baselines to images, and the function along it.

    Args:
        f: The function to explain.
        start: Baselines, ``(b, c, h, w)``.
        change: Images minus baselines.
        create_graph: Keep the graph of the gradients.
    """

    f: ScalarFn
    start: Tensor
    change: Tensor
    create_graph: bool

    def gradient(self, which: Tensor, rule: Quadrature, pace: Pace) -> Tensor:
        """Return the weighted sums of the gradients at the rule's points, for some images.

        ``(1 + k, b, c, h, w)``: the rule's own, and one for each finer rule to come.
        """
        f, start, change = self.f.at(which), self.start[which], self.change[which]
        points = torch.tensor(rule.points, dtype=start.dtype, device=start.device)
        rows = [rule.weights, *rule.ahead]
        weights = torch.tensor(rows, dtype=sum_dtype(start), device=start.device)
        sums = weights.new_zeros(len(rows), *start.shape)
        for first, last in pace.spans(len(which)):
            own = torch.arange(first, last, device=start.device)
            for begin, end in pace.spans(len(points), width=last - first):
                places = points[begin:end].view(-1, 1, 1, 1, 1)
                batch = (start[first:last] + places * change[first:last]).flatten(0, 1)
                with pace.watching(len(batch)):
                    _, gradient = value_and_gradient(
                        f.at(own.repeat(end - begin)), batch, create_graph=self.create_graph
                    )
                grid = gradient.reshape(end - begin, last - first, *gradient.shape[1:])
                share = weights[:, begin:end]
                sums[:, first:last] += torch.tensordot(share, grid.to(weights.dtype), dims=1)
        return sums


def relative_gap(values: Tensor, reference: Tensor) -> Tensor:
    r"""Return how far attributions are from adding up to their reference, per image.

    .. math:: \frac{|\sum_i a_i - r|}{|r|}

    in double precision; 0 where both are zero, infinite where only the reference is.

    Args:
        values: Attributions, ``(b, a, h, w)``.
        reference: What they should add up to, ``(b,)``.
    """
    target = reference.detach().double()
    miss = (values.detach().flatten(1).sum(dim=1, dtype=torch.float64) - target).abs()
    return torch.where(miss == 0, miss, miss / target.abs())
