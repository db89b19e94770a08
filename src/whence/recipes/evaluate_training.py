"""What an evaluation trains networks on, and those of permuted labels.

Weights are kept as soon as a training has ended, so that a study that is stopped loses one.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from whence.adapters.streamed import PictureData
from whence.core import ImageData, Progress, TensorData, fingerprint_model
from whence.errors import DataError, SettingError
from whence.evaluation import DataRandomisation, permuted_labels
from whence.recipes.evaluate_folder import Cells
from whence.recipes.evaluate_parts import JudgedSubject, Question
from whence.recipes.explained import Model, subject_of
from whence.recipes.load import spread
from whence.recipes.retrain_anew import Trainer, anew_named
from whence.recipes.roar import accuracy

__all__ = ["CHUNK", "Lessons", "lessons_of", "permuted_questions", "together"]

LEAST = 2
CHUNK = 64
"""Images whose maps are made, and kept, at a time."""
HALF = 0.5


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Lessons:
    """What networks are trained on, and how.

    Args:
        train: Training images by the networks' names; None if there are none.
        count: At most so many of them, spread.
        trainer: How a network is trained again.
    """

    train: Mapping[str, ImageData] | None
    count: int | None
    trainer: Trainer

    def needed(self, questions: Sequence[Question]) -> bool:
        """Return whether a metric needs networks that are trained for it."""
        return any(
            one.entry.form == "retraining" or isinstance(one.first, DataRandomisation)
            for one in questions
        )

    @property
    def text(self) -> str:
        """How a network is trained again, in words that another run gives, too."""
        return getattr(self.trainer, "__qualname__", str(self.trainer))

    def check(
        self,
        questions: Sequence[Question],
        subjects: Sequence[JudgedSubject],
        permuted: Model | Mapping[str, Model] | None,
        places: Sequence[int],
    ) -> None:
        """Refuse what cannot be trained, before all work.

        Raises:
            DataError: Judged images without labels, under a metric that counts hits.
            SettingError: A metric trains and has nothing to train on; or none trains.
        """
        roar = any(one.entry.form == "retraining" for one in questions)
        if self.train is not None and not self.needed(questions):
            msg = (
                "Training images are given, but no metric trains. Ask for roar or "
                "data-randomisation (--metric roar), or leave them out."
            )
            raise SettingError(msg)
        for subject in subjects:
            known = permuted is not None and (
                not isinstance(permuted, Mapping) or subject.name in permuted
            )
            if roar:
                self.source(subject, "roar")
            elif self.needed(questions) and not known:
                self.source(subject, "data-randomisation")
            bare = next((k for k in places if subject.data.label(k) is None), None)
            if roar and bare is not None:
                msg = (
                    f"roar counts how many images are recognised and needs their labels; "
                    f"{subject.data.name(bare)} has none. Give them with --labels, labels=..."
                )
                raise DataError(msg)

    def source(self, subject: JudgedSubject, metric: str) -> ImageData:
        """Return a network's training images.

        Raises:
            SettingError: There are none.
        """
        data = None if self.train is None else self.train.get(subject.name)
        if data is None:
            other = ", or weights of permuted labels (--permuted FILE)"
            msg = (
                f"The metric {metric} trains {subject.name} again. Give training images with "
                f"labels (--train SOURCE){other if metric != 'roar' else ''}."
            )
            raise SettingError(msg)
        return data

    def fingerprints(self, permuted: Model | Mapping[str, Model] | None) -> dict[str, object]:
        """Return what decides what comes of the trainings, as plain values."""
        if permuted is None:
            permuted = {}
        given = permuted if isinstance(permuted, Mapping) else {"": permuted}
        modules = {name: subject_of(one, None).module for name, one in given.items()}
        return {
            "train": {name: data.fingerprint() for name, data in (self.train or {}).items()},
            "permuted": {name: fingerprint_model(one, str(one)) for name, one in modules.items()},
        }

    def of(self, subject: JudgedSubject, metric: str) -> TensorData:
        """Return a network's training images in memory.

        Raises:
            DataError: Images without labels.
            SettingError: There are none.
        """
        data = self.source(subject, metric)
        places = spread(len(data), len(data) if self.count is None else self.count)
        return together(data, places)[0]


def lessons_of(
    train: ImageData | Mapping[str, ImageData] | None,
    count: int | None,
    retrain: str | Trainer,
    subjects: Sequence[JudgedSubject],
) -> Lessons:
    """Return what networks are trained on, and how, from what was given.

    Raises:
        SettingError: There is no such way to train, or a count under 2.
    """
    if count is not None and count < LEAST:
        msg = f"train_count is {LEAST} or more; got {count}."
        raise SettingError(msg)
    trainer = anew_named(retrain) if isinstance(retrain, str) else retrain
    if train is None or isinstance(train, Mapping):
        return Lessons(train=train, count=count, trainer=trainer)
    found: dict[str, ImageData] = {}
    for subject in subjects:
        units = subject.subject.preprocessing
        own = train
        if isinstance(own, PictureData) and units not in (None, own.preprocessing):
            own = replace(own, preprocessing=units)
        found[subject.name] = own
    return Lessons(train=found, count=count, trainer=trainer)


def together(data: ImageData, places: Sequence[int]) -> tuple[TensorData, tuple[int, ...]]:
    """Return images in memory, and which they are: those that can be used.

    Raises:
        DataError: If an image has no label.
    """
    batches = list(data.batches(CHUNK, list(places)))
    if not batches:
        msg = f"None of the images of {data.title} can be used to train on, or to judge by."
        raise DataError(msg)
    images = torch.cat([one.images for one in batches])
    labels = torch.cat([one.labels for one in batches])
    indices = torch.cat([one.indices for one in batches])
    if bool((labels < 0).any()):
        place = int(indices[labels < 0][0])
        msg = (
            f"Training again and its accuracy need a label for every image; "
            f"{data.name(place)} in {data.title} has none."
        )
        raise DataError(msg)
    classes = data.classes or tuple(str(k) for k in range(int(labels.max()) + 1))
    found = TensorData(images=images, labels=labels, classes=classes, title=data.title)
    return found, tuple(indices.tolist())


def permuted_questions(
    questions: Sequence[Question],
    subjects: Sequence[JudgedSubject],
    given: Model | Mapping[str, Model] | None,
    lessons: Lessons,
    cells: Cells,
    progress: Progress,
) -> tuple[tuple[Question, ...], tuple[str, ...]]:
    """Return the questions with networks of permuted labels where they need them, and notes.

    Args:
        questions: All metrics; data randomisation gets its networks.
        subjects: The networks.
        given: Those that were trained on permuted labels, by the networks' names.
        lessons: What the others are trained on.
        cells: Where trained weights are kept.
        progress: Told of each training.

    Raises:
        SettingError: A network is missing, and there is nothing to train it on.
    """
    if not any(isinstance(one.first, DataRandomisation) for one in questions):
        return tuple(questions), ()
    known = (
        given
        if isinstance(given, Mapping)
        else {}
        if given is None
        else dict.fromkeys((one.name for one in subjects), given)
    )
    made: dict[str, nn.Module] = {}
    notes = []
    for n, subject in enumerate(subjects):
        if subject.name in known:
            made[subject.name] = subject_of(known[subject.name], None).module
            continue
        progress("permuted labels", n, len(subjects))
        data = lessons.of(subject, "data-randomisation")
        labels = permuted_labels(data).labels
        mixed = replace(data, labels=labels, names=())
        module = taught(subject.subject.module, mixed, n, lessons, cells)
        made[subject.name] = module
        known_by_heart = accuracy(module, mixed.images, labels, CHUNK)
        chance = float(labels.bincount().max() / len(labels))
        told = (
            f"The network that {subject.name} is compared with under data-randomisation was "
            f"trained on {len(labels)} permuted labels and knows {known_by_heart:.1%} of them by "
            f"heart; guessing the most frequent class gives {chance:.1%}."
        )
        if known_by_heart < chance + HALF * (1 - chance):
            told += " That is little: train longer, such as --retrain scratch:epochs=100."
        notes.append(told)
    progress("permuted labels", len(subjects), len(subjects))
    return tuple(
        replace(
            one,
            metric={
                name: replace(metric, permuted=made[name]) for name, metric in one.metric.items()
            },
        )
        if isinstance(one.first, DataRandomisation)
        else one
        for one in questions
    ), tuple(notes)


def taught(
    module: nn.Module, data: TensorData, n: int, lessons: Lessons, cells: Cells
) -> nn.Module:
    """Return a network trained on the data, from the folder if it is there."""

    def weights() -> dict[str, Tensor]:
        return dict(lessons.trainer(module, data, 0).state_dict())

    made = copy.deepcopy(module)
    made.load_state_dict(cells.weights(f"permuted-{n:02d}", weights))
    return made
