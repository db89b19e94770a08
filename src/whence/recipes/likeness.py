"""Likeness: how alike pieces of pictures are, against how alike pieces are anyhow."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Picture", "alike_group", "likeness", "pooled", "similarity", "spread_of"]

Picture = NDArray[np.uint8]
Values = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""``(left, top, right, bottom)``, right and bottom exclusive."""


def likeness(crops: Values, others: Values, spread: float) -> Values:
    r"""Return how alike crops are, pair by pair, ``(n, m)``: 1 for equal ones, 0 by chance.

    .. math:: 1 - \frac{\lVert a - b \rVert^2}{2 d\, V}

    Two independent crops with the variance V of each value differ by :math:`2 d V` in the mean.

    Args:
        crops: ``(n, d)``.
        others: ``(m, d)``.
        spread: V; where it is 0 nothing can be told, and 0 is returned.
    """
    if spread <= 0:
        return np.zeros((len(crops), len(others)))
    squares = (crops**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * crops @ others.T
    found: Values = 1 - np.maximum(squares, 0) / (2 * crops.shape[1] * spread)
    return found


def spread_of(crops: Values) -> float:
    """Return the mean variance of a value from crop to crop."""
    return float(crops.var(axis=0).mean()) if len(crops) else 0.0


def cropped(pictures: Sequence[Picture], box: Box) -> Values:
    """Return what the pictures show in a box, ``(n, d)``."""
    left, top, right, bottom = box
    rows = [p[top:bottom, left:right].astype(np.float64).ravel() for p in pictures]
    return np.stack(rows) if rows else np.zeros((0, 1))


def alike_group(
    pictures: Sequence[Picture], reference: Sequence[Picture], box: Box, least: float
) -> list[int]:
    """Return which pictures show the same in a box: the largest group around one of them.

    Args:
        pictures: The pictures.
        reference: Arbitrary pictures, which say how alike two are by chance.
        box: The box.
        least: How alike a picture must be to the group's centre.
    """
    crops = cropped(pictures, box)
    near = likeness(crops, crops, spread_of(cropped([*reference, *pictures], box))) >= least
    if not len(crops):
        return []
    centre = int(near.sum(axis=1).argmax())
    return np.flatnonzero(near[centre]).tolist()


def similarity(pictures: Sequence[Picture], reference: Sequence[Picture], box: Box) -> float:
    """Return how alike some pictures are inside a box: 1 minus their share of the variance."""
    whole = spread_of(cropped([*reference, *pictures], box))
    own = spread_of(cropped(pictures, box))
    return float(np.clip(1 - own / whole, -1, 1)) if whole > 0 else 0.0


def pooled(values: NDArray[np.generic], factor: int) -> Values:
    """Return rows and columns averaged over blocks; what is left over at the end is dropped."""
    rows, columns = (n // factor for n in values.shape[:2])
    cut = values[: rows * factor, : columns * factor].astype(np.float64)
    found: Values = cut.reshape(rows, factor, columns, factor, *values.shape[2:]).mean(axis=(1, 3))
    return found
