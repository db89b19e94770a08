"""Labels that come in a file of their own."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from whence.adapters.classes import normalised_name
from whence.adapters.tables import label_array
from whence.errors import DataError

__all__ = ["class_indices", "read_labels"]

SUFFIXES = (".csv", ".json", ".npy", ".txt")


def read_labels(content: bytes, path: Path, names: Sequence[str]) -> list[int | str]:
    """Return the label of each image from the content of a label file.

    ``.json``: an object from image to label, or a list. ``.csv`` and ``.txt``: rows
    ``image,label``, or one label a row. ``.npy``: one label per image. An image is named by its
    path in the dataset or by its file name alone.

    Args:
        content: The file's bytes.
        path: What the file is called; its ending tells its form.
        names: The images' names, in the order of the dataset.

    Raises:
        DataError: The file cannot be read, or leaves an image without a label.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        msg = f"{path} is no label file; its name must end in {', '.join(SUFFIXES)}."
        raise DataError(msg)
    try:
        if suffix == ".npy":
            found = np.load(io.BytesIO(content), allow_pickle=False)
        elif suffix == ".json":
            found = json.loads(content)
        else:
            found = from_rows(content.decode())
    except (ValueError, EOFError, csv.Error) as error:
        msg = f"{path} is truncated or no {suffix} file ({error}). Write or fetch it again."
        raise DataError(msg) from error
    if isinstance(found, np.ndarray):
        found = label_array(found, len(names), str(path)).tolist()
    return in_order(found, path, names)


def from_rows(text: str) -> list[str] | dict[str, str]:
    """Return the labels in a table of one or two columns."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    return {row[0]: row[1] for row in rows if len(row) > 1}


def in_order(found: object, path: Path, names: Sequence[str]) -> list[int | str]:
    """Return labels in the order of the images."""
    if isinstance(found, Mapping):
        labels = []
        for name in names:
            value = found.get(name, found.get(name.rsplit("/", 1)[-1]))
            labels.append(one_label(value, name, path))
        return labels
    if isinstance(found, list) and len(found) == len(names):
        return [one_label(value, name, path) for value, name in zip(found, names, strict=True)]
    what = f"{len(found)} labels" if isinstance(found, list) else f"a {type(found).__name__}"
    msg = f"{path} holds {what}; a label for each of {len(names)} images was needed."
    raise DataError(msg)


def one_label(value: object, name: str, path: Path) -> int | str:
    """Return a label if it is a whole number or a name."""
    if isinstance(value, str) and value:
        return int(value) if value.isdecimal() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    msg = (
        f"{path} has no usable label for {name}: {value!r}. Give a class index or a class name for "
        f"each image."
    )
    raise DataError(msg)


def class_indices(
    labels: Sequence[int | str], classes: Sequence[str] | None, names: Sequence[str], title: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return class indices and the classes, for labels that are indices or names.

    Args:
        labels: Class indices and class names.
        classes: The model's classes; without them the names that occur, sorted, or as many
            numbers as occur.
        names: The images' names, for errors.
        title: The dataset, for errors.

    Raises:
        DataError: A name that is none of the classes.
    """
    written = sorted({label for label in labels if isinstance(label, str)})
    if classes is None:
        top = max((label for label in labels if isinstance(label, int)), default=-1) + 1
        known = tuple(written) if written else tuple(str(k) for k in range(top))
    else:
        known = tuple(classes)
    at = {normalised_name(name): k for k, name in enumerate(known)}
    indices = []
    for label, name in zip(labels, names, strict=True):
        index = label if isinstance(label, int) else at.get(normalised_name(label))
        if index is None:
            msg = (
                f"{name} in {title} has label {label!r}, which is none of the {len(known)} "
                f"classes. Correct the label, or give the model's class names."
            )
            raise DataError(msg)
        indices.append(index)
    return tuple(indices), known
