"""The one door to timm: its models, their configuration, ImageNet's names."""

import math
from types import ModuleType

from torch import nn

from whence.adapters.preprocessing import INTERPOLATIONS, Preprocessing
from whence.adapters.torchvision import open_torchvision
from whence.core import Normalisation
from whence.errors import MissingExtra, SettingError

__all__ = ["build_timm", "imagenet_synsets", "open_timm", "timm_classes", "timm_preprocessing"]


def open_timm() -> ModuleType:
    """Import timm, which imports torchvision.

    Raises:
        MissingExtra: timm, or torchvision, is not installed.
    """
    open_torchvision()
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise MissingExtra("timm", "timm", "A timm model") from error  # noqa: EM101 - a package's name
    module: ModuleType = timm
    return module


def build_timm(name: str, classes: int | None, *, download: bool = False) -> nn.Module:
    """Build a model of timm.

    Args:
        name: timm's name, with or without the tag of its weights: ``vit_tiny_patch16_224``.
        classes: Outputs; the configuration's number by default.
        download: Whether to fetch timm's weights.

    Raises:
        SettingError: There is no such model.
        MissingExtra: timm is not installed.
    """
    timm = open_timm()
    plain = name.split(".", 1)[0]
    if not timm.is_model(plain):
        near = timm.list_models(f"*{plain}*")[:3]
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        msg = f"timm has no model {plain!r}.{hint}"
        raise SettingError(msg)
    model = timm.create_model(name, pretrained=download, num_classes=classes)
    if not isinstance(model, nn.Module):
        msg = f"timm's {name} is no module but a {type(model).__name__}."
        raise SettingError(msg)
    return model


def timm_preprocessing(model: nn.Module) -> Preprocessing:
    """Return timm's evaluation transform for a model that timm built."""
    config = open_timm().data.resolve_data_config({}, model=model)
    channels, rows, columns = config["input_size"]
    fraction, mode = config["crop_pct"], config["crop_mode"]
    scaled = (math.floor(rows / fraction), math.floor(columns / fraction))
    interpolation = config["interpolation"]
    known = interpolation in INTERPOLATIONS
    remarks = [] if known else [f"interpolation {interpolation} replaced by bilinear"]
    if mode not in ("center", "squash"):
        remarks.append(f"crop mode {mode} replaced by center")
    exact = mode == "squash" or rows != columns
    return Preprocessing(
        size=(rows, columns),
        resize=scaled if exact else scaled[0],
        crop=True,
        interpolation=interpolation if known else "bilinear",
        channels=channels,
        normalisation=Normalisation(mean=tuple(config["mean"]), std=tuple(config["std"])),
        source="; ".join(["timm config", *remarks]),
    )


def timm_classes(count: int) -> tuple[str, ...] | None:
    """Return the names of the ImageNet subset that has this many classes, if timm knows one."""
    data = open_timm().data
    subset = data.infer_imagenet_subset({"num_classes": count})
    if not subset:
        return None
    info = data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(count))


def imagenet_synsets() -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet's 1 000 classes, in the usual order."""
    return tuple(open_timm().data.ImageNetInfo().label_names())
