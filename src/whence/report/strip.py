"""One prediction of an audit as a picture file."""

from whence.display import Panel, figure_of_query, png_bytes
from whence.errors import SettingError
from whence.report.words import percent, signed
from whence.results.records import AuditRecord, InfluenceRecord

__all__ = ["figure_png"]


def figure_png(record: AuditRecord, position: int, *, proponents: int = 4) -> bytes:
    """A PNG file of one test image, its map, and its proponents with theirs, in one strip.

    Args:
        record: What the audit found.
        position: Which of the audited test images, from 0.
        proponents: At most so many training images.

    Raises:
        SettingError: There is no such test image.
    """
    if not 0 <= position < len(record.queries):
        msg = (
            f"position needs a number from 0 to {len(record.queries) - 1}, one of the "
            f"{len(record.queries)} audited test images, but got {position}."
        )
        raise SettingError(msg)
    query, classes = record.queries[position], record.model.classes
    label = "" if query.label is None else f", labelled {classes[query.label]}"
    panel = Panel(
        picture=query.picture,
        values=query.attribution.values,
        title=classes[query.prediction],
        note=f"{percent(query.confidence)}{label}",
    )
    return png_bytes(
        figure_of_query(panel, [_panel(record, one) for one in query.proponents[:proponents]])
    )


def _panel(record: AuditRecord, influence: InfluenceRecord) -> Panel:
    image = record.training_images[influence.index]
    return Panel(
        picture=image.picture,
        values=influence.map.values,
        title=record.model.classes[image.label],
        note=signed(influence.score),
    )
