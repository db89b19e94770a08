r"""The rules of layer-wise relevance propagation for convolutions and linear layers.

With :math:`z_j = \sum_i x_i w_{ij} + b_j`, a rule says how much of the relevance :math:`R_j` of an
output each input receives. All rules work on the multiplier :math:`R_i / x_i`, which stays finite
where the input is zero; so the rest of the network (reshaping, sums, concatenation, averages, the
winner of a maximum) needs no rule: its gradient is one.

References:
    Bach et al. (2015), "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by
    Layer-Wise Relevance Propagation", Eq. 56 to 60; Montavon et al. (2019), "Layer-Wise Relevance
    Propagation: An Overview", section 10.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.attribution.relevance.layers import Weighed, stable, unzero
from whence.errors import SettingError

__all__ = ["AlphaBeta", "Epsilon", "Flat", "Gamma", "Pass", "Square", "ZBox"]

STABLE = 1e-6
"""What keeps a denominator from zero, where it is not the rule itself."""


@final
@dataclass(frozen=True, kw_only=True)
class Epsilon:
    r"""Each input's share of the sum; epsilon takes relevance from small sums.

    .. math:: R_{i \leftarrow j} = \frac{x_i w_{ij}}{z_j + \epsilon\,\mathrm{sign}(z_j)} R_j

    Conserves up to epsilon and biases. With ``epsilon=0`` it is LRP-0: on a ReLU network input
    times gradient, to rounding. Costs 1 pass.

    Args:
        epsilon: In the units of the layer's output; 0 or more.
    """

    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Check the setting."""
        if not 0 <= self.epsilon < float("inf"):
            msg = f"epsilon must be 0 or more, usually 1e-6; got {self.epsilon}."
            raise SettingError(msg)

    @property
    def conserves(self) -> bool:
        """Yes, apart from what epsilon takes."""
        return True

    @property
    def passes(self) -> float:
        """One forward and one backward."""
        return 1.0

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input, and what the biases took."""
        lower = stable(at.values, self.epsilon) if self.epsilon else unzero(at.values)
        per_unit = at.relevance / lower
        taken = None if at.bias is None else per_unit * at.bias
        return at.layer.transposed(per_unit, at.weight), taken


@final
@dataclass(frozen=True, kw_only=True)
class Gamma:
    r"""The share of the sum, with more weight on what agrees with the output's sign.

    .. math:: R_{i \leftarrow j} = \frac{x_i^+ (w + \gamma w^+)_{ij} + x_i^- (w + \gamma w^-)_{ij}}
              {\sum_i (\cdot) + b_j + \gamma b_j^+} R_j \quad (z_j > 0)

    and with :math:`w^+, w^-, b^+` exchanged for :math:`w^-, w^+, b^-` where :math:`z_j < 0`. For
    inputs of 0 or more and positive outputs it is the gamma rule; for others its generalised form.
    Conserves up to biases. Costs 1.5 passes where inputs and relevant outputs are positive
    (behind a ReLU), up to 4 elsewhere.

    Args:
        gamma: 0 gives the epsilon rule; infinitely much the z+ rule.
        epsilon: Keeps denominators from zero.

    References:
        Montavon et al. (2019), section 10.2.1; Andéol et al. (2021), "Learning Domain Invariant
        Representations by Joint Wasserstein Distance Minimization", appendix.
    """

    gamma: float = 0.25
    epsilon: float = STABLE

    def __post_init__(self) -> None:
        """Check the setting."""
        if not 0 <= self.gamma < float("inf"):
            msg = f"gamma must be 0 or more, usually 0.1 to 0.5; got {self.gamma}."
            raise SettingError(msg)

    @property
    def conserves(self) -> bool:
        """Yes, apart from biases."""
        return True

    @property
    def passes(self) -> float:
        """One more forward."""
        return 1.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input, and what the biases took."""

        def rises() -> Tensor:
            return at.weight + self.gamma * at.weight.clamp(min=0)

        def falls() -> Tensor:
            return at.weight + self.gamma * at.weight.clamp(max=0)

        for_positive = at.relevance * (at.values > 0)
        for_negative = at.relevance * (at.values < 0)
        low = None if at.bias is None else at.bias.clamp(max=0)
        high = None if at.bias is None else at.bias.clamp(min=0)
        parts = [(for_positive, rises, falls, high), (for_negative, falls, rises, low)]
        multiplier, taken = at.inputs.new_zeros(()), None
        for relevance, direct, crossed, extra in parts:
            if not relevance.any():
                continue
            bias = None if at.bias is None or extra is None else at.bias + self.gamma * extra
            more, took = signed_share(at, relevance, direct(), crossed, bias, self.epsilon)
            multiplier = multiplier + more
            taken = took if taken is None or took is None else taken + took
        return multiplier.expand(at.inputs.shape), taken


@final
@dataclass(frozen=True, kw_only=True)
class AlphaBeta:
    r"""What speaks for the output and what speaks against it, each shared out by itself.

    .. math:: R_{i \leftarrow j} = \Big(\alpha \frac{(x_i w_{ij})^+}{z_j^+}
              - \beta \frac{(x_i w_{ij})^-}{z_j^-}\Big) R_j, \qquad \alpha - \beta = 1

    with inputs of either sign, and the bias's parts in the sums. ``alpha=1, beta=0`` is the z+
    rule. Conserves only with ``beta=0``: with more, an output to which nothing positive (or
    nothing negative) contributes loses or gains. Costs 1.5 passes with ``beta=0`` and inputs of
    0 or more, 2.5 passes with beta, and more for inputs of both signs.

    Args:
        alpha: Weight of what speaks for the output; 1 or more.
        beta: Weight of what speaks against it: ``alpha - 1``.
        epsilon: Keeps denominators from zero.

    References:
        Bach et al. (2015), Eq. 60.
    """

    alpha: float = 1.0
    beta: float = 0.0
    epsilon: float = STABLE

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.beta < 0 or abs(self.alpha - self.beta - 1) > STABLE:
            msg = (
                f"alpha - beta must be 1 and beta 0 or more, such as 2 and 1; got alpha "
                f"{self.alpha} and beta {self.beta}."
            )
            raise SettingError(msg)

    @property
    def conserves(self) -> bool:
        """Only without beta."""
        return self.beta == 0

    @property
    def passes(self) -> float:
        """Each part costs a forward and a backward."""
        return 1.5 if self.beta == 0 else 2.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input, and what the biases took."""
        weight = at.weight
        low = None if at.bias is None else at.bias.clamp(max=0)
        high = None if at.bias is None else at.bias.clamp(min=0)
        multiplier, taken = signed_share(
            at,
            self.alpha * at.relevance,
            weight.clamp(min=0),
            lambda: weight.clamp(max=0),
            high,
            self.epsilon,
        )
        if self.beta:
            less, took = signed_share(
                at,
                self.beta * at.relevance,
                weight.clamp(max=0),
                lambda: weight.clamp(min=0),
                low,
                self.epsilon,
            )
            multiplier = multiplier - less
            taken = None if taken is None or took is None else taken - took
        return multiplier, taken


def signed_share(
    at: Weighed,
    relevance: Tensor,
    direct: Tensor,
    crossed: Callable[[], Tensor],
    bias: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor | None]:
    """Share relevance by ``x+ direct + x- crossed``; return multipliers and the bias's part."""
    signed = bool(at.inputs.min() < 0)
    if signed:
        total = at.layer(at.inputs.clamp(min=0), direct)
        total = total + at.layer(at.inputs.clamp(max=0), crossed())
    else:
        total = at.layer(at.inputs, direct)
    total = total if bias is None else total + bias
    per_unit = relevance / stable(total, epsilon)
    multiplier = at.layer.transposed(per_unit, direct)
    if signed:
        other = at.layer.transposed(per_unit, crossed())
        multiplier = torch.where(at.inputs < 0, other, multiplier)
    return multiplier, None if bias is None else per_unit * bias


@final
@dataclass(frozen=True, kw_only=True)
class ZBox:
    r"""The share of the sum within a box of possible inputs; for the layer that reads the images.

    .. math:: R_{i \leftarrow j} =
              \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}{\sum_i (\cdot)} R_j

    The bias has no part in it: conserves. Costs 2.5 passes of its layer.

    Args:
        low: The lowest possible input, one per channel or one for all, in the model's units; the
            image's own lowest per channel if None.
        high: The highest possible input, likewise.
        epsilon: Keeps denominators from zero.

    References:
        Montavon et al. (2017), "Explaining nonlinear classification decisions with deep Taylor
        decomposition", Eq. 15.
    """

    low: float | tuple[float, ...] | None = None
    high: float | tuple[float, ...] | None = None
    epsilon: float = STABLE

    @property
    def conserves(self) -> bool:
        """Yes."""
        return True

    @property
    def passes(self) -> float:
        """Three forwards and three backwards."""
        return 3.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        low = edge(self.low, at.inputs, torch.amin)
        high = edge(self.high, at.inputs, torch.amax)
        rises, falls = at.weight.clamp(min=0), at.weight.clamp(max=0)
        total = at.layer(at.inputs, at.weight) - at.layer(low, rises) - at.layer(high, falls)
        per_unit = at.relevance / stable(total, self.epsilon)
        relevance = (
            at.inputs * at.layer.transposed(per_unit, at.weight)
            - low * at.layer.transposed(per_unit, rises)
            - high * at.layer.transposed(per_unit, falls)
        )
        return relevance / unzero(at.inputs), None


def edge(
    bound: float | tuple[float, ...] | None,
    inputs: Tensor,
    extreme: Callable[..., Tensor],
) -> Tensor:
    """Return a bound of the box, shaped like the inputs."""
    if bound is None:
        axes = tuple(range(2, inputs.ndim))
        own = extreme(inputs, dim=axes, keepdim=True) if axes else inputs
        return own.expand_as(inputs)
    values = torch.as_tensor(bound, dtype=inputs.dtype, device=inputs.device).reshape(-1)
    if len(values) not in (1, inputs.shape[1]):
        msg = (
            f"ZBox takes one bound for all channels or one for each of {inputs.shape[1]}; got "
            f"{len(values)}."
        )
        raise SettingError(msg)
    return values.view(1, -1, *[1] * (inputs.ndim - 2)).expand_as(inputs)


@final
@dataclass(frozen=True, kw_only=True)
class Flat:
    r"""The same for every input that an output sees, whatever its value and weight.

    .. math:: R_{i \leftarrow j} = R_j / n_j

    with :math:`n_j` inputs inside the image (padding receives nothing). Conserves. Costs 1.5
    passes of its layer.

    References:
        Lapuschkin et al. (2019), "Unmasking Clever Hans predictors", supplement.
    """

    @property
    def conserves(self) -> bool:
        """Yes."""
        return True

    @property
    def passes(self) -> float:
        """One more forward."""
        return 1.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        return by_weight(at, torch.ones_like(at.weight)), None


@final
@dataclass(frozen=True, kw_only=True)
class Square:
    r"""By the squared weight, whatever the input's value: the w-squared rule.

    .. math:: R_{i \leftarrow j} = \frac{w_{ij}^2}{\sum_i w_{ij}^2} R_j

    Conserves. Costs 1.5 passes of its layer.

    References:
        Montavon et al. (2017), Eq. 13.
    """

    @property
    def conserves(self) -> bool:
        """Yes."""
        return True

    @property
    def passes(self) -> float:
        """One more forward."""
        return 1.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        return by_weight(at, at.weight.square()), None


def by_weight(at: Weighed, weight: Tensor) -> Tensor:
    """Return the multipliers if relevance is shared by a weight of 0 or more alone."""
    totals = at.layer(torch.ones_like(at.inputs), weight)
    relevance = at.layer.transposed(at.relevance / unzero(totals), weight)
    return relevance / unzero(at.inputs)


@final
@dataclass(frozen=True, kw_only=True)
class Pass:
    """Every input receives the relevance of the output in its place. Conserves; costs nothing.

    For layers whose input and output have the same shape.
    """

    @property
    def conserves(self) -> bool:
        """Yes."""
        return True

    @property
    def passes(self) -> float:
        """A forward."""
        return 0.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        if at.relevance.shape != at.inputs.shape:
            msg = (
                f"Pass hands relevance down in place, but the layer makes "
                f"{tuple(at.relevance.shape)} of {tuple(at.inputs.shape)}. Use Epsilon, or Flat."
            )
            raise SettingError(msg)
        return at.relevance / unzero(at.inputs), None
