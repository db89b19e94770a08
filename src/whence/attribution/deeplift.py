r"""DeepLIFT: the difference to a baseline, handed down as differences."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account, Loss
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import check_values, observing, owned, recording
from whence.attribution.graphs import graph_of, remade
from whence.attribution.relevance import differences, weights, winners
from whence.attribution.relevance.assembly import (
    CURVES,
    LAYERS,
    LINEAR,
    blocked_rules,
    both,
    second,
)
from whence.attribution.relevance.differences import TAPE, Tape
from whence.attribution.relevance.signs import frozen
from whence.attribution.relevance.trace import Trace, not_finite, traced
from whence.core import (
    Attributions,
    Baseline,
    Images,
    ModelScalar,
    ScalarFn,
    Target,
    Zero,
    check_logits,
)
from whence.errors import ShapeError
from whence.network import Network, Place, Rule, everywhere, places

__all__ = ["DeepLift"]

ELEMENTWISE = CURVES | frozenset(
    [
        *("relu", "leaky_relu", "prelu", "sigmoid", "hardsigmoid", "softplus", "exp", "log", "abs"),
        *("rsqrt", "reciprocal", "erf", "sin", "cos", "log1p", "expm1", "log_sigmoid"),
    ]
)
"""Functions of one number that follow the rescale rule."""

OWN = frozenset(
    [
        *("softmax", "_softmax", "scaled_dot_product_attention", "layer_norm"),
        *("group_norm", "rms_norm", "batch_norm"),
    ]
)
"""Operations with a rule of their own, or linear in eval mode."""


def difference_rules(network: Network) -> list[Rule]:
    """Return how every operation of a network shares out a difference."""
    found = places(network.module)
    known = (LINEAR - {"max"}) | ELEMENTWISE | OWN | LAYERS
    unknown = {place.name for place in found if place.name not in known}
    table: list[tuple[str, Callable[..., Any], Callable[[Place], bool]]] = [
        ("mul matmul mm bmm", differences.product, both),
        ("div", differences.quotient, both),
        ("div", differences.inverse, second),
        ("softmax _softmax", weights.softmax, everywhere),
        ("scaled_dot_product_attention", weights.attention, everywhere),
        ("max_pool1d max_pool2d", winners.max_pool, everywhere),
        ("adaptive_max_pool1d adaptive_max_pool2d", winners.adaptive_pool, everywhere),
        ("amax", winners.extreme_function(largest=True), everywhere),
        ("amin", winners.extreme_function(largest=False), everywhere),
        ("maximum", winners.larger_function(largest=True), everywhere),
        ("minimum", winners.larger_function(largest=False), everywhere),
        ("where", winners.where, everywhere),
        ("masked_fill", winners.filled, everywhere),
        ("relu", differences.rectifier, everywhere),
        ("layer_norm", differences.norm_function(centred=True), everywhere),
        ("group_norm", differences.norm_function(centred=True, groups=True), everywhere),
        ("rms_norm", differences.norm_function(centred=False), everywhere),
        (" ".join(ELEMENTWISE), differences.elementwise, everywhere),
        ("norm linalg_vector_norm", differences.length, everywhere),
    ]
    made = [
        Rule(operations=frozenset(names.split()), function=function, where=where, optional=True)
        for names, function, where in table
    ]
    return [*made, *blocked_rules(unknown)]


def compared_network(network: Network) -> Network:
    """Return the network whose operations share out differences, batch norms folded."""
    whole = network.folded()
    return frozen(whole.under(difference_rules(whole)))


@final
@dataclass(frozen=True, kw_only=True)
class DeepLift:
    r"""DeepLIFT with the rescale rule: the difference to a baseline, shared out exactly.

    .. math:: a_i = m_i (x_i - x'_i), \qquad \sum_i a_i = f(x) - f(x')

    Multipliers follow the chain rule, with :math:`\Delta y / \Delta x` in place of the derivative
    of an activation. Products, softmax, attention and layer norms are shared out by steps that
    are exact too, so the values add up to the difference for transformers as well, to rounding;
    the gap is reported. For a target that is not linear in the logits (a probability), they add
    up to the difference of the logits times the target's gradient.

    Cost: 1.5 passes, of which half is the baseline's forward.

    Args:
        baseline: Maps images to baselines; zeros in the model's units by default.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: When called on a function whose model is no :class:`whence.network.Network`.
        UnsupportedOperation: When a difference arrives at an operation without a rule.

    References:
        Shrikumar, Greenside and Kundaje (2017), "Learning Important Features Through Propagating
        Activation Differences", section 3.2 and Eq. 7.
    """

    baseline: Baseline = field(default_factory=Zero)
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return each value's share of the difference, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the shares with their cost and what they should add up to."""
        network, scalar = graph_of(f, "DeepLift")
        network.check(images)
        parts = []
        with recording():
            images = owned(images)
            start = self.baseline(images)
            if start.shape != images.shape:
                msg = (
                    f"The baseline must be shaped like the images, {tuple(images.shape)}; "
                    f"{self.baseline} returned {tuple(start.shape)}."
                )
                raise ShapeError(msg)
            other = remade(network, DeepLift, compared_network)
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            for first, last in pace.spans(len(images)):
                rows = torch.arange(first, last, device=images.device)
                target = scalar.at(rows).target
                with pace.watching(last - first):
                    parts.append(compared(other, target, images[first:last], start[first:last]))
        shares, values, reference = (torch.cat(part) for part in zip(*parts, strict=True))

        def trace(row: int) -> tuple[Loss, ...]:
            return searched(other, scalar, images, start, row)[0]

        if values.isfinite().all() and images.isfinite().all() and not shares.isfinite().all():
            bad = int((~shares.isfinite()).flatten(1).any(dim=1).nonzero()[0, 0])
            raise not_finite(images, shares, searched(other, scalar, images, start, bad)[1])
        return Account(
            values=shares,
            passes=1.0 + FORWARD,
            explained=values,
            reference=reference,
            trace=trace,
        )


def searched(
    network: Network, scalar: ModelScalar, images: Images, start: Images, row: int
) -> tuple[tuple[Loss, ...], str | None]:
    """Return what each operation keeps of an image's difference, and where it is not finite."""
    target = scalar.at(torch.tensor([row], device=images.device)).target

    def seed(logits: Tensor) -> Tensor:
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(target(leaf).sum(), leaf)[0]

    tape = Tape()
    token = TAPE.set(tape)
    try:
        with observing():
            base = Trace(network.module)
            base.run(start[row : row + 1].detach().clone())
        tape.replaying = True
        with recording():
            return traced(network, images[row : row + 1], seed, base=base.values)
    finally:
        TAPE.reset(token)


def compared(
    network: Network, target: Target, images: Images, start: Images
) -> tuple[Tensor, Tensor, Tensor]:
    """Return shares, explained values, and what the shares should add up to."""
    tape = Tape()
    displacement = torch.zeros_like(images, requires_grad=True)
    token = TAPE.set(tape)
    try:
        with torch.no_grad():
            before = network(start.detach().clone())
        tape.replaying = True
        logits = check_logits(network(images + displacement), len(images))
    finally:
        TAPE.reset(token)
    values = target(logits)
    check_values(values, len(images))
    (seed,) = torch.autograd.grad(values, logits, torch.ones_like(values), retain_graph=True)
    (multiplier,) = torch.autograd.grad(logits, displacement, seed)
    reference = ((logits.detach() - before) * seed).sum(dim=1)
    return multiplier * (images - start), values.detach(), reference
