r"""Rules for the integral over a path: points and weights on the interval from 0 to 1."""

from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

from whence.errors import SettingError

__all__ = ["Quadrature", "Rule", "quadrature", "refined"]

Rule = Literal["midpoint", "right", "trapezoid", "gauss-legendre"]
"""``"midpoint"`` and ``"right"`` never visit the baseline, where networks without biases are dead;
a left rule would, and is not offered."""


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
    """

    total: int
    points: tuple[float, ...]
    weights: tuple[float, ...]
    keep: float = 0.0


def quadrature(rule: Rule, steps: int) -> Quadrature:
    """Return a rule with ``steps`` points.

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


def refined(rule: Rule, steps: int) -> Quadrature:
    """Return the next finer rule after ``steps`` points.

    The finer midpoint rule has three times the points, the right rule and the trapezoid twice
    the intervals; their earlier points are among them and are not visited again. The points of
    Gauss and Legendre move, so twice as many are visited anew.
    """
    match rule:
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
