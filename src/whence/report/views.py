"""What the audit's page shows: each part as plain text and image URIs, ready for the template."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from whence.display import picture_uri
from whence.report.findings import evidence_of, region_sentences
from whence.report.shots import Album, Box, Shot, cells_of, drawn, end_of, limit_of, shot_of
from whence.report.words import brief_method, number, percent, signed
from whence.results.records import (
    AuditRecord,
    InfluenceRecord,
    MapRecord,
    QueryRecord,
    RegionRecord,
    SuspectLabel,
)

__all__ = ["CardView", "QueryView", "RegionView", "SuspectView", "audit_views"]

_LARGE, _THUMB = 320, 96
"""Longest side in pixels of a test image and of a thumbnail."""

_EXAMPLES = 6
"""Training images shown per region."""


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
    place: int
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
    full_method: str
    scale: str
    cells: str
    training_scale: str
    training_cells: str
    training_method: str
    full_training_method: str
    stand_in: str
    proponents: tuple[CardView, ...]
    opponents: tuple[CardView, ...]
    harmful: tuple[CardView, ...]


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
    evidence: tuple[tuple[str, str], ...]


def audit_views(
    record: AuditRecord,
) -> tuple[tuple[QueryView, ...], tuple[RegionView, ...], tuple[SuspectView, ...]]:
    """The test images, regions and suspect labels of an audit, ready to be shown."""
    album = Album(images=record.training_images)
    suspects = {suspect.index for suspect in record.suspect_labels}
    classes = record.model.classes
    queries = tuple(
        _query_view(query, at, classes, album, suspects)
        for at, query in enumerate(record.queries, start=1)
    )
    carried = _carried_maps(record.queries)
    regions = tuple(_region_view(one, classes, album, carried) for one in record.regions)
    suspected = tuple(
        _suspect_view(one, rank, classes, album)
        for rank, one in enumerate(record.suspect_labels, start=1)
    )
    return queries, regions, suspected


def _query_view(
    query: QueryRecord,
    at: int,
    classes: tuple[str, ...],
    album: Album,
    suspects: set[int],
) -> QueryView:
    heat = drawn(query.attribution.values)
    maps = [one.map for one in (*query.proponents, *query.opponents)]
    shared = limit_of(one.values for one in maps)
    harm = limit_of(one.map.values for one in query.harmful)
    cards = tuple(
        tuple(
            _card_view(one, rank, query, classes, album, suspects, limit)
            for rank, one in enumerate(side, start=1)
        )
        for side, limit in (
            (query.proponents, shared),
            (query.opponents, shared),
            (query.harmful, harm),
        )
    )
    verdict = "unlabelled"
    if query.label is not None:
        verdict = "right" if query.label == query.prediction else "wrong"
    picture, thumb = picture_uri(query.picture, _LARGE), picture_uri(query.picture, _THUMB)
    return QueryView(
        anchor=f"image-{at}",
        number=at,
        place=query.index,
        name=query.name,
        shot=shot_of(query.picture, picture, heat),
        thumb=shot_of(query.picture, thumb),
        prediction=classes[query.prediction],
        confidence=percent(query.confidence),
        confidence_share=query.confidence,
        label=None if query.label is None else classes[query.label],
        verdict=verdict,
        explained=number(query.attribution.explained),
        total=number(query.attribution.total),
        gap=_gap(query.attribution),
        method=brief_method(query.attribution.method),
        full_method=query.attribution.method,
        scale=heat.end,
        cells=cells_of([query.attribution.values]),
        training_scale=end_of(shared),
        training_cells=cells_of(one.values for one in maps),
        training_method=brief_method(maps[0].method) if maps else "",
        full_training_method=maps[0].method if maps else "",
        proponents=cards[0],
        opponents=cards[1],
        harmful=cards[2],
        stand_in=query.stand_in,
    )


def _card_view(
    influence: InfluenceRecord,
    rank: int,
    query: QueryRecord,
    classes: tuple[str, ...],
    album: Album,
    suspects: set[int],
    limit: float,
) -> CardView:
    image = album.images[influence.index]
    return CardView(
        rank=rank,
        shot=album.shot(influence.index, drawn(influence.map.values, limit)),
        score=signed(influence.score),
        label=classes[image.label],
        name=image.name,
        same_label=image.label == query.prediction,
        suspect=influence.index in suspects,
        method=brief_method(influence.map.method),
        gap=_gap(influence.map),
    )


def _region_view(
    region: RegionRecord,
    classes: tuple[str, ...],
    album: Album,
    carried: Mapping[int, Sequence[MapRecord]],
) -> RegionView:
    label = classes[region.label]
    boxes = dict(zip(region.images, region.boxes, strict=False))
    shown = _clearest_maps(region, album, carried)[:_EXAMPLES]
    limit = limit_of(one.values for _, one in shown if one is not None)
    examples = tuple(
        (
            album.images[index].name,
            album.shot(
                index,
                None if one is None else drawn(one.values, limit),
                boxes.get(index, region.box),
            ),
        )
        for index, one in shown
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
    suspect: SuspectLabel, rank: int, classes: tuple[str, ...], album: Album
) -> SuspectView:
    known = suspect.index in album.images
    return SuspectView(
        rank=rank,
        name=suspect.name,
        shot=album.shot(suspect.index) if known else None,
        label=classes[suspect.label],
        suggested=classes[suspect.suggested],
        confidence=percent(suspect.confidence),
        confidence_share=suspect.confidence,
        score=number(suspect.score),
        evidence=evidence_of(suspect),
    )


def _clearest_maps(
    region: RegionRecord, album: Album, carried: Mapping[int, Sequence[MapRecord]]
) -> list[tuple[int, MapRecord | None]]:
    """Each training image of a region with the map that has most inside, the clearest first."""
    boxes = dict(zip(region.images, region.boxes, strict=False))
    found: list[tuple[float, int, MapRecord | None]] = []
    for index in region.images:
        if index in album.images:
            picture = album.images[index].picture
            box = boxes.get(index, region.box)
            shares = [_share_inside(one, box, picture) for one in carried.get(index, ())]
            best = int(np.argmax(shares)) if shares else None
            found.append(
                (-1.0, index, None) if best is None else (shares[best], index, carried[index][best])
            )
    return [(index, one) for _, index, one in sorted(found, key=lambda each: -each[0])]


def _carried_maps(queries: Iterable[QueryRecord]) -> dict[int, list[MapRecord]]:
    """The maps of each training image that speaks for a prediction."""
    found: dict[int, list[MapRecord]] = {}
    for query in queries:
        for one in query.proponents:
            found.setdefault(one.index, []).append(one.map)
    return found


def _share_inside(one: MapRecord, box: Box, picture: NDArray[np.uint8]) -> float:
    """The share of a map's positive mass inside a box, which is in pixels of the picture."""
    positive = np.maximum(one.values, 0.0)
    down, across = np.divide(positive.shape, picture.shape[:2])
    left, top, right, bottom = box
    inside = positive[
        round(top * down) : round(bottom * down), round(left * across) : round(right * across)
    ]
    total = float(positive.sum())
    return float(inside.sum()) / total if total > 0 else 0.0


def _gap(one: MapRecord) -> str:
    return "" if one.gap is None else percent(one.gap, 2)
