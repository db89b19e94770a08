"""What an audit found as tables: CSV for spreadsheets and programs."""

import csv
import io
from collections.abc import Iterable

from whence.results.records import AuditRecord

__all__ = ["audit_tables", "influence_table"]

Row = tuple[object, ...]


def audit_tables(record: AuditRecord) -> dict[str, str]:
    """All tables of an audit, by file name."""
    found = {
        "influences.csv": influence_table(record),
        "suspects.csv": suspect_table(record),
        "groups.csv": group_table(record),
    }
    if record.removal is not None:
        found["removal.csv"] = removal_table(record)
    return found


def influence_table(record: AuditRecord) -> str:
    """All influences as CSV, one row per query and training image.

    Ranks start at 1, separately for proponents, opponents and harmful images; the strongest comes
    first.
    """
    classes = record.model.classes
    head = (
        "query",
        "prediction",
        "side",
        "rank",
        "training_index",
        "training_name",
        "label",
        "score",
    )
    rows: list[Row] = []
    for query in record.queries:
        sides = (
            ("proponent", query.proponents),
            ("opponent", query.opponents),
            ("harmful", query.harmful),
        )
        for side, influences in sides:
            for rank, influence in enumerate(influences, start=1):
                image = record.training_images[influence.index]
                rows.append(
                    (
                        query.name,
                        classes[query.prediction],
                        side,
                        rank,
                        influence.index,
                        image.name,
                        classes[image.label],
                        repr(float(influence.score)),
                    )
                )
    return written(head, rows)


def suspect_table(record: AuditRecord) -> str:
    """Training images with a label that looks wrong, or that harm predictions; one row each."""
    classes = record.model.classes
    suspects = {one.index: (rank, one) for rank, one in enumerate(record.suspect_labels, start=1)}
    harmful = {one.index: one for one in record.harmful}
    names = {one.index: (one.name, one.label) for one in record.suspect_labels}
    names |= {one.index: (one.name, one.label) for one in record.harmful}
    head = (
        "training_index",
        "training_name",
        "label",
        "rank",
        "suggested",
        "evidence",
        "self_influence",
        "self_influence_rank",
        "probability",
        "neighbours_disagree",
        "influences_oppose",
        "harms_predictions",
    )
    rows = []
    for index in dict.fromkeys([*suspects, *harmful]):
        rank, one = suspects.get(index, ("", None))
        told: Row = ("",) * 7
        if one is not None:
            told = (
                classes[one.suggested],
                " ".join(one.evidence),
                repr(one.score),
                one.rank,
                repr(one.confidence),
                one.disagreement,
                one.opposition,
            )
        harms = len(harmful[index].queries) if index in harmful else 0
        rows.append((index, names[index][0], classes[names[index][1]], rank, *told, harms))
    return written(head, rows)


def group_table(record: AuditRecord) -> str:
    """What each group did to each prediction, one row for each pair."""
    head = ("group", "kind", "images", "query", "prediction", "score", "mean", "mean_of_others")
    classes = record.model.classes
    rows = [
        (
            group.name,
            group.kind,
            group.size,
            query.name,
            classes[query.prediction],
            repr(group.scores[at]),
            repr(group.means[at]),
            repr(group.others[at]),
        )
        for group in record.groups
        for at, query in enumerate(record.queries)
    ]
    return written(head, rows)


def removal_table(record: AuditRecord) -> str:
    """What became of each prediction without so many images, one row for each pair."""
    head = (
        "removed",
        "by",
        "query",
        "margin_before",
        "change",
        "flips",
        "change_random",
        "flips_random",
        "right",
        "right_random",
    )
    removal = record.removal
    if removal is None:
        return written(head, ())
    names = {query.index: query.name for query in record.queries}
    rows = [
        (
            count,
            removal.by,
            names[place],
            repr(removal.before[q]),
            repr(removal.change[p][q]),
            removal.flips[p][q],
            repr(removal.control_change[p][q]),
            removal.control_flips[p][q],
            removal.right[p][q] if removal.right else "",
            removal.control_right[p][q] if removal.control_right else "",
        )
        for p, count in enumerate(removal.counts)
        for q, place in enumerate(removal.queries)
    ]
    return written(head, rows)


def written(head: Row, rows: Iterable[Row]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
