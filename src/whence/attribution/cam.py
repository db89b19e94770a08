r"""Activation maps: where in the last feature maps the evidence lies."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import check_batch_size, forward_pace
from whence.attribution.gradient import owned, recording, value_and_gradient
from whence.core import Images, ModelScalar, ScalarFn, Target, check_logits
from whence.errors import SettingError
from whence.network import Cut, Network

__all__ = ["GradCAM", "Layer", "enlarged", "network_of"]

Weigh = Callable[[Tensor, Tensor], Tensor]
"""Takes maps and gradients ``(b, k, h, w)``; returns what is added up over the channels."""


@final
@dataclass(frozen=True, kw_only=True)
class GradCAM:
    r"""Gradient-weighted class activation map of one layer.

    .. math:: a_k = \frac{1}{Z} \sum_{ij} \frac{\partial f}{\partial A^k_{ij}}, \qquad
              L_{ij} = \mathrm{ReLU}\Big(\sum_k a_k A^k_{ij}\Big)

    with feature maps :math:`A^k` of :math:`Z` positions. If the rest of the network is an average
    over positions and a linear layer, the map without ReLU adds up to the logit minus its bias;
    otherwise the values add up to nothing in particular. The map is in the units of ``f`` and is
    never rescaled: where nothing speaks for the class it is zero everywhere, which
    :class:`whence.attribution.Attribution` reports.

    Explain a logit: the gradient of a probability vanishes where the network is sure.
    Cost: half a pass, a forward, and the way back through the layers behind the cut only.

    Args:
        node: Where to cut: a node's name or a module's path. By default the network's last
            feature map that every pixel influences; patch tokens count as a map.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image, bilinearly (corners not aligned); otherwise it
            has the feature map's size.
        create_graph: Keep the graph, so that a loss on the maps trains the weights.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        SettingError: When called on a function whose model is no :class:`whence.network.Network`.

    References:
        Selvaraju et al. (2017), "Grad-CAM: Visual Explanations from Deep Networks via
        Gradient-based Localization", Eq. 1 and 2.
    """

    node: str | None = None
    relu: bool = True
    upsample: bool = True
    create_graph: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the feature map's size."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""
        layer = Layer(
            node=self.node,
            relu=self.relu,
            upsample=self.upsample,
            create_graph=self.create_graph,
        )
        return layer.account(f, images, averaged, self.batch_size)


def averaged(maps: Tensor, slopes: Tensor) -> Tensor:
    """Return the maps, each weighted by the mean of its gradient."""
    return slopes.mean(dim=(2, 3), keepdim=True) * maps


@final
@dataclass(frozen=True, kw_only=True)
class Layer:
    """Where a map is made, and how it is shown.

    Args:
        node: Where to cut; None for the network's last feature map.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image.
        create_graph: Keep the graph of the maps.
    """

    node: str | None
    relu: bool
    upsample: bool
    create_graph: bool = False

    def account(self, f: ScalarFn, images: Images, weigh: Weigh, batch_size: int | None) -> Account:
        """Return the sum over channels of what ``weigh`` makes of maps and their gradients."""
        network, scalar = network_of(f)
        with recording():
            images = owned(images, create_graph=self.create_graph)
            network.check(images)
            cut = network.cut(self.node)
            pace = forward_pace(f, images, batch_size)
            maps, values = [], []
            for start, stop in pace.spans(len(images)):
                rows = torch.arange(start, stop, device=images.device)
                target, own = scalar.at(rows).target, images[start:stop]
                batch, value = weighted(cut, target, own, weigh, create_graph=self.create_graph)
                maps.append(batch)
                values.append(value)
        return Account(
            values=self.shown(torch.cat(maps), images),
            passes=FORWARD,
            explained=torch.cat(values),
        )

    def shown(self, maps: Tensor, images: Images) -> Tensor:
        """Return maps ``(b, 1, h', w')`` as they are shown."""
        maps = maps.relu() if self.relu else maps
        return enlarged(maps, images) if self.upsample else maps


def enlarged(maps: Tensor, images: Images) -> Tensor:
    """Return maps of the images' size, bilinearly interpolated; corners are not aligned."""
    size = tuple(images.shape[2:])
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def weighted(
    cut: Cut, target: Target, images: Images, weigh: Weigh, *, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the maps as ``(b, 1, h', w')``, and the explained values."""
    with torch.set_grad_enabled(create_graph):
        activation, *others = cut.head(images.clone())

    def behind(activation: Tensor) -> Tensor:
        return target(check_logits(cut.tail(activation, *others), len(images)))

    values, gradient = value_and_gradient(behind, activation, create_graph=create_graph)
    with torch.set_grad_enabled(create_graph):
        weighed = weigh(cut.maps(activation), cut.maps(gradient))
        return weighed.sum(dim=1, keepdim=True), values


def network_of(f: ScalarFn) -> tuple[Network, ModelScalar]:
    """Return the network that a function explains, and the function as model and target."""
    model, target = getattr(f, "model", None), getattr(f, "target", None)
    if isinstance(model, Network) and isinstance(target, Target):
        return model, f if isinstance(f, ModelScalar) else ModelScalar(model, target)
    came = type(f.model).__name__ if isinstance(f, ModelScalar) else type(f).__name__
    msg = (
        f"The method works on the layers of a network and needs its graph; got {came}. Read the "
        f"model first: ModelScalar(Network.read(model, images), target). Methods that need "
        f"gradients only (Gradient, InputXGradient, SmoothGrad, IntegratedGradients) work on any "
        f"callable."
    )
    raise SettingError(msg)
