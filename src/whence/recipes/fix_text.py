"""A fix as text."""

from whence.recipes.fit_record import grid, percent, titled
from whence.results.fix import FixRecord

__all__ = ["count_of", "fix_text"]

SHOWN = 8
"""Findings of one action that are listed; of labels there may be many."""


def fix_text(record: FixRecord, *, markdown: bool = False) -> str:
    """Return what was done as text.

    Args:
        record: What was done.
        markdown: As Markdown, instead of for a terminal.
    """
    lines = titled("Accepted, and done", markdown=markdown)
    rows = [["finding", "done", "training images"]]
    for action in dict.fromkeys(one.action for one in record.findings):
        own = [one for one in record.findings if one.action == action]
        rows += [[one.id, action, str(count_of(record, one.id))] for one in own[:SHOWN]]
        more = sum(count_of(record, one.id) for one in own[SHOWN:])
        if more:
            rows.append([f"and {len(own) - SHOWN} more", action, str(more)])
    lines += grid(rows, markdown=markdown)
    if record.masked:
        lines += [
            "",
            (
                f"Attributions were kept out of {percent(record.area)} of {record.masked} training "
                f"images: {record.prior}."
            ),
        ]
    if record.exchanged:
        lines += ["Its pixels were exchanged among the training images, anew in every epoch."]
    if record.masked and len(record.trainings) > 1:
        lines += [
            (
                "The weight was chosen by the accuracy on validation images as they are and again "
                "with what an image of the shortcut's class shows in the region."
            ),
        ]
    lines += ["", *titled("Trained on", markdown=markdown)]
    rows = [["training", "accuracy", ""]]
    for row in record.trainings:
        told = "chosen" if row.name == record.chosen else "no result" if row.note else ""
        rows.append([row.name, "" if row.note else percent(row.accuracy), told])
    lines += grid(rows, markdown=markdown)
    if record.notes:
        lines += ["", *titled("Notes", markdown=markdown)]
        lines += [f"{'-' if markdown else ' '} {note}" for note in record.notes]
    return "\n".join(lines)


def count_of(record: FixRecord, name: str) -> int:
    """Return how many training images a finding concerned."""
    one = next(found for found in record.findings if found.id == name)
    everywhere = one.action == "mask" and one.box is not None
    return record.audited.images if everywhere else len(one.images)
