"""The work of an evaluation, cell by cell: a batch of images, a network, a candidate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution import attribute, needs_network
from whence.core import Logit, Method, ModelScalar, Progress, logits_from, resolve_target
from whence.errors import DataError, NumericsError, UnsupportedOperation, WhenceError
from whence.evaluation.faithfulness import Curve
from whence.evaluation.judged import NO_MASK, NOT_FINITE, OF_ITS_IMAGE, faults_of
from whence.evaluation.mean import UNDEFINED
from whence.recipes.evaluate_folder import Cells
from whence.recipes.evaluate_parts import (
    Candidate,
    JudgedSubject,
    Question,
    maps_at,
    nan_rows,
    value_target,
)
from whence.recipes.explained import placed

__all__ = ["Seen", "Study", "maps_made", "said", "seen_of"]

STAGE = "evaluate"
LONGEST = 240
"""Characters of a reason in a table."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """A batch of images as a network sees them.

    Args:
        indices: Places in the data, ``(b,)``.
        images: ``(b, c, h, w)``.
        classes: The class that is explained, ``(b,)``.
    """

    indices: Tensor
    images: Tensor
    classes: Tensor


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Maps:
    """Maps of a batch, and what is wrong with some of them.

    Args:
        values: ``(b, a, h, w)``; NaN where a map is not finite.
        faults: What is wrong with each map; empty if nothing is.
    """

    values: Tensor
    faults: tuple[str, ...]


@final
class Study:
    """An evaluation at work; every cell that is done is kept at once.

    Args:
        subjects: The networks.
        candidates: What is judged.
        questions: The metrics.
        masks: Object masks by network, one per image of the data, ``(n, 1, h, w)``.
        target: ``predicted``, ``label`` or a class.
        value: Which number metrics look at.
        batches: Places in the data, batch by batch.
        cells: What is done already, and where the rest goes.
        progress: Told how far the work is.
    """

    def __init__(
        self,
        subjects: Sequence[JudgedSubject],
        candidates: Sequence[Candidate],
        questions: Sequence[Question],
        masks: dict[str, Tensor],
        target: str | int,
        value: str,
        batches: Sequence[list[int]],
        cells: Cells,
        progress: Progress,
    ) -> None:
        self.subjects = subjects
        self.candidates = candidates
        self.single = [one for one in questions if one.entry.form not in ("pair", "retraining")]
        self.pairs = [one for one in questions if one.entry.form == "pair"]
        self.masks = masks
        self.target = target
        self.value = value
        self.batches = batches
        self.cells = cells
        self.progress = progress
        self.done = 0
        self.seen: dict[int, Seen] = {}
        self.maps: dict[tuple[int, int], Maps | WhenceError] = {}

    @property
    def total(self) -> int:
        """All units of work: a map or a value of a metric for a batch of images."""
        each = len(self.candidates) * (1 + len(self.single))
        return len(self.batches) * len(self.subjects) * each

    def run(self) -> None:
        """Do every cell that is not done yet."""
        self.progress(STAGE, 0, self.total)
        for batch in range(len(self.batches)):
            self.seen, self.maps = {}, {}
            for n in range(len(self.subjects)):
                if self.cells.get(f"{batch:05d}-{n:02d}") is None:
                    self.cells.put(f"{batch:05d}-{n:02d}", self.predicted(batch, n))
                for c in range(len(self.candidates)):
                    name = f"{batch:05d}-{n:02d}-{c:03d}"
                    if self.cells.get(name) is None:
                        self.cells.put(name, self.judged(batch, n, c))
                    else:
                        self.step(1 + len(self.single))
            if self.pairs and self.cells.get(f"{batch:05d}-pairs") is None:
                self.cells.put(f"{batch:05d}-pairs", self.compared(batch))
        self.progress(STAGE, self.total, self.total)

    def step(self, count: int = 1) -> None:
        """Report that so many units are done."""
        self.done += count
        self.progress(STAGE, self.done, self.total)

    def images_of(self, batch: int, n: int) -> Seen:
        """Return a batch as a network sees it; read once."""
        if n not in self.seen:
            subject = self.subjects[n]
            places = self.batches[batch]
            try:
                found = list(subject.data.batches(len(places), places))
            except DataError:
                found = []  # not one can be used: the data name them
            if not found:
                none = torch.zeros(0, dtype=torch.long)
                self.seen[n] = Seen(indices=none, images=torch.zeros(0, 1, 1, 1), classes=none)
                return self.seen[n]
            self.seen[n] = seen_of(
                subject,
                torch.cat([one.indices for one in found]),
                torch.cat([one.images for one in found]),
                torch.cat([one.labels for one in found]),
                self.target,
            )
        return self.seen[n]

    def predicted(self, batch: int, n: int) -> dict[str, Any]:
        """Return what a network says of a batch."""
        seen, subject = self.images_of(batch, n), self.subjects[n]
        if not len(seen.indices):
            return {"indices": [], "predictions": [], "classes": []}
        with torch.no_grad():
            logits = logits_from(subject.subject.callable, seen.images)
        if not bool(logits.isfinite().any()):
            subject.network(seen.images)  # which says in which operation it began
            msg = f"The logits of {subject.name} are NaN or infinite for every image of a batch."
            raise NumericsError(msg)
        return {
            "indices": seen.indices.tolist(),
            "predictions": logits.argmax(dim=1).tolist(),
            "classes": seen.classes.tolist(),
        }

    def judged(self, batch: int, n: int, c: int) -> dict[str, Any]:
        """Return what every metric says of a candidate's maps of a batch."""
        seen, candidate = self.images_of(batch, n), self.candidates[c]
        content: dict[str, Any] = {
            "network": self.subjects[n].name,
            "method": candidate.name,
            "indices": seen.indices.tolist(),
        }
        if not len(seen.indices):
            self.step(1 + len(self.single))
            return {**content, "faults": [], "scores": {}}
        maps = self.maps_of(batch, n, c)
        self.step()
        if isinstance(maps, WhenceError):
            self.step(len(self.single))
            return {**content, "refused": said(maps)}
        scores = {}
        for question in self.single:
            scores[question.name] = self.answer(question, n, candidate, seen, maps)
            self.step()
        return {**content, "faults": list(maps.faults), "scores": scores}

    def maps_of(self, batch: int, n: int, c: int) -> Maps | WhenceError:
        """Return a candidate's maps of a batch, or why it has none; made once."""
        if (n, c) not in self.maps:
            seen = self.images_of(batch, n)
            try:
                values = maps_made(self.subjects[n], self.candidates[c], seen)
            except WhenceError as error:
                self.maps[n, c] = error
            else:
                self.maps[n, c] = Maps(values=values, faults=tuple(faults_of(values)))
        return self.maps[n, c]

    def answer(
        self, question: Question, n: int, candidate: Candidate, seen: Seen, maps: Maps
    ) -> dict[str, Any]:
        """Return a metric's value for each image, with the reason where there is none."""
        reasons = [NOT_FINITE if fault == NOT_FINITE else "" for fault in maps.faults]
        masks = self.masks.get(self.subjects[n].name)
        if question.entry.form == "mask":
            if masks is None:
                return {"refused": "it needs masks, and none were given"}
            empty = masks[seen.indices].flatten(1).sum(dim=1) == 0
            reasons = [
                reason or (NO_MASK if gone else "")
                for reason, gone in zip(reasons, empty.tolist(), strict=True)
            ]
        rows = torch.tensor([k for k, reason in enumerate(reasons) if not reason])
        values: list[float | None] = [None] * len(reasons)
        curve = None
        if len(rows):
            try:
                found, curve = self.asked(question, n, candidate, seen, maps, rows)
            except OF_ITS_IMAGE:
                found = self.one_by_one(question, n, candidate, seen, maps, rows, reasons)
            except WhenceError as error:
                return {"refused": said(error)}
            for row, number in zip(rows.tolist(), found.double().tolist(), strict=True):
                values[row] = number if math.isfinite(number) else None
                if values[row] is None:
                    reasons[row] = reasons[row] or maps.faults[row] or UNDEFINED
        content: dict[str, Any] = {"values": values, "reasons": reasons}
        if curve is not None:
            content["fractions"] = curve.fractions.double().tolist()
            content["curves"] = [
                [x if math.isfinite(x) else None for x in line]
                for line in curve.values.double().tolist()
            ]
        return content

    def one_by_one(
        self,
        question: Question,
        n: int,
        candidate: Candidate,
        seen: Seen,
        maps: Maps,
        rows: Tensor,
        reasons: list[str],
    ) -> Tensor:
        """Return a metric's values of some rows, NaN and noted where it refuses an image."""
        found = torch.full((len(rows),), torch.nan, dtype=torch.float64)
        for k, row in enumerate(rows.tolist()):
            try:
                found[k] = self.asked(question, n, candidate, seen, maps, rows[k : k + 1])[0][0]
            except OF_ITS_IMAGE as error:
                reasons[row] = said(error)
        return found

    def asked(  # noqa: PLR0911 - one answer per call form
        self,
        question: Question,
        n: int,
        candidate: Candidate,
        seen: Seen,
        maps: Maps,
        rows: Tensor,
    ) -> tuple[Tensor, Curve | None]:
        """Return a metric's values of some rows, and its curves if it has them."""
        subject, form = self.subjects[n], question.entry.form
        metric = question.metric[subject.name]
        rows = rows.to(seen.images.device)
        images, values, classes = seen.images[rows], maps.values[rows], seen.classes[rows]
        if form == "map":
            return metric(values), None
        if form == "mask":
            own = self.masks[subject.name][seen.indices[rows.to(seen.indices.device)]]
            return metric(values, own.to(values)), None
        if form in ("method", "sanity") and candidate.kind == "maps":
            msg = "maps that were given cannot be made again for another input or network"
            raise UnsupportedOperation(msg)
        if form == "sanity":
            module = subject.subject.module
            result = metric(module, images, Logit(classes), candidate.method[subject.name])
            if hasattr(result, "score"):
                return result.score, None
            return result.correlations.nanmean(dim=0), None
        reads = "explained" if form == "method" else question.entry.reads
        target = value_target(reads, self.value, classes)
        f = ModelScalar(subject.subject.callable, target)
        if form == "method":
            method = candidate.method[subject.name]
            if needs_network(method):
                f = ModelScalar(subject.network(seen.images), target)
            return metric(f, images, values, method), None
        if hasattr(metric, "curve"):
            curve = metric.curve(f, images, values)
            if isinstance(curve, Curve) and curve.fractions.ndim == 1:
                return curve.area, curve
        return metric(f, images, values), None

    def compared(self, batch: int) -> dict[str, Any]:
        """Return how alike maps are: of two candidates on a network, of one on two networks."""
        found: list[dict[str, Any]] = []
        sides = [(n, c) for n in range(len(self.subjects)) for c in range(len(self.candidates))]
        for one, other in combinations(sides, 2):
            if (one[0] == other[0]) == (one[1] == other[1]):
                continue  # neither the same network nor the same candidate
            first, second = (self.maps_of(batch, *side) for side in (one, other))
            if isinstance(first, WhenceError) or isinstance(second, WhenceError):
                continue
            ours, theirs = alike_in_size(first.values, second.values)
            if len(ours) != len(theirs):
                continue
            fine = ~(nan_rows(ours) | nan_rows(theirs))
            for question in self.pairs:
                values = torch.full((len(ours),), torch.nan, dtype=torch.float64)
                if bool(fine.any()):
                    metric = question.metric[self.subjects[one[0]].name]
                    try:
                        agreed = metric(ours[fine], theirs[fine]).double().cpu()
                    except WhenceError:
                        continue
                    values[fine.cpu()] = agreed
                numbers = [x if math.isfinite(x) else None for x in values.tolist()]
                found.append(
                    {"metric": question.name, "first": one, "second": other, "values": numbers}
                )
        indices = self.images_of(batch, 0).indices.tolist()
        return {"indices": indices, "pairs": found}


def seen_of(
    subject: JudgedSubject, indices: Tensor, images: Tensor, labels: Tensor, target: str | int
) -> Seen:
    """Return images on the network's device, with the classes that are explained of them."""
    images = placed(images, subject.subject.module)
    with torch.no_grad():
        logits = logits_from(subject.subject.callable, images)
    aim = resolve_target(target, logits, labels.to(images.device))
    classes = aim.classes if isinstance(aim, Logit) else logits.argmax(dim=1)
    return Seen(
        indices=indices,
        images=images,
        classes=torch.as_tensor(classes, device=images.device).expand(len(images)).clone(),
    )


def maps_made(subject: JudgedSubject, candidate: Candidate, seen: Seen) -> Tensor:
    """Return maps; image by image where they are not finite all together.

    Raises:
        WhenceError: The method does not apply, or no map is finite.
    """
    if candidate.kind == "maps":
        return maps_at(candidate, seen.indices, seen.images)
    method = candidate.method[subject.name]
    graph = needs_network(method)
    model = subject.network(seen.images) if graph else subject.subject.callable
    f = ModelScalar(model, Logit(seen.classes))
    try:
        return attribute(method, f, seen.images).values.detach()
    except NumericsError:
        rows = [single(method, f, seen, row) for row in range(len(seen.images))]
    known = [one for one in rows if one is not None]
    if not known:
        msg = "its maps are NaN or infinite for every image"
        raise UnsupportedOperation(msg)
    missing = torch.full_like(known[0], torch.nan)
    return torch.cat([missing if one is None else one for one in rows])


def single(method: Method, f: ModelScalar, seen: Seen, row: int) -> Tensor | None:
    """Return the map of one image, or None if it is not finite."""
    at = torch.tensor([row], device=seen.images.device)
    try:
        return attribute(method, f.at(at), seen.images[row : row + 1]).values.detach()
    except NumericsError:
        return None


def said(error: WhenceError) -> str:
    """Return an error as one line, cut behind a sentence where it is long."""
    text = " ".join(str(error).split())
    end = text.rfind(". ", 0, LONGEST)
    return (text if len(text) <= LONGEST or end < 0 else text[:end]).rstrip(".")


def alike_in_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two stacks of maps of one value per pixel, the finer pooled to the coarser."""
    ours, theirs = first.sum(dim=1, keepdim=True), second.sum(dim=1, keepdim=True).to(first.device)
    size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
    pooled = [functional.adaptive_avg_pool2d(one, size) for one in (ours, theirs)]
    return pooled[0], pooled[1]
