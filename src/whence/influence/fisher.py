r"""Fisher: inverses that are made of the gradients of the training images themselves."""

import torch

from whence.core import ImageData, Progress, silent
from whence.curvature import (
    DataInf,
    Draws,
    Gram,
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
from whence.gradients import Projector, Recorder
from whence.influence.batches import training_images
from whence.influence.solving import check_damping

__all__ = ["datainf", "empirical_fisher", "projected_fisher", "projected_moment"]


def datainf(
    recorder: Recorder,
    train: ImageData,
    *,
    damping: float | None = None,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> DataInf:
    """Return DataInf's inverse; every call of it is a pass over the images.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images with labels.
        damping: Lambda for every layer, over 0; None for a tenth of the mean square of each one's
            gradient, which costs a pass now.
        images: Take that many images, drawn at random; all if None.
        generator: Draws them.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch.
        progress: Told how far it is.

    Raises:
        DataError: If a training image has no label, or there is none.
        SettingError: If the damping is not over 0.
    """
    check_damping(damping)
    chosen = training_images(
        recorder,
        train,
        images=images,
        generator=generator,
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    chosen.check_labels()
    if damping is None:
        return DataInf(data=chosen, dampings=datainf_dampings(chosen))
    return DataInf(data=chosen, dampings=dict.fromkeys(layers_of(recorder.names), damping))


def empirical_fisher(
    recorder: Recorder,
    train: ImageData,
    *,
    damping: float,
    draws: Draws | None = None,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> WoodburyInverse:
    r"""Return the inverse of the damped empirical Fisher matrix, exact, by Woodbury's identity.

    The gradients of all images are kept: ``n`` times the number of parameters. With a network that
    is linear in its parameters it is ridge regression in their features.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images with labels.
        damping: Lambda, over 0.
        draws: Which gradients; those of the labels' loss by default.
        images: Take that many images, drawn at random; all if None.
        generator: Draws them, and labels.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes that the gradients may take.
        progress: Told how far it is.

    Raises:
        SettingError: If the gradients do not fit into memory, or the damping is not over 0.
    """
    check_damping(damping)
    draws = TrueLabels() if draws is None else draws
    chosen = training_images(
        recorder,
        train,
        images=images,
        generator=generator,
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
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
    recorder: Recorder,
    train: ImageData,
    projector: Projector,
    *,
    draws: Draws | None = None,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> SecondMoment:
    r"""Return the second moment of projected gradients, :math:`\Phi^\top \Phi / n`.

    Cost: one pass over the images for each draw, and ``k`` squared numbers, for ``k`` projected
    numbers in all.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images; labels are needed only by draws that take them.
        projector: How gradients are projected.
        draws: Which gradients; those of the labels' loss by default (the empirical Fisher
            matrix). Sampled labels give the Gauss-Newton matrix, margins what TRAK takes.
        images: Take that many images, drawn at random; all if None.
        generator: Draws them, and labels.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch, and for the matrix.
        progress: Told how far it is.

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
    chosen = training_images(
        recorder,
        train,
        images=images,
        generator=generator,
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    if draws.labelled:
        chosen.check_labels()
    numbers = chosen.numbers(draws, generator)
    gram, seen = Gram(), 0
    for batch in chosen.batches("projected fisher"):
        for gradients in chosen.draws(batch, draws, numbers):
            gram.update(projector.project(gradients))
        seen += len(batch.indices)
    gram.count = seen  # several draws of an image share its weight
    return gram.result()


def projected_fisher(  # noqa: PLR0913 - keywords, each with a default
    recorder: Recorder,
    train: ImageData,
    projector: Projector,
    *,
    damping: float | None = None,
    draws: Draws | None = None,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> Sandwich:
    r"""Return the inverse of a damped second moment in a projected space.

    .. math:: P^\top (\Phi^\top \Phi / n + \lambda I)^{-1} P

    The arguments are those of :func:`projected_moment`.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images; labels are needed only by draws that take them.
        projector: How gradients are projected.
        damping: Lambda, over 0; None for a tenth of the mean eigenvalue.
        draws: Which gradients; those of the labels' loss by default.
        images: Take that many images, drawn at random; all if None.
        generator: Draws them, and labels.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch, and for the matrix.
        progress: Told how far it is.

    Raises:
        NumericsError: If the damped matrix is not positive definite; all gradients may be zero.
        SettingError: If the matrix does not fit into memory, or the damping is not over 0.
    """
    check_damping(damping)
    moment = projected_moment(
        recorder,
        train,
        projector,
        draws=draws,
        images=images,
        generator=generator,
        batch_size=batch_size,
        memory=memory,
        progress=progress,
    )
    share = 0.1 * moment.mean_eigenvalue if damping is None else damping
    return Sandwich(projector=projector, middle=moment.inverse(share))
