r"""Fitting: curvatures of a network over its training images, as operators on gradients.

An influence function replaces a query's gradient :math:`v` by :math:`(H + \lambda I)^{-1} v`, with
:math:`H` the mean curvature of the cross-entropy over the training images. Each function here
makes the passes over the data that one way to do so needs, and returns the inverse: an operator on
vectors ``{name: (q, *shape)}`` over the recorder's parameters.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from whence.core import ImageData, Progress, silent
from whence.curvature import (
    Draws,
    EigenvalueCorrection,
    KroneckerCurvature,
    KroneckerFactors,
    SampledLabels,
    TrainingImages,
    joined_biases,
    load_operator,
    save_operator,
)
from whence.curvature.passes import seeded
from whence.errors import MismatchError, RecordError
from whence.gradients import Operator, Recorder
from whence.influence.batches import training_images
from whence.influence.solving import check_damping

__all__ = ["ekfac", "kfac", "kronecker"]


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
    generator = seeded() if generator is None else generator
    device = chosen.network.example.device
    made = provenance_of(chosen, draws, generator, eigenvalues) if cache is not None else {}
    path, early = cached_paths(cache)
    if path is not None and path.exists():
        return as_kronecker(load_operator(path, made, device))
    numbers = chosen.numbers(draws, generator)
    # Eigenvalues of other draws than the basis: those of the same would be far too small along
    # directions that these happened to miss, as a confident model's drawn labels mostly do.
    fresh = chosen.numbers(draws, generator)
    basis = stored_basis(early, made, device)
    if basis is None:
        factors = KroneckerFactors(biases=joined_biases(chosen.recorder))
        for batch in chosen.batches("curvature: factors"):
            factors.update(chosen.draws(batch, draws, numbers))
        basis = factors.result(told(chosen.progress, "curvature: eigenvectors"))
    found = basis
    if eigenvalues == "corrected":
        if early is not None:
            save_operator(early, basis, made)
        correction = EigenvalueCorrection(basis=basis)
        for batch in chosen.batches("curvature: eigenvalues"):
            correction.update(chosen.draws(batch, draws, fresh))
        found = correction.result()
    if path is not None and early is not None:
        save_operator(path, found, made)
        early.unlink(missing_ok=True)
    return found


def provenance_of(
    chosen: TrainingImages, draws: Draws, generator: torch.Generator, eigenvalues: str
) -> dict[str, str | int | float | bool | list[str] | None]:
    """Return everything that a fit depends on."""
    state = hashlib.sha256(generator.get_state().cpu().numpy().tobytes()).hexdigest()
    places = None if chosen.indices is None else f"{chosen.indices}"
    return {
        "model": chosen.network.fingerprint(),
        "data": chosen.data.fingerprint(),
        "parameters": list(chosen.recorder.names),
        "images": len(chosen),
        "places": None if places is None else hashlib.sha256(places.encode()).hexdigest(),
        "draws": draws.name,
        "random state": state,
        "eigenvalues": eigenvalues,
        "code": version("whence"),
    }


def cached_paths(cache: str | Path | None) -> tuple[Path | None, Path | None]:
    """Return where a fit is kept, and where its first pass is until the second is done."""
    if cache is None:
        return None, None
    return Path(cache), Path(cache).with_name(f"{Path(cache).name}.basis")


def stored_basis(
    path: Path | None, made: Mapping[str, Any], device: torch.device
) -> KroneckerCurvature | None:
    """Return what an interrupted fit of the same kept, if there is anything."""
    if path is None or not path.exists():
        return None
    with suppress(MismatchError, RecordError):
        return as_kronecker(load_operator(path, made, device))
    return None


def as_kronecker(operator: Operator) -> KroneckerCurvature:
    """Return an operator that was stored as what it must be."""
    if not isinstance(operator, KroneckerCurvature):
        msg = f"A Kronecker curvature was needed; the file holds a {type(operator).__name__}."
        raise RecordError(msg)
    return operator


def told(progress: Progress, stage: str) -> Callable[[int, int], None]:
    """Return what reports a stage."""

    def tell(done: int, total: int) -> None:
        progress(stage, done, total)

    return tell
