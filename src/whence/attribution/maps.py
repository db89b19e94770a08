r"""Relatives of Grad-CAM: other weights for the same feature maps."""

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence.attribution.account import FORWARD, Account
from whence.attribution.batching import Pace, check_batch_size, forward_pace
from whence.attribution.cam import Layer, enlarged, network_of
from whence.attribution.gradient import check_values, owned, recording
from whence.core import Baseline, Images, ScalarFn, Zero
from whence.network import Cut, Network
from whence.network.operations import name_of

__all__ = ["GradCAMPlusPlus", "HiResCAM", "LayerCAM", "ScoreCAM", "XGradCAM"]


@final
@dataclass(frozen=True, kw_only=True)
class GradCAMPlusPlus:
    r"""Activation maps weighted by the positive gradients, each by its share of a second order.

    .. math:: a_k = \sum_{ij} \frac{(g^k_{ij})^2}{2 (g^k_{ij})^2 + (g^k_{ij})^3 \sum_{uv} A^k_{uv}}
              \, \mathrm{ReLU}(g^k_{ij}), \qquad L = \mathrm{ReLU}\Big(\sum_k a_k A^k\Big)

    with :math:`g = \partial f / \partial A`. The derivation supposes that the score is the
    exponential of ``f``, whose higher derivatives are then powers of ``g``. Where the gradient is
    zero so is the weight; nothing is added to the denominator, which keeps small gradients exact.
    Behind an average and a linear layer ``a_k`` is ``Z ReLU(g) / (2 + g sum(A))``. The values add
    up to nothing in particular. Cost: half a pass, as :class:`GradCAM`.


    Args:
        node: Where to cut: a node's name or a module's path; the last feature map by default.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image, bilinearly.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Chattopadhay et al. (2018), "Grad-CAM++: Improved Visual Explanations for Deep
        Convolutional Networks", Eq. 5 and 19.
    """

    node: str | None = None
    relu: bool = True
    upsample: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the feature map's size."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""
        layer = Layer(node=self.node, relu=self.relu, upsample=self.upsample)
        return layer.account(f, images, second_order, self.batch_size)


def second_order(maps: Tensor, slopes: Tensor) -> Tensor:
    """Return the maps, each weighted by its positive gradients as Grad-CAM++ has it."""
    mass = maps.sum(dim=(2, 3), keepdim=True)
    # g^2 ReLU(g) / (2 g^2 + g^3 m), with the common g^2 cancelled
    below = 2 + slopes * mass
    weights = torch.where(below != 0, slopes.relu() / below, 0.0)
    return weights.sum(dim=(2, 3), keepdim=True) * maps


@final
@dataclass(frozen=True, kw_only=True)
class HiResCAM:
    r"""Activation times gradient, position by position.

    .. math:: L_{ij} = \sum_k \frac{\partial f}{\partial A^k_{ij}} A^k_{ij}

    Exact where Grad-CAM averages: if the rest of the network is affine in the maps, the map adds
    up to the value less its bias, whatever the head does with positions. Behind an average and a
    linear layer it is Grad-CAM. Signed by default, as the sum is its meaning.
    Cost: half a pass, as :class:`GradCAM`.

    A layer norm does not see the length of a token, so that the gradient of a token which only a
    norm reads is orthogonal to it, and the sum is zero. On tokens the map is therefore made behind
    the norm, unless a place is named.

    Args:
        node: Where to cut: a node's name or a module's path; by default the last feature map, or
            the layer norm that reads it if it is made of tokens.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image, bilinearly.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Draelos and Carin (2020), "Use HiResCAM instead of Grad-CAM for faithful explanations of
        convolutional neural networks", Eq. 4.
    """

    node: str | None = None
    relu: bool = False
    upsample: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the feature map's size."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""
        node = self.node or behind_norm(network_of(f)[0])
        layer = Layer(node=node, relu=self.relu, upsample=self.upsample)
        return layer.account(f, images, elementwise, self.batch_size)


def elementwise(maps: Tensor, slopes: Tensor) -> Tensor:
    """Return the maps times their gradients."""
    return slopes * maps


def behind_norm(network: Network) -> str | None:
    """Return the layer norm that reads the network's last feature map, if that is of tokens."""
    cut = network.cut()
    if cut.plane.kind != "tokens":
        return None
    made = next(node for node in network.module.graph.nodes if node.name == cut.node)
    return next((user.name for user in made.users if name_of(user) == "layer_norm"), None)


@final
@dataclass(frozen=True, kw_only=True)
class LayerCAM:
    r"""Activation times positive gradient, position by position.

    .. math:: L_{ij} = \mathrm{ReLU}\Big(\sum_k \mathrm{ReLU}\Big(\frac{\partial f}{\partial
              A^k_{ij}}\Big) A^k_{ij}\Big)

    Keeps its meaning in early layers, whose positions differ. Not negative where the activations
    are not. The values add up to nothing in particular. Cost: half a pass, as :class:`GradCAM`.


    Args:
        node: Where to cut: a node's name or a module's path; the last feature map by default.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image, bilinearly.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Jiang et al. (2021), "LayerCAM: Exploring Hierarchical Class Activation Maps for
        Localization", Eq. 5 and 6.
    """

    node: str | None = None
    relu: bool = True
    upsample: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the feature map's size."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""
        layer = Layer(node=self.node, relu=self.relu, upsample=self.upsample)
        return layer.account(f, images, positive, self.batch_size)


def positive(maps: Tensor, slopes: Tensor) -> Tensor:
    """Return the maps times their positive gradients."""
    return slopes.relu() * maps


@final
@dataclass(frozen=True, kw_only=True)
class XGradCAM:
    r"""Activation maps weighted by their gradient, averaged where they are active.

    .. math:: a_k = \frac{\sum_{ij} g^k_{ij} A^k_{ij}}{\sum_{ij} A^k_{ij}}, \qquad
              L = \mathrm{ReLU}\Big(\sum_k a_k A^k\Big)

    Without the ReLU the map adds up to what :class:`HiResCAM` adds up to: the value, where the
    rest of the network is piecewise linear and has no biases. A map whose activations add up to
    zero gets no weight. Cost: half a pass, as :class:`GradCAM`.


    Args:
        node: Where to cut: a node's name or a module's path; the last feature map by default.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image, bilinearly.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Fu et al. (2020), "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation
        of CNNs", Eq. 8.
    """

    node: str | None = None
    relu: bool = True
    upsample: bool = True
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the feature map's size."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""
        layer = Layer(node=self.node, relu=self.relu, upsample=self.upsample)
        return layer.account(f, images, by_activation, self.batch_size)


def by_activation(maps: Tensor, slopes: Tensor) -> Tensor:
    """Return the maps, each weighted by its gradient where it is active."""
    mass = maps.sum(dim=(2, 3), keepdim=True)
    product = (slopes * maps).sum(dim=(2, 3), keepdim=True)
    return torch.where(mass != 0, product / mass, 0.0) * maps


@final
@dataclass(frozen=True, kw_only=True)
class ScoreCAM:
    r"""Activation maps weighted by what the network makes of the image seen through each.

    .. math:: a_k = f\big(x \odot m_k + \bar x \odot (1 - m_k)\big) - f(\bar x), \qquad
              L = \mathrm{ReLU}\Big(\sum_k a_k A^k\Big)

    with :math:`m_k` the map enlarged to the image and scaled to [0, 1]. No gradient is taken. A
    constant map shows nothing of the image and gets no weight. Explain a probability for scores
    as in the paper. Cost: half a pass for each channel, and one for the maps and the fill.

    Args:
        node: Where to cut: a node's name or a module's path; the last feature map by default.
        relu: Keep only what speaks for the explained value.
        upsample: Enlarge the map to the image, bilinearly.
        fill: What is seen where a map is zero.
        softmax: Weigh the maps by the softmax of their scores over the channels, as the released
            code of the paper does: weights that are positive, add up to 1, and change with the
            scale of ``f``.
        batch_size: Masked images per internal batch; chosen by memory if None.

    References:
        Wang et al. (2020), "Score-CAM: Score-Weighted Visual Explanations for Convolutional
        Neural Networks", Eq. 5 to 8.
    """

    node: str | None = None
    relu: bool = True
    upsample: bool = True
    fill: Baseline = field(default_factory=Zero)
    softmax: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Tensor:
        """Return one map per image: ``(b, 1, h, w)``, or of the feature map's size."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the maps with their cost."""
        network, _ = network_of(f)
        layer = Layer(node=self.node, relu=self.relu, upsample=self.upsample)
        with recording(), torch.no_grad():
            images = owned(images)
            network.check(images)
            cut = network.cut(self.node)
            pace = forward_pace(f, images, self.batch_size)
            parts, channels = [], 0
            for index in range(len(images)):
                row = torch.tensor([index], device=images.device)
                maps = self.weighed(f.at(row), images[index : index + 1], cut, pace)
                channels = maps.shape[1]
                parts.append(maps.sum(dim=1, keepdim=True))
        values = layer.shown(torch.cat(parts), images)
        return Account(values=values, passes=FORWARD * (channels + 2))

    def weighed(self, f: ScalarFn, image: Images, cut: Cut, pace: Pace) -> Tensor:
        """Return the weighted maps ``(1, k, h', w')`` of one image."""
        maps = cut.maps(cut.head(image.clone())[0])
        fill = self.fill(image)
        scores = []
        for begin, end in pace.spans(maps.shape[1]):
            masks = unit_range(enlarged(maps[:, begin:end], image)).transpose(0, 1)
            seen = fill + masks * (image - fill)
            values = f.at(torch.zeros(end - begin, dtype=torch.long, device=image.device))(seen)
            check_values(values, end - begin)
            scores.append(values)
        score = torch.cat(scores)
        weights = score.softmax(dim=0) if self.softmax else score - f(fill)
        return weights[:, None, None] * maps


def unit_range(maps: Tensor) -> Tensor:
    """Return maps scaled to [0, 1], each by its own range; constant ones become zero."""
    low = maps.amin(dim=(2, 3), keepdim=True)
    span = maps.amax(dim=(2, 3), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / span, 0.0)
