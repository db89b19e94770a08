"""What is explained, and by which method: what a user gave, checked and made ready."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, final

import torch
from torch import nn

from whence.adapters import LoadedModel, Preprocessing
from whence.attribution import method_named, needs_network
from whence.core import Images, Method, Normalisation, check_mode
from whence.errors import SettingError
from whence.network import Network

__all__ = ["Model", "Setting", "Subject", "chosen_method", "placed", "readable", "subject_of"]

Model = nn.Module | LoadedModel | Network
Setting = str | int | float | bool | None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is explained: the module for its weights, the callable for its logits."""

    module: nn.Module
    callable: nn.Module | Network
    name: str
    classes: tuple[str, ...] | None
    preprocessing: Preprocessing | None


def subject_of(model: Model, preprocessing: Preprocessing | None) -> Subject:
    """Return the parts of what a user gave as a model."""
    if isinstance(model, LoadedModel):
        check_mode(model.module)
        return Subject(
            module=model.module,
            callable=model.module,
            name=model.name,
            classes=model.classes,
            preprocessing=preprocessing or model.preprocessing,
        )
    if not isinstance(model, (nn.Module, Network)):
        msg = (
            f"The model must be a torch.nn.Module, a LoadedModel or a Network; got "
            f"{type(model).__name__}. whence.adapters.load_model('timm/resnet18') makes one of a "
            f"name; of a function, a module whose forward calls it."
        )
        raise SettingError(msg)
    module = model.module if isinstance(model, Network) else model
    if isinstance(model, nn.Module):
        check_mode(model)
    return Subject(
        module=module,
        callable=model,
        name=type(model).__name__,
        classes=None,
        preprocessing=preprocessing,
    )


def placed(images: Images, module: nn.Module) -> Images:
    """Return the images on the model's device, if its weights are all on one."""
    devices = {parameter.device for parameter in module.parameters()}
    if torch.device("meta") in devices:
        msg = (
            "The model's weights are on the device 'meta', which holds shapes but no values. Load "
            "them onto 'cpu' or a GPU."
        )
        raise SettingError(msg)
    return images.to(devices.pop()) if len(devices) == 1 else images


def chosen_method(
    method: Method | str,
    settings: Mapping[str, Setting] | None,
    batch_size: int | None,
    normalisation: Normalisation | None,
) -> Method:
    """Return the method that was asked for, by name or by value."""
    if isinstance(method, str):
        chosen = method_named(method, settings, normalisation=normalisation)
    elif settings:
        msg = (
            f"settings are for a method given by name; {type(method).__name__} has its own. "
            f"Set {', '.join(settings)} there."
        )
        raise SettingError(msg)
    else:
        chosen = method
    value: Any = chosen
    known = [field.name for field in fields(value)] if is_dataclass(value) else []
    if "normalisation" in known and value.normalisation is None:
        chosen = value = replace(value, normalisation=normalisation)
    if batch_size is None:
        return chosen
    if "batch_size" not in known:
        msg = f"{type(chosen).__name__} has no batch_size; leave it out."
        raise SettingError(msg)
    sized: Method = replace(value, batch_size=batch_size)
    return sized


def readable(
    subject: Subject, images: Images, method: Method, *, fast: bool
) -> nn.Module | Network:
    """Return the model as the method needs it: itself, or read as a graph and maybe tuned."""
    found = subject.callable
    if not isinstance(found, Network) and (fast or needs_network(method)):
        found = Network.read(found, images)
    return found.tuned() if fast and isinstance(found, Network) else found
