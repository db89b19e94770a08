"""What an audit found, on a terminal and as JSON."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whence.cli.console import bold, faint, say, table

if TYPE_CHECKING:
    from whence.results import AuditRecord, GroupRecord, RegionRecord, RemovalRecord

__all__ = ["overview", "show_audit"]

SHOWN = 5
"""Rows of a list that are printed; the report has them all."""


def overview(record: "AuditRecord", out: Path) -> dict[str, Any]:
    """Return what an audit found, without pictures and maps, as a program reads it."""
    names = record.model.classes
    return {
        "out": str(out),
        "report": str(out / "report.html"),
        "model": {"name": record.model.name, "fingerprint": record.model.fingerprint},
        "accuracy": record.accuracy,
        "queries": [
            {
                "index": query.index,
                "name": query.name,
                "label": None if query.label is None else names[query.label],
                "prediction": names[query.prediction],
                "confidence": query.confidence,
                "proponents": [{"index": p.index, "score": p.score} for p in query.proponents],
                "opponents": [{"index": p.index, "score": p.score} for p in query.opponents],
                "harmful": [{"index": p.index, "score": p.score} for p in query.harmful],
                "training_map": query.training_map,
                "stand_in": query.stand_in,
            }
            for query in record.queries
        ],
        "suspect_labels": [
            {
                "index": one.index,
                "name": one.name,
                "label": names[one.label],
                "suggested": names[one.suggested],
                "confidence": one.confidence,
                "score": one.score,
                "rank": one.rank,
                "disagreement": one.disagreement,
                "opposition": one.opposition,
                "evidence": list(one.evidence),
            }
            for one in record.suspect_labels
        ],
        "regions": [
            {
                "box": list(region.box),
                "class": names[region.label],
                "mass": region.mass,
                "area": region.area,
                "images": list(region.images),
                "similarity": region.similarity,
                "boxes": [list(box) for box in region.boxes],
                "queries": list(region.queries),
                "shown_in": list(region.shown_in),
                "chance": {
                    "mass": region.chance_mass,
                    "images": region.chance_images,
                    "similarity": region.chance_similarity,
                    "p": region.p,
                },
            }
            for region in record.regions
        ],
        "harmful": [
            {
                "index": one.index,
                "name": one.name,
                "label": names[one.label],
                "queries": list(one.queries),
                "share": one.share,
            }
            for one in record.harmful
        ],
        "groups": [
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "scores": list(group.scores),
                "means": list(group.means),
                "others": list(group.others),
            }
            for group in record.groups
        ],
        "removal": None if record.removal is None else asdict(record.removal),
        "skipped": [
            {"data": card.name, "name": name, "reason": reason}
            for card in (record.train, record.test)
            for name, reason in card.skipped
        ],
        "notes": list(record.notes),
        "seconds": record.run.seconds,
    }


def show_audit(record: "AuditRecord", out: Path, *, verbose: bool) -> None:
    """Print what an audit found, in a screenful."""
    names = record.model.classes
    accuracy = "" if record.accuracy is None else f", accuracy {100 * record.accuracy:.1f} %"
    say(bold(f"{record.model.name}") + f" on {record.test.name}{accuracy}")
    say(f"{len(record.queries)} test images traced to {record.train.count} training images.")
    labels = [
        (
            f"  {one.name}",
            f"labelled {names[one.label]}",
            f"looks like {names[one.suggested]} ({100 * one.confidence:.0f} %)",
            ", ".join(one.evidence),
        )
        for one in record.suspect_labels
    ]
    show_list("Labels that look wrong", labels)
    if record.regions:
        say(f"\n{bold('Regions and marks that keep carrying influence')}")
        say(table([region_row(region, names) for region in record.regions]))
    harm = [
        (f"  {one.name}", f"labelled {names[one.label]}", f"{len(one.queries)} predictions")
        for one in record.harmful
        if len(one.queries) > 1
    ]
    show_list("Training images that harm several predictions", harm)
    show_list("What groups did, per training image", list(group_rows(record)))
    if record.removal is not None:
        show_removal(record.removal)
    skipped = [*record.train.skipped, *record.test.skipped]
    show_list("Left out", [(f"  {name}", reason) for name, reason in skipped])
    if verbose:
        say(f"\n{bold('Seconds')}")
        say(table([(f"  {stage}", f"{took:.2f}") for stage, took in record.run.seconds.items()]))
    for note in record.notes:
        say(f"\n{bold('Note')}  {note}")
    say(f"\n{bold('Report')}  {out / 'report.html'}")


def show_list(title: str, rows: Sequence[tuple[str, ...]]) -> None:
    """Print the first rows of a list, and how many there are."""
    if not rows:
        return
    say(f"\n{bold(title)} ({len(rows)})")
    say(table(rows[:SHOWN]))
    if len(rows) > SHOWN:
        say(faint(f"  and {len(rows) - SHOWN} more"))


def region_row(region: "RegionRecord", names: tuple[str, ...]) -> tuple[str, str, str]:
    """Return a region as a row of text."""
    left, top, right, bottom = region.box
    place = (
        f"in places of its own, {right - left} x {bottom - top} pixels"
        if region.boxes
        else f"columns {left}-{right - 1}, rows {top}-{bottom - 1}"
    )
    by_chance = "" if region.chance_similarity is None else f" ({region.chance_similarity:.2f})"
    mass = (
        ""
        if region.chance_mass is None or region.boxes
        else f" ({100 * region.chance_mass:.0f} % by chance)"
    )
    says = (
        f"{100 * region.mass:.0f} % of the influence{mass} on {100 * region.area:.1f} % of the "
        f"area, in {len(region.images)} images, for {len(region.queries)} predictions; pixels "
        f"alike {region.similarity:.2f}{by_chance}"
    )
    return f"  {names[region.label]}", place, says


def group_rows(record: "AuditRecord") -> Iterator[tuple[str, ...]]:
    """Yield groups as rows of text; of classes there is nothing to say here."""
    found: list[GroupRecord] = [g for g in record.groups if g.kind != "class"]
    for group in found:
        count = max(len(group.means), 1)
        says = (
            f"{sum(group.means) / count:+.3g} for a prediction, others "
            f"{sum(group.others) / count:+.3g}; for {sum(s > 0 for s in group.scores)} of "
            f"{len(group.scores)} predictions"
        )
        yield f"  {group.name}", f"{group.size} images", says


def show_removal(removal: "RemovalRecord") -> None:
    """Print what became of the predictions, in the mean."""
    say(f"\n{bold(f'Without the {removal.by}')}, {removal.trainings} trainings: {removal.retrain}")
    rows: list[tuple[str, ...]] = [
        ("  removed", "margin", "random", "other class", "random", "right", "random")
    ]
    for p, count in enumerate(removal.counts):
        right = ("", "")
        if removal.right:
            right = (share(removal.right[p]), share(removal.control_right[p]))
        rows.append(
            (
                f"  {count}",
                f"{mean(removal.change[p]):+.2f}",
                f"{mean(removal.control_change[p]):+.2f}",
                share(removal.flips[p]),
                share(removal.control_flips[p]),
                *right,
            )
        )
    say(table(rows))


def mean(values: tuple[float, ...]) -> float:
    """Return a mean."""
    return sum(values) / max(len(values), 1)


def share(values: tuple[float, ...]) -> str:
    """Return a mean as per cent."""
    return f"{100 * mean(values):.0f} %"
