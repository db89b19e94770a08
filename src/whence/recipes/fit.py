"""Fit: train or fine-tune a classifier, with or without a prior on its attributions."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from whence.adapters import LoadedModel
from whence.adapters.lightning import is_first_process
from whence.adapters.models import chosen_device
from whence.adapters.training import TrainingSettings
from whence.convert import save_x_dnn
from whence.convert.names import AnyRoute
from whence.core import ImageData, Progress, logits_from, silent
from whence.errors import NumericsError, SettingError
from whence.priors import Prior
from whence.recipes.fit_data import check_data, held_out, in_memory
from whence.recipes.fit_job import Job, save_weights
from whence.recipes.fit_record import FitRecord, FitRow, percent, save_record
from whence.recipes.fit_run import CERTIFIED, Manifest, prepared
from whence.recipes.head import with_new_head
from whence.recipes.measure import Measured, counts, device_of, sample

__all__ = ["fit"]

UNEVEN = 1.5
"""Classes are called imbalanced if one has so many times the images of another."""

CALIBRATION = 64
SHARE = 0.2
SHOWN = 3


def fit(  # noqa: PLR0913 - the public face: every setting of a training
    model: nn.Module | LoadedModel,
    train: ImageData,
    validation: ImageData | None = None,
    *,
    out: Path | str,
    test: ImageData | None = None,
    settings: TrainingSettings | None = None,
    prior: Prior | None = None,
    weights: Sequence[float] = (),
    convert: bool = False,
    routes: Sequence[AnyRoute] = (),
    new_head: bool = False,
    intercept: bool = False,
    any_row: bool = False,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> FitRecord:
    """Train a copy of a classifier; compare weights of a prior, and tell what has changed.

    With a prior the table also holds the training without one: on the network itself, and on an
    X-DNN of it, the control without biases, since removing biases alone changes what a network
    learns. The weight is chosen by the accuracy on the validation images (of several the lowest).

    ``out`` holds ``weights.safetensors``, ``fit.json`` and ``report.md`` when all has ended, an
    X-DNN also with its certificate as ``x-dnn.safetensors``; and before that, under ``runs/``, the
    checkpoints and logs of each training, from which a run that was stopped goes on with
    ``resume`` as if it had not been.

    Args:
        model: A classifier in eval mode, which is not touched.
        train: Labelled training images.
        validation: Labelled images to choose by; a fifth of the training images if None.
        out: A folder.
        test: Labelled images to measure the chosen network on; the validation images if None.
        settings: How to train.
        prior: What attributions shall look like, for the places of the training images.
        weights: The weights of the prior to compare; its own if there are none.
        convert: Make the model an X-DNN first.
        routes: What a conversion changes, in this order; the usual if there are none.
        new_head: Replace the last layer by a new one for the data's classes; it has a bias only
            if the old one had.
        intercept: Add the logarithm of each class's share of the training images to the logits
            in the loss, outside the network.
        any_row: Choose among all trainings, those without a prior too.
        name: What to call the model.
        resume: Go on with what is in ``out``.
        overwrite: Replace what an earlier training left in ``out``.
        command: What to note as the command.
        progress: Told how far each stage is.

    Raises:
        DataError: Images without labels, or labels that the model has no output for.
        MismatchError: ``out`` holds a training with other settings, model or data.
        MissingExtra: Lightning is not installed.
        NumericsError: The loss is not finite, or the network collapses to zero under the prior.
        OutputError: ``out`` holds something.
        SettingError: Settings that contradict each other.
        UnsupportedOperation: The model cannot be converted, has no head that can be replaced, or
            an operation that has no second derivative, which a prior needs.
    """
    started = time.monotonic()
    settings = TrainingSettings() if settings is None else settings
    chosen_device(settings.device)
    original = model.module if isinstance(model, LoadedModel) else model
    called = name or (model.name if isinstance(model, LoadedModel) else type(model).__name__)
    train = in_memory(train)
    if validation is None:
        train, validation = held_out(train, SHARE, settings.seed)
    validation = in_memory(validation)
    some = sample(train, CALIBRATION)
    base = copy.deepcopy(original).cpu().eval()
    if new_head:
        drawn = torch.Generator().manual_seed(settings.seed)
        base = with_new_head(base, some[:2], len(train.classes), drawn)
    with torch.no_grad():
        outputs = logits_from(base, some[:2]).shape[1]
    for data in (train, validation, *((test,) if test is not None else ())):
        check_data(data, outputs)
    check_prior(prior, weights)
    tally = counts(train, outputs)
    if intercept:
        settings = replace(settings, intercept=intercept_of(tally))
    job = Job(
        original=base,
        train=train,
        validation=validation,
        some=some,
        settings=settings,
        prior=prior,
        folder=Path(out),
        progress=progress,
        routes=tuple(routes),
    )
    changes = (convert, *routes)
    manifest = Manifest.of(base, train, validation, test, settings, prior, weights, convert=changes)
    candidates = job.candidates(weights, convert=convert)
    job.tried(candidates[-1])
    prepared(job.folder, manifest, resume=resume, overwrite=overwrite)
    before = None if new_head else job.measured(base, test or validation)
    rows = tuple(job.row(one, alone=len(candidates) == 1) for one in candidates)
    chosen = best_of(rows, with_prior=prior is not None and not any_row)
    made = job.loaded(next(one for one in candidates if one.name == chosen.name))
    after = job.measured(made, test or validation)
    record = FitRecord(
        model=called,
        data=(train.title, validation.title, "" if test is None else test.title),
        classes=train.classes,
        prior=described(prior),
        rows=rows,
        chosen=chosen.name,
        before=before,
        after=after,
        counts=tally,
        intercept=intercept_of(tally),
        trained_with_intercept=intercept,
        notes=(
            *job.notes,
            *left_out(train, validation),
            *remarks(rows, chosen, after, tally, train.classes, settings),
        ),
        seconds=time.monotonic() - started,
        command=command,
    )
    if is_first_process():
        save_weights(made, job.folder / "weights.safetensors")
        if after.homogeneous:
            certified(made, some, job.folder / CERTIFIED, train.classes, model)
        save_record(record, job.folder)
    return record


def certified(
    made: nn.Module,
    some: Tensor,
    path: Path,
    classes: Sequence[str],
    model: nn.Module | LoadedModel,
) -> None:
    """Write an X-DNN with its certificate, which every command takes as its model."""
    settings = model.preprocessing.describe() if isinstance(model, LoadedModel) else None
    images = some.to(device_of(made))
    save_x_dnn(made, images, path, classes=classes, preprocessing=settings, overwrite=True)


def check_prior(prior: Prior | None, weights: Sequence[float]) -> None:
    """Refuse weights without a prior, or out of range."""
    if prior is None:
        if weights:
            listed = ", ".join(f"{weight:g}" for weight in weights)
            msg = f"There are weights of a prior ({listed}), and no prior. Name one."
            raise SettingError(msg)
        return
    for weight in weights:
        if not 0 <= weight < math.inf:
            msg = f"A prior's weight is 0 or more, and finite; got {weight}."
            raise SettingError(msg)


def best_of(rows: Sequence[FitRow], *, with_prior: bool) -> FitRow:
    """Return the row of highest accuracy among those with a prior, if there is one.

    Raises:
        NumericsError: No weight left a network.
    """
    among = [row for row in rows if not row.note and (row.weight > 0 or not with_prior)]
    if not among:
        whole = " ".join(f"{row.name}: {row.note}" for row in rows if row.note)
        msg = f"No training with a prior left a network. {whole}"
        raise NumericsError(msg)
    return max(among, key=lambda row: (row.validation_accuracy, -row.weight))


def intercept_of(tally: Sequence[int]) -> tuple[float, ...]:
    """Return the logarithm of each class's share, less their mean; one image more for each."""
    logs = [math.log(count + 1) for count in tally]
    mean = sum(logs) / len(logs)
    return tuple(one - mean for one in logs)


def left_out(*parts: ImageData) -> list[str]:
    """Return which images could not be used."""
    return [
        f"{len(data.skipped)} of {data.title} could not be used: "
        f"{'; '.join(f'{name} ({reason})' for name, reason in data.skipped[:SHOWN])}"
        for data in parts
        if data.skipped
    ]


def remarks(
    rows: Sequence[FitRow],
    chosen: FitRow,
    after: Measured,
    tally: Sequence[int],
    classes: Sequence[str],
    settings: TrainingSettings,
) -> list[str]:
    """Return what a reader must know of the outcome."""
    notes = [f"{row.name}: {row.note}" for row in rows if row.note]
    controls = [row for row in rows if row.weight == 0 and not row.note]
    better = [row for row in controls if row.validation_accuracy >= chosen.validation_accuracy]
    if chosen.weight and better:
        best = max(better, key=lambda row: row.validation_accuracy)
        notes.append(
            f"On the validation images no weight is more accurate than {best.name!r} "
            f"({percent(best.validation_accuracy)} against {percent(chosen.validation_accuracy)}): "
            f"the prior is bought, not given."
        )
    few, many = min(tally), max(tally)
    free = after.homogeneous is True
    if free and many >= UNEVEN * max(few, 1):
        least, most = classes[tally.index(few)], classes[tally.index(many)]
        where = (
            "It was added to the logits in training, outside the network: add it to predict, too."
            if settings.intercept is not None
            else "Train with the intercept (--intercept), which adds it to the logits outside the "
            "attributed function, and add it to predict."
        )
        notes.append(
            f"The classes are imbalanced ({most}: {many} images, {least}: {few}), and a network "
            f"without biases has no intercept: f(0) = 0, all classes alike. The intercept stands "
            f"in fit.json. {where}"
        )
    return notes


def described(prior: Prior | None) -> str:
    """Return a prior in words."""
    if prior is None:
        return ""
    penalty = type(prior.penalty).__name__
    inner = getattr(prior.penalty, "penalty", None)
    what = penalty if inner is None else f"{penalty} of {type(inner).__name__}"
    return f"{what} on {prior.method}"
