"""Marks: pieces of training images that carry influence and look the same, wherever they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from whence.recipes.boxes import CarriedMap, one_each, window_masses
from whence.recipes.likeness import Box, Picture, likeness, pooled, spread_of
from whence.results import RegionRecord

__all__ = ["find_marks"]

Values = NDArray[np.float64]

FINE = 48
"""Cells on a side to which pictures and maps are pooled."""

PIECES = 16
"""Windows per image: the fullest of its map, which overlap, so that they meet in other images."""

SIDES = (8, 6, 4)
"""Sides of windows, as parts of the image's shorter side."""

SHUFFLES = 19
ALIKE = 0.7
"""How alike a piece must be to the mark: a little more than in one place, as it is searched for."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """Windows of some images.

    Args:
        owners: Which image each is from, ``(n,)``.
        corners: Top and left of each, ``(n, 2)``, in cells.
        crops: What it shows, ``(n, d)``.
        masses: Its share of the map's mass, ``(n,)``.
    """

    owners: NDArray[np.intp]
    corners: NDArray[np.intp]
    crops: Values
    masses: Values


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Mark:
    """The pieces that look like one of them.

    Args:
        excess: How many more images hold it than arbitrary pictures would.
        rows: The piece of each image that holds it.
        centre: The piece that all are like.
    """

    excess: float
    rows: NDArray[np.intp]
    centre: int


Found = tuple[Mark, Pieces, int, Values, float]
"""A mark, all windows of its size, their side, windows at random places, and their variance."""


def find_marks(
    maps: Sequence[CarriedMap],
    reference: Sequence[Picture],
    queries: Mapping[int, Picture] | None = None,
    *,
    fewest: int = 8,
    ratio: float = 2.0,
    level: float = 0.05,
) -> tuple[RegionRecord, ...]:
    """Return marks that carry influence in many training images of a class, wherever they are.

    From each image the windows are cut that hold most of its map's positive mass. The mark is the
    window that looks most like one in as many other images, counted beyond the share of arbitrary
    pictures in which a window looks like it by chance. As a control maps are dealt out anew among
    the images, which keeps the images and the places but not what belongs together; a mark is
    dropped where this finds as many. At most one mark of each class is returned.

    The cost is some matrix products of all windows: less than a second for a hundred images.

    Args:
        maps: Maps of training images that speak for predictions.
        reference: Pictures of arbitrary training images.
        queries: Pictures of the test images, by place.
        fewest: Different images that must hold it.
        ratio: A window's share of the mass, over its share of the area, at the least.
        level: A mark is dropped if more than this share of the shuffles do as well.
    """
    found = []
    for label in sorted({m.label for m in maps}):
        own = [m for m in maps if m.label == label and (m.values > 0).any()]
        shapes = {m.values.shape for m in own} | {m.picture.shape[:2] for m in own}
        alike = [r for r in reference if r.shape[:2] in shapes]
        if len(shapes) != 1 or len({m.index for m in own}) < fewest or not alike:
            continue
        region = best_mark(own, alike, queries or {}, fewest, ratio, level)
        if region is not None:
            found.append(region)
    return tuple(found)


def best_mark(
    maps: Sequence[CarriedMap],
    reference: Sequence[Picture],
    queries: Mapping[int, Picture],
    fewest: int,
    ratio: float,
    level: float,
) -> RegionRecord | None:
    """Return the mark of the size that stands out most, if one does."""
    single = one_each(maps)
    factor = max(1, min(single[0].values.shape) // FINE)
    pictures = [pooled(m.picture, factor) for m in single]
    shares = np.stack([pooled(m.values, factor) for m in single]) * factor**2
    arbitrary = [pooled(one, factor) for one in reference]
    generator = np.random.default_rng(0)
    orders = [generator.permutation(len(single)) for _ in range(SHUFFLES)]
    best: Found | None = None
    most = np.zeros(SHUFFLES)
    chance = np.zeros(SHUFFLES)
    for side in sides_of(shares.shape[1:]):
        anyhow = random_crops(arbitrary, side, generator)
        spread = spread_of(anyhow)
        pieces = pieces_of(pictures, shares, side, ratio)
        mark = mark_of(pieces, anyhow, spread, len(single))
        for k, order in enumerate(orders):
            other = pieces_of(pictures, shares[order], side, ratio)
            dealt = mark_of(other, anyhow, spread, len(single))
            if dealt is not None and dealt.excess > most[k]:
                most[k], chance[k] = dealt.excess, len(dealt.rows)
        if mark is not None and (best is None or mark.excess > best[0].excess):
            best = (mark, pieces, side, random_crops(pictures, side, generator), spread)
    if best is None or len(best[0].rows) < fewest or best[4] <= 0:
        return None
    p = float((1 + (most >= best[0].excess).sum()) / (1 + SHUFFLES))
    if p > level:
        return None
    return region_of(best, maps, single, queries, factor, shares.shape[1:], chance.mean(), p)


def region_of(
    best: Found,
    maps: Sequence[CarriedMap],
    single: Sequence[CarriedMap],
    queries: Mapping[int, Picture],
    factor: int,
    shape: tuple[int, ...],
    chance: float,
    p: float,
) -> RegionRecord:
    """Return a mark as a region, with its evidence."""
    mark, pieces, side, random, spread = best
    centre = pieces.crops[mark.centre][None]
    rows = sorted(mark.rows.tolist(), key=lambda r: single[int(pieces.owners[r])].index)
    images = tuple(single[int(pieces.owners[r])].index for r in rows)
    boxes = tuple(box_of(pieces.corners[r], side, factor) for r in rows)
    area = side**2 / (shape[0] * shape[1])
    asked = sorted({m.query for m in maps if m.index in set(images) and m.query >= 0})
    own = 1 - spread_of(pieces.crops[rows]) / spread
    shown = [
        q
        for q in asked
        if q in queries
        and queries[q].shape == single[0].picture.shape
        and likeness(every_crop(pooled(queries[q], factor), side), centre, spread).max() >= ALIKE
    ]
    return RegionRecord(
        box=box_of(pieces.corners[mark.centre], side, factor),
        label=single[0].label,
        mass=float(pieces.masses[rows].mean()),
        area=area,
        images=images,
        maps=len(maps),
        similarity=float(np.clip(own, -1, 1)),
        queries=tuple(asked),
        shown_in=tuple(shown),
        boxes=boxes,
        chance_mass=area,
        chance_images=float(chance),
        chance_similarity=float(np.clip(1 - spread_of(random) / spread, -1, 1)),
        p=p,
    )


def mark_of(pieces: Pieces, anyhow: Values, spread: float, count: int) -> Mark | None:
    """Return the piece that is like one in more images than by chance, with its like."""
    if not len(pieces.owners):
        return None
    near = likeness(pieces.crops, pieces.crops, spread)
    by_image = np.full((len(near), count), -np.inf)
    for image in np.unique(pieces.owners):
        by_image[:, image] = near[:, pieces.owners == image].max(axis=1)
    held = (by_image >= ALIKE).sum(axis=1)
    chance = (likeness(pieces.crops, anyhow, spread) >= ALIKE).reshape(len(near), -1, PIECES)
    excess = held - len(np.unique(pieces.owners)) * chance.any(axis=2).mean(axis=1)
    centre = int(excess.argmax())
    rows = []
    for image in np.flatnonzero(by_image[centre] >= ALIKE):
        own = np.flatnonzero(pieces.owners == image)
        rows.append(int(own[near[centre, own].argmax()]))
    return Mark(excess=float(excess[centre]), rows=np.array(rows), centre=centre)


def pieces_of(pictures: Sequence[Values], shares: Values, side: int, ratio: float) -> Pieces:
    """Return the windows of each picture that hold most of its map."""
    masses = window_masses(shares, side, side)
    least = ratio * side**2 / (shares.shape[1] * shares.shape[2])
    owners, corners, crops, held = [], [], [], []
    for image, own in enumerate(masses):
        for place in np.argsort(-own, axis=None, kind="stable")[:PIECES]:
            top, left = np.unravel_index(place, own.shape)
            if own[top, left] < least:
                break
            owners.append(image)
            corners.append((top, left))
            crops.append(pictures[image][top : top + side, left : left + side].ravel())
            held.append(own[top, left])
    return Pieces(
        owners=np.array(owners, dtype=np.intp),
        corners=np.array(corners, dtype=np.intp).reshape(-1, 2),
        crops=np.array(crops),
        masses=np.array(held),
    )


def random_crops(pictures: Sequence[Values], side: int, generator: np.random.Generator) -> Values:
    """Return as many windows of each picture, at random places, ``(n * PIECES, d)``."""
    crops = []
    for picture in pictures:
        rows, columns = picture.shape[:2]
        for _ in range(PIECES):
            top, left = generator.integers(0, (rows - side + 1, columns - side + 1))
            crops.append(picture[top : top + side, left : left + side].ravel())
    return np.array(crops)


def every_crop(picture: Values, side: int) -> Values:
    """Return all windows of a picture, ``(n, d)``."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side), (0, 1))
    found: Values = windows.transpose(0, 1, 3, 4, 2).reshape(-1, side * side * picture.shape[2])
    return found


def sides_of(shape: tuple[int, ...]) -> Iterator[int]:
    """Yield sides of windows, in cells."""
    yield from sorted({max(3, round(min(shape) / part)) for part in SIDES} & set(range(min(shape))))


def box_of(corner: NDArray[np.intp], side: int, factor: int) -> Box:
    """Return a window as a box in pixels."""
    top, left = (int(n) * factor for n in corner)
    return left, top, left + side * factor, top + side * factor
