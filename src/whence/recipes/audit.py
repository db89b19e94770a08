"""Audit: where do these predictions come from, in the image and in the training data?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from whence.adapters import LoadedModel, Preprocessing
from whence.attribution import IntegratedGradients, method_named
from whence.core import ImageData, Method, Progress, silent
from whence.influence import Checkpoint, Scorer, scorer_named
from whence.recipes.auditor import Auditor, Settings, Subject
from whence.recipes.groups import places_of
from whence.recipes.removal import check_counts
from whence.recipes.retrain import Removal
from whence.report import write_report
from whence.results import AuditRecord, new_folder, save_audit, save_findings
from whence.results.findings_file import keep_decisions
from whence.training_features import DEFAULT_MAP, MAPS, TrainingMap, map_named

__all__ = ["DEFAULT_METHOD", "audit"]

DEFAULT_METHOD = IntegratedGradients(tolerance=0.1, max_steps=288)
"""Integrated gradients with 32 steps, and up to 288 where they miss by more than a tenth."""


def audit(  # noqa: PLR0913 - the public face: every setting of an audit
    model: nn.Module | LoadedModel,
    train: ImageData,
    test: ImageData,
    *,
    out: Path | str | None = None,
    queries: str | Sequence[int] = "wrong",
    count: int = 20,
    k: int = 5,
    score: Scorer | str = "grad-cos",
    checkpoints: Sequence[Checkpoint] = (),
    parameters: str | Sequence[str] = "all",
    method: Method | str | None = None,
    training_method: Method | TrainingMap | str | None = None,
    hold_weights: bool | None = None,
    groups: Mapping[str, Sequence[int | str]] | None = None,
    removal: Removal | None = None,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> AuditRecord:
    """Audit a classifier: which pixels, which training images, and which of their pixels.

    For each audited test image: the prediction, an attribution map, the training images that
    speak most for and against it by exact gradient scores, and on each of these the map of the
    pixels that carry the influence on this very prediction. For a wrong prediction also the
    training images that speak for it rather than for its label. Then what is suspicious in all of
    it: marks that keep carrying influence, labels that look wrong, training images that harm many
    predictions; and what groups of training images did together.

    The cost is about one forward and two backward passes per training image, whatever the number
    of queries, one more forward pass to compare labels, and a few passes per query. Scores that
    are solved for each query by itself take as long again for each wrong one. ``removal`` trains
    as often as its settings say.

    Args:
        model: A classifier in eval mode, or what :func:`whence.adapters.load_model` returned.
        train: Its training images with labels, preprocessed as for testing.
        test: Test images; labels are optional.
        out: A folder to write: ``report.html``, ``audit.json``, ``arrays.npz``,
            ``influences.csv``, ``suspects.csv``, ``groups.csv``, with ``removal`` ``removal.csv``,
            and ``findings.toml``, in which a person decides what shall be put right
            (:func:`whence.fix`). Nothing is written if None.
        queries: ``"wrong"``: test images that the model gets wrong (all, if there are no
            labels); ``"all"``; or places in the test data.
        count: At most so many queries, spread evenly.
        k: Proponents and opponents for each.
        score: How gradients become scores: a name such as ``"ekfac"``, or a scorer with settings
            of yours; see ``whence.influence.SCORERS``.
        checkpoints: Weights over which scores are added up, in the order of training; the
            model's own if there are none.
        parameters: Over which parameters gradients are compared: ``"all"``, ``"last-block"``,
            ``"last-layer"`` or patterns of names.
        method: How pixels of test images are attributed; :data:`DEFAULT_METHOD` if None.
        training_method: How pixels of training images are attributed: a name of
            ``whence.training_features.MAPS`` or of a method, or a method. By default
            ``"shared-evidence"``, and ``"input-x-gradient"`` where that has no rule for an
            operation, or the score compares features.
        hold_weights: On training images, explain the inner product of the gradients alone, with
            the norms of a cosine as constants; see :func:`training_features`. By default as the
            map does; a method of yours holds them.
        groups: Training images whose influence is summed, by the group's name: places, or names
            of images. Classes and what the audit finds are groups anyway.
        removal: Train again without the images of highest score, and see what becomes of the
            predictions; see :class:`Removal`.
        preprocessing: How pictures became images, to show them; known for a LoadedModel.
        classes: Names of the classes.
        name: What to call the model.
        batch_size: Training images at a time; chosen by memory if not given.
        overwrite: Replace an earlier result in ``out``; decisions about its findings are kept
            beside the new ones, as ``findings-before.toml``.
        command: What to note as the command.
        progress: Told how far each stage is.

    Raises:
        DataError: If data are missing, empty or unlabelled.
        OutputError: If ``out`` holds something.
        SettingError, ModeError, NumericsError, ReadError, ShapeError, TargetError: See there.
    """
    settings = Settings(
        queries=queries if isinstance(queries, str) else tuple(queries),
        count=count,
        k=k,
        scorer=scorer_named(score) if isinstance(score, str) else score,
        checkpoints=tuple(checkpoints),
        parameters=parameters if isinstance(parameters, str) else tuple(parameters),
        method=named(
            DEFAULT_METHOD if method is None else method, preprocessing_of(model, preprocessing)
        ),
        training_map=training_map(
            training_method, hold_weights, preprocessing_of(model, preprocessing)
        ),
        batch_size=batch_size,
        groups={key: places_of(key, some, train) for key, some in (groups or {}).items()},
        removal=removal,
    )
    if removal is not None:
        check_counts(removal.counts, len(train))
    subject = Subject.of(model, train, preprocessing, classes, name)
    if out is None:
        return Auditor(subject, train, test, settings, progress).run(command)
    with new_folder(out, overwrite=overwrite) as part:
        record = Auditor(subject, train, test, settings, progress).run(command)
        save_audit(record, part)
        save_findings(part, record.findings, record.audited)
        keep_decisions(Path(out), part)
        write_report(record, part / "report.html")
    return record


def preprocessing_of(
    model: nn.Module | LoadedModel, given: Preprocessing | None
) -> Preprocessing | None:
    """Return how pictures become images, if that is known."""
    if given is not None or not isinstance(model, LoadedModel):
        return given
    return model.preprocessing


def named(method: Method | str, preprocessing: Preprocessing | None) -> Method:
    """Return a method for its name, in the model's units."""
    if not isinstance(method, str):
        return method
    units = None if preprocessing is None else preprocessing.normalisation
    return method_named(method, normalisation=units)


def training_map(
    method: Method | TrainingMap | str | None,
    hold_weights: bool | None,  # noqa: FBT001 - as `audit` takes it
    preprocessing: Preprocessing | None,
) -> TrainingMap | None:
    """Return the map of training images that was asked for; None leaves the choice."""
    if method is None and hold_weights is None:
        return None
    if method is None:
        method = DEFAULT_MAP
    elif isinstance(method, str) and method in {each.name for each in MAPS}:
        method = map_named(method)
    elif not isinstance(method, TrainingMap):
        made = named(method, preprocessing)
        method = TrainingMap(
            name=type(made).__name__,
            method=made,
            hold_weights=True,
            reduction="signed",
            says="a method of the caller's",
        )
    return method if hold_weights is None else replace(method, hold_weights=hold_weights)
