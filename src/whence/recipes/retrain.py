"""Retraining: ways to train again without some training images, at a price that can be paid."""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from whence.core import ImageData, Images, TensorData
from whence.errors import SettingError, UnsupportedOperation
from whence.influence.features import RepresenterPoints, last_layer, refitted
from whence.network import Network
from whence.recipes.neighbours import seen_by
from whence.recipes.removal import Retrain

__all__ = ["FineTune", "LastLayer", "Removal", "Way", "way_named"]


@runtime_checkable
class Way(Protocol):
    """A way to train again: settings, never a model."""

    def of(
        self, module: nn.Module, network: Network, train: ImageData, places: Tensor, images: Images
    ) -> Retrain:
        """Return what trains on subsets and answers with the queries' logits.

        Args:
            module: The model as it is.
            network: The same, read.
            train: The training data.
            places: Those of the ``n`` training images that subsets are told of, in their order.
            images: The queries, ``(q, c, h, w)``.
        """
        ...


@final
@dataclass(frozen=True, kw_only=True)
class LastLayer:
    r"""Fit the last layer anew, on the features as they are.

    The minimum of :math:`\frac{1}{n} \sum_i \ell(W h_i) + \lambda \lVert W \rVert^2` has no
    memory of the images that were removed, nor of chance: each subset has one answer. What the
    features owe to the removed images stays; so it tells less than training all layers anew.

    Cost: one forward pass over the training data, and a small convex problem per subset.

    Args:
        penalty: Lambda, over 0.
        tolerance: The fit stops where the largest slope is below it.
        steps: Or after so many steps of Newton's method, with an error.
    """

    penalty: float = 3e-3
    tolerance: float = 1e-5
    steps: int = 100

    def of(
        self, module: nn.Module, network: Network, train: ImageData, places: Tensor, images: Images
    ) -> Retrain:
        """Return what refits the last layer.

        Raises:
            UnsupportedOperation: If no linear layer makes the logits.
        """
        del module
        try:
            layer = last_layer(network)
        except UnsupportedOperation as error:
            msg = (
                f"The last layer cannot be fitted anew: {error} Retrain with fine-tune "
                f"(--retrain fine-tune, FineTune()) instead."
            )
            raise UnsupportedOperation(msg) from error
        settings = RepresenterPoints(
            penalty=self.penalty, tolerance=self.tolerance, steps=self.steps
        )
        seen = seen_by(network, train, wanted=places)
        features = with_one(seen.features, bias=layer.bias is not None)
        asked = with_one(features_of(network, images), bias=layer.bias is not None)
        classes = seen.logits.shape[1]

        def retrain(keep: Tensor) -> Tensor:
            found = []
            for row in keep:
                weights = refitted(features[row], seen.labels[row], classes, settings)
                found.append(asked @ weights.T)
            return torch.stack(found)

        return retrain


@final
@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Go on training from the weights as they are, on the images that are left.

    What the removed images did is forgotten only as far as these steps go, so the change is a
    lower bound of what training from scratch would show. All subsets see the same images in the
    same order, but for those that are gone. Batch norms and dropout stay as in use.

    Cost: ``steps`` training steps for each subset.

    Args:
        steps: Steps of Adam.
        rate: Its learning rate.
        batch_size: Images per step.
        seed: Of the order of the images.
    """

    steps: int = 100
    rate: float = 1e-3
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.steps < 1 or self.batch_size < 1 or not 0 < self.rate < float("inf"):
            msg = (
                f"Fine-tuning needs at least one step and image and a rate over 0; got "
                f"steps={self.steps}, batch_size={self.batch_size}, rate={self.rate}."
            )
            raise SettingError(msg)

    def of(
        self, module: nn.Module, network: Network, train: ImageData, places: Tensor, images: Images
    ) -> Retrain:
        """Return what fine-tunes copies of the weights."""
        del network
        device = images.device

        def retrain(keep: Tensor) -> Tensor:
            found = []
            for row in keep:
                weights = self.trained(module, train, places[row], device)
                with torch.no_grad():
                    found.append(functional_call(module, weights, (images,)))
            return torch.stack(found)

        return retrain

    def trained(
        self, module: nn.Module, train: ImageData, kept: Tensor, device: torch.device
    ) -> dict[str, Tensor]:
        """Return the weights after some steps on these images."""
        weights = {
            name: value.detach().clone().requires_grad_(value.requires_grad)
            for name, value in module.named_parameters()
        }
        moved = [value for value in weights.values() if value.requires_grad]
        if not moved:
            msg = (
                "No parameter of the model may be trained: all are frozen. Retrain with last-layer."
            )
            raise SettingError(msg)
        optimiser = torch.optim.Adam(moved, lr=self.rate)
        order = order_of(kept, len(train), self.steps * self.batch_size, self.seed)
        with torch.enable_grad():
            for batch in train.batches(self.batch_size, order.tolist()):
                optimiser.zero_grad()
                logits = functional_call(module, weights, (batch.images.to(device),))
                loss = functional.cross_entropy(logits, batch.labels.to(device))
                torch.autograd.backward(loss)
                optimiser.step()
        return {name: value.detach() for name, value in weights.items()}


@final
@dataclass(frozen=True, kw_only=True)
class Removal:
    """What to remove in an audit, and how to train again.

    Args:
        counts: How many training images, ascending.
        by: ``"proponents"``: those with the highest scores for each prediction; ``"harmful"``:
            of wrong predictions, those that speak for it rather than for the label.
        retrain: How to train again.
        together: One ranking for all predictions, the mean of their scores, instead of each its
            own: fewer trainings.
        draws: Random subsets of each count, the control.
        seed: Of these.
    """

    counts: tuple[int, ...]
    by: str = "proponents"
    retrain: Way = LastLayer()
    together: bool = False
    draws: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.by not in ("proponents", "harmful"):
            msg = f"by is 'proponents' or 'harmful'; got {self.by!r}."
            raise SettingError(msg)
        if not self.counts or list(self.counts) != sorted(set(self.counts)) or self.counts[0] < 1:
            msg = (
                f"Counts are numbers of images to remove, ascending from 1, such as 5,20,80; got "
                f"{list(self.counts)}."
            )
            raise SettingError(msg)
        if self.draws < 1:
            msg = f"draws must be at least 1; got {self.draws}."
            raise SettingError(msg)


WAYS: dict[str, type[LastLayer] | type[FineTune]] = {
    "last-layer": LastLayer,
    "fine-tune": FineTune,
}


def way_named(name: str, settings: dict[str, object]) -> Way:
    """Return a way to train again, by name.

    Raises:
        SettingError: If there is no such way or setting.
    """
    if name not in WAYS:
        msg = f"Unknown way to train again {name!r}. Choose one of: {', '.join(WAYS)}."
        raise SettingError(msg)
    way = WAYS[name]
    known = way.__dataclass_fields__
    for key, value in settings.items():
        if key not in known or not isinstance(value, int | float):
            msg = f"{name} has no setting {key}={value}; it takes numbers for {', '.join(known)}."
            raise SettingError(msg)
    return way(**settings)  # type: ignore[arg-type]


def order_of(kept: Tensor, total: int, wanted: int, seed: int) -> Tensor:
    """Return kept places in an order that does not depend on which others are kept."""
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(total, dtype=torch.bool)
    held[kept] = True
    parts: list[Tensor] = []
    while sum(len(part) for part in parts) < wanted:
        mixed = torch.randperm(total, generator=generator)
        parts.append(mixed[held[mixed]])
    return torch.cat(parts)[:wanted]


def with_one(features: Tensor, *, bias: bool) -> Tensor:
    """Return features in double precision, with a one for the bias."""
    doubled = features.double()
    return torch.cat([doubled, torch.ones_like(doubled[:, :1])], dim=1) if bias else doubled


def features_of(network: Network, images: Images) -> Tensor:
    """Return what enters the last layer for some images."""
    return seen_by(network, TensorData(images=images.cpu())).features
