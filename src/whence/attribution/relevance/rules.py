r"""Rules of layer-wise relevance propagation that share by what each input contributes.

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

from whence.attribution.relevance.layers import Weighed, bias_share, stable, unzero
from whence.errors import SettingError

__all__ = ["STABLE", "AlphaBeta", "Epsilon", "Gamma", "GeneralisedGamma"]

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
        if self.epsilon and at.rectified:
            per_unit = at.over(at.values + self.epsilon)
        elif self.epsilon:
            size = unzero(at.values.abs())
            per_unit = size.div_(size + self.epsilon).mul_(at.incoming)
        else:
            per_unit = at.incoming * (at.values > 0) if at.rectified else at.incoming
        taken = None if at.bias is None else bias_share(per_unit, at.bias)
        return at.layer.transposed(per_unit, at.weight), taken


@final
@dataclass(frozen=True, kw_only=True)
class Gamma:
    r"""The share of the sum, with more weight on what is positive.

    .. math:: R_{i \leftarrow j} = \frac{x_i (w_{ij} + \gamma w_{ij}^+)}
              {\sum_i x_i (w_{ij} + \gamma w_{ij}^+) + b_j + \gamma b_j^+} R_j

    Meant for inputs of 0 or more and outputs that a ReLU follows; where inputs or relevant
    outputs can be negative, as before a residual sum or behind a GELU, the denominator may come
    close to zero: use :class:`GeneralisedGamma` there, which is the same elsewhere. Conserves up to
    biases. Costs 1.5 passes.

    Args:
        gamma: 0 gives the epsilon rule; infinitely much the z+ rule.
        epsilon: Keeps denominators from zero.

    References:
        Montavon et al. (2019), section 10.2.1.
    """

    gamma: float = 0.25
    epsilon: float = STABLE

    def __post_init__(self) -> None:
        """Check the setting."""
        check_gamma(self.gamma)

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
        weight = raised(at.weight, self.gamma)
        bias = None if at.bias is None else raised(at.bias, self.gamma)
        total = at.layer(at.inputs, weight, bias)
        if at.rectified and at.positive:  # relevant totals are positive
            per_unit = at.over(total.abs_().add_(self.epsilon))
        else:
            per_unit = at.over(stable(total, self.epsilon))
        taken = None if bias is None else bias_share(per_unit, bias)
        return at.layer.transposed(per_unit, weight), taken


@final
@dataclass(frozen=True, kw_only=True)
class GeneralisedGamma:
    r"""The share of the sum, with more weight on what agrees with the output's sign.

    .. math:: R_{i \leftarrow j} = \frac{x_i^+ (w + \gamma w^+)_{ij} + x_i^- (w + \gamma w^-)_{ij}}
              {\sum_i (\cdot) + b_j + \gamma b_j^+} R_j \quad (z_j > 0)

    and with :math:`w^+, w^-, b^+` exchanged for :math:`w^-, w^+, b^-` where :math:`z_j < 0`. For
    inputs of 0 or more and positive outputs it is the gamma rule. The denominator is
    :math:`z_j + \frac{\gamma}{2} (z_j \pm A_j)` with
    :math:`A_j = \sum_i |x_i w_{ij}| + |b_j|`, and so never smaller than :math:`z_j`; one more
    forward gives it. Conserves up to biases. Costs 1.5 passes where inputs are 0 or more and a
    ReLU follows, 2 elsewhere.

    Args:
        gamma: 0 gives the epsilon rule.
        epsilon: Keeps denominators from zero.

    References:
        Montavon et al. (2019), section 10.2.1; Andéol et al. (2021), "Learning Domain Invariant
        Representations by Joint Wasserstein Distance Minimization", appendix.
    """

    gamma: float = 0.25
    epsilon: float = STABLE

    def __post_init__(self) -> None:
        """Check the setting."""
        check_gamma(self.gamma)

    @property
    def conserves(self) -> bool:
        """Yes, apart from biases."""
        return True

    @property
    def passes(self) -> float:
        """One more forward, and one more way back; less where a ReLU lies on both sides."""
        return 2.0

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input, and what the biases took."""
        signed = at.signed
        if at.rectified and not signed:
            return Gamma(gamma=self.gamma, epsilon=self.epsilon)(at)
        half, sizes = self.gamma / 2, at.weight.abs()
        spread = None if at.bias is None else at.bias.abs()
        size = at.values if at.rectified else unzero(at.values.abs())
        total = at.layer(at.inputs.abs() if signed else at.inputs, sizes, spread)
        total.mul_(half).add_(size, alpha=1 + half).add_(self.epsilon)
        per_unit = torch.div(size, total, out=total).mul_(at.incoming)
        agreeing = per_unit if at.rectified else per_unit * at.values.sign()
        multiplier = at.layer.transposed(agreeing, sizes.mul_(half))
        if signed:
            multiplier.mul_(at.inputs.sign())
        multiplier.add_(at.layer.transposed(per_unit, at.weight * (1 + half)))
        if at.bias is None or spread is None:
            return multiplier, None
        taken = bias_share(per_unit, at.bias * (1 + half)) + bias_share(agreeing, spread * half)
        return multiplier, taken


def check_gamma(gamma: float) -> None:
    """Refuse what is no weight of the positive part."""
    if not 0 <= gamma < float("inf"):
        msg = f"gamma must be 0 or more, usually 0.1 to 0.5; got {gamma}."
        raise SettingError(msg)


def raised(values: Tensor, gamma: float) -> Tensor:
    """Return values plus gamma times what is positive of them."""
    return values.clamp(min=0).mul_(gamma).add_(values)


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
        weight, bias = at.weight, at.bias

        def rising() -> Tensor:
            return weight.clamp(min=0)

        def falling() -> Tensor:
            return weight.clamp(max=0)

        high = None if bias is None else bias.clamp(min=0)
        multiplier, taken = signed_share(at, rising, falling, high, self.epsilon)
        if not self.beta:
            return multiplier, taken
        low = None if bias is None else bias.clamp(max=0)
        less, took = signed_share(at, falling, rising, low, -self.epsilon)
        multiplier = multiplier.mul_(self.alpha).sub_(less, alpha=self.beta)
        if taken is not None and took is not None:
            taken = self.alpha * taken - self.beta * took
        return multiplier, taken


def signed_share(
    at: Weighed,
    direct: Callable[[], Tensor],
    crossed: Callable[[], Tensor],
    bias: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor | None]:
    """Share relevance by ``x+ direct + x- crossed``; return multipliers and the bias's part.

    All of these products have one sign, which is epsilon's.
    """
    weight = direct()
    if not at.signed:
        per_unit = at.over(at.layer(at.inputs, weight, bias).add_(epsilon))
        multiplier = at.layer.transposed(per_unit, weight)
    else:
        other = crossed()
        total = at.layer(at.inputs.clamp(min=0), weight, bias).add_(epsilon)
        per_unit = at.over(total.add_(at.layer(at.inputs.clamp(max=0), other)))
        multiplier = at.layer.transposed(per_unit, weight)
        falls = at.layer.transposed(per_unit, other)
        multiplier = torch.where(at.inputs < 0, falls, multiplier, out=multiplier)
    return multiplier, None if bias is None else bias_share(per_unit, bias)
