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

from whence.core import Progress
from whence.curvature import (
    Draws,
    EigenvalueCorrection,
    KroneckerCurvature,
    KroneckerFactors,
    RandomSigns,
    TrainingImages,
    joined_biases,
    load_operator,
    save_operator,
)
from whence.curvature.passes import seeded
from whence.errors import MismatchError, RecordError
from whence.gradients import Operator
from whence.influence.solving import check_damping

__all__ = ["KroneckerDamping", "ekfac", "kfac", "kronecker", "kronecker_damping"]

KroneckerDamping = float | Literal["layer"] | None
"""Lambda; ``"layer"`` for a tenth of each layer's mean eigenvalue; None for the default."""

SHARE = 0.03
"""Damping by default, as a share of the mean curvature of one image."""


def kfac(
    chosen: TrainingImages,
    *,
    damping: KroneckerDamping = None,
    draws: Draws | None = None,
    generator: torch.Generator | None = None,
) -> KroneckerCurvature:
    r"""Return the inverse of K-FAC, :math:`(A \otimes S + \lambda I)^{-1}`.

    Cost: one pass over the images for each draw, and the eigenvectors of two matrices per layer.

    Args:
        chosen: The training images; see :func:`training_images`. Labels are needed only by draws
            that take them.
        damping: Lambda, over 0; None for a share of the curvature of one image, ``"layer"`` for a
            tenth of each layer's mean eigenvalue: see :func:`kronecker_damping`.
        draws: Which gradients; all classes with random signs by default.
        generator: For labels or signs; the same numbers every time if None.

    Raises:
        DataError: If there is no usable training image.
        NumericsError: If an image or a gradient is NaN or infinite.
        SettingError: If the damping is not over 0.
    """
    check_damping(None if damping == "layer" else damping)
    found = kronecker(chosen, draws=draws, generator=generator, eigenvalues="product")
    return found.inverse(kronecker_damping(found, len(chosen), damping))


def ekfac(
    chosen: TrainingImages,
    *,
    damping: KroneckerDamping = None,
    draws: Draws | None = None,
    generator: torch.Generator | None = None,
    cache: str | Path | None = None,
) -> KroneckerCurvature:
    """Return the inverse of EK-FAC: K-FAC's eigenvectors with exact eigenvalues between them.

    Cost: two passes over the images for each draw, and the eigenvectors of two matrices per layer.
    The arguments are those of :func:`kfac`, and:

    Args:
        chosen: The training images.
        damping: Lambda.
        draws: Which gradients.
        generator: For labels or signs.
        cache: A file to keep the fit in. A fit of the same network, images and settings is read
            from it; a fit of anything else is refused. If a fit is interrupted, its first pass is
            kept beside it. The damping may change: it is added to what is read.

    Raises:
        MismatchError: If the file holds a fit of something else.
    """
    check_damping(None if damping == "layer" else damping)
    found = kronecker(chosen, draws=draws, generator=generator, cache=cache)
    return found.inverse(kronecker_damping(found, len(chosen), damping))


def kronecker_damping(
    curvature: KroneckerCurvature, images: int, damping: KroneckerDamping
) -> float | None:
    r"""Return the damping of a Kronecker curvature as its inverse takes it.

    .. math:: \lambda = \frac{c}{n} \operatorname{tr} H , \qquad c = 0.03

    :math:`\operatorname{tr} H / n` is the mean curvature that one of the :math:`n` images adds to
    the mean of all. The share :math:`c` was found on retrainings (``python -m
    reproductions.lds.damping``), where the best damping is near the weight decay of the training:
    if that is known, give it.

    Args:
        curvature: The fit.
        images: How many it is of.
        damping: A number, which is returned; None for the above; ``"layer"`` for a tenth of
            each layer's mean eigenvalue, as other libraries have it.
    """
    if damping == "layer":
        return None
    if damping is not None:
        return damping
    return SHARE * curvature.trace / images or None


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
        draws: Which gradients; all classes with random signs by default.
        generator: For labels or signs; the same numbers every time if None.
        eigenvalues: ``"corrected"`` for EK-FAC, ``"product"`` for K-FAC.
        cache: A file to keep the fit in.
    """
    draws = RandomSigns() if draws is None else draws
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
