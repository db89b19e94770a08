"""Load: a model and its data from lines of text, as a command line or a file gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import torch

from whence.adapters import (
    LoadedModel,
    Preprocessing,
    declared_preprocessing,
    load_data,
    load_model,
)
from whence.adapters.models import outputs
from whence.adapters.streamed import PictureData
from whence.adapters.timm import build_timm, timm_preprocessing
from whence.adapters.torchvision import build_torchvision, torchvision_preprocessing
from whence.core import ImageData
from whence.errors import DataError, SettingError
from whence.influence import Checkpoint
from whence.network.weights import fit_names, read_weights
from whence.recipes.cards import class_names

__all__ = [
    "Case",
    "load_architecture",
    "load_case",
    "load_checkpoints",
    "load_classes",
    "load_images",
    "load_subject",
    "pairs",
    "read_input",
    "spread",
]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A model with the data that it was trained on and the data to test it with.

    Args:
        model: Its classes have the names of the training data's where it has none of its own.
        train: Training images.
        test: Test images.
    """

    model: LoadedModel
    train: ImageData
    test: ImageData


def load_case(
    model: LoadedModel,
    train: str | Path,
    test: str | Path,
    *,
    train_labels: Path | None = None,
    test_labels: Path | None = None,
) -> Case:
    """Load a model's training and test data.

    Args:
        model: The model, from :func:`load_subject`.
        train: Training images: a folder, an archive, an array file; see
            :func:`whence.adapters.load_data`. A split is written behind it, ``data.npz#train``.
        test: Test images, in the same ways.
        train_labels: A file with the labels of the training images.
        test_labels: A file with the labels of the test images.

    Raises:
        DataError: Data that are missing, empty, or do not fit the model's classes.
    """
    training = load_images(train, model, labels=train_labels)
    if training.labels is None:
        msg = (
            f"The training images in {training.title} have no labels, and influence needs them. "
            f"Put them into one folder for each class, or name a file of labels."
        )
        raise DataError(msg)
    named = replace(model, classes=training.classes)
    return Case(model=named, train=training, test=load_images(test, named, labels=test_labels))


def load_images(
    source: str | Path, model: LoadedModel, *, labels: Path | None = None
) -> PictureData:
    """Load data for a model, with its classes and its preprocessing."""
    return load_data(source, model.preprocessing, classes=model.classes, labels=labels)


def load_subject(
    model: str,
    *,
    weights: Path | None = None,
    classes: Path | None = None,
    settings: Sequence[str] = (),
    device: str = "cpu",
    download: bool = False,
) -> LoadedModel:
    """Load a classifier.

    Args:
        model: Which; see :func:`whence.adapters.load_model`.
        weights: A local weight file.
        classes: A text file with one class name per line, in the order of the outputs.
        settings: How a picture becomes the model's input, ``key=value``, instead of what the
            model's own configuration says; see :func:`read_input`.
        device: Where the model is to live.
        download: Whether the library may fetch its published weights.

    Raises:
        WhenceError: As :func:`whence.adapters.load_model` and :func:`load_classes`.
    """
    return load_model(
        model,
        weights=weights,
        classes=None if classes is None else load_classes(classes),
        preprocessing=read_input(settings),
        device=device,
        download=download,
    )


def load_architecture(model: str, settings: Sequence[str] = ()) -> LoadedModel:
    """Load a model for the sake of its operations; where no weights are given, it has random ones.

    A factory and a transformers folder have weights of their own, which are used.

    Args:
        model: Which; see :func:`whence.adapters.load_model`.
        settings: How a picture becomes its input; see :func:`read_input`.

    Raises:
        WhenceError: As :func:`whence.adapters.load_model`.
    """
    door, _, name = model.partition("/")
    given = read_input(settings)
    with torch.random.fork_rng(devices=()):
        if door == "torchvision" and name:
            module = build_torchvision(name, None).eval()
            used = given or torchvision_preprocessing(name)
        elif door == "timm" and name:
            module = build_timm(name, None).eval()
            used = given or timm_preprocessing(module)
        else:
            return load_model(model, preprocessing=given)
    return LoadedModel(
        module=module,
        name=f"{model} without weights",
        classes=class_names(outputs(module, used)),
        preprocessing=used,
    )


def load_classes(path: Path) -> tuple[str, ...]:
    """Read class names from a text file, one per line; empty lines at its end are left out.

    Raises:
        DataError: The file does not exist, is no text, has no names, or has an empty line.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        msg = f"There is no file of class names {path}. Check the path."
        raise DataError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} could not be read as text: {error}. Give one class name per line, in UTF-8."
        raise DataError(msg) from error
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not names or not all(names):
        where = f"line {names.index('') + 1} of {path} is empty" if names else f"{path} is empty"
        msg = f"A file of class names needs one name per line, but {where}."
        raise DataError(msg)
    return names


def read_input(settings: Sequence[str]) -> Preprocessing | None:
    """Return the preprocessing that ``key=value`` settings declare; None without any.

    Numbers separated by commas are one for each channel, or rows and columns:
    ``size=32``, ``mean=0.5,0.5,0.5``, ``crop=false``, ``interpolation=nearest``.

    Raises:
        SettingError: A setting without ``=``, an unknown key, or a value of another kind.
    """
    found = {key: parsed(value) for key, value in pairs(settings, "size=32").items()}
    return declared_preprocessing(found, "command line") if found else None


def load_checkpoints(
    model: LoadedModel, files: Sequence[Path], rates: Sequence[float] | None = None
) -> tuple[Checkpoint, ...]:
    """Load weights at several moments of training, for scores over all of them.

    Args:
        model: The model that they are weights of.
        files: Weight files, in the order of training.
        rates: The learning rate at each; 1 for all by default.

    Raises:
        SettingError: If there is not one rate for each file.
        WeightsError: If a file cannot be read.
    """
    if rates and len(rates) != len(files):
        msg = (
            f"Each checkpoint needs its learning rate: {len(files)} files and {len(rates)} rates "
            f"were given."
        )
        raise SettingError(msg)
    names = list(model.module.state_dict())
    return tuple(
        Checkpoint(weights=fit_names(read_weights(file), names), learning_rate=rate)
        for file, rate in zip(files, rates or [1.0] * len(files), strict=True)
    )


def pairs(settings: Sequence[str], example: str) -> Mapping[str, str]:
    """Return ``key=value`` texts as a mapping.

    Raises:
        SettingError: A text without ``=``, or a key that is given twice.
    """
    found: dict[str, str] = {}
    for text in settings:
        key, mark, value = text.partition("=")
        key = key.strip()
        if not mark or not key:
            msg = f"A setting is written key=value, such as {example}; got {text!r}."
            raise SettingError(msg)
        if key in found:
            msg = f"The setting {key} is given twice, as {found[key]!r} and {value!r}. Give one."
            raise SettingError(msg)
        found[key] = value.strip()
    return found


def parsed(text: str) -> object:
    """Return a value as a number, a truth, nothing, several numbers, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    parts = [number(part) for part in text.split(",")]
    if all(part is not None for part in parts):
        return parts[0] if len(parts) == 1 else tuple(parts)
    return text


def number(text: str) -> int | float | None:
    """Return a text as a whole number or a number, or None."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def spread(total: int, count: int) -> list[int]:
    """Return at most ``count`` of ``total`` places, evenly spread, the first included."""
    return [k * total // min(count, total) for k in range(min(count, total))]
