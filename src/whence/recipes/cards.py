"""What a result says of its model, its data and its making."""

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from torch import nn

from whence.adapters import Preprocessing
from whence.core import ImageData, fingerprint_model
from whence.results import DatasetCard, ModelCard, RunCard

__all__ = ["class_names", "dataset_card", "model_card", "run_card"]

RECORDED = ("whence", "torch", "torchvision", "timm", "transformers", "numpy", "pillow")
"""Packages whose versions a result names, where they are installed."""


def model_card(
    model: nn.Module, *, name: str, classes: tuple[str, ...], preprocessing: Preprocessing | None
) -> ModelCard:
    """Return a model's card; costs one pass over the bytes of its weights.

    Args:
        model: The classifier.
        name: How it was asked for.
        classes: Names of its outputs.
        preprocessing: How a picture becomes its input, if that is known.
    """
    return ModelCard(
        name=name,
        fingerprint=fingerprint_model(model),
        classes=classes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        preprocessing={} if preprocessing is None else preprocessing.describe(),
    )


def dataset_card(data: ImageData) -> DatasetCard:
    """Return a dataset's card; costs one pass over its bytes, the first time."""
    return DatasetCard(
        name=data.title,
        count=len(data),
        fingerprint=data.fingerprint(),
        skipped=tuple(data.skipped),
    )


def run_card(command: str, settings: Mapping[str, Any], seconds: Mapping[str, float]) -> RunCard:
    """Return how a result was made, now, with the versions in use.

    Args:
        command: The command line, or the call.
        settings: Every setting by name.
        seconds: How long each stage took.
    """
    versions = {"python": python_version()}
    for package in RECORDED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return RunCard(
        command=command,
        settings=dict(settings),
        versions=versions,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=dict(seconds),
    )


def class_names(count: int, *known: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the first of several lists of names that fits the number of outputs, or numbers."""
    fitting = [names for names in known if names is not None and len(names) == count]
    return fitting[0] if fitting else tuple(str(k) for k in range(count))
