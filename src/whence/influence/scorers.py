r"""Scorers: how two gradients become a score.

Nearly every data-attribution score is an inner product with a transformed query,

.. math:: S_i = w_i \, \langle \nabla m_i, u \rangle ,

with :math:`m_i` the margin (log-odds) of training image *i*'s label. A scorer says how a query's
gradient becomes :math:`u`, and what the weight :math:`w_i` of a training image is.

The gradient of the cross-entropy is :math:`-(1 - p) \nabla m`: the same direction as the margin's,
but in float32 it loses this direction once :math:`p` rounds to one. So margins are differentiated,
and the factor :math:`1 - p` is put back where a score wants it.

The sign: a score is positive if a step of training on image *i* raises the query's margin (a
*proponent*), and negative if it lowers it (an *opponent*).
"""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch

from whence.core import Scalars
from whence.errors import SettingError

__all__ = ["SCORERS", "GradCos", "GradDot", "Scorer", "scorer_named"]


@runtime_checkable
class Scorer(Protocol):
    """How gradients become scores."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    @property
    def normalised(self) -> bool:
        """Whether the weight of a training image needs the norm of its gradient."""
        ...

    def factors(self, squared_norms: Scalars, residuals: Scalars) -> Scalars:
        """Return by how much each query's margin gradient is multiplied to give ``u``."""
        ...

    def weights(self, squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
        """Return ``w`` from the training images' squared gradient norms and ``1 - p``."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class GradDot:
    r"""The inner product of two loss gradients: first-order change of the query's loss.

    .. math:: S = (1 - p_i)(1 - p_q) \langle \nabla m_i, \nabla m_q \rangle

    Training images with large gradients (hard or mislabelled ones) dominate it.

    References:
        Pruthi et al. (2020), "Estimating Training Data Influence by Tracing Gradient Descent",
        with the last checkpoint only.
    """

    name: str = "grad-dot"
    normalised: bool = False

    def factors(self, squared_norms: Scalars, residuals: Scalars) -> Scalars:
        """Return ``1 - p`` of each query."""
        del squared_norms
        return residuals

    def weights(self, squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
        """Return ``1 - p`` of each training image."""
        del squared_norms
        return residuals


@final
@dataclass(frozen=True, kw_only=True)
class GradCos:
    r"""The cosine of two loss gradients.

    .. math:: S = \frac{\langle \nabla m_i, \nabla m_q \rangle}
                       {\lVert \nabla m_i \rVert \, \lVert \nabla m_q \rVert}

    It is 0 where a gradient is 0. Every image has cosine 1 with itself, so self-scores say
    nothing about labels.

    References:
        Hanawa et al. (2021), "Evaluation of Similarity-based Explanations"; Bacha and George
        (2025), "Training Feature Attribution for Vision Models".
    """

    name: str = "grad-cos"
    normalised: bool = True

    def factors(self, squared_norms: Scalars, residuals: Scalars) -> Scalars:
        """Return one over the norm of each query's gradient."""
        return self.weights(squared_norms, residuals)

    def weights(self, squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
        """Return one over the norm of each training image's gradient."""
        if squared_norms is None:
            return torch.zeros_like(residuals)
        safe = torch.where(squared_norms > 0, squared_norms, torch.ones_like(squared_norms))
        return torch.where(squared_norms > 0, safe.rsqrt(), torch.zeros_like(safe))


SCORERS: tuple[Scorer, ...] = (GradCos(), GradDot())
"""The scorers by name."""


def scorer_named(name: str) -> Scorer:
    """Return the scorer of this name.

    Raises:
        SettingError: If there is none.
    """
    for scorer in SCORERS:
        if scorer.name == name:
            return scorer
    msg = f"Unknown score {name!r}. Choose one of: {', '.join(s.name for s in SCORERS)}."
    raise SettingError(msg)
