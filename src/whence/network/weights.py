"""Weight files: read without running code, fitted to an architecture, refused with a reason."""

import argparse
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from whence.core.sniff import impostor
from whence.errors import NumericsError, WeightsError

__all__ = ["check_finite", "count_classes", "fit_names", "load_weights", "read_weights"]

CONTAINERS = ("state_dict", "model", "model_state_dict", "ema", "model_ema", "state_dict_ema")
"""Keys under which training scripts keep the weights, in the order they are looked for."""

PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "net.", "network.")
"""What wrappers put before each name; removed only if the names then fit."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt")
SHOWN = 3
CODE = re.compile(r"GLOBAL ([\w.]+)")
"""Where torch says what a pickle asked for."""

REASON = re.compile(r"WeightsUnpickler error:\s*(\S.*)")
"""Where torch says what is wrong with a pickle."""

COUNTER = ".num_batches_tracked"
"""Batch norms count their batches in training; old files lack it and predictions ignore it."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read named tensors from ``.safetensors``, or from a file of ``torch.save``.

    Nothing in the file is run: ``torch.load`` reads it with ``weights_only=True``. The weights may
    stand alone or in a checkpoint, under one of the usual keys.

    Raises:
        WeightsError: The file is missing, a folder, truncated, something else than weights, or
            asks to run code.
        NumericsError: A tensor holds NaN or infinity.
    """
    path = Path(path)
    check_file(path)
    found = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    state = unwrapped(found, path)
    check_finite(state, str(path))
    return state


def check_file(path: Path) -> None:
    """Refuse what cannot be a weight file before any library opens it."""
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
        hint = f" It holds {', '.join(inside[:SHOWN])}." if inside else ""
        msg = f"{path} is a folder; one weight file was needed.{hint} Name the file."
        raise WeightsError(msg)
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES)
        hint = f" That folder has {', '.join(near[:SHOWN])}." if near else ""
        msg = f"There is no weight file {path}.{hint} Check the path."
        raise WeightsError(msg)
    try:
        with path.open("rb") as file:
            start = file.read(200)
    except OSError as error:
        msg = f"{path} could not be opened: {error.strerror or error}. Check its permissions."
        raise WeightsError(msg) from error
    if not start:
        msg = f"{path} is empty (0 bytes). Fetch or save the weights again."
        raise WeightsError(msg)
    known = impostor(start)
    if known:
        msg = f"{path} is {known}."
        raise WeightsError(msg)
    if path.suffix not in SUFFIXES:
        msg = f"{path} does not end like a weight file. Known are {', '.join(SUFFIXES)}."
        raise WeightsError(msg)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise truncated(path, error) from error
    return tensors


def read_torch(path: Path) -> object:
    """Read a file of ``torch.save`` without running anything in it."""
    try:
        # Checkpoints often keep the options of their training: a Namespace of plain values.
        options = torch.serialization.safe_globals([argparse.Namespace])
        with warnings.catch_warnings(), options:
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged archive or pickle is answered with almost any exception.
        raise refused(path, error) from error


def refused(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that ``torch.load`` would not read, by its reason."""
    text = str(error)
    if "TorchScript" in text:
        return WeightsError(
            f"{path} is a TorchScript archive, which is code with weights. Save only the weights: "
            f"torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    asked = CODE.search(text)
    if asked:
        return WeightsError(
            f"{path} holds more than tensors ({asked.group(1)}): reading it could run code. "
            f"Save only the weights, torch.save(model.state_dict(), path), or as safetensors."
        )
    return truncated(path, error)


def truncated(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that breaks off or is something else."""
    found = REASON.search(str(error))
    first = [found.group(1)] if found else str(error).strip().splitlines()
    reason = first[0][:160] if first else type(error).__name__
    return WeightsError(
        f"{path} is truncated or corrupt, or no weight file ({path.stat().st_size:,} bytes; "
        f"{reason}). Compare its size with the original and fetch or save it again."
    )


def unwrapped(found: object, path: Path) -> dict[str, Tensor]:
    """Return the named tensors in what a file holds."""
    if isinstance(found, Mapping):
        for key in CONTAINERS:
            inner = found.get(key)
            if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
                found = inner
                break
        state = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
        if state:
            return state
        have = f"a mapping with the keys {', '.join(map(repr, list(found)[:SHOWN])) or 'none'}"
    else:
        have = f"a {type(found).__name__}"
    msg = (
        f"{path} holds {have}, and named tensors were needed, alone or under one of "
        f"{', '.join(CONTAINERS[:4])}. Save model.state_dict()."
    )
    raise WeightsError(msg)


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity, naming the first tensor that holds one."""
    for name, value in state.items():
        if value.is_meta:
            msg = (
                f"{where} has weights on the device 'meta', such as {name!r}: shapes without "
                f"values. Load the values, or build it on 'cpu'."
            )
            raise WeightsError(msg)
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            bad = int((~torch.isfinite(value)).sum())
            kind = "NaN" if bool(torch.isnan(value).any()) else "infinity"
            msg = (
                f"{where} holds {kind}: {bad} of {value.numel()} values of {name} are not finite. "
                f"The training diverged or the file is damaged; use an earlier checkpoint."
            )
            raise NumericsError(msg)


def fit_names(state: Mapping[str, Tensor], expected: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights under the names that a model expects, wrappers' prefixes removed.

    Prefixes are removed only if that brings more names to fit than leaving them does.
    """
    wanted = frozenset(expected)
    best, most = dict(state), -1
    for candidate in stripped(dict(state)):
        fitting = len(wanted & candidate.keys())
        if fitting > most:
            best, most = candidate, fitting
    return best


def stripped(state: dict[str, Tensor], depth: int = 3) -> Iterator[dict[str, Tensor]]:
    """Yield the weights as they are, then with prefixes removed that every name carries."""
    yield state
    for prefix in PREFIXES:
        if depth and all(name.startswith(prefix) for name in state):
            yield from stripped({n.removeprefix(prefix): v for n, v in state.items()}, depth - 1)


def count_classes(state: Mapping[str, Tensor], build: Callable[[int], nn.Module]) -> int | None:
    """Return how many outputs an architecture needs so that the weights fit.

    The head is found, not guessed: it is where two networks of the architecture, built for
    different numbers of classes, differ in shape. They are built without memory for their weights
    where the architecture allows it.

    Args:
        state: The weights; wrappers' prefixes may still be on their names.
        build: Builds the architecture for a number of classes.
    """
    small, large = (shapes_for(build, count) for count in (11, 13))
    named = fit_names(state, list(small))
    counts = set()
    for name, shape in small.items():
        for axis, (a, b) in enumerate(zip(shape, large[name], strict=True)):
            if a != b and name in named and len(named[name].shape) == len(shape):
                counts.add(named[name].shape[axis])
    return counts.pop() if len(counts) == 1 else None


def shapes_for(build: Callable[[int], nn.Module], count: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an architecture's weights for a number of classes."""
    try:
        with torch.device("meta"):
            model = build(count)
    except (RuntimeError, NotImplementedError, TypeError):
        model = build(count)
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def load_weights(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Copy weights into a model, all or nothing.

    Args:
        model: Whom the weights are for; changed in place.
        state: Named tensors; wrappers' prefixes are removed if the names fit then.
        where: What to call the weights in an error.

    Raises:
        WeightsError: Names are missing or left over, or shapes differ.
    """
    expected = model.state_dict()
    named = fit_names(state, list(expected))
    missing = [n for n in expected if n not in named and not n.endswith(COUNTER)]
    unexpected = [n for n in named if n not in expected and not n.endswith(COUNTER)]
    shapes = [
        f"{n} is {tuple(named[n].shape)}, needed {tuple(expected[n].shape)}"
        for n in expected
        if n in named and named[n].shape != expected[n].shape
    ]
    if missing or unexpected or shapes:
        msg = (
            f"{where} does not fit the model. {some('missing', missing)} "
            f"{some('unexpected', unexpected)} {some('of another shape', shapes)} Choose the "
            f"architecture that the weights were trained with."
        )
        raise WeightsError(msg)
    whole = {name: named.get(name, value) for name, value in expected.items()}
    model.load_state_dict(whole)


def some(what: str, names: Sequence[str]) -> str:
    """Return how many keys there are of a kind, and the first few."""
    if not names:
        return f"0 keys {what}."
    more = ", ..." if len(names) > SHOWN else ""
    keys = "key" if len(names) == 1 else "keys"
    return f"{len(names)} {keys} {what}: {'; '.join(names[:SHOWN])}{more}."
