"""The record of a verification: a network before and after a fix, side by side."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import final

from whence.display import (
    DOUBLE_COLUMN,
    SINGLE_COLUMN,
    Change,
    Html,
    Panel,
    Plot,
    card,
    change_figure,
    facts,
    method_figure,
    note,
    strip,
    table,
)
from whence.errors import OutputError, RecordError
from whence.results.files import read_record, write_record
from whence.results.folder import write_whole
from whence.results.records import DatasetCard, MapRecord, ModelCard, Picture, RunCard

__all__ = [
    "Accepted",
    "Figure",
    "VerifyFact",
    "VerifyImage",
    "VerifyRecord",
    "VerifyRow",
    "View",
    "load_verify",
    "save_verify",
    "verify_csv",
    "verify_markdown",
]


@final
@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share or a mean over images, with its 95 % interval.

    Args:
        value: The share, or the mean.
        low: Lower end: Wilson's for a share, from a bootstrap over images for a mean.
        high: Upper end.
        count: How many images.
    """

    value: float
    low: float
    high: float
    count: int


@final
@dataclass(frozen=True, kw_only=True)
class VerifyRow:
    """One figure, before and after.

    Args:
        section: Where it belongs: ``accuracy``, ``shortcut``, ``attribution``, ``training``,
            ``faithfulness``, ``images``.
        name: What it is, in a few words.
        meaning: The same in a sentence.
        better: Which direction is better: ``higher``, ``lower`` or ``neither``.
        share: Whether it is a share, shown in per cent.
        before: Before the fix; None where it cannot be had.
        after: After it.
        change: After less before, over the same images, with a paired bootstrap interval.
        verdict: ``better`` or ``worse`` where the interval of the change lies on one side of 0;
            otherwise ``no claim``.
        reason: Why there is no claim.
        finding: The finding that it is of; empty for all.
        reference: What chance, or nothing learnt, would give.
        referred: What that reference is, in words.
    """

    section: str
    name: str
    meaning: str
    better: str
    share: bool
    before: Figure | None
    after: Figure | None
    change: Figure | None
    verdict: str
    reason: str = ""
    finding: str = ""
    reference: float | None = None
    referred: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class VerifyFact:
    """Something that is so, or is measured without chance, before and after."""

    name: str
    before: str
    after: str


@final
@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A finding that was accepted, in short."""

    id: str
    action: str
    summary: str
    images: int
    box: tuple[int, int, int, int] | None = None
    label: int | None = None
    note: str = ""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What a network makes of an image.

    Args:
        prediction: The class that it predicts.
        confidence: Its probability.
        map: Where this prediction comes from.
        inside: The share of the map's positive mass in the shortcut's region; None without one.
    """

    prediction: int
    confidence: float
    map: MapRecord
    inside: float | None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class VerifyImage:
    """An image as the networks see it, before and after.

    Args:
        name: Its name.
        kind: ``planted`` with a shortcut, or ``test`` as it is.
        label: Its class.
        picture: The image.
        before: Before the fix.
        after: After it.
        box: The region that was planted, if it is a box.
    """

    name: str
    kind: str
    label: int | None
    picture: Picture
    before: View
    after: View
    box: tuple[int, int, int, int] | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class VerifyRecord:
    """A network before and after a fix.

    Args:
        model: The network before.
        fixed: The network after.
        train: The training data.
        test: The test data.
        accepted: What was accepted and done.
        dropped: Training images that were left out.
        relabelled: Training images that got another label.
        rows: All figures.
        facts: What is so without chance: homogeneity.
        images: Some images, side by side.
        sentences: What the figures permit to say.
        notes: What could not be measured, and why.
        run: How this was made.
    """

    model: ModelCard
    fixed: ModelCard
    train: DatasetCard
    test: DatasetCard
    accepted: tuple[Accepted, ...]
    dropped: int
    relabelled: int
    rows: tuple[VerifyRow, ...]
    facts: tuple[VerifyFact, ...]
    images: tuple[VerifyImage, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]
    run: RunCard

    def row(self, name: str, finding: str = "") -> VerifyRow:
        """Return the figure of this name.

        Raises:
            RecordError: There is none; those that there are are named.
        """
        for one in self.rows:
            if one.name == name and one.finding == finding:
                return one
        known = ", ".join(repr(one.name) for one in self.rows if not one.finding)
        msg = f"There is no figure {name!r}. There are: {known}."
        raise RecordError(msg)

    def figure(self, *, width: float = SINGLE_COLUMN) -> Plot:
        """A figure of all shares before and after, with their intervals, for a paper.

        Args:
            width: Inches.

        Raises:
            MissingExtra: matplotlib is not installed.
            SettingError: No share was measured before and after.
        """
        return change_figure(
            [
                Change(
                    name=f"{one.name} ({one.finding})" if one.finding else one.name,
                    before=one.before.value,
                    after=one.after.value,
                    before_interval=(one.before.low, one.before.high),
                    after_interval=(one.after.low, one.after.high),
                    better=one.better,
                )
                for one in self.rows
                if one.share and one.before is not None and one.after is not None
            ],
            width=width,
        )

    def map_figure(self, *, most: int = 6, width: float = DOUBLE_COLUMN) -> Plot:
        """A figure of some images with their maps before and after, for a paper.

        Args:
            most: At most so many images.
            width: Inches.

        Raises:
            MissingExtra: matplotlib is not installed.
            SettingError: No images were kept.
        """
        shown = self.images[:most]
        return method_figure(
            [one.picture for one in shown],
            {
                "before": [one.before.map.values for one in shown],
                "after": [one.after.map.values for one in shown],
            },
            width=width,
        )

    def _repr_html_(self) -> str:
        """Show the verification in a notebook: figures, then some images."""
        rows = [
            (
                f"{one.name} ({one.finding})" if one.finding else one.name,
                *(brief(part, share=one.share) for part in (one.before, one.after, one.change)),
                one.verdict,
            )
            for one in self.rows
        ]
        classes = self.model.classes
        panels = [
            Panel(
                picture=image.picture,
                values=view.map.values,
                title=f"{when}: {classes[view.prediction]}",
                note=f"{view.confidence:.1%}{label_of(classes, image.label)}",
            )
            for image in self.images[:4]
            for when, view in (("before", image.before), ("after", image.after))
        ]
        return card(
            "Before and after",
            facts({"model": self.model.name, "test images": self.test.count}),
            *map(note, self.sentences[:5]),
            table(("", "before", "after", "change", "verdict"), rows),
            strip(panels) if panels else Html(),
            *map(note, self.notes[:5]),
        )


def label_of(classes: tuple[str, ...], label: int | None) -> str:
    """Return what is added about an image's class."""
    return "" if label is None else f", label {classes[label]}"


def brief(found: Figure | None, *, share: bool) -> str:
    """Return a figure with its interval, for a table."""
    if found is None:
        return ""
    if share:
        return f"{found.value:.1%} [{found.low:.1%}, {found.high:.1%}]"
    return f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"


def save_verify(record: VerifyRecord, folder: str | Path) -> None:
    """Write ``verify.json``, ``arrays.npz``, ``verify.csv`` and ``verify.md`` into a folder.

    Raises:
        OutputError: The folder does not exist, or cannot be written.
    """
    target = Path(folder)
    if not target.is_dir():
        msg = f"A folder was needed, but {target} is none. Make it first."
        raise OutputError(msg)
    write_whole(target / "verify.csv", verify_csv(record).encode("utf-8", "backslashreplace"))
    write_whole(target / "verify.md", verify_markdown(record).encode("utf-8", "backslashreplace"))
    write_record(record, target, "verify")


def load_verify(folder: str | Path) -> VerifyRecord:
    """Read back what :func:`save_verify` wrote.

    Raises:
        RecordError: A file is missing or damaged, or has another schema version.
    """
    return read_record(Path(folder), "verify", VerifyRecord)


def verify_csv(record: VerifyRecord) -> str:
    """Return all figures as CSV, one row each."""
    ends = [
        f"{when}_{what}" for when in ("before", "after", "change") for what in ("", "low", "high")
    ]
    columns = [
        "section", "name", "finding", "better", *(one.rstrip("_") for one in ends), "images",
        "reference", "verdict", "reason",
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in record.rows:
        numbers: list[float | str] = []
        for figure in (row.before, row.after, row.change):
            found = ("", "", "") if figure is None else (figure.value, figure.low, figure.high)
            numbers += found
        count = next((f.count for f in (row.change, row.after, row.before) if f is not None), 0)
        start = [row.section, row.name, row.finding, row.better]
        given = "" if row.reference is None else row.reference
        writer.writerow([*start, *numbers, count, given, row.verdict, row.reason])
    return text.getvalue()


def figure_text(figure: Figure | None, *, share: bool, signed: bool = False) -> str:
    """Return a figure with its interval."""
    if figure is None:
        return "-"
    sign = "+" if signed else ""
    if share:
        low, high = 100 * figure.low, 100 * figure.high
        unit = " points" if signed else " %"
        return f"{100 * figure.value:{sign}.1f}{unit} [{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{figure.value:{sign}.3f} [{figure.low:{sign}.3f}, {figure.high:{sign}.3f}]"


def verify_markdown(record: VerifyRecord) -> str:
    """Return the figures as a page of Markdown."""
    lines = [f"# {record.model.name} before and after", ""]
    lines += [f"- {text}" for text in record.sentences] + [""]
    lines += ["| | before | after | change | images | |", "|--|--|--|--|--|--|"]
    for row in record.rows:
        count = next((f.count for f in (row.change, row.after, row.before) if f is not None), 0)
        name = row.name if not row.finding else f"{row.name}, {row.finding}"
        cells = [
            name,
            figure_text(row.before, share=row.share),
            figure_text(row.after, share=row.share),
            figure_text(row.change, share=row.share, signed=True),
            str(count),
            row.verdict,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| | before | after |", "|--|--|--|"]
    for one in record.facts:
        name = one.name.replace("|", "\\|")
        lines.append(f"| {name} | {one.before} | {one.after} |")
    if record.notes:
        lines += ["", *(f"- {note}" for note in record.notes)]
    return "\n".join(lines) + "\n"
