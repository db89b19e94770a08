r"""Scorers in a projected space: TRAK, projected Fisher matrices, TrackStar.

Gradients are shrunk to a few thousand numbers :math:`P g`, so that a matrix over all of them can
be inverted. The score stays an inner product of gradients in full, with

.. math:: u = P^\top \left(\tfrac{1}{n} \Phi^\top \Phi + \lambda I\right)^{-1} P v ,

:math:`\Phi` the projected gradients of the training images: so it is exact but for the projection,
and its training-feature maps are those of any other scorer.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from torch import Tensor

from whence.core import ImageData, Margin, Progress, silent
from whence.curvature import (
    Draws,
    Margins,
    RandomSigns,
    Sandwich,
)
from whence.errors import SettingError
from whence.gradients import (
    DirectBlock,
    ExampleGradients,
    Operator,
    Projection,
    Projector,
    Recorder,
)
from whence.influence.batches import training_images
from whence.influence.fisher import inverse_of, projected_fisher, projected_moment
from whence.influence.optimiser import preconditioner_of
from whence.influence.scoring import Output, Scoring, asked, inverse_norm, one

__all__ = ["TRAK", "Projected", "ProjectedFisher", "TrackStar", "projector_for"]


@final
@dataclass(frozen=True, kw_only=True)
class Projected:
    """The space in which a matrix over all parameters is inverted.

    Args:
        dimension: Numbers per image in all, at most (at least one per parameter tensor). The
            matrix takes the square of it, its inverse the cube.
        kind: ``"factored"`` projects inputs and output gradients of a layer, which costs little;
            ``"sketch"`` adds every element of a gradient to one of a few sums, which costs the
            gradient in full and is more exact.
        seed: Seed of the signs and places.

    References:
        Choe et al. (2024), "What is Your Data Worth to GPT?" (factored); Hu et al. (2025),
        "GraSS: Scalable Data Attribution with Gradient Sparsification and Sparse Projection"
        (sparse Johnson-Lindenstrauss transforms).
    """

    dimension: int = 2048
    kind: Literal["factored", "sketch"] = "factored"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.dimension < 1 or self.kind not in ("factored", "sketch"):
            msg = (
                f"A projection has a dimension of at least 1 and the kind 'factored' or 'sketch'; "
                f"got dimension={self.dimension}, kind={self.kind!r}."
            )
            raise SettingError(msg)


@final
@dataclass(frozen=True, kw_only=True)
class TRAK:
    r"""Tracing with the randomly projected after kernel, over one model or several.

    .. math:: S = \Big(\frac{1}{M} \sum_m (1 - p_i^m)\Big)
                  \Big(\frac{1}{M} \sum_m \phi_i^{m\top}
                  \big(\tfrac{1}{n} \Phi^{m\top} \Phi^m + \lambda I\big)^{-1} \phi_q^m\Big)

    with :math:`\phi = P \nabla m` the projected gradients of margins. Each checkpoint is one
    model. Cost beyond Grad-Dot: one pass over the training data for each.

    Args:
        space: Where the matrix is inverted.
        damping: Lambda; None for what chance alone gives a direction, see
            :attr:`~whence.curvature.SecondMoment.usual_damping`.

    References:
        Park et al. (2023), "TRAK: Attributing Model Behavior at Scale", equations 13 and 17.
    """

    space: Projected = field(default_factory=Projected)
    damping: float | None = None
    name: str = "trak"

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; makes one pass over the training data."""
        projector = projector_for(recorder, self.space)
        chosen = training_images(recorder, train, batch_size=batch_size, progress=progress)
        operator = projected_fisher(chosen, projector, damping=self.damping, draws=Margins())
        return Scoring(recorder=recorder, factors=one, operator=operator, ensemble="pooled")


@final
@dataclass(frozen=True, kw_only=True)
class ProjectedFisher:
    r"""Influence with a Fisher matrix that is inverted in a projected space.

    .. math:: S = \langle \nabla \ell_i,\; P^\top (P F P^\top + \lambda I)^{-1} P\, \nabla \ell_q
                  \rangle

    :math:`F` is the Gauss-Newton matrix with labels drawn from the model, or the *empirical*
    Fisher matrix of the true labels. Nothing is assumed of :math:`F`: unlike K-FAC, layers are
    not taken to be independent.

    Args:
        space: Where the matrix is inverted.
        draws: ``RandomSigns()`` or ``SampledLabels()`` for the Gauss-Newton matrix,
            ``TrueLabels()`` for the empirical Fisher matrix.
        damping: Lambda; None for what chance alone gives a direction, see
            :attr:`~whence.curvature.SecondMoment.usual_damping`.
        output: ``"margin"`` to ask for the change of the query's margin.

    References:
        Choe et al. (2024), "What is Your Data Worth to GPT?" (LoGra).
    """

    space: Projected = field(default_factory=Projected)
    draws: Draws = field(default_factory=RandomSigns)
    damping: float | None = None
    output: Output = "loss"
    name: str = "gauss-newton"

    def __post_init__(self) -> None:
        """Check the output."""
        asked(self.output)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; makes one pass over the training data."""
        projector = projector_for(recorder, self.space)
        chosen = training_images(recorder, train, batch_size=batch_size, progress=progress)
        operator = projected_fisher(chosen, projector, damping=self.damping, draws=self.draws)
        return Scoring(recorder=recorder, factors=asked(self.output), operator=operator)


@final
@dataclass(frozen=True, kw_only=True)
class TrackStar:
    r"""Cosines of projected gradients, after both have been preconditioned.

    .. math:: S = \cos\big(R^{-1/2} P V^{-1/2} \nabla \ell_i,\;
                            R^{-1/2} P V^{-1/2} \nabla \ell_q\big), \qquad
              R = \alpha R_\mathrm{train} + (1 - \alpha) R_\mathrm{reference} + \lambda I

    with :math:`V` an optimiser's second moments, where they are given.

    The matrices are second moments of projected loss gradients; mixing in those of the kind of
    data that is asked about takes away what is common to all of them. Lengths are taken after
    preconditioning: a unit norm and a one-sided inverse do not commute.

    Args:
        space: Where the matrix is inverted.
        reference: Labelled images of the kind that is asked about; None for the training images
            alone.
        mix: The share alpha of the training images' matrix.
        damping: Lambda; None for what chance alone gives a direction, see
            :attr:`~whence.curvature.SecondMoment.usual_damping`.
        second_moment: Running second moments of the training's gradients by parameter, such as
            :func:`~whence.influence.second_moments` takes from Adam's state: gradients are divided
            by their roots first, as the optimiser did. Gradients must then be formed, which costs
            about a training step more. None to leave them as they are.

    References:
        Chang et al. (2025), "Scalable Influence and Fact Tracing for Large Language Model
        Pretraining" (TrackStar), section 3.
    """

    space: Projected = field(default_factory=Projected)
    reference: ImageData | None = None
    mix: float = 0.9
    damping: float | None = None
    second_moment: Mapping[str, Tensor] | None = field(default=None, repr=False)
    name: str = "trackstar"

    def __post_init__(self) -> None:
        """Check the share."""
        if not 0 <= self.mix <= 1:
            msg = f"mix is a share from 0 to 1; got {self.mix}."
            raise SettingError(msg)

    def fit(
        self,
        recorder: Recorder,
        train: ImageData,
        *,
        batch_size: int = 32,
        progress: Progress = silent,
    ) -> Scoring:
        """Return the scoring; makes one pass over the training data, and one over the others."""
        projector = projector_for(recorder, self.space)
        scale = (
            None
            if self.second_moment is None
            else preconditioner_of(self.second_moment, recorder.names)
        )
        moment, *others = [
            projected_moment(
                training_images(recorder, data, batch_size=batch_size, progress=progress),
                projector,
                scale=scale,
            )
            for data in ([train] if self.reference is None else [train, self.reference])
        ]
        for other in others:
            moment = moment.mixed(other, self.mix)
        operator: Operator = Sandwich(projector=projector, middle=inverse_of(moment, self.damping))
        if scale is not None:
            operator = scale @ operator @ scale
        return Scoring(
            recorder=recorder,
            factors=inverse_norm,
            weights=inverse_norm,
            normalised=True,
            operator=operator,
            metric=operator,
        )


def projector_for(recorder: Recorder, space: Projected) -> Projector:
    """Return the projection of a network's gradients to the numbers that a space has."""
    example = recorder.network.example[:1]
    labels = example.new_zeros(1).long()
    recorded = recorder.record(example, Margin(labels))
    if space.kind == "sketch":
        blocks = {
            name: (DirectBlock(values=value.flatten(1), shape=tuple(value.shape[1:])),)
            for name, value in recorded.materialise().items()
        }
        recorded = ExampleGradients(logits=recorded.logits, blocks=blocks)
    sizes = [recorder.network.parameters[name].numel() for name in recorded.blocks]
    projection = Projection(dimension=share(sizes, space.dimension), seed=space.seed)
    return projection.projector(recorded)


def share(sizes: list[int], total: int) -> int:
    """Return the largest number for each parameter such that all fit into a total; at least 1."""
    low, high = 1, max(sizes)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(size, middle) for size in sizes) <= total:
            low = middle
        else:
            high = middle - 1
    return low
