r"""X-Gradient: integrated gradients from zero in one pass, where that is proven to be exact."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from whence.attribution.account import Account
from whence.attribution.batching import check_batch_size
from whence.attribution.gradient import batched_gradient, owned, recording
from whence.core import (
    Attributions,
    Contrast,
    Images,
    Logit,
    LogProbability,
    Loss,
    Margin,
    ScalarFn,
    Target,
)
from whence.errors import SettingError, TargetError, UnsupportedOperation
from whence.network import Homogeneity, Network, rewrite

__all__ = ["XGradient", "proven_homogeneous"]

REMEMBERED = 64
"""Fingerprints whose proof is kept."""

PROOFS: OrderedDict[str, Homogeneity] = OrderedDict()
"""What was proven, by fingerprint of weights and graph; the last ones."""

HELD: WeakKeyDictionary[Network, Homogeneity] = WeakKeyDictionary()
"""What was proven of a network that is still there."""

FACTORS = (0.3, 7.0)
"""What logits are multiplied with, to test a target."""


@final
@dataclass(frozen=True, kw_only=True)
class XGradient:
    r"""Integrated gradients from the zero baseline, in one pass, on an X-DNN.

    .. math:: a_i = \frac{1}{k}\, x_i\, \partial_i f(x)
                  = x_i \int_0^1 \partial_i f(\alpha x)\, d\alpha

    for a network that is homogeneous of degree ``k``; an X-DNN has degree 1. Exact, with all the
    axioms of integrated gradients: the values add up to ``f(x)``. The network's homogeneity is
    proven before the first answer, and remembered by its fingerprint; any other network is
    refused with the operation that breaks it.

    What it is not: the baseline is zero in the model's units, which is the normalised mean colour
    and not black, and cannot be another. A pixel at the baseline gets zero, whatever it means.
    And axiomatic is not the same as most faithful.

    Cost: 1 pass; once for each network 4.5 passes and one for each of two images.

    Args:
        create_graph: Keep the graph, so that a loss on the attributions trains the weights.
        batch_size: Images per internal batch; chosen by memory if None.

    References:
        Hesse, Schaub-Meyer and Roth (2021), "Fast Axiomatic Attribution for Neural Networks",
        Proposition 3.2 and Definition 3.5.
    """

    create_graph: bool = False
    batch_size: int | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_batch_size(self.batch_size)

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return the attributions, shaped like the images."""
        return self.account(f, images).values

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return the attributions with their cost and what they add up to.

        Raises:
            SettingError: If the model has not been read as a network.
            TargetError: If the target does not scale with the logits.
            UnsupportedOperation: If the network is not homogeneous, with the first offender.
        """
        network, target = parts_of(f)
        network.check(images)
        check_target(target, network, len(images))
        degree = proven_homogeneous(network)
        with recording():
            values, gradient = batched_gradient(
                f, images, create_graph=self.create_graph, batch_size=self.batch_size
            )
            product = owned(images, create_graph=self.create_graph) * gradient / degree
        return Account(values=product, passes=1.0, explained=values, reference=values.detach())

    def for_classes(
        self, network: Network, images: Images, classes: Sequence[int]
    ) -> Float[Tensor, "b t c h w"]:
        """Return the attributions of several classes: one forward, and a backward for each.

        Args:
            network: An X-DNN.
            images: ``(b, c, h, w)``.
            classes: The same classes for every image.

        Raises:
            TargetError: If a class does not exist.
            UnsupportedOperation: If the network is not homogeneous, with the first offender.
        """
        degree = proven_homogeneous(network)
        with recording():
            source = owned(images, create_graph=self.create_graph)
            displacement = torch.zeros_like(source, requires_grad=True)
            logits = network(source + displacement)
            maps = [
                torch.autograd.grad(
                    Logit(k)(logits).sum(),
                    displacement,
                    create_graph=self.create_graph,
                    retain_graph=True,
                )[0]
                for k in classes
            ]
            return source[:, None] * torch.stack(maps, dim=1) / degree


def parts_of(f: ScalarFn) -> tuple[Network, Target]:
    """Return the network and the target of a function.

    Raises:
        SettingError: If its model has not been read as a network.
    """
    model: object = getattr(f, "model", None)
    target: object = getattr(f, "target", None)
    if isinstance(model, Network) and isinstance(target, Target):
        return model, target
    came = type(f if model is None else model).__name__
    msg = (
        f"X-Gradient proves that the network is homogeneous and needs its graph; got {came}. Read "
        f"the model first: ModelScalar(Network.read(model, images), logit(class)); or use "
        f"whence.explain(model, images, method='x-gradient'), which reads it. InputXGradient is "
        f"the same without the proof, on any callable."
    )
    raise SettingError(msg)


def proven_homogeneous(network: Network) -> float:
    """Return the degree of a network that is homogeneous of degree 1 or more.

    The proof holds for all weights, except where it rests on stored zeros (biases that are zero);
    those are looked at again every time.

    Raises:
        UnsupportedOperation: If it is not, with the first offender.
    """
    found = HELD.get(network)
    if found is None or not all(is_zero(network, name) for name in found.assumes):
        found = remembered(network.fingerprint(), network.homogeneity)
        HELD[network] = found
    degree = found.degree
    if degree is None or degree < 1:
        first = found.first_offender
        at = (
            f" The first offender is {first.path or 'forward'} ({first.operation})."
            if first
            else ""
        )
        msg = (
            f"X-Gradient needs an X-DNN, a network that is homogeneous of degree 1.{at} Convert "
            f"the model (whence convert, whence.convert.x_dnn), or use integrated gradients.\n"
            f"{found}"
        )
        raise UnsupportedOperation(msg)
    if found.certificate is not None and not found.certificate.passes:
        msg = (
            f"Every operation of the network has a degree, but the numeric tests fail, so "
            f"X-Gradient would not be exact.\n{found}"
        )
        raise UnsupportedOperation(msg)
    return degree


def remembered(fingerprint: str, prove: Callable[[], Homogeneity]) -> Homogeneity:
    """Return what is known of a fingerprint, or prove it and forget what was used longest ago."""
    found = PROOFS.pop(fingerprint, None)
    PROOFS[fingerprint] = prove() if found is None else found
    while len(PROOFS) > REMEMBERED:
        PROOFS.popitem(last=False)
    return PROOFS[fingerprint]


def is_zero(network: Network, name: str) -> bool:
    """Return whether a stored tensor of a network is zero everywhere."""
    node = next(n for n in network.graph.nodes if n.op == "get_attr" and n.target == name)
    return not bool(rewrite.stored(network.module, node).any())


def check_target(target: Target, network: Network, count: int) -> None:
    """Refuse a target that does not scale with the logits.

    Raises:
        TargetError: If it does not.
    """
    output = next(n for n in network.graph.nodes if n.op == "output").all_input_nodes[0]
    like: Any = output.meta["val"]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, like.shape[1], generator=generator).to(like.device, like.dtype)
    with torch.no_grad():
        one = target(logits)
        if isinstance(target, (Logit, Contrast)):
            return
        linear = [torch.allclose(target(k * logits), k * one, rtol=1e-3) for k in FACTORS]
    if all(linear) and not isinstance(target, (Loss, LogProbability, Margin)):
        return
    msg = (
        f"{type(target).__name__} does not scale with the logits, so X-Gradient would not be "
        f"exact. Explain a logit, or the difference of two (versus)."
    )
    raise TargetError(msg)
