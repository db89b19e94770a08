r"""Randomisation: does an attribution depend on what the network has learned?

If a map stays the same while the weights are drawn anew, it does not explain them.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn

from whence.core import Images, Method, ModelScalar, Scalars, Target
from whence.errors import SettingError
from whence.evaluation.agreement import Pairwise, Spearman
from whence.evaluation.metric import MetricCard
from whence.network import Network

__all__ = ["Cascade", "ParameterRandomisation"]

ORDERS: Final = ("top-down", "bottom-up", "independent")


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cascade:
    """How alike the maps stay while a network is randomised layer by layer.

    Args:
        layers: The layer randomised at each step.
        correlations: Likeness to the original map after each step, ``(s, b)``; NaN where it is
            undefined, such as the correlation with a map that has become constant.
    """

    layers: tuple[str, ...]
    correlations: Tensor

    @property
    def score(self) -> Scalars:
        """The mean over each image's steps that are defined; NaN if none is."""
        return self.correlations.nanmean(dim=0)

    @property
    def undefined(self) -> Tensor:
        """How many steps of each image are undefined, and left out of its score, ``(b,)``."""
        return self.correlations.isnan().sum(dim=0)


@final
@dataclass(frozen=True, kw_only=True)
class ParameterRandomisation:
    r"""Likeness to the original map while parameters are drawn anew, layer by layer.

    Every parameter in the graph's order counts: weights, biases, norms, tokens and positions.
    Each is replaced by normal noise of the same root mean square, so that signals keep their
    size; a parameter that is zero everywhere holds nothing learned and stays. Running statistics
    of batch norms stay too. The model itself is not touched: a copy is randomised.

    A method that draws anew at each call forgets best of all, so that this cannot rank methods:
    it finds those that ignore the weights. The size of the forward signals survives, and a right
    map changes in part only (Binder et al. 2023).

    Args:
        seed: Seed of the noise, drawn on the CPU.
        agreement: How two maps are compared.
        order: ``top-down`` from the output, or ``bottom-up`` from the images, what was
            randomised before staying so; or ``independent``, one layer at a time while the
            others keep their weights.

    References:
        Adebayo et al. (2018), "Sanity Checks for Saliency Maps" (cascading and independent
        randomisation); Hedstroem et al. (2024), "Sanity Checks Revisited" (bottom-up).
    """

    seed: int = 0
    agreement: Pairwise = field(default_factory=Spearman)
    order: str = "top-down"

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="0 for maps that forget the weights at once; 1 for maps that ignore them",
        reference="Adebayo et al. (2018), Sanity Checks for Saliency Maps",
    )

    def __post_init__(self) -> None:
        """Check the order."""
        check_order(self.order)

    def __call__(self, model: nn.Module, images: Images, target: Target, method: Method) -> Cascade:
        """Return the likeness after each step; costs one run of ``method`` per layer.

        Args:
            model: The model, in eval mode.
            images: ``(b, c, h, w)``.
            target: What is explained. Name the classes; do not let them follow the predictions.
            method: The method that is judged.
        """
        network = Network.read(copy.deepcopy(model), images)
        f = ModelScalar(network, target)
        original = method(f, images).detach()
        layers, found = [], list[Tensor]()
        for layer in randomised(network, order=self.order, seed=self.seed):
            layers.append(layer)
            found.append(self.agreement(original, method(f, images).detach()))
        return Cascade(layers=tuple(layers), correlations=torch.stack(found))


def randomised(network: Network, *, order: str, seed: int) -> Iterator[str]:
    """Yield the name of each layer when its parameters have just been drawn anew.

    Args:
        network: A network of our own, whose parameters are overwritten.
        order: ``top-down``, ``bottom-up`` or ``independent``.
        seed: Seed of the noise.

    Raises:
        SettingError: If there is no parameter on the way from the images to the logits.
    """
    layers = layers_of(network)
    if not layers:
        msg = "The model has no parameters on the way from images to logits to randomise."
        raise SettingError(msg)
    generator = torch.Generator().manual_seed(seed)
    names = list(layers)
    for layer in reversed(names) if order == "bottom-up" else names:
        before = {name: network.parameters[name].detach().clone() for name in layers[layer]}
        for name in layers[layer]:
            redraw(network.parameters[name], generator)
        yield layer
        if order == "independent":
            restore(network, before)


@torch.no_grad()
def restore(network: Network, before: Mapping[str, Tensor]) -> None:
    """Give parameters of our own the values that they had."""
    for name, values in before.items():
        network.parameters[name].copy_(values)


def check_order(order: str) -> None:
    """Refuse an order that does not exist."""
    if order not in ORDERS:
        msg = f"order must be one of {', '.join(ORDERS)}; got {order!r}."
        raise SettingError(msg)


def layers_of(network: Network) -> dict[str, list[str]]:
    """Return the parameters of each layer, by their first use, from the output to the images."""
    used = [
        str(source.target)
        for node in network.graph.nodes
        for source in node.all_input_nodes
        if source.op == "get_attr"
    ]
    layers: dict[str, list[str]] = {}
    for name in reversed(list(dict.fromkeys(used))):
        if name in network.parameters:
            layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    return layers


@torch.no_grad()
def redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Replace a parameter of our own by normal noise of the same root mean square."""
    size = math.sqrt(float(parameter.double().square().mean()))
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    parameter.copy_(size * noise)
