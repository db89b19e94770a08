"""The stages of an audit, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from whence.adapters import LoadedModel, Preprocessing
from whence.attribution import Attribution, attribute
from whence.core import (
    ImageData,
    Margin,
    Method,
    ModelScalar,
    Progress,
    logit,
)
from whence.errors import DataError, SettingError, UnsupportedOperation
from whence.influence import (
    Checkpoint,
    Influence,
    Ranking,
    Scorer,
    influence,
    plain_settings,
)
from whence.network import Network
from whence.recipes.cards import class_names, dataset_card, model_card, run_card
from whence.recipes.findings import CarriedMap, find_regions, sampled, suspect_labels
from whence.results import (
    AuditRecord,
    InfluenceRecord,
    MapRecord,
    QueryRecord,
    TrainingImage,
)
from whence.training_features import TrainingFeatures, TrainingMap, map_named, training_features
from whence.training_features.maps import default_map

__all__ = ["Auditor", "Settings", "Subject"]

Picture = NDArray[np.uint8]

THUMBNAILS = 48
"""Training images whose picture is kept for suspects, and as a reference for regions."""


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of an audit, checked."""

    queries: str | tuple[int, ...]
    count: int
    k: int
    scorer: Scorer
    checkpoints: tuple[Checkpoint, ...]
    parameters: str | tuple[str, ...]
    method: Method
    training_map: TrainingMap | None
    batch_size: int | None

    def __post_init__(self) -> None:
        """Check ranges and names."""
        if self.count < 1 or self.k < 1:
            msg = f"count and k must be at least 1; got count={self.count}, k={self.k}."
            raise SettingError(msg)
        if isinstance(self.queries, str) and self.queries not in ("wrong", "all"):
            msg = f"queries must be 'wrong', 'all' or places; got {self.queries!r}."
            raise SettingError(msg)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The model under audit, with how to show what it sees."""

    module: nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None

    @staticmethod
    def of(
        model: nn.Module | LoadedModel,
        train: ImageData,
        preprocessing: Preprocessing | None,
        classes: Sequence[str] | None,
        name: str | None,
    ) -> "Subject":
        """Return the subject for what the user gave."""
        given = tuple(classes) if classes is not None else ()
        if isinstance(model, LoadedModel):
            return Subject(
                module=model.module,
                name=name or model.name,
                classes=given or model.classes,
                preprocessing=preprocessing or model.preprocessing,
            )
        return Subject(
            module=model,
            name=name or type(model).__name__,
            classes=given or train.classes,
            preprocessing=preprocessing,
        )

    def picture(self, image: Tensor) -> Picture:
        """Return an image as the model sees it, for display."""
        if self.preprocessing is not None:
            return self.preprocessing.picture(image)
        low, high = float(image.min()), float(image.max())
        values = (image.double() - low) / ((high - low) or 1.0) * 255
        array = values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        shown: Picture = np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3]
        return shown


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """Predictions for the test data."""

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor

    @property
    def accuracy(self) -> float | None:
        """Share of labelled test images that are right; None without labels."""
        known = self.labels >= 0
        if not known.any():
            return None
        return float((self.predictions[known] == self.labels[known]).double().mean())


@final
class Auditor:
    """One audit, stage by stage; holds what the stages share."""

    def __init__(
        self,
        subject: Subject,
        train: ImageData,
        test: ImageData,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.subject = subject
        self.train = train
        self.test = test
        self.settings = settings
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self.pictures: dict[int, TrainingImage] = {}
        self.training_map: TrainingMap | None = None

    def run(self, command: str) -> AuditRecord:
        """Go through all stages and return the record."""
        started = perf_counter()
        if not len(self.train) or not len(self.test):
            empty = self.train.title if not len(self.train) else self.test.title
            msg = f"{empty} holds no images."
            raise DataError(msg)
        first = next(iter(self.train.batches(2)), None)
        if first is None:
            msg = f"{self.train.title} holds no usable images."
            raise DataError(msg)
        network = Network.read(self.subject.module, first.images.to(self.device))
        started = self.clock("reading the model", started)
        tested = self.predict(network)
        places = self.choose(tested)
        started = self.clock("predicting", started)
        images = self.images_of(places)
        rows = [tested.indices.tolist().index(i) for i in places]
        predictions = tested.predictions[rows].to(self.device)
        scores = influence(
            network,
            self.train,
            images,
            Margin(predictions),
            scorer=self.settings.scorer,
            checkpoints=self.settings.checkpoints or None,
            parameters=self.settings.parameters,
            batch_size=self.settings.batch_size,
            progress=self.progress,
        )
        started = self.clock("influence", started)
        maps = self.attribute(network, images, predictions)
        started = self.clock("attribution", started)
        queries, carried = self.trace(scores, tested, places, images, maps)
        self.clock("training features", started)
        return self.record(network, tested, scores, queries, carried, command)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensor = next(self.subject.module.parameters(), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def clock(self, stage: str, started: float) -> float:
        """Note how long a stage took; return the time now."""
        now = perf_counter()
        self.seconds[stage] = now - started
        return now

    def predict(self, network: Network) -> Tested:
        """Predict the test data, batch by batch."""
        parts: list[tuple[Tensor, ...]] = []
        done = 0
        self.progress("predicting", 0, len(self.test))
        for batch in self.test.batches(self.settings.batch_size or 32):
            with torch.no_grad():
                logits = network(batch.images.to(self.device))
            confidences, predictions = logits.softmax(dim=1).max(dim=1)
            parts.append((batch.indices, batch.labels, predictions.cpu(), confidences.cpu()))
            done += len(batch.indices)
            self.progress("predicting", done, len(self.test))
        if not parts:
            msg = f"{self.test.title} holds no usable images."
            raise DataError(msg)
        self.progress("predicting", len(self.test), len(self.test))
        indices, labels, predictions, confidences = (torch.cat(p) for p in zip(*parts, strict=True))
        return Tested(
            indices=indices, labels=labels, predictions=predictions, confidences=confidences
        )

    def choose(self, tested: Tested) -> list[int]:
        """Return the places of the test images to audit."""
        chosen = self.settings.queries
        usable = tested.indices.tolist()
        if not isinstance(chosen, str):
            missing = [i for i in chosen if i not in usable]
            if missing or not chosen:
                msg = (
                    f"The test data have no usable image at {missing[:5] or 'no place at all'}; "
                    f"places run from 0 to {len(self.test) - 1}."
                )
                raise SettingError(msg)
            return list(chosen)
        wrong = (tested.predictions != tested.labels) & (tested.labels >= 0)
        if chosen == "wrong" and (tested.labels >= 0).any():
            usable = tested.indices[wrong].tolist() or usable
        step = max(1.0, len(usable) / self.settings.count)
        return [usable[int(j * step)] for j in range(min(self.settings.count, len(usable)))]

    def images_of(self, places: list[int]) -> Tensor:
        """Return test images at these places."""
        batches = self.test.batches(32, places)
        return torch.cat([b.images for b in batches]).to(self.device)

    def attribute(self, network: Network, images: Tensor, predictions: Tensor) -> list[Attribution]:
        """Return the attribution of each query, one at a time, so that progress shows."""
        found = []
        for i in range(len(images)):
            self.progress("attribution", i, len(images))
            f = ModelScalar(network, logit(predictions[i : i + 1]))
            found.append(attribute(self.settings.method, f, images[i : i + 1]))
        self.progress("attribution", len(images), len(images))
        return found

    def trace(
        self,
        scores: Influence,
        tested: Tested,
        places: list[int],
        images: Tensor,
        maps: list[Attribution],
    ) -> tuple[list[QueryRecord], list[CarriedMap]]:
        """Return each query with its proponents and opponents, and the proponents' maps."""
        k = self.settings.k
        sides = (scores.proponents(k), scores.opponents(k))
        queries: list[QueryRecord] = []
        carried: list[CarriedMap] = []
        where = tested.indices.tolist()
        for q, place in enumerate(places):
            self.progress("training features", q, len(places))
            found = [self.influences(scores, q, side, i == 0) for i, side in enumerate(sides)]
            carried += [
                CarriedMap(
                    index=r.index,
                    label=self.pictures[r.index].label,
                    values=r.map.values,
                    picture=self.pictures[r.index].picture,
                )
                for r in found[0]
            ]
            row = where.index(place)
            label = int(tested.labels[row])
            queries.append(
                QueryRecord(
                    index=place,
                    name=self.test.name(place),
                    label=label if label >= 0 else None,
                    prediction=int(tested.predictions[row]),
                    confidence=float(tested.confidences[row]),
                    picture=self.subject.picture(images[q]),
                    attribution=map_record(maps[q], 0, self.settings.method),
                    proponents=found[0],
                    opponents=found[1],
                )
            )
        self.progress("training features", len(places), len(places))
        return queries, carried

    def influences(
        self,
        scores: Influence,
        query: int,
        side: Ranking,
        positive: bool,  # noqa: FBT001 - one of two sides
    ) -> tuple[InfluenceRecord, ...]:
        """Return the proponents or opponents of a query with their maps."""
        pairs = [
            (int(i), float(s))
            for i, s in zip(side.indices[query], side.scores[query], strict=True)
            if (s > 0 if positive else s < 0)
        ]
        if not pairs:
            return ()
        features = self.mapped(scores, query, [i for i, _ in pairs])
        self.keep(features)
        return tuple(
            InfluenceRecord(
                index=i,
                score=s,
                map=training_map_record(features, j),
            )
            for j, (i, s) in enumerate(pairs)
        )

    def mapped(self, scores: Influence, query: int, places: list[int]) -> TrainingFeatures:
        """Return the maps of some training images; the default's stand-in if it has no rule."""
        chosen = self.training_map or self.settings.training_map or default_map(scores)
        try:
            features = training_features(scores, query, self.train, places, chosen)
        except UnsupportedOperation:
            if self.settings.training_map is not None:
                raise
            chosen = map_named("input-x-gradient")
            features = training_features(scores, query, self.train, places, chosen)
        self.training_map = chosen
        return features

    def keep(self, features: TrainingFeatures) -> None:
        """Keep the pictures of training images."""
        for index, image, label in zip(
            features.indices.tolist(), features.images, features.labels.tolist(), strict=True
        ):
            self.keep_picture(index, image, label)

    def keep_picture(self, index: int, image: Tensor, label: int) -> None:
        """Keep the picture of one training image."""
        if index not in self.pictures:
            self.pictures[index] = TrainingImage(
                index=index,
                name=self.train.name(index),
                label=label,
                picture=self.subject.picture(image),
            )

    def pictures_at(self, places: list[int]) -> list[Picture]:
        """Return pictures of training images, without keeping them."""
        return [
            self.subject.picture(image)
            for batch in self.train.batches(32, places)
            for image in batch.images
        ]

    def record(
        self,
        network: Network,
        tested: Tested,
        scores: Influence,
        queries: list[QueryRecord],
        carried: list[CarriedMap],
        command: str,
    ) -> AuditRecord:
        """Return the record of the audit."""
        started = perf_counter()
        suspects = suspect_labels(scores, self.train)
        shown = [s.index for s in suspects[:THUMBNAILS]]
        for batch in self.train.batches(32, shown):
            for i, image, label in zip(
                batch.indices.tolist(), batch.images, batch.labels.tolist(), strict=True
            ):
                self.keep_picture(i, image, label)
        usable = scores.indices.tolist()
        reference = self.pictures_at([usable[i] for i in sampled(len(usable), THUMBNAILS)])
        regions = find_regions(carried, reference)
        cards = (dataset_card(self.train), dataset_card(self.test))
        self.clock("findings and fingerprints", started)
        outputs = classes_of(network)
        return AuditRecord(
            model=model_card(
                self.subject.module,
                name=self.subject.name,
                classes=class_names(outputs, self.subject.classes, self.train.classes),
                preprocessing=self.subject.preprocessing,
            ),
            train=cards[0],
            test=cards[1],
            accuracy=tested.accuracy,
            queries=tuple(queries),
            training_images=self.pictures,
            suspect_labels=suspects,
            regions=regions,
            run=run_card(command, self.described(scores), self.seconds),
            notes=notes_on(network, scores, self.train, self.test),
        )

    def described(self, scores: Influence) -> dict[str, Any]:
        """Return the settings for the record."""
        s = self.settings
        drawn = self.training_map or s.training_map
        return {
            "queries": s.queries if isinstance(s.queries, str) else list(s.queries),
            "count": s.count,
            "k": s.k,
            "score": s.scorer.name,
            "score settings": plain_settings(s.scorer),
            "checkpoints": len(s.checkpoints),
            "parameters": s.parameters if isinstance(s.parameters, str) else list(s.parameters),
            "share of parameters compared": round(scores.coverage, 4),
            "passes over the training data": scores.passes,
            "method": str(s.method),
            "training_method": str(drawn.method) if drawn else None,
            "training_map": drawn.name if drawn else None,
            "hold_weights": drawn.hold_weights if drawn else None,
        }


def training_map_record(features: TrainingFeatures, row: int) -> MapRecord:
    """Return one training image's map, as its reduction reads it."""
    attribution = features.attribution
    return map_record(attribution, row, attribution.method, features.maps[row])


def map_record(
    attribution: Attribution, row: int, method: Method, values: Tensor | None = None
) -> MapRecord:
    """Return one image's map; channels are summed if it does not come as one number per pixel."""
    pixels = attribution.values[row].sum(dim=0) if values is None else values
    return MapRecord(
        values=np.ascontiguousarray(pixels.detach().float().cpu().numpy(), dtype=np.float32),
        method=str(method),
        total=float(attribution.total[row]),
        explained=float(attribution.explained[row]),
        gap=None if attribution.gap is None else float(attribution.gap[row]),
    )


def classes_of(network: Network) -> int:
    """Return how many classes the network has."""
    with torch.no_grad():
        return int(network(network.example).shape[1])


def notes_on(
    network: Network, scores: Influence, train: ImageData, test: ImageData
) -> tuple[str, ...]:
    """Return what a reader must know to judge the result."""
    notes = []
    if scores.zero_gradients:
        notes.append(
            f"{scores.zero_gradients} training images have no gradient at all; their scores are 0."
        )
    if scores.zero_queries.any():
        notes.append(
            f"{int(scores.zero_queries.sum())} queries have no gradient at all; all their "
            f"scores are 0."
        )
    if scores.coverage < 1:
        notes.append(f"Gradients were compared over {scores.coverage:.0%} of the parameters.")
    if network.unread:
        notes.append(
            f"{len(network.unread)} parameters do not enter the predictions, or are cached as "
            f"constants: {', '.join(network.unread[:4])}{', ...' if network.unread[4:] else ''}."
        )
    notes.extend(
        f"{len(data.skipped)} images of {data.title} could not be used; they are listed with the "
        f"data."
        for data in (train, test)
        if data.skipped
    )
    return tuple(notes)
