"""The rows of the table: what is measured, at which floor, by whom."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from benchmarks.attribution.ours import OPTIONS, OURS, ours, tuned
from benchmarks.attribution.peers import PEERS, captum_with_gap
from benchmarks.attribution.setup import Setup, Work
from whence.attribution import IntegratedGradients
from whence.network import Network

__all__ = ["ROWS", "TOLERANCE", "Row"]

TOLERANCE = 0.01
"""The relative completeness gap that every image is brought to, where gaps are made equal."""

LADDER = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128)
"""Numbers of steps that are tried for a library that has to be told."""

WINDOWS = 16

Maker = Callable[[Setup], Work]


@final
@dataclass(frozen=True, kw_only=True)
class Row:
    """One method, and everybody who has it.

    Args:
        name: What is computed.
        floor: The passes that its definition needs, for a number of steps; None where it depends.
        cells: For each library, what makes the work.
        transformers: Whether the row has a meaning on vision transformers.
        networks: Whether it has one on convolutional networks.
    """

    name: str
    floor: Callable[[int], float | None]
    cells: Mapping[str, Maker]
    transformers: bool = True
    networks: bool = True


def needed(setup: Setup, rule: str) -> int:
    """Return the smallest number of steps by which a rule brings every image to the tolerance.

    It is found on the tuned network, which is the same function to rounding; the number is then
    told to the library, as somebody would do who knew it.

    Raises:
        RuntimeError: If no number of the ladder is large enough.
    """
    f, zero = setup.f(setup.tuned), torch.zeros_like(setup.images)
    with torch.no_grad():
        change = (f(setup.images) - f(zero)).double()
    known: dict[float, Tensor] = {}

    def slope(place: float) -> Tensor:
        if place not in known:
            point = (place * setup.images).requires_grad_()
            (gradient,) = torch.autograd.grad(f(point).sum(), point)
            known[place] = (gradient * setup.images).flatten(1).sum(dim=1, dtype=torch.float64)
        return known[place]

    gap = float("inf")
    for count in LADDER:
        places, weights = nodes(rule, count)
        total = sum(w * slope(p) for p, w in zip(places, weights, strict=True))
        gap = float(((total - change) / change).abs().max())
        if gap <= TOLERANCE:
            return count
    message = f"{LADDER[-1]} steps leave a gap of {100 * gap:.0f} %"
    raise RuntimeError(message)


def nodes(rule: str, count: int) -> tuple[list[float], list[float]]:
    """Return places and weights of a library's own rule on the path."""
    if rule == "gauss-legendre":
        roots, weights = np.polynomial.legendre.leggauss(count)
        return list((roots + 1) / 2), list(weights / 2)
    return [(j + 1) / count for j in range(count)], [1 / count] * count


def told(rule: str, make: Maker) -> Maker:
    """Return work with the number of steps that its rule needs."""

    def work(setup: Setup) -> Work:
        return make(replace(setup, steps=needed(setup, rule)))

    return work


def to_tolerance(network: Callable[[Setup], Network]) -> Maker:
    """Return integrated gradients of ours, which find their own number of steps."""

    def work(setup: Setup) -> Work:
        f = setup.f(network(setup))
        method = IntegratedGradients(steps=None, tolerance=TOLERANCE, max_steps=LADDER[-1])
        return lambda: method(f, setup.images)

    return work


EQUAL_GAPS: dict[str, Maker] = {
    "whence": to_tolerance(lambda setup: setup.network),
    "whence, tuned": to_tolerance(lambda setup: setup.tuned),
    "whence, tuned, bfloat16": to_tolerance(lambda setup: setup.lowered),
    "captum": told("gauss-legendre", captum_with_gap),
    "zennit": told("right", PEERS["integrated-gradients"]["zennit"]),
}

FLOORS: dict[str, Callable[[int], float | None]] = {
    "integrated-gradients": float,
    "smoothgrad": float,
    "gradient-shap": float,
    "lrp-epsilon-plus": lambda _: 1.5,
    "lrp-epsilon-plus-flat": lambda _: 1.5,
    "lrp-gamma": lambda _: 1.5,
    "deeplift": lambda _: 1.5,
    "grad-cam": lambda _: 0.5,
    "occlusion": lambda _: 0.5 * (WINDOWS + 1),
}
"""Passes that a definition needs, where that is not one."""


def own(name: str) -> Row:
    """Return the row of one method."""
    cells: dict[str, Maker] = {"whence": ours(name), "whence, tuned": tuned(name)}
    return Row(
        name=name,
        floor=FLOORS.get(name, lambda _: 1.0),
        cells={**cells, **PEERS[name]},
    )


ROWS: tuple[Row, ...] = (
    *(own(name) for name in OURS),
    Row(name=f"integrated-gradients, gap {TOLERANCE:.0%}", floor=lambda _: None, cells=EQUAL_GAPS),
    Row(
        name="options (a gradient)",
        floor=lambda _: 1.0,
        cells={f"whence, {name}": make for name, make in OPTIONS.items()},
    ),
)
"""In the order of the table."""
