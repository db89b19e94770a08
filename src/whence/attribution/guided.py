r"""Guided back-propagation, deconvnet and guided Grad-CAM: other rules for a ReLU's gradient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from whence.attribution.account import Account
from whence.attribution.batching import Pace, check_batch_size
from whence.attribution.gradient import (
    batched_gradient,
    check_values,
    owned,
    recording,
    value_and_gradient,
)
from whence.attribution.graphs import graph_of, remade
from whence.core import Attributions, Images, ModelScalar, ScalarFn, Target, check_logits
from whence.errors import UnsupportedOperation
from whence.network import DECONVOLUTION, GUIDED_BACKPROPAGATION, Cut, Network, Rule, places
from whence.network.operations import module_path, name_of
from whence.network.rewrite import depends_on_images

__all__ = ["Deconvnet", "GuidedBackpropagation", "GuidedGradCAM"]

OTHERS = frozenset(
    [
        *("gelu", "silu", "mish", "hardswish", "elu", "selu", "celu", "tanh", "softplus"),
        *("leaky_relu", "prelu", "rrelu", "relu6", "hardtanh", "hardshrink", "softshrink"),
        *("tanhshrink", "softsign", "log_sigmoid", "glu", "abs", "sign", "heaviside"),
        *("maximum", "minimum", "fmax", "fmin", "where", "masked_fill", "gt", "ge", "lt", "le"),
    ]
)
"""Activations, and ways to write one by hand, for which these rules are not defined. Gates
(sigmoid) and pooling keep their gradient."""

CUTS = {"clamp": (0,), "clamp_min": (0,), "clip": (0,), "threshold": (0, 0)}
"""Operations that are a ReLU when they are called with these bounds."""


def is_rectifier(operation: str, bounds: Sequence[object]) -> bool:
    """Return whether an operation with these arguments after its input is a ReLU."""
    given = [*bounds, *[None] * 2][:2]
    wanted = [*CUTS.get(operation, ()), *[None] * 2][:2]
    return operation == "relu" or (operation in CUTS and given == wanted)


def is_bounded(operation: str, bounds: Sequence[object]) -> bool:
    """Return whether an operation cuts its input from both sides, as an activation does."""
    return operation in ("clamp", "clip") and len([b for b in bounds if b is not None]) > 1


def at_rectifiers(rule: Rule) -> list[Rule]:
    """Return the rule for ReLUs and for other ways to cut at zero."""

    def cut(operation: Any, values: Tensor, *bounds: object) -> Tensor:  # noqa: ANN401 - an operator
        name = operation.overloadpacket.__name__.rstrip("_")
        return (rule.function if is_rectifier(name, bounds) else passed)(operation, values, *bounds)

    def passed(operation: Callable[..., Tensor], *arguments: object) -> Tensor:
        return operation(*arguments)

    cuts = Rule(operations=frozenset(CUTS), function=cut, optional=True)
    return [replace(rule, optional=True), cuts]


def rectified(network: Network, rule: Rule, method: str) -> Network:
    """Return the network with this rule at every ReLU.

    Raises:
        UnsupportedOperation: If there is no ReLU, or another activation beside it.
    """

    def make(network: Network) -> Network:
        moving = depends_on_images(network.graph)
        found = [node for node in network.graph.nodes if node in moving]
        named = [(name_of(node), node) for node in found if node.op == "call_function"]
        strange = next(
            (n for name, n in named if name in OTHERS or is_bounded(name, n.args[1:])), None
        )
        if strange is None and any(is_rectifier(name, node.args[1:]) for name, node in named):
            return network.under(at_rectifiers(rule))
        why = "has no ReLU"
        if strange is not None:
            why = f"has {name_of(strange)!r} in {module_path(strange) or 'its forward'}"
        msg = (
            f"{method} changes the gradient of ReLUs, and this network {why}: the result would be "
            f"the plain gradient there. Use Gradient, InputXGradient or LRP, which are defined "
            f"for every activation, or replace the activation with ReLU and fine-tune."
        )
        raise UnsupportedOperation(msg)

    return remade(network, rule, make)


@final
@dataclass(frozen=True, kw_only=True)
class GuidedBackpropagation:
    r"""Guided back-propagation: only positive gradients return through active ReLUs.

    .. math:: r_{in} = [a > 0] \, [r_{out} > 0] \, r_{out} \quad \text{at every ReLU}

    Exact, by this rule. It sees every ReLU: modules, functions, in-place and reused ones, and
    ``clamp(min=0)``; a network with another activation is refused. The map
    is close to a reconstruction of the image and depends little on the class: do not read it as
    evidence. The values add up to nothing in particular. Cost: 1 pass.

    Args:
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        UnsupportedOperation: When called on a network without ReLU, or with another activation.
        SettingError: When called on a function whose model is no :class:`whence.network.Network`.

    References:
        Springenberg et al. (2015), "Striving for Simplicity", section 3.4.
    """

    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the guided gradient, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the guided gradient with its cost."""
        return ruled(f, images, GUIDED_BACKPROPAGATION, "GuidedBackpropagation", self.batch_size)


@final
@dataclass(frozen=True, kw_only=True)
class Deconvnet:
    r"""Deconvolution: only positive gradients return through ReLUs, active or not.

    .. math:: r_{in} = [r_{out} > 0] \, r_{out} \quad \text{at every ReLU}

    Exact, by this rule; otherwise as :class:`GuidedBackpropagation`. Cost: 1 pass.

    Args:
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        UnsupportedOperation: When called on a network without ReLU, or with another activation.
        SettingError: When called on a function whose model is no :class:`whence.network.Network`.

    References:
        Zeiler and Fergus (2014), "Visualizing and Understanding Convolutional Networks",
        section 2.1.
    """

    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the deconvolved gradient, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the deconvolved gradient with its cost."""
        return ruled(f, images, DECONVOLUTION, "Deconvnet", self.batch_size)


def ruled(f: ScalarFn, images: Images, rule: Rule, method: str, batch_size: int | None) -> Account:
    """Return the gradient with this rule at every ReLU, with its cost."""
    network, scalar = graph_of(f, method)
    network.check(images)
    other = ModelScalar(rectified(network, rule, method), scalar.target)
    with recording():
        values, gradient = batched_gradient(
            other, images, create_graph=False, batch_size=batch_size
        )
    return Account(values=gradient, passes=1.0, explained=values)


@final
@dataclass(frozen=True, kw_only=True)
class GuidedGradCAM:
    r"""Guided Grad-CAM: the guided gradient, kept where Grad-CAM is high.

    .. math:: a = g \cdot \mathrm{up}\Big(\mathrm{ReLU}\big(\sum_k a_k A^k\big)\Big)

    with :math:`g` of :class:`GuidedBackpropagation` and the bilinearly enlarged map of
    :class:`whence.attribution.GradCAM`, both from the same forward. The values add up to nothing
    in particular. Cost: 1 pass, and the layers behind the cut once more where they hold a ReLU.

    Args:
        node: Where Grad-CAM cuts; see :class:`whence.attribution.GradCAM`.
        batch_size: Images per internal batch; chosen by memory if None.

    Raises:
        UnsupportedOperation: When called on a network without ReLU, or with another activation.
        SettingError: When called on a function whose model is no :class:`whence.network.Network`.

    References:
        Selvaraju et al. (2017), "Grad-CAM", section 3.2.
    """

    node: str | None = None
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the product of both maps, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the product of both maps with its cost."""
        network, scalar = graph_of(f, "GuidedGradCAM")
        with recording():
            images = owned(images)
            network.check(images)
            other = rectified(network, GUIDED_BACKPROPAGATION, "GuidedGradCAM")
            plain = remade(network, ("cut", self.node), lambda whole: whole.cut(self.node))
            guided = remade(other, ("cut", plain.node), lambda whole: whole.cut(plain.node))
            pace = Pace(f=f, images=images, batch_size=self.batch_size)
            maps, values = [], []
            for start, stop in pace.spans(len(images)):
                rows = torch.arange(start, stop, device=images.device)
                target = scalar.at(rows).target
                with pace.watching(stop - start):
                    batch, value = both(plain, guided, target, images[start:stop])
                maps.append(batch)
                values.append(value)
        return Account(values=torch.cat(maps), passes=1.0, explained=torch.cat(values))


def both(plain: Cut, guided: Cut, target: Target, images: Images) -> tuple[Tensor, Tensor]:
    """Return the guided gradient times the enlarged map, and the explained values."""
    displacement = torch.zeros_like(images, requires_grad=True)
    activation, *others = guided.head(images + displacement)
    values = target(check_logits(guided.tail(activation, *others), len(images)))
    check_values(values, len(images))
    inputs = [displacement, activation]
    gradient, slope = torch.autograd.grad(values, inputs, torch.ones_like(values))
    if any(place.name == "relu" or place.name in CUTS for place in places(plain.tail_module)):
        fixed = [other.detach() for other in others]

        def behind(activation: Tensor) -> Tensor:
            return target(plain.tail(activation, *fixed))

        _, slope = value_and_gradient(behind, activation)
    with torch.no_grad():
        maps, slopes = plain.maps(activation), plain.maps(slope)
        weighted = (slopes.mean(dim=(2, 3), keepdim=True) * maps).sum(dim=1, keepdim=True).relu()
        large = functional.interpolate(
            weighted, size=tuple(images.shape[2:]), mode="bilinear", align_corners=False
        )
        return gradient * large, values.detach()
