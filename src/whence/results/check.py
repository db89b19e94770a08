"""What must hold inside a record before it is written and after it is read."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whence.errors import RecordError
from whence.results.records import AuditRecord, ExplanationRecord, MapRecord

__all__ = ["check_audit", "check_explanation"]

_COLOURS = 3


def check_audit(record: AuditRecord) -> None:
    """Check that every reference, picture and map of an audit is usable.

    Raises:
        RecordError: A class or training image that does not exist, a picture that is not
            ``(h, w, 3)`` uint8, a map that is not ``(h, w)`` float32 and finite.
    """
    for place, label in _labels_of(record):
        _check_class(label, len(record.model.classes), place)
    for index, image in record.training_images.items():
        _check_picture(image.picture, f"training_images/{index}/picture")
    for at, query in enumerate(record.queries):
        place = f"queries/{at}"
        _check_picture(query.picture, f"{place}/picture")
        _check_map(query.attribution, f"{place}/attribution")
        for influence in (*query.proponents, *query.opponents):
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
