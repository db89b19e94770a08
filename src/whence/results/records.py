"""Records: what an audit or an explanation found, as plain values and arrays.

Arrays are NumPy; images are ``(h, w, 3)`` uint8, maps ``(h, w)`` float32 and signed: positive
pixels speak for the explained number, negative ones against it. Maps are never rescaled.
"""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SCHEMA_VERSION",
    "AuditRecord",
    "DatasetCard",
    "ExplanationRecord",
    "InfluenceRecord",
    "MapRecord",
    "ModelCard",
    "QueryRecord",
    "RegionRecord",
    "RunCard",
    "SuspectLabel",
    "TrainingImage",
]

SCHEMA_VERSION = 1
"""Raised when a change makes older files unreadable."""

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MapRecord:
    """An attribution map, with what is needed to trust it.

    Args:
        values: ``(h, w)``, channels already summed.
        method: The method with its settings, as text.
        total: The sum of all values.
        explained: The number that was explained (a logit, an influence).
        gap: The completeness gap relative to ``explained``, if the method is complete.
        found: Whether what was searched for was found, if the method searches.
    """

    values: Map
    method: str
    total: float
    explained: float
    gap: float | None = None
    found: bool | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The model: its name, fingerprint, classes and preprocessing."""

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    parameters: int
    preprocessing: dict[str, Any]


@final
@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """A dataset: its name, size, fingerprint and what had to be left out."""

    name: str
    count: int
    fingerprint: str
    skipped: tuple[tuple[str, str], ...] = ()
    """File name and reason of each image that could not be used."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingImage:
    """A training image that some query leads to."""

    index: int
    name: str
    label: int
    picture: Picture


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class InfluenceRecord:
    """One training image's influence on one prediction, and the pixels that carry it.

    ``score > 0``: training on it speaks for the prediction (a proponent); ``score < 0``: against.
    """

    index: int
    score: float
    map: MapRecord


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class QueryRecord:
    """One audited test image."""

    index: int
    name: str
    label: int | None
    prediction: int
    confidence: float
    picture: Picture
    attribution: MapRecord
    proponents: tuple[InfluenceRecord, ...]
    opponents: tuple[InfluenceRecord, ...]


@final
@dataclass(frozen=True, kw_only=True)
class SuspectLabel:
    """A training image whose label looks wrong; the first is the most suspicious.

    Args:
        index: Its place in the training set.
        label: The label that it has.
        suggested: The label that the model would give.
        confidence: The model's probability of the suggested label.
        score: Self-influence: the squared norm of its loss gradient.
    """

    index: int
    name: str
    label: int
    suggested: int
    confidence: float
    score: float


@final
@dataclass(frozen=True, kw_only=True)
class RegionRecord:
    """A region that keeps carrying influence across many training images: a likely shortcut.

    Args:
        box: ``(left, top, right, bottom)`` in pixels of the training images, right and bottom
            exclusive.
        label: The class of the training images concerned.
        mass: The mean share of a map's positive mass inside the box.
        area: The box's share of the image.
        images: Indices of the training images whose maps agree.
        maps: How many (query, training image) maps were looked at.
        similarity: How alike the pixels inside the box are from image to image, -1 to 1.
    """

    box: tuple[int, int, int, int]
    label: int
    mass: float
    area: float
    images: tuple[int, ...]
    maps: int
    similarity: float

    @property
    def ratio(self) -> float:
        """How many times its share of the area the region carries."""
        return self.mass / self.area if self.area else 0.0


@final
@dataclass(frozen=True, kw_only=True)
class RunCard:
    """How the result was made: enough to make it again."""

    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    created: str
    seconds: dict[str, float] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class AuditRecord:
    """Everything that an audit found."""

    model: ModelCard
    train: DatasetCard
    test: DatasetCard
    accuracy: float | None
    queries: tuple[QueryRecord, ...]
    training_images: dict[int, TrainingImage]
    suspect_labels: tuple[SuspectLabel, ...]
    regions: tuple[RegionRecord, ...]
    run: RunCard
    notes: tuple[str, ...] = ()
    """What a reader must know: limits, zero gradients, skipped images."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ExplanationRecord:
    """Attribution maps of a few images."""

    model: ModelCard
    names: tuple[str, ...]
    predictions: tuple[int, ...]
    confidences: tuple[float, ...]
    pictures: tuple[Picture, ...]
    maps: tuple[MapRecord, ...]
    run: RunCard
