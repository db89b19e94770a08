"""Boxes: where maps hold most of their mass for the area."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from whence.recipes.likeness import Box, Picture, pooled

__all__ = [
    "CarriedMap",
    "area_of",
    "best_box",
    "best_gain",
    "chance_in_place",
    "mass_in",
    "one_each",
    "window_masses",
]

COARSE = 32
"""Cells on a side to which maps are pooled before they are shuffled."""

SHUFFLES = 39
"""Shuffles behind a p value: at the least 1 in 40."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CarriedMap:
    """The map of a training image that speaks for some prediction.

    Args:
        index: The training image.
        label: Its label.
        values: Its signed map, ``(h, w)``.
        picture: The image, ``(h, w, 3)``.
        query: The place of the test image whose prediction it speaks for.
    """

    index: int
    label: int
    values: NDArray[np.float32]
    picture: Picture
    query: int = -1


def one_each(maps: Sequence[CarriedMap]) -> list[CarriedMap]:
    """Return one map for each training image: the mean over the predictions it speaks for."""
    groups: dict[int, list[CarriedMap]] = {}
    for m in maps:
        groups.setdefault(m.index, []).append(m)
    return [
        CarriedMap(
            index=index,
            label=group[0].label,
            values=np.mean([positive_share(m.values) for m in group], axis=0, dtype=np.float32),
            picture=group[0].picture,
        )
        for index, group in groups.items()
    ]


def positive_share(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the positive part of a map, of unit mass."""
    positive = np.maximum(values, 0).astype(np.float32)
    total = positive.sum()
    return positive / total if total > 0 else positive


def window_masses(maps: NDArray[np.generic], height: int, width: int) -> NDArray[np.float64]:
    """Return the mass in every window of a size: ``(..., h - height + 1, w - width + 1)``."""
    integral = np.zeros((*maps.shape[:-2], maps.shape[-2] + 1, maps.shape[-1] + 1))
    integral[..., 1:, 1:] = maps.astype(np.float64).cumsum(axis=-2).cumsum(axis=-1)
    found: NDArray[np.float64] = (
        integral[..., height:, width:]
        - integral[..., :-height, width:]
        - integral[..., height:, :-width]
        + integral[..., :-height, :-width]
    )
    return found


def best_box(mean: NDArray[np.generic]) -> Box:
    """Return the box in which a map of unit mass departs most from a flat one."""
    rows, columns = mean.shape
    best, box = -np.inf, (0, 0, columns, rows)
    for height in lengths(rows):
        for width in lengths(columns):
            gain = divergence(window_masses(mean, height, width), height * width / (rows * columns))
            top, left = np.unravel_index(gain.argmax(), gain.shape)
            if gain[top, left] > best:
                best = gain[top, left]
                box = (int(left), int(top), int(left) + width, int(top) + height)
    return box


def best_gain(maps: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return for each map ``(m, h, w)`` the divergence and the mass of its best box."""
    count, rows, columns = maps.shape
    best, mass = np.full(count, -np.inf), np.zeros(count)
    for height in lengths(rows):
        for width in lengths(columns):
            masses = window_masses(maps, height, width).reshape(count, -1)
            gain = divergence(masses, height * width / (rows * columns))
            place = gain.argmax(axis=1)[:, None]
            top = np.take_along_axis(gain, place, 1)[:, 0]
            mass = np.where(top > best, np.take_along_axis(masses, place, 1)[:, 0], mass)
            best = np.maximum(best, top)
    return best, mass


def chance_in_place(
    shares: NDArray[np.float32], shuffles: int = SHUFFLES, seed: int = 0
) -> tuple[float, float]:
    """Return what the best box of maps holds that have no place in common, and a p value.

    Each map is moved around its own edges by a random amount, which leaves it as it is but for its
    place; the moved maps are averaged and searched like the others.

    Args:
        shares: Maps of unit mass, ``(n, h, w)``.
        shuffles: How often; the cost is a search each, on maps of at most 32 cells a side.
        seed: Of the amounts.
    """
    factor = max(1, min(shares.shape[1:]) // COARSE)
    small = np.stack([pooled(one, factor) for one in shares]) * factor**2
    generator = np.random.default_rng(seed)
    moved = np.stack(
        [
            np.mean([np.roll(one, generator.integers(0, one.shape), (0, 1)) for one in small], 0)
            for _ in range(shuffles)
        ]
    )
    gains, masses = best_gain(np.concatenate([small.mean(axis=0)[None], moved]))
    return float(masses[1:].mean()), float((gains >= gains[0]).mean())


def lengths(side: int) -> list[int]:
    """Return the side lengths of boxes to try: small ones all, larger ones in steps."""
    most = max(1, side // 2)
    steps = {max(1, round(side * k / 48)) for k in range(1, 25)}
    return sorted(n for n in steps if n <= most)


def divergence(mass: NDArray[np.float64], area: float) -> NDArray[np.float64]:
    """Return the divergence of a two-part split, where the box holds more than its share."""
    inside = np.clip(mass, 1e-12, 1 - 1e-12)
    value: NDArray[np.float64] = inside * np.log(inside / area) + (1 - inside) * np.log(
        (1 - inside) / (1 - area)
    )
    return np.where(mass > area, value, -np.inf)


def mass_in(shares: NDArray[np.float32], box: Box) -> NDArray[np.float32]:
    """Return each map's mass inside a box."""
    left, top, right, bottom = box
    inside: NDArray[np.float32] = shares[:, top:bottom, left:right].sum(axis=(1, 2))
    return inside


def area_of(box: Box, shape: Sequence[int]) -> float:
    """Return a box's share of an image."""
    left, top, right, bottom = box
    return (right - left) * (bottom - top) / (shape[0] * shape[1])
