"""Training again on changed data: from new weights, from those that are there, or the last layer.

What :mod:`whence.recipes.retrain` does for images that are left out, here for images or labels
that are changed: each way makes a network of the same architecture, and leaves the given one as
it is.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from whence.core import TensorData
from whence.errors import DataError, NumericsError, SettingError
from whence.influence.features import RepresenterPoints, last_layer, refitted
from whence.network import Network
from whence.recipes.load import pairs
from whence.recipes.neighbours import seen_by
from whence.recipes.retrain import FineTune, LastLayer

__all__ = ["FromScratch", "Trainer", "anew_named", "by_chance", "drawn_anew"]

Trainer = Callable[[nn.Module, TensorData, int], nn.Module]
"""Trains a copy of a network on data, from a seed; returns it in eval mode."""


@final
@dataclass(frozen=True, kw_only=True)
class FromScratch:
    r"""Draw the weights anew and train all of them, as ROAR and data randomisation are meant.

    AdamW with a cosine schedule; batch norms and dropout as in training. Layers draw their weights
    as PyTorch does (``reset_parameters``); parameters that belong to no such layer, as class
    tokens and positions, become normal noise of the same root mean square.

    Cost: ``epochs`` forward and backward passes over the training images, for each network.

    Args:
        epochs: Passes over the data.
        rate: The learning rate at its highest.
        batch_size: Images per step.
        decay: Weight decay.
    """

    epochs: int = 20
    rate: float = 1e-3
    batch_size: int = 64
    decay: float = 1e-4

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.epochs < 1 or self.batch_size < 2 or not 0 < self.rate < float("inf"):  # noqa: PLR2004 - batch norms need two images
            msg = (
                f"Training needs one epoch at least, batches of two images, and a rate over 0; got "
                f"epochs={self.epochs}, batch_size={self.batch_size}, rate={self.rate}."
            )
            raise SettingError(msg)

    def __call__(self, module: nn.Module, data: TensorData, seed: int) -> nn.Module:
        """Return a network that was trained on the data, in eval mode.

        Raises:
            DataError: If there are fewer than two images, or images without labels.
            NumericsError: If the loss becomes NaN or infinite.
        """
        labels = labels_of(data)
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=()), torch.enable_grad():
            torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
            model = drawn_anew(module, generator).train()
            for parameter in model.parameters():
                parameter.requires_grad_()
            optimiser = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=self.decay)
            parts = max(1, len(labels) // self.batch_size)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs * parts)
            for _ in range(self.epochs):
                order = torch.randperm(len(labels), generator=generator)
                for rows in order.tensor_split(parts):
                    optimiser.zero_grad()
                    logits = model(data.images[rows].to(device))
                    loss = functional.cross_entropy(logits, labels[rows].to(device))
                    check_loss(loss)
                    torch.autograd.backward(loss)
                    optimiser.step()
                    schedule.step()
        return model.eval()


@final
@dataclass(frozen=True, kw_only=True)
class Anew:
    """A way of :mod:`whence.recipes.retrain`, on data that are changed.

    Args:
        way: It goes on from the weights as they are, so that what was learned from the data
            before the change stays in part.
    """

    way: FineTune | LastLayer

    def __call__(self, module: nn.Module, data: TensorData, seed: int) -> nn.Module:
        """Return a network that was trained on the data, in eval mode.

        Raises:
            DataError: If images have no labels.
            UnsupportedOperation: If no linear layer makes the logits, and it is to be fitted.
        """
        labels = labels_of(data)
        made = copy.deepcopy(module)
        if isinstance(self.way, FineTune):
            device = next((p.device for p in module.parameters()), torch.device("cpu"))
            way = replace(self.way, seed=self.way.seed + seed)
            found = way.trained(module, data, torch.arange(len(labels)), device)
        else:
            found = self.last(module, data)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if name in found:
                    parameter.copy_(found[name])
        return made

    def last(self, module: nn.Module, data: TensorData) -> dict[str, Tensor]:
        """Return the weights of the last layer, fitted anew to the features as they are."""
        network = Network.read(module, data.images[:2].to(next(module.parameters()).device))
        layer, settings = last_layer(network), self.way
        seen = seen_by(network, data)
        features = seen.features.double()
        if layer.bias is not None:
            features = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        penalty = settings.penalty if isinstance(settings, LastLayer) else 0.0
        weights = refitted(
            features, seen.labels, seen.logits.shape[1], RepresenterPoints(penalty=penalty)
        )
        if layer.bias is None:
            return {layer.weight: weights}
        return {layer.weight: weights[:, :-1], layer.bias: weights[:, -1]}


WAYS: dict[str, type[FromScratch] | type[FineTune] | type[LastLayer]] = {
    "scratch": FromScratch,
    "fine-tune": FineTune,
    "last-layer": LastLayer,
}


def anew_named(text: str) -> Trainer:
    """Return a way to train again, ``NAME`` or ``NAME:key=value,key=value``.

    Raises:
        SettingError: If there is no such way or setting, with the closest that exists.

    Example:
        >>> anew_named("scratch:epochs=5").epochs
        5
    """
    name, mark, rest = text.partition(":")
    if name not in WAYS:
        near = get_close_matches(name, WAYS, 1, 0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        msg = f"Unknown way to train again {name!r}.{hint} Choose one of: {', '.join(WAYS)}."
        raise SettingError(msg)
    way = WAYS[name]
    known = {entry.name: entry.type for entry in fields(way)}
    settings: dict[str, float] = {}
    for key, value in (pairs(rest.split(","), "epochs=20") if mark else {}).items():
        whole = known.get(key.replace("-", "_")) is int
        try:
            settings[key.replace("-", "_")] = int(value) if whole else float(value)
        except ValueError:
            known.pop(key.replace("-", "_"), None)
        if key.replace("-", "_") not in known:
            takes = ", ".join(entry.name for entry in fields(way))
            msg = f"{name} has no setting {key}={value}; it takes numbers for {takes}."
            raise SettingError(msg)
    made = way(**settings)  # type: ignore[arg-type]
    return made if isinstance(made, FromScratch) else Anew(way=made)


def by_chance(trainer: Trainer) -> bool:
    """Return whether another seed gives another network; of a way of yours it is assumed."""
    return not (isinstance(trainer, Anew) and isinstance(trainer.way, LastLayer))


@torch.no_grad()
def drawn_anew(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy whose weights are drawn anew; the global state of chance has to be set."""
    made = copy.deepcopy(module)
    fresh: set[int] = set()
    for part in made.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            before = {id(p): p.clone() for p in part.parameters(recurse=False)}
            reset()
            fresh |= {
                id(p)
                for p in part.parameters(recurse=False)
                if not torch.equal(p, before[id(p)]) or bool((p == 0).all() or (p == 1).all())
            }
    for parameter in made.parameters():
        if id(parameter) not in fresh:
            size = parameter.double().square().mean().sqrt()
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(size.cpu() * noise)
    return made


def labels_of(data: TensorData) -> Tensor:
    """Return the labels, which there must be, of two images or more."""
    labels = data.labels
    if labels is None or bool((labels < 0).any()) or len(labels) < 2:  # noqa: PLR2004 - a batch norm's
        msg = (
            f"Training needs two images or more, all with labels; {data.title} has "
            f"{len(data.images)}."
        )
        raise DataError(msg)
    return labels.long()


def check_loss(loss: Tensor) -> None:
    """Refuse a loss that is not a number."""
    if not bool(loss.isfinite()):
        msg = (
            "The loss became NaN or infinite while training again. Give a lower rate, such as "
            "--retrain scratch:rate=0.0001."
        )
        raise NumericsError(msg)
