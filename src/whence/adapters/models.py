"""The one entrance for models: a line names an architecture, a file its weights."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import torch
from torch import nn

from whence.adapters.certified import open_certified
from whence.adapters.classes import numbered
from whence.adapters.factories import build_factory, factory_classes, factory_preprocessing
from whence.adapters.preprocessing import Preprocessing
from whence.adapters.timm import build_timm, timm_classes, timm_preprocessing
from whence.adapters.torchvision import (
    build_torchvision,
    torchvision_classes,
    torchvision_preprocessing,
)
from whence.adapters.transformers import (
    build_transformers,
    transformers_classes,
    transformers_preprocessing,
)
from whence.core import check_logits, check_weights, logits_of
from whence.errors import SettingError, ShapeError, TargetError, WeightsError, WhenceError
from whence.network.weights import check_finite, count_classes, load_weights, read_weights

__all__ = ["LoadedModel", "load_model"]

AUXILIARY = re.compile(r"(?:\w+\.)?(?:aux[12]|AuxLogits)\.")
"""Names of the weights in GoogLeNet's and Inception's extra heads."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A classifier with what is needed to use it.

    Args:
        module: In eval mode, on its device.
        name: How it was asked for.
        classes: Names of the outputs, ``"0"``, ``"1"``, ... where nobody named them.
        preprocessing: How a picture becomes its input.
    """

    module: nn.Module
    name: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing


def load_model(
    spec: str,
    *,
    weights: Path | None = None,
    classes: Sequence[str] | int | None = None,
    preprocessing: Preprocessing | None = None,
    device: str = "cpu",
    download: bool = False,
) -> LoadedModel:
    """Build a classifier, give it weights, and try it on one black picture.

    ============================  ==============================================================
    ``torchvision/NAME``          a classifier of torchvision
    ``timm/NAME``                 a model of timm
    ``transformers/FOLDER``       an image classifier saved by transformers, with its weights
    ``transformers/ID``           the same from the Hugging Face hub, with ``download``
    ``package.module:factory``    what a function of no arguments returns; it may load weights
    ``path/to/file.py:factory``   itself, and set ``classes`` and ``preprocessing`` on the module
    ``path/to/x.safetensors``     an X-DNN that ``whence convert`` wrote; nothing else is needed
    ============================  ==============================================================

    The number of outputs is read from the weights' last layer.

    Args:
        spec: Which model.
        weights: A local file, ``.safetensors`` or of ``torch.save``.
        classes: Names of the outputs in their order, or their number.
        preprocessing: Instead of what the model's own configuration says.
        device: Where the module is to live.
        download: Whether the library may fetch its published weights.

    Raises:
        WeightsError: No weights, or unusable ones.
        NumericsError: NaN or infinity in the weights.
        SettingError: There is no such model or device, or the settings contradict each other.
        TargetError: Names for another number of classes than there are outputs.
        ShapeError: The model does not give one row of logits for one picture.
        MissingExtra: The library that the line names is not installed.
    """
    if weights is not None and download:
        msg = f"Both a weight file ({weights}) and a download were asked for. Choose one."
        raise SettingError(msg)
    wanted = classes if isinstance(classes, int) else None if classes is None else len(classes)
    place = None if weights is None else Path(weights)
    target = chosen_device(device)
    with torch.random.fork_rng(devices=()):
        opened = open_model(spec, place, wanted, download=download)
    module = opened.module
    check_finite(module.state_dict(), spec)
    module.eval()
    used = opened.preprocessing() if preprocessing is None else preprocessing
    count = outputs(module, used)
    names = names_of(count, classes, opened.names(count), spec)
    return LoadedModel(module=module.to(target), name=spec, classes=names, preprocessing=used)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A model with its weights, and where its own configuration is asked.

    Args:
        module: The model.
        preprocessing: Returns what the configuration says about pictures.
        names: Returns the names of this many outputs, or None where nobody named them.
    """

    module: nn.Module
    preprocessing: Callable[[], Preprocessing]
    names: Callable[[int], tuple[str, ...] | None]


def open_model(spec: str, weights: Path | None, classes: int | None, *, download: bool) -> Opened:
    """Return the model that a line names, with weights."""
    door, _, name = spec.partition("/")
    if spec.endswith(".safetensors"):
        module, how, named = open_certified(Path(spec), weights)
        return Opened(module=module, preprocessing=lambda: how, names=lambda _: named)
    if door == "torchvision" and name:
        return Opened(
            module=from_torchvision(name, weights, classes, download=download),
            preprocessing=partial(torchvision_preprocessing, name),
            names=partial(torchvision_classes, name),
        )
    if door == "timm" and name:
        module = from_timm(name, weights, classes, download=download)
        return Opened(
            module=module, preprocessing=partial(timm_preprocessing, module), names=timm_classes
        )
    if door == "transformers" and name:
        module = from_transformers(name, weights, classes, download=download)
        return Opened(
            module=module,
            preprocessing=partial(transformers_preprocessing, name, module, download=download),
            names=partial(transformers_classes, module),
        )
    if ":" in spec:
        module = build_factory(spec)
        if weights is not None:
            load_weights(module, read_weights(weights), str(weights))
        own = factory_classes(module)
        return Opened(
            module=module,
            preprocessing=partial(factory_preprocessing, module),
            names=lambda count: own if own is not None and len(own) == count else None,
        )
    msg = (
        f"{spec!r} names no model. Write torchvision/NAME, timm/NAME, transformers/FOLDER, "
        f"package.module:factory, path/to/file.py:factory or path/to/x.safetensors."
    )
    raise SettingError(msg)


def from_torchvision(
    name: str, weights: Path | None, classes: int | None, *, download: bool
) -> nn.Module:
    """Return a torchvision classifier with weights."""
    if download:
        return fetched(f"torchvision/{name}", partial(build_torchvision, name, None, download=True))
    state = read_weights(given(weights, f"torchvision/{name}"))
    auxiliary = any(AUXILIARY.match(key) for key in state)
    build = partial(build_torchvision, name, auxiliary=auxiliary)
    module = build(count_classes(state, build) or classes)
    load_weights(module, state, str(weights))
    return module


def from_timm(name: str, weights: Path | None, classes: int | None, *, download: bool) -> nn.Module:
    """Return a timm model with weights."""
    if download:
        return fetched(f"timm/{name}", partial(build_timm, name, None, download=True))
    state = read_weights(given(weights, f"timm/{name}"))
    build = partial(build_timm, name)
    module = build(count_classes(state, build) or classes)
    load_weights(module, state, str(weights))
    return module


def from_transformers(
    place: str, weights: Path | None, classes: int | None, *, download: bool
) -> nn.Module:
    """Return an image classifier of transformers with the weights beside it, or with others."""
    if weights is None:
        build = partial(build_transformers, place, None, with_weights=True, download=download)
        return fetched(f"transformers/{place}", build) if download else build()
    state = read_weights(weights)
    build = partial(build_transformers, place, with_weights=False)
    module = build(count_classes(state, build) or classes)
    load_weights(module, state, str(weights))
    return module


def fetched(spec: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Return a model that a library builds with weights that it fetches itself."""
    try:
        return build()
    except WhenceError:
        raise
    except Exception as error:  # each library, and each way to be offline, raises its own
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        msg = (
            f"The weights of {spec} could not be downloaded: {reason} Fetch them where there is a "
            f"connection and give the file (weights)."
        )
        raise WeightsError(msg) from error


def given(weights: Path | None, spec: str) -> Path:
    """Return the weight file, or say how to give one."""
    if weights is None:
        msg = (
            f"{spec} has no weights, and a network of random weights explains nothing. Give a "
            f"local file (weights), or allow the library's own download (download)."
        )
        raise WeightsError(msg)
    return weights


def chosen_device(device: str) -> torch.device:
    """Return a device that is there."""
    try:
        target = torch.device(device)
        torch.empty(1, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        msg = f"The device {device!r} cannot be used ({reason}). Use cpu, cuda or cuda:0."
        raise SettingError(msg) from error
    return target


def outputs(module: nn.Module, preprocessing: Preprocessing) -> int:
    """Return the number of outputs, found by one pass over a black picture."""
    rows, columns = preprocessing.size
    black = preprocessing.normalisation.to_model(
        torch.zeros(1, preprocessing.channels, rows, columns)
    )
    try:
        with torch.no_grad():
            logits = logits_of(module(black))
    except Exception as error:
        check_weights(module, black)
        msg = (
            f"The model does not take pictures of shape {tuple(black.shape)}, which its "
            f"preprocessing ({preprocessing.source}) makes: {error}. Give the preprocessing: "
            f"--input size=32 and so on (preprocessing= in Python)."
        )
        raise ShapeError(msg) from error
    return int(check_logits(logits, 1).shape[1])


def names_of(
    count: int,
    classes: Sequence[str] | int | None,
    known: tuple[str, ...] | None,
    spec: str,
) -> tuple[str, ...]:
    """Return the names of the outputs: those asked for, those known, or numbers."""
    if classes is None or isinstance(classes, int):
        if classes not in (None, count):
            msg = f"{spec} has {count} outputs, and {classes} classes were asked for."
            raise TargetError(msg)
        return known or numbered(count)
    names = tuple(classes)
    if len(names) != count:
        msg = f"{spec} has {count} outputs, and {len(names)} class names were given. Give one each."
        raise TargetError(msg)
    return names
