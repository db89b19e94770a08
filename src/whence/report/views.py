"""What the audit's page shows: each part as plain text and image URIs, ready for the template."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.display import (
    data_uri,
    heat_png,
    is_pixel_art,
    picture_uri,
    shrink_map,
    symmetric_limit,
)
from whence.report.words import (
    number,
    percent,
    region_sentences,
    signed,
)
from whence.results.records import (
    AuditRecord,
    InfluenceRecord,
    MapRecord,
    QueryRecord,
    RegionRecord,
    SuspectLabel,
    TrainingImage,
)

__all__ = [
    "CardView",
    "QueryView",
    "RegionView",
    "Shot",
    "SuspectView",
    "audit_views",
    "heat_uri",
    "scale_text",
]

_LARGE, _CARD, _THUMB = 320, 192, 96
"""Longest side in pixels of a test image, a training image and a thumbnail."""

_EXAMPLES = 6
"""Training images shown per region."""

PERCENTILE = 99.5
"""Where the colour scales end; the report says so."""


@final
@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with its map, and boxes in units of the picture's pixels."""

    picture: str
    width: int
    height: int
    pixelated: bool
    heat: str = ""
    boxes: tuple[tuple[int, int, int, int], ...] = ()


@final
@dataclass(frozen=True, kw_only=True)
class CardView:
    """A training image beside a prediction."""

    rank: int
    shot: Shot
    score: str
    label: str
    name: str
    same_label: bool
    suspect: bool
    method: str
    gap: str


@final
@dataclass(frozen=True, kw_only=True)
class QueryView:
    """A test image with everything that was found about it."""

    anchor: str
    number: int
    name: str
    shot: Shot
    thumb: Shot
    prediction: str
    confidence: str
    confidence_share: float
    label: str | None
    verdict: str
    explained: str
    total: str
    gap: str
    method: str
    scale: str
    training_scale: str
    training_method: str
    proponents: tuple[CardView, ...]
    opponents: tuple[CardView, ...]


@final
@dataclass(frozen=True, kw_only=True)
class RegionView:
    """A region that may be a shortcut."""

    label: str
    ratio: str
    mass: str
    area: str
    mass_share: float
    area_share: float
    sentences: tuple[str, str, str]
    examples: tuple[tuple[str, Shot], ...]
    more: int


@final
@dataclass(frozen=True, kw_only=True)
class SuspectView:
    """A training image whose label looks wrong."""

    rank: int
    name: str
    shot: Shot | None
    label: str
    suggested: str
    confidence: str
    confidence_share: float
    score: str


@final
@dataclass(frozen=True, kw_only=True)
class _Album:
    """Training images as URIs, each made once for the whole page."""

    images: Mapping[int, TrainingImage]
    made: dict[int, str] = field(default_factory=dict)

    def shot(self, index: int, heat: str, box: tuple[int, int, int, int] | None = None) -> Shot:
        picture = self.images[index].picture
        if index not in self.made:
            self.made[index] = picture_uri(picture, _CARD)
        return _shot(picture, self.made[index], heat, () if box is None else (box,))


def audit_views(
    record: AuditRecord,
) -> tuple[tuple[QueryView, ...], tuple[RegionView, ...], tuple[SuspectView, ...]]:
    """The test images, regions and suspect labels of an audit, ready to be shown."""
    album = _Album(images=record.training_images)
    suspects = {suspect.index for suspect in record.suspect_labels}
    classes = record.model.classes
    queries = tuple(
        _query_view(query, at, classes, album, suspects)
        for at, query in enumerate(record.queries, start=1)
    )
    strongest = _strongest_maps(record.queries)
    regions = tuple(_region_view(one, classes, album, strongest) for one in record.regions)
    suspected = tuple(
        _suspect_view(one, rank, classes, album)
        for rank, one in enumerate(record.suspect_labels, start=1)
    )
    return queries, regions, suspected


def heat_uri(values: NDArray[np.floating[Any]], limit: float, longest: int = _LARGE) -> str:
    """A map as the URI of a picture that is clear where the map is zero."""
    return data_uri(heat_png(shrink_map(values, longest), limit))


def scale_text(limit: float) -> str:
    """The ends of a colour scale; empty where there is nothing to scale."""
    return number(limit, 2) if limit > 0 else ""


def _query_view(
    query: QueryRecord,
    at: int,
    classes: tuple[str, ...],
    album: _Album,
    suspects: set[int],
) -> QueryView:
    limit = symmetric_limit([query.attribution.values], PERCENTILE)
    influences = (*query.proponents, *query.opponents)
    shared = symmetric_limit([one.map.values for one in influences], PERCENTILE)
    cards = tuple(
        tuple(
            _card_view(one, rank, query, classes, album, suspects, shared)
            for rank, one in enumerate(side, start=1)
        )
        for side in (query.proponents, query.opponents)
    )
    verdict = "unlabelled"
    if query.label is not None:
        verdict = "right" if query.label == query.prediction else "wrong"
    picture, thumb = picture_uri(query.picture, _LARGE), picture_uri(query.picture, _THUMB)
    heat = heat_uri(query.attribution.values, limit)
    return QueryView(
        anchor=f"image-{at}",
        number=at,
        name=query.name,
        shot=_shot(query.picture, picture, heat),
        thumb=_shot(query.picture, thumb, ""),
        prediction=classes[query.prediction],
        confidence=percent(query.confidence),
        confidence_share=query.confidence,
        label=None if query.label is None else classes[query.label],
        verdict=verdict,
        explained=number(query.attribution.explained),
        total=number(query.attribution.total),
        gap=_gap(query.attribution),
        method=query.attribution.method,
        scale=scale_text(limit),
        training_scale=scale_text(shared),
        training_method=influences[0].map.method if influences else "",
        proponents=cards[0],
        opponents=cards[1],
    )


def _card_view(
    influence: InfluenceRecord,
    rank: int,
    query: QueryRecord,
    classes: tuple[str, ...],
    album: _Album,
    suspects: set[int],
    limit: float,
) -> CardView:
    image = album.images[influence.index]
    return CardView(
        rank=rank,
        shot=album.shot(influence.index, heat_uri(influence.map.values, limit, _CARD)),
        score=signed(influence.score),
        label=classes[image.label],
        name=image.name,
        same_label=image.label == query.prediction,
        suspect=influence.index in suspects,
        method=influence.map.method,
        gap=_gap(influence.map),
    )


def _region_view(
    region: RegionRecord,
    classes: tuple[str, ...],
    album: _Album,
    strongest: Mapping[int, MapRecord],
) -> RegionView:
    label = classes[region.label]
    known = [index for index in region.images if index in album.images]
    shown = known[:_EXAMPLES]
    maps = [strongest[index].values for index in shown if index in strongest]
    limit = symmetric_limit(maps, PERCENTILE)
    examples = tuple(
        (
            album.images[index].name,
            album.shot(
                index,
                heat_uri(strongest[index].values, limit, _CARD) if index in strongest else "",
                region.box,
            ),
        )
        for index in shown
    )
    return RegionView(
        label=label,
        ratio=f"{number(region.ratio, 2)}\N{MULTIPLICATION SIGN}",
        mass=percent(region.mass, 0),
        area=percent(region.area),
        mass_share=region.mass,
        area_share=region.area,
        sentences=region_sentences(region, label),
        examples=examples,
        more=len(region.images) - len(shown),
    )


def _suspect_view(
    suspect: SuspectLabel, rank: int, classes: tuple[str, ...], album: _Album
) -> SuspectView:
    known = suspect.index in album.images
    return SuspectView(
        rank=rank,
        name=suspect.name,
        shot=album.shot(suspect.index, "") if known else None,
        label=classes[suspect.label],
        suggested=classes[suspect.suggested],
        confidence=percent(suspect.confidence),
        confidence_share=suspect.confidence,
        score=number(suspect.score),
    )


def _strongest_maps(queries: Iterable[QueryRecord]) -> dict[int, MapRecord]:
    """For each training image, its map for the prediction that it speaks for most."""
    best: dict[int, InfluenceRecord] = {}
    for query in queries:
        for one in query.proponents:
            if one.index not in best or best[one.index].score < one.score:
                best[one.index] = one
    return {index: influence.map for index, influence in best.items()}


def _shot(
    picture: NDArray[np.uint8],
    uri: str,
    heat: str,
    boxes: tuple[tuple[int, int, int, int], ...] = (),
) -> Shot:
    height, width = picture.shape[:2]
    return Shot(
        picture=uri,
        heat=heat,
        width=width,
        height=height,
        pixelated=is_pixel_art(picture),
        boxes=boxes,
    )


def _gap(one: MapRecord) -> str:
    return "" if one.gap is None else percent(one.gap, 2)
