"""What must hold inside a record before it is written and after it is read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.errors import RecordError
from whence.results.findings import check_findings
from whence.results.records import AuditRecord, ExplanationRecord, MapRecord

__all__ = ["check_audit", "check_explanation"]

_COLOURS = 3


def check_audit(record: AuditRecord) -> None:
    """Check that every reference, picture and map of an audit is usable.

    Raises:
        RecordError: A class or training image that does not exist, a picture that is not
            ``(h, w, 3)`` uint8, a map that is not ``(h, w)`` float32 and finite, a finding that
            does not fit.
    """
    for place, label in _labels_of(record):
        _check_class(label, len(record.model.classes), place)
    _check_columns(record)
    check_findings(record.findings, record.audited)
    for index, image in record.training_images.items():
        _check_picture(image.picture, f"training_images/{index}/picture")
    for at, query in enumerate(record.queries):
        place = f"queries/{at}"
        _check_picture(query.picture, f"{place}/picture")
        _check_map(query.attribution, f"{place}/attribution")
        for influence in (*query.proponents, *query.opponents, *query.harmful):
            _check_map(influence.map, f"{place}, training image {influence.index}")
            if influence.index not in record.training_images:
                msg = (
                    f"{place} leads to training image {influence.index}, which is not among "
                    f"the record's training_images. Add it there."
                )
                raise RecordError(msg)


def check_explanation(record: ExplanationRecord) -> None:
    """Check that every picture, map and prediction of an explanation is usable.

    Raises:
        RecordError: Columns of different length, or a picture, map or class as above.
    """
    columns = ("names", "predictions", "confidences", "pictures", "maps")
    lengths = {name: len(getattr(record, name)) for name in columns}
    if len(set(lengths.values())) > 1:
        msg = f"An explanation needs one of each per image, but has {lengths}."
        raise RecordError(msg)
    for at, (prediction, picture, map_record) in enumerate(
        zip(record.predictions, record.pictures, record.maps, strict=True)
    ):
        _check_class(prediction, len(record.model.classes), f"predictions/{at}")
        _check_picture(picture, f"pictures/{at}")
        _check_map(map_record, f"maps/{at}")


def _labels_of(record: AuditRecord) -> Iterator[tuple[str, int]]:
    for at, query in enumerate(record.queries):
        yield f"queries/{at}/prediction", query.prediction
        if query.label is not None:
            yield f"queries/{at}/label", query.label
    for index, image in record.training_images.items():
        yield f"training_images/{index}/label", image.label
    for at, suspect in enumerate(record.suspect_labels):
        yield f"suspect_labels/{at}/label", suspect.label
        yield f"suspect_labels/{at}/suggested", suspect.suggested
    for at, region in enumerate(record.regions):
        yield f"regions/{at}/label", region.label
    for at, harmful in enumerate(record.harmful):
        yield f"harmful/{at}/label", harmful.label


def _check_columns(record: AuditRecord) -> None:
    """Check that groups and removals have one value for each prediction."""
    count = len(record.queries)
    for at, group in enumerate(record.groups):
        for name in ("scores", "means", "others"):
            if len(getattr(group, name)) != count:
                msg = (
                    f"groups/{at}/{name} needs one value for each of {count} queries, but has "
                    f"{len(getattr(group, name))}."
                )
                raise RecordError(msg)
    removal = record.removal
    if removal is None:
        return
    known = {query.index for query in record.queries}
    rows = [removal.change, removal.flips, removal.control_change, removal.control_flips]
    rows += [each for each in (removal.right, removal.control_right) if each]
    shape = (len(removal.counts), len(removal.queries))
    fitting = all(len(each) == shape[0] and {len(r) for r in each} <= {shape[1]} for each in rows)
    if not fitting or len(removal.before) != shape[1] or not set(removal.queries) <= known:
        msg = (
            f"removal needs values for {shape[0]} counts and {shape[1]} audited queries, in every "
            f"table of it."
        )
        raise RecordError(msg)


def _check_class(label: int, classes: int, place: str) -> None:
    if not 0 <= label < classes:
        msg = (
            f"{place} needs a class between 0 and {classes - 1}, but is {label}. "
            f"Give the model card one name per class."
        )
        raise RecordError(msg)


def _check_picture(picture: NDArray[Any], place: str) -> None:
    shaped = picture.ndim == _COLOURS and picture.shape[-1] == _COLOURS and picture.size
    if not shaped or picture.dtype != np.uint8:
        msg = (
            f"{place} needs a picture (h, w, 3) of uint8, but got {picture.shape} of "
            f"{picture.dtype}. Convert it before building the record."
        )
        raise RecordError(msg)


def _check_map(map_record: MapRecord, place: str) -> None:
    values = map_record.values
    if values.ndim != len(("h", "w")) or values.dtype != np.float32 or not values.size:
        msg = (
            f"{place} needs a map (h, w) of float32, but got {values.shape} of {values.dtype}. "
            f"Sum the channels and convert before building the record."
        )
        raise RecordError(msg)
    if not np.isfinite(values).all():
        msg = (
            f"{place} needs finite values, but its map holds NaN or infinity. "
            f"Look for the first such value in the model's weights and activations."
        )
        raise RecordError(msg)
