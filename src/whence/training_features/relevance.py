r"""Relevance of an influence: layer-wise relevance propagation of what two gradients share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.fx import Node

from whence.attribution import LRP, Account
from whence.attribution.graphs import remade
from whence.attribution.relevance.signs import rectified_names
from whence.core import Attributions, Images, Margin, ScalarFn, check_images
from whence.errors import SettingError
from whence.gradients import Recorder
from whence.influence.members import combined
from whence.network import Network, rewrite
from whence.training_features.additive import influence_of, parts_of
from whence.training_features.influence_fn import Term
from whence.training_features.positions import Positions, positions

__all__ = ["InfluenceLRP", "recorder_of"]


@final
@dataclass(frozen=True, kw_only=True)
class InfluenceLRP:
    r"""The influence, handed down to the pixels by the rules of LRP.

    An inner product of gradients is a sum over layers of what they read,

    .. math:: \langle \nabla_\theta m, u \rangle
              = \sum_\ell \big\langle a^\ell, c^\ell \big\rangle + \text{biases}, \qquad
              c^\ell = \big(V^\ell\big)^\top d^\ell ,

    with the gradients ``d`` of the layer's outputs and the query's vector ``V`` in place of its
    weight. So every unit that a layer reads has a relevance, :math:`a\,c`, and all of them are
    handed down together in one backward pass under the rules. Rules need one number per unit and
    no second derivative; those of a :class:`whence.network.Network` in backward mode could not be
    differentiated once more.

    Sums: with rules that conserve, the values add up to the influence less what biases take, in
    the sum above and on the way down; the gap says how much. Signed: positive where a pixel makes
    the two gradients agree.

    Cost: 2 passes, and one more where norms are needed and were not held.

    Args:
        rules: Which rules, with their settings; see :class:`whence.attribution.LRP`.

    Raises:
        SettingError: When called on anything but an influence that comes from gradients.
        UnsupportedOperation: If an operation has no rule.

    References:
        Bach et al. (2015), "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by
        Layer-Wise Relevance Propagation"; Eberle et al. (2020), "Building and Interpreting Deep
        Similarity Models", for relevance of a similarity.
    """

    rules: LRP = field(default_factory=LRP)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the relevance, shaped like the images."""
        return self.account(f, images).values

    @torch.inference_mode(mode=False)
    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the relevance with the influence that it shares out."""
        influence = influence_of(f)
        images = check_images(images).clone()
        target = Margin(influence.labels)
        products, weights = parts_of(influence, images, target)
        maps = torch.stack([self.term(t, images, target) for t in influence.terms])
        members = [term.member for term in influence.terms]
        explained = combined(members, products[:, :, None], weights)[:, 0]
        flat = combined(members, maps.flatten(2), weights)
        return Account(
            values=flat.reshape(images.shape),
            passes=2.0 * len(influence.terms),
            explained=explained,
            reference=explained,
            absorbed=explained - flat.sum(dim=1),
        )

    def term(self, term: Term, images: Images, target: Margin) -> Tensor:
        """Return one network's relevance of the inner product, shaped like the images."""
        recorder = recorder_of(term)
        places = positions(recorder)
        ruled = self.ruled(recorder.network, places)
        vector = {name: value[0] for name, value in term.member.queries.dense().items()}
        along = places.multipliers(vector, images, target, ruled.standing)
        return images * ruled.handed_down(along, images)

    def ruled(self, network: Network, places: Positions) -> "Ruled":
        """Return the network under the rules, made once."""

        def make(network: Network) -> Ruled:
            return ruled_of(self.rules.prepared(network), network, places)

        return remade(network, ("influence", self.rules, places.names), make)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Ruled:
    """A network under rules that returns what its layers read.

    Args:
        standing: For the name of a value in the network, its place among what is returned; None
            for the images.
        run: From images to logits and values.
    """

    standing: Mapping[str, int | None]
    run: Callable[[Tensor], Any]

    def handed_down(self, along: Mapping[str, Tensor], images: Images) -> Tensor:
        """Return the multipliers of pixels that those of layers' inputs lead to."""
        with torch.enable_grad():
            own = images.detach().clone().requires_grad_()
            _, values = self.run(own)
            total = torch.zeros_like(images)
            outputs, seeds = [], []
            for name, value in along.items():
                at = self.standing[name]
                if at is None:
                    total = total + value
                else:
                    outputs.append(values[at])
                    seeds.append(value)
            if outputs:
                (found,) = torch.autograd.grad(outputs, own, seeds, materialize_grads=True)
                total = total + found
        return total.detach()


def ruled_of(ruled: Network, network: Network, places: Positions) -> Ruled:
    """Return a network under rules with the values that layers read as further outputs."""
    plain, _ = rewrite.copied(network.graph)
    rewrite.functional(plain)
    merged = {relu: layer for layer, relu in rectified_names(plain).items()}
    graph, _ = rewrite.copied(ruled.graph)
    nodes = {node.name: node for node in graph.nodes}
    images = next(node.name for node in graph.nodes if node.op == "placeholder")
    standing: dict[str, int | None] = {}
    kept: list[Node] = []
    for use in places.uses.layers:
        name = places.names[use.source]
        here = name if name in nodes else merged.get(name, name)
        if name == images:
            standing[name] = None
        elif name not in standing and here in nodes:
            standing[name] = len(kept)
            kept.append(nodes[here])
    rewrite.with_outputs(graph, kept)
    return Ruled(standing=standing, run=rewrite.compiled(ruled.module, graph))


def recorder_of(term: Term) -> Recorder:
    """Return what records the gradients of a term.

    Raises:
        SettingError: If its score compares features.
    """
    recorder = term.member.recorder
    if isinstance(recorder, Recorder):
        return recorder
    msg = (
        f"This map is of an inner product of gradients; the score compares "
        f"{', '.join(recorder.names[:3])}. Take a score of gradients, or another map."
    )
    raise SettingError(msg)
