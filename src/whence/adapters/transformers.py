"""The one door to transformers: image classifiers from a folder or the Hugging Face hub."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image
from torch import nn

from whence.adapters.preprocessing import (
    IMAGENET,
    INTERPOLATIONS,
    Preprocessing,
    declared_preprocessing,
)
from whence.adapters.torchvision import open_torchvision
from whence.core import Normalisation
from whence.errors import MissingExtra, SettingError, WeightsError

__all__ = [
    "build_transformers",
    "open_transformers",
    "transformers_classes",
    "transformers_preprocessing",
]

GENERIC = "LABEL_"
SHOWN = 3
UNCROPPED_SIDE = 384
"""ConvNeXt's processor stops cropping at this size."""


def open_transformers() -> ModuleType:
    """Import transformers.

    Raises:
        MissingExtra: transformers is not installed.
    """
    with suppress(MissingExtra):  # transformers imports torchvision where it is installed
        open_torchvision()
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise MissingExtra("transformers", "transformers", "A Hugging Face model") from error  # noqa: EM101 - a package's name
    module: ModuleType = transformers
    return module


def build_transformers(
    place: str, classes: int | None, *, with_weights: bool, download: bool = False
) -> nn.Module:
    """Build an image classifier of transformers; code in the folder or repository is not run.

    Args:
        place: A folder with ``config.json``, or a hub id with ``download``.
        classes: Outputs; the configuration's number by default. Only without weights.
        with_weights: Whether to load the weights that lie there too.
        download: Whether to ask the hub if there is no such folder.

    Raises:
        WeightsError: Nothing usable is there, or the weights do not fit the configuration.
        MissingExtra: transformers is not installed.
    """
    folder = Path(place)
    if not folder.is_dir() and not download:
        msg = (
            f"There is no folder {place}. Give a folder with config.json and weights, or allow "
            f"the download of {place} from the Hugging Face hub (download)."
        )
        raise WeightsError(msg)
    transformers = open_transformers()
    auto = transformers.AutoModelForImageClassification
    local = folder.is_dir()
    try:
        if not with_weights:
            config = transformers.AutoConfig.from_pretrained(place, local_files_only=local)
            if classes is not None:
                config.num_labels = classes
            model: nn.Module = auto.from_config(config)
            return model
        model, info = auto.from_pretrained(
            place, local_files_only=local, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        msg = (
            f"transformers could not load an image classifier from {place} ({reason}). The folder "
            f"needs config.json of an image classifier and its weights, model.safetensors."
        )
        raise WeightsError(msg) from error
    wrong = {
        kind: sorted(map(str, info.get(kind) or ()))
        for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")
    }
    if any(wrong.values()):
        counts = "; ".join(
            f"{len(keys)} {kind.replace('_', ' ')}: {', '.join(keys[:SHOWN])}"
            for kind, keys in wrong.items()
            if keys
        )
        msg = f"The weights in {place} do not fit its config.json. {counts}. Save both together."
        raise WeightsError(msg)
    return model


def transformers_classes(model: nn.Module, count: int) -> tuple[str, ...] | None:
    """Return the names in the model's configuration, unless they are only numbers."""
    table = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(table, Mapping) or len(table) != count:
        return None
    names = tuple(str(table[k]) for k in sorted(table))
    return None if all(name.startswith(GENERIC) for name in names) else names


def transformers_preprocessing(
    place: str, model: nn.Module, *, download: bool = False
) -> Preprocessing:
    """Return what the image processor beside a model does to a picture.

    Raises:
        SettingError: The processor reverses the colours, which whence does not.
    """
    transformers = open_transformers()
    local = Path(place).is_dir()
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            place, local_files_only=local or not download
        )
    except (OSError, ValueError, KeyError):
        config = getattr(model, "config", None)
        side = getattr(config, "image_size", None) or 224
        channels = getattr(config, "num_channels", 3)
        settings = {"size": side, "channels": channels}
        return declared_preprocessing(settings, "ImageNet default: the folder has no processor")
    return from_processor(processor.to_dict())


def from_processor(settings: Mapping[str, Any]) -> Preprocessing:
    """Return an image processor's settings as a preprocessing.

    A rescaling ``raw * factor - offset`` of raw bytes goes into the normalisation:
    ``(raw * f - o - m) / s = (p - (o + m) / (255 f)) / (s / (255 f))`` with ``p = raw / 255``.
    """
    if settings.get("do_flip_channel_order"):
        msg = (
            "The image processor swaps red and blue, which whence's preprocessing does not. Wrap "
            "the model in a factory that swaps them, with a preprocessing of its own."
        )
        raise SettingError(msg)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    if settings.get("do_normalize", True):
        mean = tuple(settings.get("image_mean") or IMAGENET.mean)
        std = tuple(settings.get("image_std") or IMAGENET.std)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    scale = 255 * float(factor)
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    if not math.isclose(scale, 1) or offset:
        mean = tuple((offset + m) / scale for m in mean)
        std = tuple(s / scale for s in std)
    size, resize, crop = from_sizes(settings)
    resample = Image.Resampling(int(settings.get("resample", Image.Resampling.BILINEAR)))
    name = next((n for n, r in INTERPOLATIONS.items() if r == resample), "bilinear")
    return Preprocessing(
        size=size,
        resize=resize,
        crop=crop,
        interpolation=name,
        channels=3,
        normalisation=Normalisation(mean=mean, std=std),
        source="transformers image processor",
    )


def from_sizes(
    settings: Mapping[str, Any],
) -> tuple[tuple[int, int], int | tuple[int, int] | None, bool]:
    """Return model size, resize and crop of an image processor."""
    size = settings.get("size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    crop_size = settings.get("crop_size") or {}
    crop_size = (
        {"height": crop_size, "width": crop_size} if isinstance(crop_size, int) else crop_size
    )
    resized = bool(settings.get("do_resize", True))
    cropped = bool(settings.get("do_center_crop", False)) and bool(crop_size)
    if "shortest_edge" in size:
        side = int(size["shortest_edge"])
        fraction = settings.get("crop_pct")
        if cropped:
            resize: int | tuple[int, int] = side
            shape = (int(crop_size["height"]), int(crop_size["width"]))
        elif fraction and side < UNCROPPED_SIDE:
            resize, shape, cropped = int(side / fraction), (side, side), True
        else:
            resize, shape = (side, side), (side, side)
    else:
        exact = (int(size.get("height", 224)), int(size.get("width", 224)))
        resize = exact
        shape = (int(crop_size["height"]), int(crop_size["width"])) if cropped else exact
    return shape, resize if resized else None, cropped
