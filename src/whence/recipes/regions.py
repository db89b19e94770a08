"""Regions: where the maps of many predictions agree, in place and in what is to be seen there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from whence.recipes.boxes import (
    CarriedMap,
    area_of,
    best_box,
    chance_in_place,
    mass_in,
    one_each,
)
from whence.recipes.likeness import (
    Box,
    Picture,
    alike_group,
    cropped,
    likeness,
    similarity,
    spread_of,
)
from whence.recipes.marks import find_marks
from whence.results import RegionRecord

__all__ = ["find_regions", "find_shortcuts"]

ALIKE = 0.6
"""How alike pixels must be to count as the same mark: 1 for equal, 0 by chance."""

MARK = 0.8
"""From this similarity on a region is a mark, which need not be in most of a class's images."""

LEAST = 0.25
"""Below this similarity a region is where the object is, and nothing else."""

RANDOM_BOXES = 20


def find_shortcuts(
    maps: Sequence[CarriedMap],
    reference: Sequence[Picture],
    queries: Mapping[int, Picture] | None = None,
    *,
    fewest: int = 8,
) -> tuple[RegionRecord, ...]:
    """Return regions in one place, and marks that move about, the most alike first.

    Regions in one place whose pixels are hardly alike, or no more than in random boxes, are left
    out: there the object is, and the maps are right to be.

    Args:
        maps: Maps of training images that speak for predictions.
        reference: Pictures of arbitrary training images, against which pixels are compared.
        queries: Pictures of the test images, by place: which of them show a mark themselves.
        fewest: Different training images that must agree.
    """
    shown = queries or {}
    fixed = find_regions(maps, reference, shown, fewest=fewest)
    known = {i for r in fixed if r.similarity >= MARK for i in r.images}
    rest = [m for m in maps if m.index not in known]
    moving = find_marks(rest, reference, shown, fewest=fewest)
    alike = [r for r in fixed if r.similarity > max(LEAST, r.chance_similarity or 0.0)]
    return tuple(sorted([*alike, *moving], key=lambda r: (r.similarity, r.ratio), reverse=True))


def find_regions(
    maps: Sequence[CarriedMap],
    reference: Sequence[Picture],
    queries: Mapping[int, Picture] | None = None,
    *,
    fewest: int = 8,
    ratio: float = 2.0,
    agreement: float = 0.5,
    least: float = 0.1,
    most: int = 2,
    level: float = 0.05,
) -> tuple[RegionRecord, ...]:
    """Return regions that keep carrying influence across the training images of a class.

    For each class, the positive parts of the maps of its training images, each of unit mass, are
    averaged, and the box is taken in which the average departs most from a flat one: the largest
    Kullback-Leibler divergence between the box's share of the mass and of the area. Of the images
    whose maps agree on the box, those that show the same pixels in it are set apart, if they are
    enough: a pasted mark is found so, also where only some images of the class carry it. Without
    such a group, a region is reported if most of the class's maps agree on it. Then the next is
    looked for.

    Two controls say what chance gives: the best box of the same maps, each moved by a random
    amount (a region is dropped where this does as well), and how alike pixels are in random boxes.

    An object that always stands in the same place makes a region too; ``similarity`` tells a
    pasted patch (near 1: the pixels hardly differ from image to image) from an object (near 0).
    The most similar come first.

    Args:
        maps: Maps of training images that speak for predictions.
        reference: Pictures of arbitrary training images, against which pixels are compared.
        queries: Pictures of the test images, by place.
        fewest: Different images that must agree; more than one prediction's proponents.
        ratio: The mass inside must be this many times the box's share of the area.
        agreement: Share of the maps that must reach this ratio, where pixels are not alike.
        least: The box must hold at least this share of the mass.
        most: Regions of one class, at most.
        level: A region is dropped if more than this share of the shuffles agree as much.
    """
    found: list[RegionRecord] = []
    for label in sorted({m.label for m in maps}):
        own = [m for m in maps if m.label == label and (m.values > 0).any()]
        if len({m.values.shape for m in own}) != 1:
            continue
        single = one_each(own)
        shares = np.stack([m.values for m in single])
        rest = shares.mean(axis=0)
        chance: tuple[float, float] | None = None
        for _ in range(most):
            box = best_box(rest)
            inside, area = mass_in(shares, box), area_of(box, rest.shape)
            rest = rest.copy()
            rest[box[1] : box[3], box[0] : box[2]] = 0
            agreeing = np.flatnonzero(inside >= ratio * area)
            chosen, alike = carriers_of(single, agreeing, reference, box, fewest)
            if len(chosen) < fewest or (not alike and len(agreeing) < agreement * len(single)):
                continue
            mass = float((inside[chosen] if alike else inside).mean())
            if mass < max(least, ratio * area):
                continue
            chance = chance or chance_in_place(shares)
            if chance[1] > level:
                break
            images = [single[i] for i in chosen]
            region = RegionRecord(
                box=box,
                label=label,
                mass=mass,
                area=area,
                images=tuple(sorted(m.index for m in images)),
                maps=len(own),
                similarity=similarity([m.picture for m in images], reference, box),
                chance_mass=chance[0],
                p=chance[1],
            )
            found.append(with_evidence(region, own, images, reference, queries or {}))
    return tuple(sorted(found, key=lambda r: (r.similarity, r.ratio), reverse=True))


def carriers_of(
    single: Sequence[CarriedMap],
    agreeing: NDArray[np.intp],
    reference: Sequence[Picture],
    box: Box,
    fewest: int,
) -> tuple[list[int], bool]:
    """Return whose maps agree and whose pixels do too, if these are enough, and whether."""
    pictures = [single[i].picture for i in agreeing]
    group = alike_group(pictures, reference, box, ALIKE)
    alike = len(group) >= fewest and similarity([pictures[i] for i in group], reference, box) >= (
        MARK
    )
    return ([int(agreeing[i]) for i in group] if alike else agreeing.tolist()), alike


def with_evidence(
    region: RegionRecord,
    maps: Sequence[CarriedMap],
    images: Sequence[CarriedMap],
    reference: Sequence[Picture],
    queries: Mapping[int, Picture],
) -> RegionRecord:
    """Return a region with the predictions concerned, and how alike pixels are by chance."""
    inside = set(region.images)
    asked = sorted({m.query for m in maps if m.index in inside and m.query >= 0})
    pictures = [m.picture for m in images]
    scale = spread_of(cropped([*reference, *pictures], region.box))
    centre = cropped(pictures, region.box).mean(axis=0)[None]
    shown = [
        q
        for q in asked
        if q in queries
        and queries[q].shape == pictures[0].shape
        and likeness(cropped([queries[q]], region.box), centre, scale)[0, 0] >= ALIKE
    ]
    generator = np.random.default_rng(0)
    left, top, right, bottom = region.box
    rows, columns = images[0].picture.shape[:2]
    random = []
    for _ in range(RANDOM_BOXES):
        x = int(generator.integers(0, columns - (right - left) + 1))
        y = int(generator.integers(0, rows - (bottom - top) + 1))
        random.append(similarity(pictures, reference, (x, y, x + right - left, y + bottom - top)))
    return replace(
        region,
        queries=tuple(asked),
        shown_in=tuple(shown) if region.similarity >= MARK else (),
        chance_similarity=float(np.mean(random)),
    )
