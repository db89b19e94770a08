"""What an audit found, as sentences, rows and curves for the page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from whence.report.shots import Album, Shot
from whence.report.words import counted, number, percent, signed
from whence.results.records import (
    AuditRecord,
    GroupRecord,
    HarmfulImage,
    QueryRecord,
    RegionRecord,
    RemovalRecord,
    SuspectLabel,
)

__all__ = [
    "CurveView",
    "GroupView",
    "HarmfulView",
    "RemovalView",
    "evidence_of",
    "group_views",
    "harmful_views",
    "region_sentences",
    "removal_view",
]

_ALIKE, _SOMEWHAT_ALIKE = 0.8, 0.4
_WIDE, _HIGH = 300.0, 110.0
_EVIDENCE: Mapping[str, tuple[str, str]] = {
    "self-influence": ("self-influence", "Its loss gradient is among the longest tenth"),
    "prediction": ("prediction", "The model is more sure of another class than even odds"),
    "neighbours": (
        "neighbours",
        "Of the ten training images most like it, as the model sees them, are labelled otherwise",
    ),
    "influences": (
        "influences",
        "Of the ten training images of most influence on its label, speak against it",
    ),
}


@final
@dataclass(frozen=True, kw_only=True)
class HarmfulView:
    """A training image that harms predictions."""

    shot: Shot | None
    name: str
    label: str
    count: str
    share: str
    queries: tuple[tuple[str, str], ...]
    suspect: bool


@final
@dataclass(frozen=True, kw_only=True)
class GroupView:
    """A group of training images."""

    name: str
    size: str
    mean: str
    others: str
    sum: str
    supports: str
    strongest: tuple[str, str] | None


@final
@dataclass(frozen=True, kw_only=True)
class CurveView:
    """A line of a small chart, with its values in words."""

    title: str
    points: str
    control: str
    zero: float
    rows: tuple[tuple[str, str, str], ...]


@final
@dataclass(frozen=True, kw_only=True)
class RemovalView:
    """What became of the predictions."""

    what: str
    retrain: str
    caution: str
    queries: str
    trainings: str
    curves: tuple[CurveView, ...]


def region_sentences(region: RegionRecord, label: str) -> tuple[str, str, str]:
    """What a region means: the finding, how much was looked at, and what speaks for a mark."""
    left, top, right, bottom = region.box
    images = counted(len(region.images), "training image")
    where = "a box, in another place in each," if region.boxes else "the marked box"
    finding = (
        f"In {images} of class “{label}”, {where} holds {percent(region.mass, 0)} of the "
        f"positive influence on {percent(region.area)} of the area."
    )
    place = (
        f"{right - left} \N{MULTIPLICATION SIGN} {bottom - top} pixels in changing places"
        if region.boxes
        else f"Columns {left}\N{EN DASH}{right - 1}, rows {top}\N{EN DASH}{bottom - 1}"
    )
    basis = f"{place}; {counted(region.maps, 'map')} looked at.{_concerned(region)}"
    if region.similarity >= _ALIKE:
        likeness = "The pixels inside are nearly the same from image to image"
        meaning = "which points to a mark that the model learned instead of the object."
    elif region.similarity >= _SOMEWHAT_ALIKE:
        likeness = "The pixels inside resemble each other from image to image"
        meaning = "so this may be a mark, or a pose that the images share."
    else:
        likeness = "The pixels inside differ from image to image"
        meaning = "so this may simply be where the object is."
    return finding, basis, f"{likeness} (similarity {number(region.similarity, 2)}), {meaning}"


def _concerned(region: RegionRecord) -> str:
    """Which predictions a region explains, and what chance gives."""
    said = []
    if region.queries:
        shown = ""
        if region.shown_in:
            shown = f", {len(region.shown_in)} of which show the same pixels themselves"
        said.append(f"It carries {counted(len(region.queries), 'prediction')}{shown}.")
    chance = []
    if region.chance_mass is not None:
        what = "random boxes hold" if region.boxes else "maps moved at random agree on a box with"
        chance.append(f"{what} {percent(region.chance_mass, 0)} of the influence")
    if region.chance_images is not None:
        chance.append(f"maps dealt out anew agree in {number(region.chance_images, 2)} images")
    if region.chance_similarity is not None:
        chance.append(f"random boxes have similarity {number(region.chance_similarity, 2)}")
    if chance:
        odds = "" if region.p is None else f" (p = {number(region.p, 2)})"
        said.append(f"By chance, {'; '.join(chance)}{odds}.")
    return "".join(f" {one}" for one in said)


def evidence_of(suspect: SuspectLabel) -> tuple[tuple[str, str], ...]:
    """Each kind of evidence for a wrong label, and what it means."""
    values = {"neighbours": suspect.disagreement, "influences": suspect.opposition}
    found = []
    for name in suspect.evidence:
        word, meaning = _EVIDENCE.get(name, (name, ""))
        value = values.get(name)
        found.append((word, meaning if value is None else f"{meaning}: {percent(value, 0)}"))
    return tuple(found)


def harmful_views(record: AuditRecord, album: Album) -> tuple[HarmfulView, ...]:
    """The training images that harm the most predictions, ready to be shown."""
    suspects = {one.index for one in record.suspect_labels}
    numbers = {query.index: (at, query) for at, query in enumerate(record.queries, start=1)}
    return tuple(
        HarmfulView(
            shot=album.shot(one.index) if one.index in album.images else None,
            name=one.name,
            label=record.model.classes[one.label],
            count=str(len(one.queries)),
            share=percent(one.share),
            queries=_links(one, numbers),
            suspect=one.index in suspects,
        )
        for one in record.harmful
    )


def _links(
    one: HarmfulImage, numbers: Mapping[int, tuple[int, QueryRecord]]
) -> tuple[tuple[str, str], ...]:
    return tuple((f"{numbers[q][0]}", numbers[q][1].name) for q in one.queries if q in numbers)


def group_views(record: AuditRecord) -> tuple[GroupView, ...]:
    """The groups, the most influential per image first within their kind."""
    order = {"list": 0, "region": 1, "labels": 2, "harmful": 3, "class": 4}
    groups = sorted(record.groups, key=lambda g: (order.get(g.kind, 5), -_mean(g.means)))
    return tuple(_group_view(group, record) for group in groups)


def _group_view(group: GroupRecord, record: AuditRecord) -> GroupView:
    best = max(range(len(group.scores)), key=lambda q: group.scores[q], default=None)
    return GroupView(
        name=group.name,
        size=counted(group.size, "image"),
        mean=signed(_mean(group.means)),
        others=signed(_mean(group.others)),
        sum=signed(_mean(group.scores)),
        supports=f"{sum(score > 0 for score in group.scores)} of {len(group.scores)}",
        strongest=None if best is None else (str(best + 1), record.queries[best].name),
    )


def removal_view(removal: RemovalRecord | None) -> RemovalView | None:
    """What became of the predictions, as curves beside those of random images."""
    if removal is None:
        return None
    tables = [("Change of the margin", removal.change, removal.control_change, False)]
    tables.append(("Another class is predicted", removal.flips, removal.control_flips, True))
    if removal.right:
        tables.append(("The label is predicted", removal.right, removal.control_right, True))
    before = _mean(removal.before_right)
    last = "last-layer" if removal.retrain.startswith("LastLayer") else ""
    caution = (
        "Only the last layer was fitted anew, to its one minimum; what the features owe to the "
        "removed images stays in them."
        if last
        else "Training went on from the weights as they were, so what the removed images did is "
        "forgotten only in part."
    )
    return RemovalView(
        what="training images that speak for each wrong prediction rather than for its label"
        if removal.by == "harmful"
        else "proponents of each prediction",
        retrain=removal.retrain,
        caution=caution,
        queries=counted(len(removal.queries), "prediction"),
        trainings=counted(removal.trainings, "training"),
        curves=tuple(
            _curve(title, removal.counts, own, control, share, before if "label" in title else 0.0)
            for title, own, control, share in tables
        ),
    )


def _curve(
    title: str,
    counts: tuple[int, ...],
    own: tuple[tuple[float, ...], ...],
    control: tuple[tuple[float, ...], ...],
    share: bool,  # noqa: FBT001 - how its numbers are written
    before: float,
) -> CurveView:
    lines = [[before, *(_mean(row) for row in rows)] for rows in (own, control)]
    low, high = (0.0, 1.0) if share else (min(0.0, *map(min, lines)), max(0.0, *map(max, lines)))
    room = (high - low) or 1.0

    def drawn(values: list[float]) -> str:
        step = _WIDE / max(len(values) - 1, 1)
        return " ".join(
            f"{at * step:.1f},{_HIGH * (high - value) / room:.1f}"
            for at, value in enumerate(values)
        )

    def written(value: float) -> str:
        return percent(value, 0) if share else signed(value, 2)

    rows = zip((0, *counts), lines[0], lines[1], strict=True)
    return CurveView(
        title=title,
        points=drawn(lines[0]),
        control=drawn(lines[1]),
        zero=_HIGH * high / room,
        rows=tuple((str(count), written(one), written(other)) for count, one, other in rows),
    )


def _mean(values: tuple[float, ...]) -> float:
    known = [value for value in values if value == value]  # noqa: PLR0124 - NaN of empty groups
    return sum(known) / len(known) if known else 0.0
