"""Models from anybody's code: ``package.module:factory`` or ``path/to/file.py:factory``."""

import hashlib
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from torch import nn

from whence.adapters.preprocessing import Preprocessing, declared_preprocessing
from whence.errors import SettingError

__all__ = ["build_factory", "factory_classes", "factory_preprocessing"]


def build_factory(spec: str) -> nn.Module:
    """Call the factory that a line names and return its module.

    Args:
        spec: ``package.module:factory``, or ``path/to/file.py:factory``. The code is run.

    Raises:
        SettingError: There is no such code, it fails, or it returns no module.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        msg = f"{spec!r} names no factory. Write package.module:factory or file.py:factory."
        raise SettingError(msg)
    module = from_file(Path(place)) if place.endswith(".py") else from_package(place)
    factory = getattr(module, name, None)
    if not callable(factory):
        public = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        have = f" It has {', '.join(public[:5])}." if public else ""
        msg = f"{place} has no callable {name!r}.{have}"
        raise SettingError(msg)
    try:
        model = factory()
    except Exception as error:
        msg = f"The factory {spec} failed: {type(error).__name__}: {error}"
        raise SettingError(msg) from error
    if not isinstance(model, nn.Module):
        msg = f"The factory {spec} returned a {type(model).__name__}; a torch module was needed."
        raise SettingError(msg)
    return model


def from_file(path: Path) -> ModuleType:
    """Run a Python file as a module of its own."""
    if not path.is_file():
        msg = f"There is no Python file {path}. Check the path."
        raise SettingError(msg)
    tag = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    described = importlib.util.spec_from_file_location(f"whence_factory_{tag}", path)
    if described is None or described.loader is None:
        msg = f"{path} cannot be run as Python."
        raise SettingError(msg)
    module = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
    except Exception as error:
        msg = f"{path} failed when it was run: {type(error).__name__}: {error}"
        raise SettingError(msg) from error
    return module


def from_package(name: str) -> ModuleType:
    """Import a module by its dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        msg = (
            f"There is no module {name} ({error}). Install it, or name its file: "
            f"path/to/{name.rsplit('.', 1)[-1]}.py:factory."
        )
        raise SettingError(msg) from error
    except Exception as error:
        msg = f"{name} failed when it was imported: {type(error).__name__}: {error}"
        raise SettingError(msg) from error


def factory_preprocessing(model: nn.Module) -> Preprocessing:
    """Return what the module's attribute ``preprocessing`` declares, else ImageNet's usual.

    Raises:
        SettingError: The attribute is neither a Preprocessing nor a mapping of its settings.
    """
    declared = getattr(model, "preprocessing", None)
    if declared is None:
        return declared_preprocessing({}, "ImageNet default")
    if isinstance(declared, Preprocessing):
        return declared
    if isinstance(declared, Mapping):
        return declared_preprocessing(declared, "the model's own attribute")
    msg = (
        f"The model's attribute preprocessing is a {type(declared).__name__}; a dictionary such as "
        f"{{'size': 32, 'mean': (0.5,), 'std': (0.5,)}} was needed."
    )
    raise SettingError(msg)


def factory_classes(model: nn.Module) -> tuple[str, ...] | None:
    """Return the module's attribute ``classes`` if it is a sequence of names."""
    declared = getattr(model, "classes", None)
    if isinstance(declared, list | tuple) and declared:
        return tuple(str(name) for name in declared)
    return None
