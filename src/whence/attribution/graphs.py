"""From a function of images to the network that it explains, and that network under rules."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch.nn import Module

from whence.attribution.readings import checksum
from whence.core import ModelScalar, ScalarFn
from whence.errors import SettingError
from whence.network import Network

__all__ = ["graph_of", "remade"]

Made = TypeVar("Made")

Contents = tuple[tuple[int, int], ...]

MADE: WeakKeyDictionary[Network, dict[Hashable, tuple[Contents, Any]]] = WeakKeyDictionary()
"""What was made of a network, for as long as it lives."""


def graph_of(f: ScalarFn, method: str) -> tuple[Network, ModelScalar]:
    """Return the network that a function explains.

    Raises:
        SettingError: If its model has not been read as a network.
    """
    if isinstance(f, ModelScalar) and isinstance(f.model, Network):
        return f.model, f
    came = type(f.model).__name__ if isinstance(f, ModelScalar) else type(f).__name__
    msg = (
        f"{method} replaces the backward pass of operations and needs the network's graph; got "
        f"{came}. Read the model first: ModelScalar(Network.read(model, images), target). Methods "
        f"that need gradients only (Gradient, InputXGradient, SmoothGrad, IntegratedGradients) "
        f"work on any callable."
    )
    raise SettingError(msg)


def remade(network: Network, key: Hashable, make: Callable[[Network], Made]) -> Made:
    """Return ``make(network)``, made once per key and made again after the weights changed.

    Every call looks at the weights' bytes, which takes less than a hundredth of a pass over a
    batch: their version counters miss what is written through ``.data``.
    """
    held = MADE.setdefault(network, {})
    contents = contents_of(network.module)
    if key in held and held[key][0] == contents:
        found: Made = held[key][1]
        return found
    made = make(network)
    held[key] = (contents, made)
    return made


def contents_of(module: Module) -> Contents:
    """Return where the weights lie and a checksum of each."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((t.data_ptr(), checksum(t)) for t in tensors)
