"""The maps of an audit: on test images, and on the training images that their traces lead to."""

from dataclasses import dataclass, field, replace
from typing import final

import numpy as np
from torch import Tensor

from whence.attribution import Attribution, attribute
from whence.core import ImageData, Images, Method, ModelScalar, Progress, logit
from whence.errors import UnsupportedOperation
from whence.influence import Influence
from whence.network import Network
from whence.recipes.audit_subject import Subject
from whence.recipes.likeness import Picture
from whence.results import InfluenceRecord, MapRecord, TrainingImage
from whence.training_features import TrainingFeatures, TrainingMap, map_named, training_features
from whence.training_features.maps import default_map

__all__ = ["Mapper", "Pair", "attributed", "map_record"]

Pair = tuple[int, float]
"""Place of a training image, and its score."""


@final
@dataclass(kw_only=True, eq=False)
class Mapper:
    """Maps training images, and keeps the pictures of those that it mapped.

    Args:
        subject: The model, which says how pictures look.
        train: The training data.
        asked: The map that was asked for; None leaves the choice.
        pictures: Training images that were named so far.
        drawn: The map that was drawn.
        stand_in: Why it is not the one that was to be drawn; empty if it is.
    """

    subject: Subject
    train: ImageData
    asked: TrainingMap | None
    pictures: dict[int, TrainingImage] = field(default_factory=dict)
    drawn: TrainingMap | None = None
    stand_in: str = ""

    def influences(
        self, scores: Influence, query: int, pairs: list[Pair], factors: Tensor | None = None
    ) -> tuple[InfluenceRecord, ...]:
        """Return training images with their maps on a query.

        Args:
            scores: Scores of the training data.
            query: Which of their queries.
            pairs: The training images and the scores to show.
            factors: By what scores, and so maps, are multiplied to be those shown, one per pair.
        """
        if not pairs:
            return ()
        features = self.mapped(scores, query, [place for place, _ in pairs])
        self.keep(features)
        return tuple(
            InfluenceRecord(
                index=place,
                score=score,
                map=scaled(
                    training_map_record(features, j), 1.0 if factors is None else float(factors[j])
                ),
            )
            for j, (place, score) in enumerate(pairs)
        )

    def mapped(self, scores: Influence, query: int, places: list[int]) -> TrainingFeatures:
        """Return the maps of some training images; the default's stand-in if it has no rule."""
        chosen = self.drawn or self.asked or default_map(scores)
        try:
            features = training_features(scores, query, self.train, places, chosen)
        except UnsupportedOperation as error:
            if self.asked is not None:
                raise
            self.stand_in = f"{chosen.name} could not be made: {str(error).splitlines()[0]}"
            chosen = map_named("input-x-gradient")
            features = training_features(scores, query, self.train, places, chosen)
        self.drawn = chosen
        return features

    def keep(self, features: TrainingFeatures) -> None:
        """Keep the pictures of training images."""
        for index, image, label in zip(
            features.indices.tolist(), features.images, features.labels.tolist(), strict=True
        ):
            self.keep_picture(index, image, label)

    def keep_all(self, places: list[int]) -> None:
        """Keep the pictures of training images that were not mapped."""
        missing = sorted(set(places) - set(self.pictures))
        for batch in self.train.batches(32, missing) if missing else ():
            for index, image, label in zip(
                batch.indices.tolist(), batch.images, batch.labels.tolist(), strict=True
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


def attributed(
    method: Method, network: Network, images: Images, predictions: Tensor, progress: Progress
) -> list[Attribution]:
    """Return the attribution of each query, one at a time, so that progress shows."""
    found = []
    for i in range(len(images)):
        progress("attribution", i, len(images))
        f = ModelScalar(network, logit(predictions[i : i + 1]))
        found.append(attribute(method, f, images[i : i + 1]))
    progress("attribution", len(images), len(images))
    return found


def scaled(record: MapRecord, factor: float) -> MapRecord:
    """Return a map of a number that is multiplied by a factor."""
    if factor == 1:
        return record
    return replace(
        record,
        values=(record.values * np.float32(factor)).astype(np.float32),
        total=record.total * factor,
        explained=record.explained * factor,
    )


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
