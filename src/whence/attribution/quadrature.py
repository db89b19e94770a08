r"""Rules for the integral over a path: points and weights on the interval from 0 to 1."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np
from numpy.typing import NDArray

from whence.errors import SettingError

__all__ = ["Quadrature", "Rule", "quadrature", "refined"]

Rule = Literal["midpoint", "right", "trapezoid", "gauss-legendre", "fejer"]
"""All but the trapezoid never visit the baseline, where networks without biases are dead; a left
rule would, and is not offered."""


@final
@dataclass(frozen=True, kw_only=True)
class Quadrature:
    """The points that a rule adds to those already visited.

    The integral is ``keep * before + sum(weights * values at the new points)``.

    Args:
        total: Points visited in all, with those before.
        points: Places in [0, 1] of the new points.
        weights: Their weights.
        keep: What the integral so far is multiplied by; 0 if nothing was visited, or if no
            earlier point is among the new rule's.
        ahead: Weights of the same points in the finer rules to come, one row for each: the sums
            that they make are what ``before`` is there. Empty where ``keep`` says enough.
    """

    total: int
    points: tuple[float, ...]
    weights: tuple[float, ...]
    keep: float = 0.0
    ahead: tuple[tuple[float, ...], ...] = ()


def quadrature(rule: Rule, steps: int, *, most: int = 0) -> Quadrature:
    """Return a rule with ``steps`` points.

    Args:
        rule: Its name.
        steps: The number of points.
        most: How many points a finer rule may have, for which sums are to be made ahead.

    Raises:
        SettingError: If the rule does not exist, or needs more points.
    """
    if rule not in get_args(Rule):
        msg = f"Unknown rule {rule!r}. Choose one of: {', '.join(get_args(Rule))}."
        raise SettingError(msg)
    least = 2 if rule == "trapezoid" else 1
    if steps < least:
        msg = f"steps must be at least {least} for the {rule} rule; got {steps}."
        raise SettingError(msg)
    match rule:
        case "fejer":
            return fejer(steps, range(1, steps + 1), most)
        case "midpoint":
            points = [(j + 0.5) / steps for j in range(steps)]
        case "right":
            points = [(j + 1) / steps for j in range(steps)]
        case "trapezoid":
            gap = 1 / (steps - 1)
            inner = [gap] * (steps - 2)
            return Quadrature(
                total=steps,
                points=tuple(j * gap for j in range(steps)),
                weights=(gap / 2, *inner, gap / 2),
            )
        case _:
            roots, weights = np.polynomial.legendre.leggauss(steps)
            return Quadrature(
                total=steps,
                points=tuple(float(v) for v in (roots + 1) / 2),
                weights=tuple(float(v) for v in weights / 2),
            )
    return Quadrature(total=steps, points=tuple(points), weights=(1 / steps,) * steps)


def refined(rule: Rule, steps: int, *, most: int = 0) -> Quadrature:
    """Return the next finer rule after ``steps`` points.

    Fejér's has twice the points and one, the midpoint rule three times the points, the right rule
    and the trapezoid twice the intervals; their earlier points are among them and are not visited
    again. The points of Gauss and Legendre move, so twice as many are visited anew.
    """
    match rule:
        case "fejer":
            return fejer(2 * steps + 1, range(1, 2 * steps + 2, 2), most, keep=1.0)
        case "gauss-legendre":
            return quadrature(rule, 2 * steps)
        case "midpoint":
            total, keep = 3 * steps, 1 / 3
            points = [(j + 0.5) / total for j in range(total) if j % 3 != 1]
            weight = 1 / total
        case "right":
            total, keep = 2 * steps, 1 / 2
            points = [(j + 1) / total for j in range(0, total, 2)]
            weight = 1 / total
        case _:
            total, keep = 2 * steps - 1, 1 / 2
            weight = 1 / (total - 1)
            points = [j * weight for j in range(1, total, 2)]
    return Quadrature(total=total, points=tuple(points), weights=(weight,) * len(points), keep=keep)


def fejer(steps: int, chosen: Sequence[int], most: int, keep: float = 0.0) -> Quadrature:
    """Return some points of Fejér's rule with their weights, in it and in the finer rules.

    Args:
        steps: The number of points of the rule.
        chosen: The numbers of the points, from 1 at the image's end of the path.
        most: How many points a finer rule may have.
        keep: What the sum that was made ahead is multiplied by.
    """
    numbers = np.asarray(chosen)
    rows = []
    total, times = steps, 1
    while True:
        rows.append(tuple(fejer_weights(total)[numbers * times - 1].tolist()))
        total, times = 2 * total + 1, 2 * times
        if total > most:
            break
    angles = np.pi * numbers / (steps + 1)
    return Quadrature(
        total=steps,
        points=tuple(((1 + np.cos(angles)) / 2).tolist()),
        weights=rows[0],
        keep=keep,
        ahead=tuple(rows[1:]),
    )


def fejer_weights(steps: int) -> NDArray[np.float64]:
    r"""Return the weights of Fejér's second rule on the interval from 0 to 1.

    .. math:: w_k = \frac{2 \sin\theta_k}{n + 1} \sum_{j=1}^{\lfloor (n + 1) / 2 \rfloor}
              \frac{\sin((2j - 1)\theta_k)}{2j - 1}, \qquad \theta_k = \frac{k \pi}{n + 1}

    They are positive and add up to 1; polynomials of a degree below ``n`` are integrated exactly.

    References:
        Waldvogel (2006), "Fast construction of the Fejér and Clenshaw-Curtis quadrature rules",
        Eq. 2.4.
    """
    angles = np.pi * np.arange(1, steps + 1) / (steps + 1)
    odd = np.arange(1, steps + 1, 2)
    series = (np.sin(np.outer(angles, odd)) / odd).sum(axis=1)
    weights: NDArray[np.float64] = 2 * np.sin(angles) / (steps + 1) * series
    return weights
