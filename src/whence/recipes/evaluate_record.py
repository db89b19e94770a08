"""The record of an evaluation, from its finished cells."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from whence.core import logits_from
from whence.errors import DataError
from whence.evaluation.bootstrap import Bootstrap
from whence.recipes.cards import class_names, dataset_card, model_card
from whence.recipes.evaluate_compare import estimate_record
from whence.recipes.evaluate_folder import Cells
from whence.recipes.evaluate_gather import Asked, gathered, learned
from whence.recipes.evaluate_parts import Candidate, JudgedSubject, Question
from whence.results import RunCard
from whence.results.evaluation import (
    AgreementRecord,
    ComparisonRecord,
    EvaluationRecord,
    JudgedMethod,
    JudgedMetric,
    JudgedNetwork,
    ScoreRecord,
)

__all__ = ["recorded"]


def recorded(
    subjects: Sequence[JudgedSubject],
    candidates: Sequence[Candidate],
    questions: Sequence[Question],
    cells: Cells,
    bootstrap: Bootstrap,
    run: RunCard,
    *,
    notes: Sequence[str] = (),
    chance: bool = True,
) -> EvaluationRecord:
    """Return the record.

    Args:
        subjects: The networks.
        candidates: What was judged.
        questions: The metrics.
        cells: All that was found.
        bootstrap: How intervals are made.
        run: How it was made.
        notes: What else a reader must know.
        chance: Whether training again with another seed gives another network.

    Raises:
        DataError: If not one image could be used.
    """
    predictions = [
        {name: cell for name, cell in cells.held.items() if name.endswith(f"-{n:02d}")}
        for n in range(len(subjects))
    ]
    seen = [
        {
            i: p
            for cell in of.values()
            for i, p in zip(cell["indices"], cell["predictions"], strict=True)
        }
        for of in predictions
    ]
    indices = sorted(set().union(*seen))
    if not indices:
        msg = f"None of the images of {subjects[0].data.title} can be used."
        raise DataError(msg)
    data = subjects[0].data
    labels = tuple(data.label(k) for k in indices)
    scores: list[ScoreRecord] = []
    comparisons: list[ComparisonRecord] = []
    for n, subject in enumerate(subjects):
        for question in questions:
            if question.entry.form == "pair":
                continue
            one = Asked(subject.name, question, candidates, bootstrap, chance=chance)
            places = range(len(candidates))
            if question.entry.form == "retraining":
                q = questions.index(question)
                answers = [learned(n, q, c, question, cells, indices) for c in places]
            else:
                answers = [gathered(n, c, question.name, cells, indices) for c in places]
            scores += one.scores(answers)
            comparisons += one.comparisons(answers)
    return EvaluationRecord(
        networks=tuple(
            judged_network(subject, seen[n], labels, indices) for n, subject in enumerate(subjects)
        ),
        data=dataset_card(data),
        images=tuple(data.name(k) for k in indices),
        labels=labels,
        methods=tuple(
            JudgedMethod(name=one.name, text=one.text, kind=one.kind) for one in candidates
        ),
        metrics=tuple(judged_metric(one) for one in questions),
        scores=tuple(scores),
        agreements=agreements_of(subjects, candidates, cells, indices, bootstrap),
        confidence=bootstrap.confidence,
        run=run,
        notes=(
            *notes_on(subjects, candidates, scores, comparisons, cells, bootstrap),
            *notes,
        ),
        comparisons=tuple(comparisons),
    )


def judged_network(
    subject: JudgedSubject,
    predictions: dict[int, int],
    labels: Sequence[int | None],
    indices: Sequence[int],
) -> JudgedNetwork:
    """Return a network with its accuracy on the judged images."""
    right = [
        predictions[k] == label
        for k, label in zip(indices, labels, strict=True)
        if label is not None and k in predictions
    ]
    first = next(iter(subject.data.batches(1, [next(iter(predictions))]))) if predictions else None
    outputs = 0
    if first is not None:
        device = next((p.device for p in subject.subject.module.parameters()), torch.device("cpu"))
        with torch.no_grad():
            outputs = logits_from(subject.subject.callable, first.images.to(device)).shape[1]
    return JudgedNetwork(
        name=subject.name,
        card=model_card(
            subject.subject.module,
            name=subject.subject.name,
            classes=class_names(outputs, subject.subject.classes, subject.data.classes),
            preprocessing=subject.subject.preprocessing,
        ),
        accuracy=sum(right) / len(right) if right else None,
    )


def judged_metric(question: Question) -> JudgedMetric:
    """Return a metric with what to know of it."""
    entry, metric = question.entry, question.first
    card = metric.card
    return JudgedMetric(
        name=question.name,
        text=str(metric),
        form=entry.form,
        group=entry.group,
        says=entry.says,
        better=card.better,
        low=float(card.low),
        high=float(card.high),
        chance=card.chance,
        reference=card.reference,
        reads=entry.reads if entry.form == "function" else "",
        control=entry.control if card.better != "neither" else "none",
    )


def agreements_of(
    subjects: Sequence[JudgedSubject],
    candidates: Sequence[Candidate],
    cells: Cells,
    indices: Sequence[int],
    bootstrap: Bootstrap,
) -> tuple[AgreementRecord, ...]:
    """Return how alike maps are, pair by pair."""
    place = {index: k for k, index in enumerate(indices)}
    found: dict[tuple[str, tuple[int, int], tuple[int, int]], Tensor] = {}
    for name in sorted(cells.held):
        if not name.endswith("-pairs"):
            continue
        cell = cells.held[name]
        rows = [place[index] for index in cell["indices"]]
        for pair in cell["pairs"]:
            key = (pair["metric"], tuple(pair["first"]), tuple(pair["second"]))
            values = found.setdefault(
                key, torch.full((len(indices),), torch.nan, dtype=torch.float64)
            )
            for row, value in zip(rows, pair["values"], strict=True):
                if value is not None:
                    values[row] = value
    return tuple(
        AgreementRecord(
            metric=metric,
            first=(subjects[one[0]].name, candidates[one[1]].name),
            second=(subjects[other[0]].name, candidates[other[1]].name),
            values=values.numpy(),
            estimate=estimate_record(bootstrap.estimate(values)),
        )
        for (metric, one, other), values in found.items()
    )


def notes_on(
    subjects: Sequence[JudgedSubject],
    candidates: Sequence[Candidate],
    scores: Sequence[ScoreRecord],
    comparisons: Sequence[ComparisonRecord],
    cells: Cells,
    bootstrap: Bootstrap,
) -> tuple[str, ...]:
    """Return what a reader must know to judge the result."""
    notes = []
    tested: dict[str, Sequence[ScoreRecord | ComparisonRecord]] = {
        "between a method and a control": scores,
        "between two methods": comparisons,
    }
    for what, those in tested.items():
        compared = sum(one.difference is not None for one in those)
        claims = sum(one.verdict in ("better", "worse") for one in those)
        if compared:
            chance = (1 - bootstrap.confidence) * compared
            one = "1 difference is" if compared == 1 else f"{compared} differences are"
            notes.append(
                f"{one} tested {what}, at {100 * bootstrap.confidence:g} % each, with "
                f"{claims or 'no'} {'claim' if claims == 1 else 'claims'}; if no difference were "
                f"real, about {chance:.1f} would still be claimed."
            )
    for n, subject in enumerate(subjects):
        for c, candidate in enumerate(candidates):
            if candidate.kind == "control":
                continue
            faults = Counter(
                fault
                for name, cell in cells.held.items()
                if name.endswith(f"-{n:02d}-{c:03d}")
                for fault in cell.get("faults", ())
                if fault
            )
            notes.extend(
                f"{candidate.name} on {subject.name}: {fault} "
                f"({number} {'image' if number == 1 else 'images'})."
                for fault, number in sorted(faults.items())
            )
    skipped = subjects[0].data.skipped
    if skipped:
        name, reason = skipped[0]
        told = reason if reason.startswith(name) else f"{name}: {reason}"
        many = f"{len(skipped)} images" if len(skipped) > 1 else "1 image"
        notes.append(f"{many} could not be used{', such as' if len(skipped) > 1 else ':'} {told}")
    return tuple(notes)
