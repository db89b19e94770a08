r"""Certificate: what numbers say of homogeneity, beside the proof.

The scale test compares :math:`f(kx)` with :math:`k^d f(x)` for several ``k``, far apart, because
a capped activation passes any local test while its input is below the cap. Euler's test compares
:math:`\sum_i x_i \partial_i f` with :math:`d f`, relative to the mass of the attribution.

Where Euler's identity fails, the gap is shared out exactly. Let operation ``v(u)`` have the degree
``d_v`` (the one that it would have if cured) and its inputs ``d_u``. Then

.. math:: d\,f - \sum_i x_i \partial_i f = \sum_v \Big\langle \partial_v f,\;
          d_v v - \sum_u d_u \frac{\partial v}{\partial u} u \Big\rangle

and only offenders have a term. That of a bias is :math:`b\, \partial_b f`, that of a batch norm its
shift :math:`\beta - \gamma \mu / \sigma` times the gradient there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, isnan, nan
from typing import final

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from whence.core import Images
from whence.network import rewrite
from whence.network.operations import nodes_in

__all__ = ["FACTORS", "TOLERANCE", "Certificate", "Euler", "certificate", "euler"]

FACTORS = (1e-3, 0.1, 0.5, 2.0, 3.7, 50.0, 1000.0)
"""What images are multiplied with: far enough apart to meet every cap."""

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative error that rounding explains; measured 6e-15 and 2e-6 on deep networks."""

COARSE = 3e-2
"""The same for half precisions."""


@final
@dataclass(frozen=True, kw_only=True)
class Euler:
    """Euler's identity for the predicted class of each image, and who breaks it.

    Args:
        explained: The logit ``f``.
        total: The sum of input times gradient.
        mass: The sum of its magnitudes.
        gaps: What each offender adds to the gap, by node; with ``total`` they add up to
            ``degree * f``.
    """

    explained: tuple[float, ...]
    total: tuple[float, ...]
    mass: tuple[float, ...]
    gaps: Mapping[str, tuple[float, ...]]


@final
@dataclass(frozen=True, kw_only=True)
class Certificate:
    r"""The numeric tests of homogeneity, on a few images.

    Args:
        degree: The degree that was tested.
        scale_errors: For each factor ``k`` the largest :math:`|f(kx) - k^d f(x)|` relative to
            the largest :math:`|k^d f(x)|`; NaN if the output is zero for all images.
        euler_error: The largest :math:`|\sum_i x_i \partial_i f - d f|`, relative to
            :math:`\sum_i |x_i \partial_i f|`; NaN if that is zero.
        at_zero: The largest :math:`|f(0)|`; NaN if the network is not defined there.
        tolerance: The largest relative error that rounding explains.
        precision: The type of the numbers, ``float32``.
        images: How many images were tested.
        euler: Euler's identity, image by image.
    """

    degree: float
    scale_errors: Mapping[float, float]
    euler_error: float
    at_zero: float
    tolerance: float
    precision: str
    images: int
    euler: Euler

    @property
    def passes(self) -> bool:
        """Whether every test is passed."""
        errors = (*self.scale_errors.values(), self.euler_error)
        return all(error <= self.tolerance for error in errors) and self.at_zero == 0

    def __str__(self) -> str:
        """Return the tests in three lines."""
        factor, worst = max(self.scale_errors.items(), key=lambda pair: ranked(pair[1]))
        zero = f"largest |f(0)| {self.at_zero:.1e}"
        if isnan(self.at_zero):
            zero = "f(0) is not defined: guard divisions with clamp(min=1e-12)"
        span = f"k from {min(self.scale_errors):g} to {max(self.scale_errors):g}"
        lines = [
            f"  f(kx) = k f(x)    worst relative error {worst:.1e}, at k = {factor:g} ({span})",
            f"  sum x df/dx = f   worst relative error {self.euler_error:.1e}",
            f"  f(0) = 0          {zero}",
        ]
        return "\n".join(lines)


def ranked(error: float) -> float:
    """Return an error such that what is not a number is the worst."""
    return inf if isnan(error) else error


def certificate(
    f: Callable[[Tensor], Tensor], images: Images, identity: Euler, degree: float
) -> Certificate:
    """Run the tests: half a pass per factor, and one at zero.

    Args:
        f: The network.
        images: Images ``(b, c, h, w)`` in the model's units.
        identity: Euler's identity at these images.
        degree: The degree to test.
    """
    errors: dict[float, float] = {}
    with torch.inference_mode(mode=False), torch.no_grad():
        images = images.clone()
        values = f(images)
        for factor in FACTORS:
            wanted = factor**degree * values
            wrong = (f(factor * images) - wanted).abs().max()
            errors[factor] = float(wrong / wanted.abs().max())
        at_zero = float(f(torch.zeros_like(images)).abs().max())
    misses = [
        ranked(abs(total - degree * value) / mass if mass else nan)
        for value, total, mass in zip(
            identity.explained, identity.total, identity.mass, strict=True
        )
    ]
    return Certificate(
        degree=degree,
        scale_errors=errors,
        euler_error=max(misses),
        at_zero=at_zero,
        tolerance=TOLERANCE.get(images.dtype, COARSE),
        precision=str(images.dtype).removeprefix("torch."),
        images=len(images),
        euler=identity,
    )


def euler(
    graph: Graph,
    module: GraphModule,
    degrees: Mapping[Node, float],
    offenders: list[Node],
    images: Images,
) -> Euler:
    """Return Euler's identity for every image and its predicted class: one pass for each.

    Args:
        graph: A functional copy of the network's graph; it is changed.
        module: Holds the weights.
        degrees: The degree of every image-dependent node, of offenders as if cured.
        offenders: The nodes that break homogeneity.
        images: Images ``(b, c, h, w)``.
    """
    taps: list[Node] = []
    factors: list[tuple[str, float]] = []
    for node in filter(is_smooth, offenders):
        sources = list(dict.fromkeys(nodes_in((*node.args, *node.kwargs.values()))))
        for source in sources:
            if source not in degrees or not is_smooth(source):
                continue
            with graph.inserting_before(node):
                alias = graph.call_function(torch.ops.aten.alias.default, (source,))
            alias.meta = dict(source.meta)
            node.replace_input_with(source, alias)
            taps.append(alias)
            factors.append((node.name, -degrees[source]))
        taps.append(node)
        factors.append((node.name, degrees[node]))
    rewrite.with_outputs(graph, taps)
    run = rewrite.compiled(module, graph)
    rows = [euler_of_image(run, image[None], factors) for image in images]
    names = list(dict.fromkeys(name for name, _ in factors))
    return Euler(
        explained=tuple(row[0] for row in rows),
        total=tuple(row[1] for row in rows),
        mass=tuple(row[2] for row in rows),
        gaps={name: tuple(row[3].get(name, 0.0) for row in rows) for name in names},
    )


def euler_of_image(
    run: Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]],
    image: Images,
    factors: list[tuple[str, float]],
) -> tuple[float, float, float, dict[str, float]]:
    """Return an image's logit, the sum and the mass of input times gradient, and the gaps."""
    with torch.inference_mode(mode=False), torch.enable_grad():
        source = image.detach().clone().requires_grad_()
        logits, values = run(source)
        value = logits[0, logits[0].argmax()]
        moving = [(k, v) for k, v in enumerate(values) if v.requires_grad]
        gradient, *slopes = torch.autograd.grad(
            value,
            [source, *(v for _, v in moving)],
            allow_unused=True,
            materialize_grads=True,
        )
    product = (gradient * source).detach()
    gaps: dict[str, float] = {}
    for (k, v), slope in zip(moving, slopes, strict=True):
        name, factor = factors[k]
        term = float((slope * v.detach()).sum(dtype=torch.float64))
        gaps[name] = gaps.get(name, 0.0) + factor * term
    total = float(product.sum(dtype=torch.float64))
    return float(value.detach()), total, float(product.abs().sum(dtype=torch.float64)), gaps


def is_smooth(node: Node) -> bool:
    """Return whether a node's value is a tensor that can have a gradient."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
