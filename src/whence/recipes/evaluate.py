"""Evaluate: can attributions be trusted? Methods x metrics x networks on some images."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from whence.adapters import LoadedModel
from whence.core import (
    ImageData,
    Method,
    Progress,
    TensorData,
    fingerprint_model,
    fingerprint_tensor,
    silent,
)
from whence.errors import DataError, SettingError, WhenceError
from whence.evaluation.bootstrap import Bootstrap
from whence.network import Network
from whence.recipes.cards import run_card
from whence.recipes.evaluate_folder import Cells, prepared
from whence.recipes.evaluate_parts import (
    USUAL_METHODS,
    VALUES,
    Candidate,
    JudgedSubject,
    Question,
    candidates_of,
    questions_of,
    subjects_of,
    usual_metrics,
)
from whence.recipes.evaluate_record import recorded
from whence.recipes.evaluate_roar import retrain_all
from whence.recipes.evaluate_study import Study
from whence.recipes.evaluate_training import lessons_of, permuted_questions
from whence.recipes.load import spread
from whence.recipes.retrain_anew import Trainer, by_chance
from whence.report import write_evaluation
from whence.report.evaluation_markdown import markdown_tables
from whence.results.evaluation import EvaluationRecord, save_evaluation
from whence.results.evaluation_tables import comparison_table, score_table, values_table
from whence.results.folder import write_whole

__all__ = ["evaluate", "write_results"]

Model = nn.Module | LoadedModel | Network


def evaluate(  # noqa: PLR0913 - one keyword per question, with the same name everywhere
    models: Model | Mapping[str, Model],
    data: ImageData | Tensor | Mapping[str, ImageData],
    *,
    methods: Sequence[str] | Mapping[str, str | Method] = USUAL_METHODS,
    metrics: Sequence[str] | Mapping[str, object] | None = None,
    maps: Mapping[str, Tensor] | None = None,
    controls: Sequence[str] = (),
    masks: Tensor | Mapping[str, Tensor] | None = None,
    method_settings: Mapping[str, str] | None = None,
    metric_settings: Mapping[str, str] | None = None,
    target: str | int = "predicted",
    value: str = "probability",
    train: ImageData | Mapping[str, ImageData] | None = None,
    train_count: int | None = None,
    retrain: str | Trainer = "scratch",
    permuted: Model | Mapping[str, Model] | None = None,
    count: int = 64,
    batch_size: int = 16,
    bootstrap: Bootstrap | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> EvaluationRecord:
    """Judge attributions: any methods, or maps that somebody else made, by any metrics.

    Methods explain the logit of a class; metrics of faithfulness look at its probability. Random,
    constant and edge maps stand in every table, and a method is called better than its metric's
    control, or than another method, only where the bootstrap interval of the paired difference
    lies on one side of zero.
    What is undefined is counted with its reason, and what does not apply is said; neither stops
    the evaluation.

    With ``out`` every cell (a batch of images, a network, a method) is kept as soon as it is
    done, so that Ctrl-C or a power cut costs one cell; ``resume`` goes on. The cost is that of
    the methods and metrics: maps are made once per image and used by all metrics.

    Args:
        models: Classifiers in eval mode, by name; or one.
        data: Images; by the networks' names where they take them differently.
        methods: Names of ``whence methods``, with settings as ``NAME:key=value,key=value``; or
            names or methods by a name of yours.
        metrics: Names of ``whence metrics``, in the same ways; insertion, deletion, SRG and the
            Gini index if None, and with masks the pointing game, relevance mass and rank.
        maps: Maps of all images of the data, ``(n, h, w)`` or ``(n, c, h, w)``, by a name.
        controls: Further controls: ``redrawn-map``, ``input-map``, ``centre-map``.
        masks: Object masks of all images, ``(n, 1, h, w)``, 1 inside; by the networks' names
            where images are of different sizes. An empty mask leaves its image out.
        method_settings: Texts for every method that has such settings, such as ``steps``.
        metric_settings: Texts for every metric that has such settings, such as ``fill``.
        target: ``predicted``, ``label`` or a class.
        value: What metrics look at: ``probability``, ``logit``, ``log-probability``, ``margin``.
        train: Training images with labels, for the metrics that train networks again: ``roar``
            and ``data-randomisation``; by the networks' names where they take them differently.
        train_count: At most so many of them, spread; they are held in memory.
        retrain: ``scratch``, ``fine-tune`` or ``last-layer``, with settings as
            ``scratch:epochs=20``; or what trains a copy of a network, ``f(module, data, seed)``.
        permuted: Networks that were trained on permuted labels, for ``data-randomisation``; where
            there is none, one is trained.
        count: At most so many images, spread over the data.
        batch_size: Images per cell.
        bootstrap: Confidence, draws and seed of the intervals.
        out: A folder for ``report.html``, ``evaluation.json``, ``values.csv``, ``table.csv``,
            ``comparisons.csv`` and ``table.md``.
        resume: Go on with what is in ``out``.
        overwrite: Replace an earlier evaluation in ``out``.
        command: What to note as the command.
        progress: Told how far the work is, in maps and values of batches.

    Raises:
        DataError: No usable images; networks on different images; masks or maps that do not fit.
        MismatchError: ``out`` holds an evaluation of something else.
        OutputError: ``out`` holds something.
        SettingError: An unknown name or setting.
        TargetError: ``target="label"`` without labels, or a class that does not exist.
    """
    started = perf_counter()
    if value not in VALUES:
        msg = f"value is one of {', '.join(VALUES)}; got {value!r}."
        raise SettingError(msg)
    if count < 1 or batch_size < 1:
        msg = f"count and batch_size are at least 1; got {count} and {batch_size}."
        raise SettingError(msg)
    given = TensorData(images=data) if isinstance(data, Tensor) else data
    subjects = subjects_of(models, given)
    usual = usual_metrics(masks=masks is not None)
    questions = questions_of(usual if metrics is None else metrics, subjects, metric_settings or {})
    candidates = candidates_of(methods, controls, maps or {}, subjects, method_settings or {})
    shaped = masks_of(masks, subjects)
    first = subjects[0].data
    places = spread(len(first), count)
    if not places:
        msg = f"{first.title} holds no images."
        raise DataError(msg)
    if target == "label" and any(first.label(k) is None for k in places):
        msg = f"target='label' needs a label for every image, and {first.title} lacks some."
        raise DataError(msg)
    settings: dict[str, object] = {
        "methods": {one.name: one.text for one in candidates if one.kind == "method"},
        "metrics": {one.name: str(one.first) for one in questions},
        "target": target,
        "value": value,
        "images": len(places),
        "batch_size": batch_size,
    }
    lessons = lessons_of(train, train_count, retrain, subjects)
    lessons.check(questions, subjects, permuted, places)
    trains = lessons.needed(questions)
    if trains:
        settings |= {"retrain": lessons.text, "train_count": train_count}
    cells = Cells(None)
    if out is not None:
        told = {**settings, **fingerprints(subjects, candidates, questions, shaped, places)}
        told |= lessons.fingerprints(permuted) if trains else {}
        cells = prepared(Path(out), told, resume=resume, overwrite=overwrite)
    questions, notes = permuted_questions(questions, subjects, permuted, lessons, cells, progress)
    study = Study(
        subjects,
        candidates,
        questions,
        shaped,
        target,
        value,
        [places[start : start + batch_size] for start in range(0, len(places), batch_size)],
        cells,
        progress,
    )
    try:
        study.run()
    except WhenceError:
        if out is not None and not cells.held:
            shutil.rmtree(out, ignore_errors=True)  # it was new, and nothing is worth keeping
        raise
    notes += retrain_all(questions, subjects, candidates, places, target, lessons, cells, progress)
    drawn = Bootstrap() if bootstrap is None else bootstrap
    run = run_card(
        command or "whence.evaluate",
        {
            **settings,
            "confidence": drawn.confidence,
            "bootstrap draws": drawn.draws,
            "bootstrap seed": drawn.seed,
        },
        {"evaluate": perf_counter() - started},
    )
    record = recorded(
        subjects,
        candidates,
        questions,
        cells,
        drawn,
        run,
        notes=notes,
        chance=by_chance(lessons.trainer),
    )
    if out is not None:
        write_results(record, Path(out))
    return record


def write_results(record: EvaluationRecord, folder: Path) -> None:
    """Write the record, the tables and the report into a folder; files there are replaced.

    Raises:
        OutputError: The folder cannot be written.
    """
    save_evaluation(record, folder)
    for name, text in (
        ("values.csv", values_table(record)),
        ("table.csv", score_table(record)),
        ("comparisons.csv", comparison_table(record)),
        ("table.md", markdown_tables(record)),
    ):
        write_whole(folder / name, text.encode("utf-8", "backslashreplace"))
    write_evaluation(record, folder / "report.html")


def masks_of(
    masks: Tensor | Mapping[str, Tensor] | None, subjects: Sequence[JudgedSubject]
) -> dict[str, Tensor]:
    """Return the masks of each network, zeros and ones ``(n, 1, h, w)``.

    Raises:
        DataError: If they are not one for each image, or hold anything but zeros and ones.
    """
    if masks is None:
        return {}
    found = {}
    for subject in subjects:
        own = masks.get(subject.name) if isinstance(masks, Mapping) else masks
        if own is None:
            continue
        shaped = own[:, None] if own.ndim == 3 else own  # noqa: PLR2004 - n h w
        count = len(subject.data)
        if shaped.ndim != 4 or shaped.shape[1] != 1 or len(shaped) != count:  # noqa: PLR2004 - n 1 h w
            msg = (
                f"Masks must be one for each of the {count} images, (n, h, w) or (n, 1, h, w); "
                f"got {tuple(own.shape)}."
            )
            raise DataError(msg)
        if not ((shaped == 0) | (shaped == 1)).all():
            msg = "Masks must hold 0 (outside) and 1 (inside). Threshold soft masks first."
            raise DataError(msg)
        found[subject.name] = shaped.float()
    return found


def fingerprints(
    subjects: Sequence[JudgedSubject],
    candidates: Sequence[Candidate],
    questions: Sequence[Question],
    masks: Mapping[str, Tensor],
    places: Sequence[int],
) -> dict[str, object]:
    """Return what else decides what comes of an evaluation, as plain values."""
    return {
        "controls": [one.name for one in candidates if one.kind == "control"],
        "maps": {
            one.name: fingerprint_tensor(one.maps) for one in candidates if one.maps is not None
        },
        "order": [[one.name for one in candidates], [one.name for one in questions]],
        "networks": {
            one.name: [
                fingerprint_model(one.subject.module, str(one.subject.module)),
                None if one.subject.preprocessing is None else one.subject.preprocessing.describe(),
            ]
            for one in subjects
        },
        "data": subjects[0].data.fingerprint(),
        "masks": {name: fingerprint_tensor(one) for name, one in masks.items()},
        "places": fingerprint_tensor(torch.tensor(places)),
    }
