r"""Scoring: what a scorer becomes once it is fitted to a network.

Nearly every data-attribution score is an inner product with a transformed query,

.. math:: S_{iq} = w_i \, \langle \nabla m_i, u_q \rangle , \qquad u_q = c_q \, A \, \nabla F_q ,

with :math:`m_i` the margin (log-odds) of training image *i*'s label, :math:`F_q` what is asked
about the query, and :math:`A` a linear map on gradients: the identity, or the inverse of some
curvature. So a scorer is three things: :math:`A`, the number :math:`c_q` of a query and the number
:math:`w_i` of a training image.

The gradient of the cross-entropy is :math:`-(1 - p) \nabla m`: the same direction as the margin's,
but in float32 it loses this direction once :math:`p` rounds to one. So margins are differentiated,
and the *residual* :math:`1 - p` is put back where a score wants it.

The sign: a score is positive if a step of training on image *i* raises the query's output (a
*proponent*), and negative if it lowers it (an *opponent*).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from whence.core import ImageData, Images, Progress, Scalars, Target, silent
from whence.curvature import Sandwich
from whence.errors import SettingError
from whence.gradients import Block, DirectBlock, ExampleGradients, Operator, Recorder
from whence.network import Network

__all__ = [
    "OUTPUTS",
    "Output",
    "Records",
    "Scorer",
    "Scoring",
    "WeightRule",
    "asked",
    "inverse_norm",
    "one",
    "quadratic_of",
    "residual",
]

Output = Literal["loss", "margin"]
"""What a score is the change of: the query's loss, or its margin."""

OUTPUTS: tuple[Output, ...] = ("loss", "margin")


@runtime_checkable
class Records(Protocol):
    """What gives the vector of every image: a gradient over parameters, or features."""

    @property
    def network(self) -> Network:
        """The network."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, or of the features."""
        ...

    def record(
        self, images: Images, target: Target, *, create_graph: bool = False
    ) -> ExampleGradients:
        """Return the vectors of a batch, as named blocks."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """How gradients become scores: a frozen value of settings, never of a model."""

    @property
    def name(self) -> str:
        """Its name on the command line."""
        ...

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> "Scoring":
        """Return the scoring for one network; makes its passes over the training data here.

        Args:
            recorder: Records gradients of the network for the chosen parameters.
            train: Training images with labels.
            batch_size: Training images at a time.
            progress: Told how many training images are done.
        """
        ...


@runtime_checkable
class WeightRule(Protocol):
    """How squared norms and residuals of gradients become a number for each image."""

    def __call__(self, squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
        """Return one number per image; differentiable."""
        ...


def residual(squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
    """Return ``1 - p``: the gradient is the loss's."""
    del squared_norms
    return residuals


def one(squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
    """Return 1: the gradient is the margin's."""
    del squared_norms
    return torch.ones_like(residuals)


def inverse_norm(squared_norms: Scalars | None, residuals: Scalars) -> Scalars:
    """Return one over the norm: only the direction counts. It is 0 where the norm is 0."""
    if squared_norms is None:
        return torch.zeros_like(residuals)
    safe = torch.where(squared_norms > 0, squared_norms, torch.ones_like(squared_norms))
    return torch.where(squared_norms > 0, safe.rsqrt(), torch.zeros_like(safe))


def asked(output: str) -> WeightRule:
    """Return the number of a query whose loss, or whose margin, is asked about.

    Raises:
        SettingError: If it is neither.
    """
    if output not in OUTPUTS:
        msg = f"output is 'loss' or 'margin'; got {output!r}."
        raise SettingError(msg)
    return residual if output == "loss" else one


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Scoring:
    """A scorer fitted to one network.

    Args:
        recorder: Records gradients of the network, or its features.
        factors: The number ``c`` of a query, such as :func:`residual`.
        weights: The number ``w`` of a training image.
        normalised: Whether one of the two needs norms.
        operator: The map ``A``, symmetric; None for the identity.
        metric: Norms are ``sqrt(<g, metric g>)``; symmetric; None for Euclidean norms.
        ensemble: How the scores of several networks become one: ``"rates"`` adds them, each times
            its checkpoint's learning rate; ``"mean"`` averages them; ``"pooled"`` multiplies the
            average of inner products by the average of weights.
    """

    recorder: Records
    factors: WeightRule = residual
    weights: WeightRule = residual
    normalised: bool = False
    operator: Operator | None = None
    metric: Operator | None = None
    ensemble: Literal["rates", "mean", "pooled"] = "mean"

    def vectors(
        self, gradients: Mapping[str, Block], squared_norms: Scalars | None, residuals: Scalars
    ) -> dict[str, Block]:
        """Return the vectors ``u`` of queries.

        Args:
            gradients: For each parameter one block of ``q`` gradients.
            squared_norms: Their squared norms in the metric, if the scoring is normalised.
            residuals: Their ``1 - p``; 1 for targets that are no margins.
        """
        factors = self.factors(squared_norms, residuals)
        if self.operator is None:
            return {name: block.scaled(factors) for name, block in gradients.items()}
        with torch.no_grad():
            mapped = self.operator(
                {n: b.materialise().reshape(len(b), *b.shape) for n, b in gradients.items()}
            )
        return {
            name: DirectBlock(values=mapped[name].flatten(1), shape=block.shape).scaled(factors)
            for name, block in gradients.items()
        }

    def squared_norms(self, gradients: ExampleGradients) -> Scalars:
        r"""Return squared norms in the metric :math:`M`, ``(b,)``.

        The metric is applied once, outside any graph; as it is symmetric, the slope
        :math:`2 M g` of the norm is right all the same.
        """
        return quadratic_of(self.metric, gradients)


def quadratic_of(operator: Operator | None, gradients: ExampleGradients) -> Scalars:
    r"""Return :math:`\langle g, M g \rangle` of recorded gradients, with the slope :math:`2 M g`.

    Args:
        operator: ``M``, symmetric; None for the identity.
        gradients: Of a batch.
    """
    if operator is None:
        return gradients.squared_norm()
    if isinstance(operator, Sandwich):  # in the projected space: no gradient is formed
        vectors = operator.projector.project(gradients)
        operator = operator.middle
    else:
        vectors = gradients.materialise()
    held = {name: value.detach() for name, value in vectors.items()}
    with torch.no_grad():
        mapped = operator(held)
    total = gradients.logits.new_zeros(len(gradients))
    for name, value in vectors.items():
        twice: Tensor = (2 * value - held[name]) * mapped[name]
        total = total + twice.flatten(1).sum(dim=1)
    return total
