"""ROAR as a metric of an evaluation: every candidate, and the controls, for each network.

Maps of training images are kept chunk by chunk, and of each training who was recognised, so that a
study that is stopped goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.core import Progress, TensorData
from whence.errors import UnsupportedOperation, WhenceError
from whence.evaluation import Retraining
from whence.evaluation.metric import pixel_map
from whence.recipes.evaluate_folder import Cells
from whence.recipes.evaluate_parts import Candidate, JudgedSubject, Question
from whence.recipes.evaluate_study import maps_made, said, seen_of
from whence.recipes.evaluate_training import CHUNK, Lessons, together
from whence.recipes.roar import hits, labelled_by

__all__ = ["hits_name", "retrain_all", "whole_name"]

STAGE, MAPS = "retraining", "maps to retrain by"


def hits_name(n: int, question: int, c: int) -> str:
    """Return the cell of who was recognised without the pixels of a candidate's maps."""
    return f"trained-{n:02d}-{question:02d}-{c:03d}-hits"


def whole_name(n: int) -> str:
    """Return the cell of who was recognised with all pixels."""
    return f"trained-{n:02d}-whole-hits"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Class:
    """A network with the images that it is trained on again, and those that it is asked about."""

    n: int
    subject: JudgedSubject
    train: TensorData
    test: TensorData
    indices: tuple[int, ...]


@final
@dataclass(kw_only=True, eq=False)
class Retrainings:
    """All trainings of a study at work; what is done is kept at once.

    Args:
        candidates: What is judged.
        questions: All metrics; those of the form ``retraining`` are asked.
        target: What is explained.
        lessons: What networks are trained on, and how.
        cells: What is done already, and where the rest goes.
        progress: Told of maps and trainings.
        total: All trainings.
        chunks: All batches whose maps are needed.
        done: Trainings that are done.
        mapped: Batches whose maps are there.
    """

    candidates: Sequence[Candidate]
    questions: Sequence[Question]
    target: str | int
    lessons: Lessons
    cells: Cells
    progress: Progress
    total: int
    chunks: int = 0
    done: int = 0
    mapped: int = 0

    def step(self, count: int = 1) -> None:
        """Report that trainings are done."""
        self.done += count
        self.progress(STAGE, self.done, self.total)

    def whole(self, one: Class, seeds: int) -> list[float]:
        """Return the accuracies of networks that see all pixels."""
        name = whole_name(one.n)
        known = self.cells.get(name) or {"hits": []}
        found: list[list[int]] = list(known["hits"])
        self.step(min(len(found), seeds))
        for seed in range(len(found), seeds):
            found.append(self.trained(one, one.train, one.test, seed))
            self.cells.put(name, {"hits": found, "indices": list(one.indices)})
            self.step()
        return [sum(row) / len(row) for row in found[:seeds]]

    def candidate(self, one: Class, q: int, c: int) -> None:
        """Train networks without the pixels that a candidate's maps name."""
        settings: Retraining = self.questions[q].metric[one.subject.name].settled(one.train)
        name = hits_name(one.n, q, c)
        known = self.cells.get(name) or {}
        every = settings.seeds * len(settings.shares)
        if "refused" in known:
            self.step(every)
            return
        found: list[list[int]] = list(known.get("hits", ()))
        self.step(len(found))
        if len(found) == every:
            return
        try:
            maps = [self.maps(one, c, part) for part in ("train", "test")]
        except WhenceError as error:
            self.cells.put(name, {"refused": said(error)})
            self.step(every)
            return
        for at in range(len(found), every):
            share = settings.shares[at % len(settings.shares)]
            left, seen = (
                settings.masked(data, values, share)
                for data, values in zip((one.train, one.test), maps, strict=True)
            )
            found.append(self.trained(one, left, seen, at // len(settings.shares)))
            self.cells.put(name, {"hits": found})
            self.step()

    def trained(self, one: Class, left: TensorData, seen: TensorData, seed: int) -> list[int]:
        """Return which test images a network recognises that was trained on what is left."""
        model = self.lessons.trainer(one.subject.subject.module, left, seed)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        labels = labelled_by(seen, "judged")
        images = seen.images.to(device)
        return hits(model, images, labels, CHUNK).int().tolist()

    def maps(self, one: Class, c: int, part: str) -> Tensor:
        """Return a candidate's maps of all training or test images, one value per pixel."""
        data = one.train if part == "train" else one.test
        candidate = self.candidates[c]
        if candidate.kind == "maps":
            msg = "maps that were given are of the judged images only, not of the training images"
            raise UnsupportedOperation(msg)
        labels = labelled_by(data, part)
        found = []
        chunks = torch.split(torch.arange(len(labels)), CHUNK)
        for k, rows in enumerate(chunks):

            def made(rows: Tensor = rows) -> NDArray[Any]:
                seen = seen_of(one.subject, rows, data.images[rows], labels[rows], self.target)
                values = maps_made(one.subject, candidate, seen)
                size = (len(rows), 1, *values.shape[2:])
                return pixel_map(values).view(size).float().cpu().numpy()

            found.append(self.cells.array(f"maps-{one.n:02d}-{c:03d}-{part}-{k:05d}", made))
            self.mapped += 1
            self.progress(MAPS, self.mapped, max(self.mapped, self.chunks))
        return torch.from_numpy(np.concatenate(found))


def retrain_all(
    questions: Sequence[Question],
    subjects: Sequence[JudgedSubject],
    candidates: Sequence[Candidate],
    places: Sequence[int],
    target: str | int,
    lessons: Lessons,
    cells: Cells,
    progress: Progress,
) -> tuple[str, ...]:
    """Train every network again without the pixels of every map, and keep who was recognised.

    Args:
        questions: All metrics; only those of the form ``retraining`` are asked here.
        subjects: The networks.
        candidates: What is judged.
        places: The judged images.
        target: What is explained.
        lessons: What networks are trained on, and how.
        cells: Where it is kept: :func:`hits_name`, a row per seed and share, and image.
        progress: Told of maps and trainings.

    Returns:
        What a reader has to know.

    Raises:
        DataError: Training or judged images without labels.
        SettingError: No training images.
    """
    asked = [q for q, one in enumerate(questions) if one.entry.form == "retraining"]
    if not asked:
        return ()
    settings: list[Retraining] = [questions[q].first for q in asked]
    most = max(one.seeds for one in settings)
    each = len(candidates) * sum(one.seeds * len(one.shares) for one in settings)
    work = Retrainings(
        candidates=candidates,
        questions=questions,
        target=target,
        lessons=lessons,
        cells=cells,
        progress=progress,
        total=len(subjects) * (most + each),
    )
    notes = []
    progress(STAGE, 0, work.total)
    for n, subject in enumerate(subjects):
        train, (test, indices) = lessons.of(subject, "roar"), together(subject.data, places)
        one = Class(n=n, subject=subject, train=train, test=test, indices=indices)
        parts = sum(-(-len(part.images) // CHUNK) for part in (train, test))
        work.chunks = len(subjects) * len(asked) * len(candidates) * parts
        reached = work.whole(one, most)
        notes.append(started(one, reached))
        for q in asked:
            for c in range(len(candidates)):
                work.candidate(one, q, c)
    return tuple(notes)


def started(one: Class, reached: Sequence[float]) -> str:
    """Say how well networks do that see all pixels, and whether that is enough to judge by."""
    low, high = f"{min(reached):.1%}", f"{max(reached):.1%}"
    labels = labelled_by(one.test, "judged")
    device = next((p.device for p in one.subject.subject.module.parameters()), labels.device)
    images = one.test.images.to(device)
    own = float(hits(one.subject.subject.callable, images, labels, CHUNK).double().mean())
    chance = float(labels.bincount().max() / len(labels))
    said = (
        f"Trained again on all pixels of {len(one.train.images)} images, {one.subject.name} "
        f"recognises {low if low == high else f'{low} to {high}'} of the {len(images)} judged "
        f"images, and as it is {own:.1%}; ROAR starts from there."
    )
    if sum(reached) / len(reached) < (own + chance) / 2:
        said += " That is little to lose: train longer, or on more images."
    return said
