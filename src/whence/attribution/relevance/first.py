r"""Rules for the layer that reads the images, and others that look at no contribution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.attribution.relevance.layers import Weighed, stable, unzero
from whence.attribution.relevance.rules import STABLE
from whence.errors import SettingError

__all__ = ["Flat", "Pass", "Square", "ZBox"]


@final
@dataclass(frozen=True, kw_only=True)
class ZBox:
    r"""The share of the sum within a box of possible inputs; for the layer that reads the images.

    .. math:: R_{i \leftarrow j} =
              \frac{x_i w_{ij} - l_i w_{ij}^+ - h_i w_{ij}^-}{\sum_i (\cdot)} R_j

    The bias has no part in it: conserves. Costs 2.5 passes of its layer: the share is
    :math:`(x_i - l_i) w_{ij}^+ + (x_i - h_i) w_{ij}^-`, a forward and a backward for each part.

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
        """Two more forwards, and one more way back."""
        return 2.5

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        above = at.inputs - edge(self.low, at.inputs, torch.amin)
        below = at.inputs - edge(self.high, at.inputs, torch.amax)
        rises, falls = at.weight.clamp(min=0), at.weight.clamp(max=0)
        total = at.layer(above, rises).add_(at.layer(below, falls))
        per_unit = at.over(stable(total, self.epsilon))
        relevance = above.mul_(at.layer.transposed(per_unit, rises))
        relevance.addcmul_(below, at.layer.transposed(per_unit, falls))
        return relevance.div_(unzero(at.inputs)), None


def edge(
    bound: float | tuple[float, ...] | None,
    inputs: Tensor,
    extreme: Callable[..., Tensor],
) -> Tensor:
    """Return a bound of the box, broadcastable over the inputs."""
    if bound is None:
        return extreme(inputs, dim=tuple(range(2, inputs.ndim)) or 1, keepdim=True)
    values = torch.as_tensor(bound, dtype=inputs.dtype, device=inputs.device).reshape(-1)
    if len(values) not in (1, inputs.shape[1]):
        msg = (
            f"ZBox takes one bound for all channels or one for each of {inputs.shape[1]}; got "
            f"{len(values)}."
        )
        raise SettingError(msg)
    return values.view(1, -1, *[1] * (inputs.ndim - 2))


@final
@dataclass(frozen=True, kw_only=True)
class Flat:
    r"""The same for every input that an output sees, whatever its value and weight.

    .. math:: R_{i \leftarrow j} = R_j / n_j

    with :math:`n_j` inputs inside the image (padding receives nothing). Conserves. Costs 1 pass
    of its layer, and the forward of one image.

    References:
        Lapuschkin et al. (2019), "Unmasking Clever Hans predictors", supplement.
    """

    @property
    def conserves(self) -> bool:
        """Yes."""
        return True

    @property
    def passes(self) -> float:
        """One forward and one backward."""
        return 1.0

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        return by_weight(at, torch.ones_like(at.weight)), None


@final
@dataclass(frozen=True, kw_only=True)
class Square:
    r"""By the squared weight, whatever the input's value: the w-squared rule.

    .. math:: R_{i \leftarrow j} = \frac{w_{ij}^2}{\sum_i w_{ij}^2} R_j

    Conserves. Costs 1 pass of its layer, and the forward of one image.

    References:
        Montavon et al. (2017), Eq. 13.
    """

    @property
    def conserves(self) -> bool:
        """Yes."""
        return True

    @property
    def passes(self) -> float:
        """One forward and one backward."""
        return 1.0

    def __call__(self, at: Weighed) -> tuple[Tensor, Tensor | None]:
        """Return the multiplier of each input."""
        return by_weight(at, at.weight.square()), None


def by_weight(at: Weighed, weight: Tensor) -> Tensor:
    """Return the multipliers if relevance is shared by a weight of 0 or more alone."""
    totals = unzero(at.layer(at.inputs.new_ones(1, *at.inputs.shape[1:]), weight))
    relevance = at.layer.transposed(at.relevance / totals, weight)
    return relevance.div_(unzero(at.inputs))


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
