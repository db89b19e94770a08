"""Checkpoints: the same network with other weights, for scores over several of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from torch import Tensor, nn

from whence.errors import MismatchError, NumericsError, SettingError
from whence.network import Network, rewrite
from whence.network.weights import fit_names, read_weights

__all__ = ["Checkpoint", "network_at"]

STATISTICS = (".running_mean", ".running_var")
"""Buffers that are trained, too."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Weights at one moment of training, or of another training run.

    Args:
        weights: The model's state dict then, or a file of it (``.safetensors``, or of
            ``torch.save``: nothing in it is run, and what wrappers put before names is removed);
            or a network that was read from another model. A file is read when it is needed, and
            not kept.
        learning_rate: The learning rate then. Scorers that add up training steps multiply by it;
            those that average models do not use it.
    """

    weights: Mapping[str, Tensor] | Network | str | Path
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        """Check the learning rate."""
        if not 0 < self.learning_rate < float("inf"):
            msg = f"A learning rate is over 0, and finite; got {self.learning_rate}."
            raise SettingError(msg)


def network_at(network: Network, checkpoint: Checkpoint) -> Network:
    """Return the network with the weights of a checkpoint; the model is left as it is.

    Raises:
        MismatchError: If the weights have other names or shapes than the network's.
        NumericsError: If a weight is NaN or infinite.
        WeightsError: If a file cannot be read.
    """
    weights = checkpoint.weights
    if isinstance(weights, Network):
        if weights.shape != network.shape:
            msg = (
                f"A checkpoint's network takes images of shape {weights.shape}, this one "
                f"{network.shape}. Read both with the same images."
            )
            raise MismatchError(msg)
        return weights
    graph, _ = rewrite.copied(network.graph)
    held = rewrite.attributes(network.module, graph)
    if isinstance(weights, str | Path):
        weights = fit_names(read_weights(Path(weights)), list(held))
    check_names(network, held, weights)
    parameters: dict[str, nn.Parameter] = {}
    for name, old in held.items():
        new = weights.get(name)
        if new is None or not isinstance(old, Tensor):
            continue
        check_weight(name, old, new)
        value = new.detach().to(device=old.device, dtype=old.dtype)
        held[name] = value
        if name in network.parameters:
            held[name] = parameters[name] = nn.Parameter(value.clone())
    return Network(
        module=rewrite.compiled(held, graph),
        shape=network.shape,
        parameters={name: parameters[name] for name in network.parameters},
        example=network.example,
        unread=network.unread,
    )


def check_names(
    network: Network, held: Mapping[str, object], weights: Mapping[str, Tensor]
) -> None:
    """Refuse weights that lack one of the network's, or have one that it has no place for."""
    needed = [n for n in held if n in network.parameters or n.endswith(STATISTICS)]
    missing = [name for name in needed if name not in weights]
    if missing:
        msg = (
            f"The checkpoint does not fit the network: it has no {missing[0]!r} "
            f"({len(missing)} of {len(needed)} weights are missing). Give the state dict of the "
            f"same model."
        )
        raise MismatchError(msg)
    known = {*held, *network.unread}
    same = {value.data_ptr() for name, value in weights.items() if name in known}
    strange = [
        name
        for name, value in weights.items()
        if name not in known
        and value.is_floating_point()
        and value.ndim > 1
        and value.data_ptr() not in same
    ]
    if strange:
        msg = (
            f"The checkpoint does not fit the network: {strange[0]!r} is none of its weights "
            f"({len(strange)} of {len(weights)} are not). Give the state dict of the same model."
        )
        raise MismatchError(msg)


def check_weight(name: str, old: Tensor, new: Tensor) -> None:
    """Refuse a weight of another shape, or one that is not finite."""
    if old.shape != new.shape:
        msg = (
            f"The checkpoint does not fit the network: {name!r} has shape {tuple(new.shape)}, the "
            f"network's has {tuple(old.shape)}."
        )
        raise MismatchError(msg)
    if new.is_floating_point() and not new.isfinite().all():
        msg = f"The checkpoint's {name!r} holds NaN or infinity. Give an earlier checkpoint."
        raise NumericsError(msg)
