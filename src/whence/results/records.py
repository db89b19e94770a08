"""Records: what an audit or an explanation found, as plain values and arrays.

Arrays are NumPy; images are ``(h, w, 3)`` uint8, maps ``(h, w)`` float32 and signed: positive
pixels speak for the explained number, negative ones against it. Maps are never rescaled.
"""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.display import (
    DOUBLE_COLUMN,
    Panel,
    Plot,
    card,
    facts,
    map_figure,
    note,
    strip,
    table,
    training_figure,
)
from whence.results.findings import Audited, Finding

__all__ = [
    "SCHEMA_VERSION",
    "AuditRecord",
    "DatasetCard",
    "ExplanationRecord",
    "GroupRecord",
    "HarmfulImage",
    "InfluenceRecord",
    "MapRecord",
    "ModelCard",
    "QueryRecord",
    "RegionRecord",
    "RemovalRecord",
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
    """One audited test image.

    Args:
        harmful: If the prediction is wrong: training images that speak for it rather than for
            the label, the strongest first. Their scores are differences: for the prediction,
            minus for the label.
        training_map: The name of the maps on its training images.
        stand_in: Why these are not the maps that were to be made; empty if they are.
    """

    index: int
    name: str
    label: int | None
    prediction: int
    confidence: float
    picture: Picture
    attribution: MapRecord
    proponents: tuple[InfluenceRecord, ...]
    opponents: tuple[InfluenceRecord, ...]
    harmful: tuple[InfluenceRecord, ...] = ()
    training_map: str = ""
    stand_in: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class SuspectLabel:
    """A training image whose label looks wrong; the first is the most suspicious.

    Args:
        index: Its place in the training set.
        label: The label that it has.
        suggested: The label that the model would give; where it agrees with the label, that of
            most of its neighbours.
        confidence: The model's probability of the suggested label.
        score: Self-influence: the squared norm of its loss gradient.
        rank: Share of the training images whose self-influence is lower.
        disagreement: Share of the training images most like it, as the model sees them, that
            have another label; weighted by how alike they are.
        opposition: Share of the training images with the strongest influence on its label, by
            the last layer's gradients, that speak against it.
        evidence: Which of these speak for a wrong label: ``self-influence``, ``prediction``,
            ``neighbours``, ``influences``.
    """

    index: int
    name: str
    label: int
    suggested: int
    confidence: float
    score: float
    rank: float | None = None
    disagreement: float | None = None
    opposition: float | None = None
    evidence: tuple[str, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class HarmfulImage:
    """A training image that speaks for wrong predictions, against their labels.

    Args:
        index: Its place in the training set.
        queries: Places of the wrongly predicted test images among whose most harmful it is.
        share: Its share of all that speaks for these predictions and against their labels, mean
            over all wrong predictions that were looked at.
    """

    index: int
    name: str
    label: int
    queries: tuple[int, ...]
    share: float


@final
@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """What a group of training images did to the predictions, together.

    Args:
        name: What the group is.
        kind: ``class``, ``region``, ``labels``, ``harmful`` or ``list``.
        size: Training images in it.
        scores: For each prediction the sum of their scores.
        means: The mean score of one of them.
        others: The mean score of a training image outside.
        images: Their places in the training set; not for a class.
    """

    name: str
    kind: str
    size: int
    scores: tuple[float, ...]
    means: tuple[float, ...]
    others: tuple[float, ...]
    images: tuple[int, ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class RemovalRecord:
    """What became of the predictions after training again without some training images.

    Rows are the counts, columns the predictions. Changes are of the margin (log-odds) of the
    class that was predicted, against training again with all images.

    Args:
        by: What was removed: each prediction's ``proponents``, or its ``harmful`` images.
        retrain: How training was done again, as text.
        counts: How many images were removed.
        queries: Places of the test images concerned.
        before: Margins after training again with all images.
        change: Changes of the margin.
        flips: Whether another class is predicted, 0 or 1.
        right: Whether the label is predicted, 0 or 1; empty without labels.
        control_change: The same without as many random images, mean over draws.
        control_flips: As above, a share of the draws.
        control_right: As above.
        before_right: Whether the label was predicted with all images, for each prediction.
        trainings: How many trainings there were.
    """

    by: str
    retrain: str
    counts: tuple[int, ...]
    queries: tuple[int, ...]
    before: tuple[float, ...]
    change: tuple[tuple[float, ...], ...]
    flips: tuple[tuple[float, ...], ...]
    control_change: tuple[tuple[float, ...], ...]
    control_flips: tuple[tuple[float, ...], ...]
    right: tuple[tuple[float, ...], ...] = ()
    control_right: tuple[tuple[float, ...], ...] = ()
    before_right: tuple[float, ...] = ()
    trainings: int = 0


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
        queries: Places of the test images whose predictions these maps explain.
        shown_in: Those of them that show the same pixels themselves.
        boxes: Each image's own box, in the order of ``images``, if the mark moves about; ``box``
            is then the clearest one. Empty if all images share ``box``.
        chance_mass: Of a mark in one place: the mass in the best box if each map is moved by a
            random amount. Of one that moves: mean mass in random boxes of that size.
        chance_images: Of one that moves: how many images agree if their maps are dealt out anew.
        chance_similarity: How alike pixels are in the same box of other images of the class, or
            in random boxes.
        p: Share of the shuffles that agree as much, themselves counted in.
    """

    box: tuple[int, int, int, int]
    label: int
    mass: float
    area: float
    images: tuple[int, ...]
    maps: int
    similarity: float
    queries: tuple[int, ...] = ()
    shown_in: tuple[int, ...] = ()
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    chance_mass: float | None = None
    chance_images: float | None = None
    chance_similarity: float | None = None
    p: float | None = None

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
    harmful: tuple[HarmfulImage, ...] = ()
    """Training images that harm the most predictions."""
    groups: tuple[GroupRecord, ...] = ()
    removal: RemovalRecord | None = None
    findings: tuple[Finding, ...] = ()
    """What it proposes to put right, undecided; decisions stand in ``findings.toml``."""

    @property
    def audited(self) -> Audited:
        """What the findings speak of."""
        shape = self.queries[0].attribution.values.shape if self.queries else (0, 0)
        return Audited(
            images=self.train.count,
            classes=self.model.classes,
            height=shape[0],
            width=shape[1],
            train=self.train.fingerprint,
            model=self.model.fingerprint,
        )

    def panel(self, position: int) -> Panel:
        """An audited test image with its map, for figures."""
        query, classes = self.queries[position], self.model.classes
        label = "" if query.label is None else f", label {classes[query.label]}"
        return Panel(
            picture=query.picture,
            values=query.attribution.values,
            title=classes[query.prediction],
            note=f"{100 * query.confidence:.1f} %{label}",
        )

    def training_panel(self, influence: InfluenceRecord) -> Panel:
        """A training image with its training-feature map, for figures."""
        image = self.training_images[influence.index]
        return Panel(
            picture=image.picture,
            values=influence.map.values,
            title=self.model.classes[image.label],
            note=f"{influence.score:+.3g}",
        )

    def figure(
        self,
        position: int,
        *,
        proponents: int = 4,
        opponents: int = 3,
        width: float = DOUBLE_COLUMN,
    ) -> Plot:
        """A figure of one audited test image and the training images behind it, for a paper.

        Args:
            position: Which of the audited test images, from 0.
            proponents: At most so many training images that speak for the prediction.
            opponents: At most so many that speak against it.
            width: Inches.

        Raises:
            IndexError: There is no such test image.
            MissingExtra: matplotlib is not installed.
        """
        query = self.queries[position]
        return training_figure(
            self.panel(position),
            [self.training_panel(one) for one in query.proponents[:proponents]],
            [self.training_panel(one) for one in query.opponents[:opponents]],
            width=width,
        )

    def _repr_html_(self) -> str:
        """Show the audit in a notebook: what is suspicious, then some predictions."""
        classes, few = self.model.classes, 3
        blocks = [
            facts(
                {
                    "model": self.model.name,
                    "training images": self.train.count,
                    "test accuracy": None if self.accuracy is None else f"{self.accuracy:.1%}",
                    "audited": len(self.queries),
                }
            )
        ]
        regions: list[tuple[object, ...]] = [
            (classes[one.label], str(one.box), one.mass, one.area, one.ratio, len(one.images))
            for one in self.regions
        ]
        if regions:
            named = ("class", "left, top, right, bottom", "mass", "area", "ratio", "images")
            blocks.append(table(named, regions, title="Marks that keep carrying influence"))
        suspects: list[tuple[object, ...]] = [
            (one.name, classes[one.label], classes[one.suggested], ", ".join(one.evidence))
            for one in self.suspect_labels
        ]
        if suspects:
            heads = ("training image", "labelled", "looks like", "evidence")
            blocks.append(table(heads, suspects, title="Labels that look wrong", most=5))
        for at, query in enumerate(self.queries[:few]):
            around = [self.training_panel(one) for one in query.proponents]
            title = f"{query.name}, and the training images that speak for its prediction"
            blocks.append(strip([self.panel(at), *around], title=title))
        blocks += [note(f"and {len(self.queries) - few} more images")] * (len(self.queries) > few)
        return card("Audit", *blocks, *map(note, self.notes[:5]))


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

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The images with their maps, for figures."""
        return tuple(
            Panel(
                picture=picture,
                values=one.values,
                title=self.model.classes[prediction],
                note=f"{100 * confidence:.1f} %",
            )
            for picture, one, prediction, confidence in zip(
                self.pictures, self.maps, self.predictions, self.confidences, strict=True
            )
        )

    def figure(self, *, width: float = DOUBLE_COLUMN, columns: int | None = None) -> Plot:
        """A figure of the images above their maps, on one colour scale, for a paper.

        Args:
            width: Inches.
            columns: Images in a row.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return map_figure(self.panels, width=width, columns=columns)

    def _repr_html_(self) -> str:
        """Show the explanation in a notebook: the images above their maps."""
        gaps = [one.gap for one in self.maps if one.gap is not None]
        told = {
            "model": self.model.name,
            "method": self.maps[0].method if self.maps else "",
            "largest gap": f"{max(gaps):.2%}" if gaps else None,
        }
        return card("Explanation", facts(told), strip(self.panels))
