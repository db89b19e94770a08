"""A verification as one HTML page: a network before and after a fix. Needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

from whence.display import picture_uri
from whence.report.shell import Bar, render
from whence.report.shots import PERCENTILE, Box, Shot, drawn, shot_of
from whence.report.words import percent
from whence.results.folder import write_whole
from whence.results.verify import VerifyImage, VerifyRecord, VerifyRow, View, figure_text

__all__ = ["render_verify", "write_verify"]

SECTIONS = {
    "accuracy": "Accuracy",
    "shortcut": "With the shortcut planted on other classes",
    "attribution": "Where predictions come from in the image",
    "training": "Where they come from in the training data",
    "images": "Images that were left out or relabelled",
    "faithfulness": "Faithfulness of the maps",
}


@final
@dataclass(frozen=True, kw_only=True)
class RowView:
    """A figure as text."""

    name: str
    meaning: str
    better: str
    before: str
    after: str
    change: str
    count: int
    verdict: str
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class SideView:
    """What one network makes of an image, as text and picture."""

    shot: Shot
    prediction: str
    right: str
    confidence: str
    inside: str


@final
@dataclass(frozen=True, kw_only=True)
class ImageView:
    """An image, before and after."""

    anchor: str
    number: int
    name: str
    kind: str
    label: str
    plain: Shot
    before: SideView
    after: SideView


def row_view(row: VerifyRow) -> RowView:
    """Return a figure as text."""
    found = next((f for f in (row.change, row.after, row.before) if f is not None), None)
    meaning = row.meaning
    if row.reference is not None:
        meaning += f" {row.referred[:1].upper()}{row.referred[1:]}: {percent(row.reference)}."
    return RowView(
        name=row.name if not row.finding else f"{row.name}, {row.finding}",
        meaning=meaning,
        better=row.better,
        before=figure_text(row.before, share=row.share),
        after=figure_text(row.after, share=row.share),
        change=figure_text(row.change, share=row.share, signed=True),
        count=0 if found is None else found.count,
        verdict=row.verdict,
        reason=row.reason,
    )


def side_view(record: VerifyRecord, image: VerifyImage, view: View, uri: str) -> SideView:
    """Return what one network makes of an image; its map has a colour scale of its own."""
    known = "right" if view.prediction == image.label else "wrong"
    return SideView(
        shot=shot_of(image.picture, uri, drawn(view.map.values), boxes_of(image)),
        prediction=record.model.classes[view.prediction],
        right="" if image.label is None else known,
        confidence=percent(view.confidence),
        inside="" if view.inside is None else percent(view.inside),
    )


def boxes_of(image: VerifyImage) -> tuple[Box, ...]:
    """Return the box that was planted, if it is one."""
    return () if image.box is None else (image.box,)


def image_views(record: VerifyRecord) -> tuple[ImageView, ...]:
    """Return the images, before and after."""
    views = []
    for at, one in enumerate(record.images):
        uri = picture_uri(one.picture)
        views.append(
            ImageView(
                anchor=f"image-{at + 1}",
                number=at + 1,
                name=one.name,
                kind="with the shortcut planted" if one.kind == "planted" else "as it is",
                label="" if one.label is None else record.model.classes[one.label],
                plain=shot_of(one.picture, uri, None, boxes_of(one)),
                before=side_view(record, one, one.before, uri),
                after=side_view(record, one, one.after, uri),
            )
        )
    return tuple(views)


def render_verify(record: VerifyRecord, *, bar: Bar | None = None) -> str:
    """A verification as the text of one HTML page.

    Args:
        record: What was measured.
        bar: The viewer's links, if it is shown there.
    """
    tables = [
        (key, title, [row_view(row) for row in record.rows if row.section == key])
        for key, title in SECTIONS.items()
    ]
    return render(
        "verify.html.j2",
        {
            "record": record,
            "tables": [one for one in tables if one[2]],
            "images": image_views(record),
            "model": record.model,
            "run": record.run,
            "percentile": PERCENTILE,
            "methods": [],
        },
        bar=bar,
    )


def write_verify(record: VerifyRecord, path: str | Path) -> None:
    """Write a verification as one HTML file; a file that is there already is replaced.

    Args:
        record: What was measured.
        path: The file; its folder must exist.

    Raises:
        OutputError: The file cannot be written.
    """
    write_whole(Path(path), render_verify(record).encode("utf-8", "backslashreplace"))
