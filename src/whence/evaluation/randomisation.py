r"""Randomisation: does an attribution depend on what the network has learned?

If a map stays the same while the weights are drawn anew, it does not explain them.
"""

import copy
import math
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from whence.core import Attributions, Images, Method, ModelScalar, Target
from whence.errors import SettingError
from whence.evaluation.agreement import Spearman
from whence.evaluation.metric import MetricCard
from whence.network import Network

__all__ = ["Cascade", "ParameterRandomisation"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Cascade:
    """How alike the maps stay while a network is randomised from its output down.

    Args:
        layers: The layer randomised at each step, the last one of the network first.
        correlations: Correlation with the original map after each step, ``(s, b)``.
    """

    layers: tuple[str, ...]
    correlations: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class ParameterRandomisation:
    r"""Correlation with the original map while parameters are drawn anew, top down.

    Every parameter in the graph's order counts: weights, biases, norms, tokens and positions.
    Each is replaced by normal noise of the same root mean square, so that signals keep their
    size; a parameter that is zero everywhere holds nothing learned and stays. Running statistics
    of batch norms stay too. The model itself is not touched: a copy is randomised.

    Args:
        seed: Seed of the noise, drawn on the CPU.
        agreement: How two maps are compared.

    References:
        Adebayo et al. (2018), "Sanity Checks for Saliency Maps" (cascading randomisation).
    """

    seed: int = 0
    agreement: Spearman = field(default_factory=Spearman)

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="0 for maps that forget the weights at once; 1 for maps that ignore them",
        reference="Adebayo et al. (2018), Sanity Checks for Saliency Maps",
    )

    def __call__(self, model: nn.Module, images: Images, target: Target, method: Method) -> Cascade:
        """Return the correlations after each step; costs one run of ``method`` per layer.

        Args:
            model: The model, in eval mode.
            images: ``(b, c, h, w)``.
            target: What is explained. Name the classes; do not let them follow the predictions.
            method: The method that is judged.
        """
        network = Network.read(copy.deepcopy(model), images)
        generator = torch.Generator().manual_seed(self.seed)
        f = ModelScalar(network, target)
        original = method(f, images).detach()
        layers = layers_of(network)
        if not layers:
            msg = "The model has no parameters on the way from images to logits to randomise."
            raise SettingError(msg)
        found: list[Tensor] = []
        for names in layers.values():
            for name in names:
                redraw(network.parameters[name], generator)
            found.append(self.compared(original, method(f, images).detach()))
        return Cascade(layers=tuple(layers), correlations=torch.stack(found))

    def compared(self, original: Attributions, values: Attributions) -> Tensor:
        """Return the correlations with the original maps."""
        return self.agreement(original, values)


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
