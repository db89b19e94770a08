"""Models that someone else holds and changes: each read once, and again when it is another.

A network shares its parameters with the model that it was read from, so that weights which change
in place show through. What would not show through is noticed here: another structure, plain
attributes, replaced parameters, and weights of which something was made (folded batch norms).
"""

import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from whence.core import Images
from whence.network import Network
from whence.network.export import twin
from whence.network.rewrite import attributes

__all__ = ["Readings", "checksum"]

PLAIN = (bool, int, float, complex, str, bytes, type, type(None), torch.dtype, torch.device)
DEPTH = 4
"""How deep containers among a module's attributes are looked into."""

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
CHUNK = 2**20


@final
class Readings:
    """What was read from models, kept for as long as they live."""

    def __init__(self) -> None:
        self.held: WeakKeyDictionary[nn.Module, Reading] = WeakKeyDictionary()

    def ready(self, model: nn.Module, images: Images, *, graph: bool) -> nn.Module | Network:
        """Return the model in eval mode, or the network that it is, for these images.

        A model in train mode is left in it: a copy of its structure over the same weights takes
        its place.

        Args:
            model: The model as it is now.
            images: Images as it takes them.
            graph: Whether its graph is needed.
        """
        structure, contents = structure_of(model), contents_of(model)
        held = self.held.get(model)
        if held is None or held.structure != structure:
            copied = twin(model).eval() if in_training(model) else None
            held = Reading(structure=structure, contents=contents, copied=copied)
        quiet = model if held.copied is None else held.copied
        network = held.network
        if network is not None and held.contents != contents:
            network = replace(network) if shares_all(network, model) else None
        if graph and (network is None or not fits(network, images)):
            network = Network.read(quiet, images)
        self.held[model] = replace(held, contents=contents, network=network)
        return network if graph and network is not None else quiet


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """A model as it was found. The model itself is not kept, or it would live forever.

    Args:
        structure: What the model looked like.
        contents: Checksums of its weights.
        copied: Its copy in eval mode, if it is in train mode.
        network: What was read, once it was needed.
    """

    structure: tuple[Any, ...]
    contents: tuple[int, ...]
    copied: nn.Module | None
    network: Network | None = None


def in_training(model: nn.Module) -> bool:
    """Return whether any part of a model is in train mode."""
    return any(module.training for module in model.modules())


def fits(network: Network, images: Images) -> bool:
    """Return whether a network was read with images like these."""
    kept = network.example
    return (kept.shape[1:], kept.dtype, kept.device) == (
        images.shape[1:],
        images.dtype,
        images.device,
    )


def shares_all(network: Network, model: nn.Module) -> bool:
    """Return whether all tensors of a network are the model's own; constants are not."""
    own = {id(tensor) for tensor in tensors_of(model)}
    return all(
        id(value) in own
        for value in attributes(network.module, network.graph).values()
        if isinstance(value, Tensor)
    )


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Yield parameters and buffers."""
    yield from model.parameters()
    yield from model.buffers()


def structure_of(model: nn.Module) -> tuple[Any, ...]:
    """Return what a model looks like, apart from the contents of its weights."""
    modules = tuple(
        (name, type(module), frozen(attributes_of(module), DEPTH))
        for name, module in model.named_modules()
    )
    named = (*model.named_parameters(), *model.named_buffers())
    tensors = tuple((name, Same(t), t.dtype, t.device, t.shape) for name, t in named)
    return modules, tensors


def attributes_of(module: nn.Module) -> dict[str, Any]:
    """Return a module's attributes, without those that are modules, parameters or buffers."""
    held = ("_modules", "_parameters", "_buffers")
    return {name: value for name, value in vars(module).items() if name not in held}


def frozen(value: Any, depth: int) -> Any:  # noqa: ANN401 - a module may have any attribute
    """Return a value that can be kept and compared: plain as it is, others by identity.

    Tensors that are no parameters and no buffers may become constants of a graph, so that their
    contents count.
    """
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor) and value.layout == torch.strided:
        return Same(value), value.shape, checksum(value)
    if depth and isinstance(value, (list, tuple)):
        return tuple(frozen(item, depth - 1) for item in value)
    if depth and isinstance(value, dict):
        return tuple((frozen(k, depth - 1), frozen(v, depth - 1)) for k, v in value.items())
    if isinstance(value, (set, frozenset)) and all(isinstance(item, PLAIN) for item in value):
        return frozenset(value)
    return Same(value)


@final
class Same:
    """An object that is compared by identity, and not kept alive where that is possible."""

    def __init__(self, value: Any) -> None:  # noqa: ANN401 - any object has an identity
        try:
            self.reference: Any = weakref.ref(value)
        except TypeError:
            self.reference = lambda: value

    def __eq__(self, other: object) -> bool:
        """Return whether both are one object, which is still there."""
        mine = self.reference()
        return isinstance(other, Same) and mine is not None and mine is other.reference()

    __hash__ = None  # type: ignore[assignment]


def contents_of(model: nn.Module) -> tuple[int, ...]:
    """Return a checksum of each parameter and buffer.

    A tensor's version would cost nothing, and misses what is written through ``.data``. One pass
    over the bytes takes less than a hundredth of a pass through the network.
    """
    return tuple(checksum(tensor) for tensor in tensors_of(model))


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Return a checksum of a tensor's bytes; where they are not in main memory, of its words."""
    flat = tensor.detach()
    flat = torch.view_as_real(flat) if flat.is_complex() else flat
    flat = flat.contiguous().reshape(-1).view(WORDS[flat.element_size()])
    if flat.device.type == "cpu":
        return zlib.crc32(flat.numpy().data)
    return weighted_sum(flat)


def weighted_sum(words: Tensor) -> int:
    """Return the sum of words, each times its odd place, modulo two to the 64."""
    places = torch.arange(min(len(words), CHUNK), device=words.device) * 2 + 1
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK]
        total = total * (2 * CHUNK + 1) + (part.long() * places[: len(part)]).sum()
    return int(total)
