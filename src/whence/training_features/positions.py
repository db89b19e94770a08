r"""Positions: where in the image plane each layer's share of an influence arises.

At a layer with input ``a``, gradient ``d`` of the output and the query's vector ``V`` in place of
the weight, the layer's share of :math:`\langle \nabla m, u \rangle` is a sum over positions,

.. math:: \sum_t \langle d_t, (V a)_t \rangle ,

and so it is for biases, normalisations and values that broadcast. What has no position (a linear
layer behind the pooling) is handed back to the last feature map, in proportion to what each of
its values contributes to the layer's input.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import jvp
from torch.fx import Node
from torch.nn import functional

from whence.core import Images, Margin
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.gradients.layers import convolution_settings, epsilon
from whence.gradients.routes import LayerUse, Uses, find_uses, spread
from whence.network import Plane, rewrite
from whence.network.layout import plane_of

__all__ = ["Positions", "positions"]

MADE: WeakKeyDictionary[Recorder, "Positions"] = WeakKeyDictionary()
"""What was made for a recorder that is still there."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """A network that keeps what its layers see, and the image plane of each.

    Args:
        recorder: Of the network, with its chosen parameters.
        uses: Where the parameters enter.
        names: The names of the recorded values.
        planes: The image plane of each recorded value, None where it has none.
        last: Index of the last feature map among the recorded values; None if there is none.
        run: From parameters and images to logits and recorded values.
    """

    recorder: Recorder
    uses: Uses
    names: tuple[str, ...]
    planes: tuple[Plane | None, ...]
    last: int | None
    run: Callable[[Mapping[str, Tensor], Tensor], Any]

    def maps(
        self, vector: Mapping[str, Tensor], images: Images, target: Margin
    ) -> list[tuple[str, Tensor]]:
        """Return the shares of each layer and position, ``(b, h', w')`` each, with module paths.

        Args:
            vector: The query's, for each parameter in its shape.
            images: The batch.
            target: The margins of its labels.
        """
        along = self.derived(vector)
        with torch.enable_grad():
            values, gradients = self.seen(images, target)
            found: list[tuple[str, Tensor]] = []
            behind: list[tuple[Tensor, Tensor]] = []
            count = len(self.uses.layers)
            for use, gradient in zip(self.uses.layers, gradients[:count], strict=True):
                plane = self.planes[use.output]
                share = self.layer(use, along, values, gradient)
                if plane is not None:
                    found.append((self.path(use.output), placed(plane, share)))
                elif use.weight is not None:
                    behind.append((values[use.source], self.pulled(use, along, values, gradient)))
            for each, gradient in zip(self.uses.spreads, gradients[count:], strict=True):
                plane = self.planes[each.output]
                if plane is not None:
                    share = gradient * spread(along[each.value], gradient, each.axis.axis)
                    found.append((self.path(each.output), placed(plane, share)))
            found += self.handed_back(values, behind)
        return [(path, value.detach()) for path, value in found]

    def path(self, index: int) -> str:
        """Return the name of a recorded value."""
        return self.names[index]

    def multipliers(
        self, vector: Mapping[str, Tensor], images: Images, target: Margin, known: Collection[str]
    ) -> dict[str, Tensor]:
        r"""Return what the influence multiplies each unit by that a layer reads.

        The influence is :math:`\sum_\ell \langle a^\ell, c^\ell \rangle` plus the share of biases,
        with ``a`` what layers read, and ``c`` these multipliers.

        Args:
            vector: The query's, for each parameter in its shape.
            images: The batch.
            target: The margins of its labels.
            known: Names of values. Where a layer reads another one, the multiplier goes on to
                what the layer before it reads.

        Returns:
            By name of the value; shares of layers that read no known value are left out.
        """
        along = self.derived(vector)
        makers = {use.output: use for use in self.uses.layers}
        found: dict[str, Tensor] = {}
        with torch.enable_grad():
            values, gradients = self.seen(images, target)
            for use, gradient in zip(self.uses.layers, gradients, strict=False):
                if use.weight is None:
                    continue
                value, source = self.pulled(use, along, values, gradient), use.source
                if self.names[source] not in known and source in makers:
                    before = makers[source].source
                    (value,) = torch.autograd.grad(
                        values[source], values[before], value, retain_graph=True
                    )
                    source = before
                if self.names[source] in known:
                    name = self.names[source]
                    found[name] = found[name] + value if name in found else value
        return {name: value.detach() for name, value in found.items()}

    def seen(self, images: Images, target: Margin) -> tuple[Sequence[Tensor], tuple[Tensor, ...]]:
        """Return what is recorded of a batch, and the margin's gradients of layers' outputs."""
        leaves = {
            name: p.detach().clone().requires_grad_()
            for name, p in self.recorder.network.parameters.items()
        }
        logits, values = self.run(leaves, images.clone().requires_grad_())
        wanted = [values[i] for i in self.uses.outputs]
        gradients = torch.autograd.grad(
            target(logits).sum(), wanted, materialize_grads=True, retain_graph=True
        )
        return values, gradients

    def derived(self, vector: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the change along the vector of every value made of parameters."""
        held = {name: p.detach() for name, p in self.recorder.network.parameters.items()}
        found: dict[str, Tensor] = {}
        for value, node in self.uses.derived.items():
            if node.op == "get_attr":
                found[value] = vector[value]
                continue
            names, function = self.recorder.pulls[value]
            inputs = {name: held[name] for name in names}
            changes = {n: vector.get(n, torch.zeros_like(held[n])) for n in names}
            found[value] = jvp(function, (inputs,), (changes,))[1]
        return found

    def layer(
        self,
        use: LayerUse,
        along: Mapping[str, Tensor],
        values: Sequence[Tensor],
        gradient: Tensor,
    ) -> Tensor:
        """Return what a layer adds to the change of the margin, shaped like its output."""
        with torch.no_grad():
            statistics = [values[i] for i in use.statistics]
            return gradient * changed(use, along, values[use.source], gradient, statistics)

    def pulled(
        self,
        use: LayerUse,
        along: Mapping[str, Tensor],
        values: Sequence[Tensor],
        gradient: Tensor,
    ) -> Tensor:
        """Return what the share of a layer's weight is for each unit of the layer's input."""
        source = values[use.source].detach().requires_grad_()
        statistics = [values[i] for i in use.statistics]
        share = gradient.detach() * changed(use, along, source, gradient, statistics)
        return torch.autograd.grad(share.sum(), source)[0]

    def handed_back(
        self, values: Sequence[Tensor], behind: Sequence[tuple[Tensor, Tensor]]
    ) -> list[tuple[str, Tensor]]:
        """Return the shares of layers without positions, at the last feature map."""
        plane = None if self.last is None else self.planes[self.last]
        if not behind or plane is None or self.last is None:
            return []
        feature = values[self.last]
        (slope,) = torch.autograd.grad(
            [source for source, _ in behind],
            feature,
            [value for _, value in behind],
            allow_unused=True,
            materialize_grads=True,
        )
        return [(self.path(self.last), placed(plane, feature.detach() * slope))]


def placed(plane: Plane, share: Tensor) -> Tensor:
    """Return a share at its positions, ``(b, h', w')``; tokens without a place are left out."""
    return plane.maps(share).sum(dim=1)


def changed(
    use: LayerUse,
    along: Mapping[str, Tensor],
    source: Tensor,
    like: Tensor,
    statistics: Sequence[Tensor],
) -> Tensor:
    """Return the change of a layer's output as its own parameters move along the vector."""
    weight = None if use.weight is None else along[use.weight]
    bias = None if use.bias is None else along[use.bias]
    match use.operation:
        case "conv2d":
            if weight is None:
                return channelwise(bias, like)
            _, stride, padding, dilation, groups = convolution_settings(use.settings)
            padded = functional.pad(source, padding)
            return functional.conv2d(padded, weight, bias, stride, 0, dilation, groups)
        case "linear":
            if weight is None:
                return torch.zeros_like(like) if bias is None else bias.expand_as(like)
            return functional.linear(source, weight, bias)
        case "layer_norm":
            shape = use.settings[0]
            return functional.layer_norm(
                source,
                shape,
                torch.zeros(shape).to(like) if weight is None else weight,
                bias,
                epsilon(use.settings),
            )
        case "batch_norm":
            mean, variance = statistics
            normal = functional.batch_norm(source, mean, variance, eps=use.settings[0])
        case _:
            normal = functional.group_norm(source, use.settings[0], eps=epsilon(use.settings))
    scaled = torch.zeros_like(like) if weight is None else normal * channelwise(weight, like)
    return scaled + channelwise(bias, like)


def channelwise(value: Tensor | None, like: Tensor) -> Tensor:
    """Return one number per channel, spread over a feature map."""
    if value is None:
        return torch.zeros_like(like)
    return value.reshape(1, -1, *[1] * (like.ndim - 2)).expand_as(like)


def positions(recorder: Recorder) -> Positions:
    """Return the network of a recorder with everything that shares need; made once."""
    found = MADE.get(recorder)
    if found is None:
        MADE[recorder] = found = made(recorder)
    return found


def made(recorder: Recorder) -> Positions:
    """Build the graph that keeps what layers see, and the last feature map."""
    network = recorder.network
    graph, _ = rewrite.copied(network.graph)
    uses = find_uses(graph, frozenset(recorder.names))
    size = (network.shape[1], network.shape[2])
    recorded = list(uses.recorded)
    feature = last_map(recorder, list(graph.nodes))
    if feature is not None:
        recorded.append(feature)
    planes = tuple(plane_of(node, size) for node in recorded)
    rewrite.with_outputs(graph, recorded)
    rewrite.with_parameters_as_input(graph, network.parameters)
    return Positions(
        recorder=recorder,
        uses=uses,
        names=tuple(node.name for node in recorded),
        planes=planes,
        last=None if feature is None else len(recorded) - 1,
        run=rewrite.compiled(network.module, graph),
    )


def last_map(recorder: Recorder, nodes: Sequence[Node]) -> Node | None:
    """Return the last feature map that all predictions pass through, or the images."""
    try:
        name = recorder.network.cut().node
    except SettingError:
        return next((node for node in reversed(nodes) if node.op == "placeholder"), None)
    return next((node for node in nodes if node.name == name), None)
