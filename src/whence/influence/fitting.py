r"""Fitting: curvatures of a network over its training images, as operators on gradients.

An influence function replaces a query's gradient :math:`v` by :math:`(H + \lambda I)^{-1} v`, with
:math:`H` the mean curvature of the cross-entropy over the training images. Each function here
makes the passes over the data that one way to do so needs, and returns the inverse: an operator on
vectors ``{name: (q, *shape)}`` over the recorder's parameters.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from whence.core import ImageData, Progress, silent
from whence.curvature import (
    Draws,
    EigenvalueCorrection,
    KroneckerCurvature,
    KroneckerFactors,
    SampledLabels,
    joined_biases,
)
from whence.curvature.passes import TrainingImages, seeded
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence.batches import images_per_batch

__all__ = ["ekfac", "kfac", "kronecker", "training_images"]


def training_images(
    recorder: Recorder,
    train: ImageData,
    *,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> TrainingImages:
    """Return the training images that a curvature is made of.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images.
        images: How many of them, drawn at random; all if None, or if there are fewer.
        generator: Draws them.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch.
        progress: Told how many images are done.

    Raises:
        DataError: If there are none.
        SettingError: If less than one image is asked for.
    """
    if images is not None and images < 1:
        msg = f"A curvature needs at least one training image; got images={images}."
        raise SettingError(msg)
    chosen: tuple[int, ...] | None = None
    if images is not None and images < len(train):
        generator = seeded() if generator is None else generator
        order = torch.randperm(len(train), generator=generator, device=generator.device)
        chosen = tuple(sorted(order[:images].tolist()))
    return TrainingImages(
        recorder=recorder,
        data=train,
        indices=chosen,
        batch_size=images_per_batch(recorder, memory) if batch_size is None else batch_size,
        progress=progress,
    )


def kfac(
    recorder: Recorder,
    train: ImageData,
    *,
    damping: float | None = None,
    draws: Draws | None = None,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> KroneckerCurvature:
    r"""Return the inverse of K-FAC, :math:`(A \otimes S + \lambda I)^{-1}`.

    Cost: one pass over the images for each draw, and the eigenvectors of two matrices per layer.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images; labels are needed only by draws that take them.
        damping: Lambda, over 0; None for a tenth of each layer's mean eigenvalue.
        draws: Which gradients; one sampled label per image by default.
        images: Fit on that many images, drawn at random; all if None.
        generator: For images and labels; the same numbers every time if None.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch.
        progress: Told how far it is.

    Raises:
        DataError: If there is no usable training image.
        NumericsError: If an image or a gradient is NaN or infinite.
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
    return kronecker(chosen, draws=draws, generator=generator, eigenvalues="product").inverse(
        damping
    )


def ekfac(  # noqa: PLR0913 - keywords, each with a default
    recorder: Recorder,
    train: ImageData,
    *,
    damping: float | None = None,
    draws: Draws | None = None,
    cache: str | Path | None = None,
    images: int | None = None,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
    memory: int = 2 * 2**30,
    progress: Progress = silent,
) -> KroneckerCurvature:
    """Return the inverse of EK-FAC: K-FAC's eigenvectors with exact eigenvalues between them.

    Cost: two passes over the images for each draw, and the eigenvectors of two matrices per layer.
    The arguments are those of :func:`kfac`.

    Args:
        recorder: Records gradients for the chosen parameters.
        train: Training images.
        damping: Lambda, over 0; None for a tenth of each layer's mean eigenvalue.
        draws: Which gradients; one sampled label per image by default.
        cache: A file to keep the fit in. A fit of the same network, images and settings is read
            from it; a fit of anything else is refused. If a fit is interrupted, its first pass is
            kept beside it.
        images: Fit on that many images, drawn at random; all if None.
        generator: For images and labels; the same numbers every time if None.
        batch_size: Images at a time; chosen by memory if None.
        memory: Bytes for what is recorded of a batch.
        progress: Told how far it is.

    Raises:
        MismatchError: If the file holds a fit of something else.
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
    return kronecker(chosen, draws=draws, generator=generator, cache=cache).inverse(damping)


def kronecker(
    chosen: TrainingImages,
    *,
    draws: Draws | None = None,
    generator: torch.Generator | None = None,
    eigenvalues: Literal["corrected", "product"] = "corrected",
    cache: str | Path | None = None,
) -> KroneckerCurvature:
    """Return a curvature in Kronecker-factored bases, not damped and not inverted.

    Args:
        chosen: The training images; see :func:`training_images`.
        draws: Which gradients; one sampled label per image by default.
        generator: For labels; the same numbers every time if None.
        eigenvalues: ``"corrected"`` for EK-FAC, ``"product"`` for K-FAC.
        cache: A file to keep the fit in.
    """
    draws = SampledLabels() if draws is None else draws
    if draws.labelled:
        chosen.check_labels()
    numbers = chosen.numbers(draws, generator)
    factors = KroneckerFactors(biases=joined_biases(chosen.recorder))
    for batch in chosen.batches("curvature: factors"):
        factors.update(chosen.draws(batch, draws, numbers))
    basis = factors.result(told(chosen.progress, "curvature: eigenvectors"))
    if eigenvalues == "product":
        return basis
    correction = EigenvalueCorrection(basis=basis)
    for batch in chosen.batches("curvature: eigenvalues"):
        correction.update(chosen.draws(batch, draws, numbers))
    return correction.result()


def told(progress: Progress, stage: str) -> Callable[[int, int], None]:
    """Return what reports a stage."""

    def tell(done: int, total: int) -> None:
        progress(stage, done, total)

    return tell


def check_damping(damping: float | None) -> None:
    """Refuse a damping before the passes are made."""
    if damping is not None and not 0 < damping < float("inf"):
        msg = (
            f"The inverse of a curvature needs a damping over 0, and finite; got {damping}. Give "
            f"None for a tenth of the mean eigenvalue."
        )
        raise SettingError(msg)
