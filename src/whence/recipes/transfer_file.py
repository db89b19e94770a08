"""A study of harmony as a file of settings, or as lines of a command: what is asked for."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from whence.adapters.tables import read_npy
from whence.errors import DataError, SettingError
from whence.recipes.load import load_subject
from whence.recipes.transfer_networks import TransferNetwork, transfer_network

__all__ = [
    "NetworkLine",
    "TransferRequest",
    "load_masks",
    "load_networks",
    "network_lines",
    "read_request",
]


@final
@dataclass(frozen=True, kw_only=True)
class NetworkLine:
    """One network as it is asked for.

    Args:
        name: What to call it.
        model: As :func:`whence.adapters.load_model` takes it.
        weights: A weight file.
        classes: A file of class names.
        input: How a picture becomes its input, ``key=value``.
        family: Its kind; found from its operations if empty.
    """

    name: str
    model: str
    weights: str | None = None
    classes: str | None = None
    input: tuple[str, ...] = ()
    family: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """A study as it is asked for; what is None is left to :func:`whence.transfer`.

    Args:
        networks: Two or more.
        test: The test images.
        test_labels: A file of their labels.
        bank: Other images.
        masks: An ``.npy`` file of object masks.
        methods: Names with settings.
        fills: Names of fills.
        coverages: Shares of the pixels.
        target: ``predicted`` or ``label``.
        count: At most so many images.
        seed: Of all that is drawn.
        batch_size: Images at a time.
        device: Where the networks live.
        download: Whether libraries may fetch published weights.
    """

    networks: tuple[NetworkLine, ...] = ()
    test: str | None = None
    test_labels: str | None = None
    bank: str | None = None
    masks: str | None = None
    methods: tuple[str, ...] | dict[str, str] | None = None
    fills: tuple[str, ...] | None = None
    coverages: tuple[float, ...] | None = None
    target: str | None = None
    count: int | None = None
    seed: int | None = None
    batch_size: int | None = None
    device: str = "cpu"
    download: bool = False

    def over(self, other: "TransferRequest") -> "TransferRequest":
        """Return this request, with what it leaves open as another one has it."""
        empty = TransferRequest()
        own = {
            entry.name: getattr(self, entry.name)
            for entry in fields(self)
            if getattr(self, entry.name) != getattr(empty, entry.name)
        }
        return replace(other, **own)

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, under the names that :func:`whence.transfer` gives it."""
        names = ("methods", "fills", "coverages", "target", "count", "seed", "batch_size")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


KINDS: dict[str, tuple[type, ...]] = {
    "test": (str,),
    "test_labels": (str,),
    "bank": (str,),
    "masks": (str,),
    "methods": (list, dict),
    "fills": (list,),
    "coverages": (list,),
    "target": (str,),
    "count": (int,),
    "seed": (int,),
    "batch_size": (int,),
    "device": (str,),
    "download": (bool,),
}
"""The settings of a file and what they may be."""


def read_request(path: Path) -> TransferRequest:
    """Read a study from a TOML file; paths in it are relative to the file.

    Raises:
        DataError: The file does not exist, or is no TOML.
        SettingError: A setting that does not exist, or of another kind.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        msg = f"There is no file {path}. Check the path."
        raise DataError(msg) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} is no readable TOML: {error}."
        raise DataError(msg) from error
    lines = content.pop("network", [])
    check_keys(content, KINDS, str(path))
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        msg = f"{path}: each network is a section of its own, [[network]]."
        raise SettingError(msg)
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
    }
    for key in ("test", "bank", "masks", "test_labels"):
        if key in values:
            values[key] = beside(path, values[key])
    networks = tuple(network_of(line, path) for line in lines)
    return TransferRequest(networks=networks, **values)


def check_keys(content: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], at: str) -> None:
    """Refuse settings that do not exist or are of another kind."""
    for key, value in content.items():
        if key not in kinds:
            msg = f"{at} has no setting {key!r}. It takes {', '.join(kinds)}, and [[network]]."
            raise SettingError(msg)
        wrong = isinstance(value, bool) and bool not in kinds[key]
        if wrong or not isinstance(value, kinds[key]):
            words = " or ".join(kind.__name__ for kind in kinds[key])
            msg = f"{at}: {key} takes a value of type {words}; got {value!r}."
            raise SettingError(msg)


NETWORK_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "model": (str,),
    "weights": (str,),
    "classes": (str,),
    "input": (list, dict),
    "family": (str,),
}


def network_of(line: Mapping[str, Any], path: Path) -> NetworkLine:
    """Return a network from its section of a file."""
    check_keys(line, NETWORK_KINDS, f"{path}, [[network]]")
    if "model" not in line:
        msg = f"{path}: every [[network]] needs a model; this one has {', '.join(line) or 'none'}."
        raise SettingError(msg)
    given = line.get("input", ())
    inputs = (
        [f"{key}={value}" for key, value in given.items()] if isinstance(given, dict) else given
    )
    model = str(line["model"])
    local = model.split(":", maxsplit=1)[0].endswith((".py", ".safetensors"))
    return NetworkLine(
        name=line.get("name", model),
        model=beside(path, model) if local else model,
        weights=beside(path, line["weights"]) if "weights" in line else None,
        classes=beside(path, line["classes"]) if "classes" in line else None,
        input=tuple(str(one) for one in inputs),
        family=line.get("family", ""),
    )


def beside(path: Path, source: str) -> str:
    """Return a path as it is from here, if it is one beside the file."""
    plain = source.split("#", maxsplit=1)[0].split(":", maxsplit=1)[0]
    near = path.parent / plain
    return str(path.parent / source) if near.exists() and not Path(source).is_absolute() else source


def network_lines(
    models: Sequence[str],
    weights: Sequence[str],
    classes: Sequence[str],
    inputs: Sequence[str],
    families: Sequence[str],
) -> tuple[NetworkLine, ...]:
    """Return networks from the lines of a command.

    Args:
        models: ``NAME=MODEL``, or a model, which is its own name.
        weights: ``NAME=FILE``.
        classes: ``NAME=FILE``, or a file for all.
        inputs: ``NAME:KEY=VALUE``, or ``KEY=VALUE`` for all.
        families: ``NAME=KIND``.

    Raises:
        SettingError: A line for a network that is not there, or without a name.
    """
    named = [split_name(model) for model in models]
    names = [name for name, _ in named]
    files, kinds = (
        by_name(given, names, option)
        for given, option in ((weights, "--weights"), (families, "--family"))
    )
    lines = []
    for name, model in named:
        own = [rest for one in inputs for who, rest in [prefixed(one, names)] if who in ("", name)]
        listed = [
            rest for one in classes for who, rest in [assigned(one, names)] if who in ("", name)
        ]
        lines.append(
            NetworkLine(
                name=name,
                model=model,
                weights=files.get(name),
                classes=listed[-1] if listed else None,
                input=tuple(own),
                family=kinds.get(name, ""),
            )
        )
    return tuple(lines)


def split_name(model: str) -> tuple[str, str]:
    """Return name and model of ``NAME=MODEL``; a model alone is its own name."""
    name, mark, rest = model.partition("=")
    plain = bool(mark) and "/" not in name and ":" not in name
    return (name.strip(), rest.strip()) if plain else (model, model)


def assigned(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the network that a line is for, and the rest; no name if it is for all."""
    for name in names:
        if text.startswith(f"{name}="):
            return name, text[len(name) + 1 :]
    return "", text


def prefixed(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the network that an input setting is for, and the setting."""
    for name in names:
        if text.startswith(f"{name}:"):
            return name, text[len(name) + 1 :]
    return "", text


def by_name(lines: Sequence[str], names: Sequence[str], option: str) -> dict[str, str]:
    """Return what is given for each network."""
    found = {}
    for text in lines:
        name, rest = assigned(text, names)
        if not name:
            msg = (
                f"{option} is written NAME=VALUE with the name of a network, one of "
                f"{', '.join(names) or 'none'}; got {text!r}."
            )
            raise SettingError(msg)
        found[name] = rest
    return found


def load_networks(request: TransferRequest) -> tuple[TransferNetwork, ...]:
    """Load the networks of a request with their data.

    Raises:
        DataError: No test images, or such as cannot be read.
        WhenceError: As :func:`whence.recipes.load_subject`.
    """
    if request.test is None:
        msg = "Give the test images with --test SOURCE, or test = ... in the file."
        raise DataError(msg)
    return tuple(
        transfer_network(
            load_subject(
                line.model,
                weights=None if line.weights is None else Path(line.weights),
                classes=None if line.classes is None else Path(line.classes),
                settings=line.input,
                device=request.device,
                download=request.download,
            ),
            request.test,
            name=line.name,
            family=line.family,
            labels=None if request.test_labels is None else Path(request.test_labels),
            bank=request.bank,
        )
        for line in request.networks
    )


def load_masks(request: TransferRequest) -> Tensor | None:
    """Return the object masks of a request, ``(n, 1, h, w)``.

    Raises:
        DataError: The file holds something else.
    """
    if request.masks is None:
        return None
    found = torch.from_numpy(read_npy(Path(request.masks)).copy()).float()
    found = found[:, None] if found.ndim == 3 else found  # noqa: PLR2004 - n h w
    if found.ndim != 4 or found.shape[1] != 1 or found.min() < 0 or found.max() > 1:  # noqa: PLR2004 - n 1 h w
        msg = (
            f"{request.masks} must hold masks (n, h, w) with values from 0 to 1; got "
            f"{tuple(found.shape)}, {float(found.min()):g} to {float(found.max()):g}."
        )
        raise DataError(msg)
    return found
