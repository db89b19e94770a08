"""A study of harmony as lines of a command: what is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
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
    "named_texts",
    "network_lines",
    "split_name",
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

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, under the names that :func:`whence.transfer` gives it."""
        names = ("methods", "fills", "coverages", "target", "count", "seed", "batch_size")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def named_texts(texts: Sequence[str]) -> tuple[str, ...] | dict[str, str]:
    """Return texts by a name where some are written ``NAME=TEXT``; else as they are.

    ``=`` behind a colon belongs to a setting: ``deletion:steps=10`` has no name of its own.

    Raises:
        SettingError: A name is given twice.
    """
    parted = []
    for text in texts:
        head, mark, rest = text.partition("=")
        own = bool(mark) and ":" not in head
        parted.append((head.strip(), rest.strip()) if own else (text, text))
    names = [name for name, _ in parted]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        msg = f"{twice[0]!r} is given twice. Give each once, or name them: NAME=TEXT."
        raise SettingError(msg)
    same = all(name == text for name, text in parted)
    return tuple(names) if same else dict(parted)


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
        msg = "Give the test images with --test SOURCE, or test = ... in a file for --config."
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
