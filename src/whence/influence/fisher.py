r"""Fisher: inverses that are made of the gradients of the training images themselves."""

import torch

from whence.curvature import (
    DataInf,
    Diagonal,
    Draws,
    Gram,
    InverseSecondMoment,
    Sandwich,
    SecondMoment,
    TrainingImages,
    TrueLabels,
    WoodburyInverse,
    datainf_dampings,
    woodbury,
)
from whence.curvature.datainf import layers_of
from whence.curvature.passes import classes_of
from whence.curvature.rows import as_rows, sizes_of
from whence.errors import SettingError
from whence.gradients import Projector
from whence.influence.solving import check_damping

__all__ = ["datainf", "empirical_fisher", "inverse_of", "projected_fisher", "projected_moment"]


def datainf(chosen: TrainingImages, *, damping: float | None = None) -> DataInf:
    """Return DataInf's inverse; every call of it is a pass over the images.

    Args:
        chosen: The training images; see :func:`training_images`.
        damping: Lambda for every layer, over 0; None for a tenth of the mean square of each one's
            gradient, which costs a pass now.

    Raises:
        DataError: If a training image has no label, or there is none.
        SettingError: If the damping is not over 0.
    """
    check_damping(damping)
    chosen.check_labels()
    if damping is None:
        return DataInf(data=chosen, dampings=datainf_dampings(chosen))
    return DataInf(data=chosen, dampings=dict.fromkeys(layers_of(chosen.recorder.names), damping))


def empirical_fisher(
    chosen: TrainingImages,
    *,
    damping: float,
    draws: Draws | None = None,
    generator: torch.Generator | None = None,
    memory: int = 2 * 2**30,
) -> WoodburyInverse:
    r"""Return the inverse of the damped empirical Fisher matrix, exact, by Woodbury's identity.

    The gradients of all images are kept: ``n`` times the number of parameters. With a network that
    is linear in its parameters it is ridge regression in their features.

    Args:
        chosen: The training images; see :func:`training_images`.
        damping: Lambda, over 0.
        draws: Which gradients; those of the labels' loss by default.
        generator: Draws labels or signs; the same every time if None.
        memory: Bytes that the gradients may take.

    Raises:
        SettingError: If the gradients do not fit into memory, or the damping is not over 0.
    """
    check_damping(damping)
    draws = TrueLabels() if draws is None else draws
    check_gradients_fit(chosen, draws, memory)
    if draws.labelled:
        chosen.check_labels()
    numbers, seen = chosen.numbers(draws, generator), 0
    sizes: dict[str, int] = {}
    rows = []
    for batch in chosen.batches("empirical fisher"):
        for gradients in chosen.draws(batch, draws, numbers):
            vectors = gradients.materialise()
            sizes = sizes_of(vectors)
            rows.append(as_rows(vectors))
        seen += len(batch.indices)
    every = torch.cat(rows)
    factor = (len(every) / seen) ** 0.5  # several draws of an image share its weight
    return woodbury(every if factor == 1 else every * factor, damping, sizes)


def check_gradients_fit(chosen: TrainingImages, draws: Draws, memory: int) -> None:
    """Refuse more gradients than fit into memory."""
    every = chosen.network.parameters
    per_row = sum(every[n].numel() * every[n].element_size() for n in chosen.recorder.names)
    rows = len(chosen) * draws.passes(classes_of(chosen.network))
    if rows * per_row > memory:
        msg = (
            f"The gradients of {len(chosen)} images take {rows * per_row / 2**30:.1f} GiB, and "
            f"memory is {memory / 2**30:.1f} GiB. Take fewer images (images=) or parameters, or "
            f"a projected Fisher matrix."
        )
        raise SettingError(msg)


def projected_moment(
    chosen: TrainingImages,
    projector: Projector,
    *,
    draws: Draws | None = None,
    scale: Diagonal | None = None,
    generator: torch.Generator | None = None,
    memory: int = 2 * 2**30,
) -> SecondMoment:
    r"""Return the second moment of projected gradients, :math:`\Phi^\top \Phi / n`.

    Cost: one pass over the images for each draw, and ``k`` squared numbers, for ``k`` projected
    numbers in all.

    Args:
        chosen: The training images; see :func:`training_images`.
        projector: How gradients are projected.
        draws: Which gradients; those of the labels' loss by default (the empirical Fisher
            matrix). Sampled labels give the Gauss-Newton matrix, margins what TRAK takes.
        scale: What gradients are multiplied by before they are projected; they must then be
            formed, which costs about a training step more.
        generator: Draws labels or signs; the same every time if None.
        memory: Bytes that the matrix and its factorisation may take.

    Raises:
        SettingError: If the matrix does not fit into memory.
    """
    draws = TrueLabels() if draws is None else draws
    width = sum(projector.sizes.values())
    if 16 * width**2 > memory:
        msg = (
            f"The second moment of {width} projected numbers takes {16 * width**2 / 2**30:.1f} GiB "
            f"with its factorisation, and memory is {memory / 2**30:.1f} GiB. Project to fewer "
            f"numbers per parameter, or choose fewer parameters."
        )
        raise SettingError(msg)
    if draws.labelled:
        chosen.check_labels()
    numbers = chosen.numbers(draws, generator)
    gram, seen = Gram(), 0
    for batch in chosen.batches("projected fisher"):
        for gradients in chosen.draws(batch, draws, numbers):
            gram.update(
                projector.project(gradients)
                if scale is None
                else projector(scale(gradients.materialise()))
            )
        seen += len(batch.indices)
    gram.count = seen  # several draws of an image share its weight
    return gram.result()


def projected_fisher(
    chosen: TrainingImages,
    projector: Projector,
    *,
    damping: float | None = None,
    draws: Draws | None = None,
    generator: torch.Generator | None = None,
) -> Sandwich:
    r"""Return the inverse of a damped second moment in a projected space.

    .. math:: P^\top (\Phi^\top \Phi / n + \lambda I)^{-1} P

    Args:
        chosen: The training images; see :func:`training_images`.
        projector: How gradients are projected.
        damping: Lambda, 0 or more; None for :attr:`SecondMoment.usual_damping`.
        draws: Which gradients; those of the labels' loss by default.
        generator: Draws labels or signs; the same every time if None.

    Raises:
        NumericsError: If the damped matrix is not positive definite.
        SettingError: If the matrix does not fit into memory, or the damping is below 0.
    """
    check_damping(damping or None)  # none at all will do where there are more images
    moment = projected_moment(chosen, projector, draws=draws, generator=generator)
    return Sandwich(projector=projector, middle=inverse_of(moment, damping))


def inverse_of(moment: SecondMoment, damping: float | None) -> InverseSecondMoment:
    """Return the inverse of a damped second moment; of nothing, with a damping of 1."""
    return moment.inverse((moment.usual_damping or 1.0) if damping is None else damping)
