"""Findings: what an audit holds to be suspicious, and by what measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from whence.core import ImageData
from whence.influence import Influence
from whence.results import RegionRecord, SuspectLabel

__all__ = ["CarriedMap", "find_regions", "suspect_labels"]

Picture = NDArray[np.uint8]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CarriedMap:
    """The map of a training image that speaks for some prediction.

    Args:
        index: The training image.
        label: Its label.
        values: Its signed map, ``(h, w)``.
        picture: The image, ``(h, w, 3)``.
    """

    index: int
    label: int
    values: NDArray[np.float32]
    picture: Picture


def suspect_labels(
    influence: Influence, train: ImageData, count: int | None = None
) -> tuple[SuspectLabel, ...]:
    """Return the training images whose label looks wrong, the most suspicious first.

    Of the training images that the model would label otherwise, those with the largest
    self-influence (the squared norm of the loss gradient): the model had to bend most for them.

    Args:
        influence: Scores of the training data; their squared norms are used, not the scores.
        train: The training data, for names.
        count: How many; by default all that the model contradicts with more than even odds, and
            at most one in ten of the training images.
    """
    wrong = influence.predictions != influence.labels
    sure = wrong if count is not None else wrong & (influence.confidences > 0.5)  # noqa: PLR2004 - even odds
    places = sure.nonzero().flatten()
    order = influence.self_influence[places].argsort(descending=True, stable=True)
    most = count if count is not None else max(1, len(wrong) // 10)
    return tuple(
        SuspectLabel(
            index=int(influence.indices[i]),
            name=train.name(int(influence.indices[i])),
            label=int(influence.labels[i]),
            suggested=int(influence.predictions[i]),
            confidence=float(influence.confidences[i]),
            score=float(influence.self_influence[i]),
        )
        for i in places[order][:most].tolist()
    )


def find_regions(
    maps: Sequence[CarriedMap],
    reference: Sequence[Picture],
    *,
    fewest: int = 8,
    ratio: float = 2.0,
    agreement: float = 0.5,
    least: float = 0.1,
    most: int = 2,
) -> tuple[RegionRecord, ...]:
    """Return regions that keep carrying influence across the training images of a class.

    For each class, the positive parts of the maps of its training images, each of unit mass, are
    averaged, and the box is taken in which the average departs most from a flat one: the largest
    Kullback-Leibler divergence between the box's share of the mass and of the area. A box is
    reported if the maps of enough different images agree on it; then the next is looked for.

    An object that always stands in the same place makes a region too; ``similarity`` tells a
    pasted patch (near 1: the pixels hardly differ from image to image) from an object (near 0).
    The most similar come first.

    Args:
        maps: Maps of training images that speak for predictions.
        reference: Pictures of arbitrary training images, against which pixels are compared.
        fewest: Different images that must agree; more than one prediction's proponents.
        ratio: The mass inside must be this many times the box's share of the area.
        agreement: Share of the maps that must reach this ratio.
        least: The box must hold at least this share of the mass.
        most: Regions of one class, at most.
    """
    found: list[RegionRecord] = []
    for label in sorted({m.label for m in maps}):
        own = [m for m in maps if m.label == label and (m.values > 0).any()]
        if len({m.values.shape for m in own}) != 1:
            continue
        single = one_each(own)
        shares = np.stack([m.values for m in single])
        rest = shares.mean(axis=0)
        for _ in range(most):
            box = best_box(rest)
            inside, area = mass_in(shares, box), area_of(box, rest.shape)
            agreeing = inside >= ratio * area
            rest = rest.copy()
            rest[box[1] : box[3], box[0] : box[2]] = 0
            enough = agreeing.sum() >= fewest and agreeing.mean() >= agreement
            if not enough or inside.mean() < max(least, ratio * area):
                continue
            carriers = [m for m, agrees in zip(single, agreeing, strict=True) if agrees]
            found.append(
                RegionRecord(
                    box=box,
                    label=label,
                    mass=float(inside.mean()),
                    area=area,
                    images=tuple(sorted(m.index for m in carriers)),
                    maps=len(own),
                    similarity=similarity([m.picture for m in carriers], reference, box),
                )
            )
    return tuple(sorted(found, key=lambda r: (r.similarity, r.ratio), reverse=True))


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


def best_box(mean: NDArray[np.float32]) -> tuple[int, int, int, int]:
    """Return the box in which a map of unit mass departs most from a flat one."""
    rows, columns = mean.shape
    integral = np.zeros((rows + 1, columns + 1))
    integral[1:, 1:] = mean.cumsum(axis=0).cumsum(axis=1)
    best, box = -np.inf, (0, 0, columns, rows)
    for height in lengths(rows):
        for width in lengths(columns):
            area = height * width / (rows * columns)
            mass = (
                integral[height:, width:]
                - integral[:-height, width:]
                - integral[height:, :-width]
                + integral[:-height, :-width]
            )
            gain = divergence(mass, area)
            top, left = np.unravel_index(gain.argmax(), gain.shape)
            if gain[top, left] > best:
                best = gain[top, left]
                box = (int(left), int(top), int(left) + width, int(top) + height)
    return box


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


def mass_in(shares: NDArray[np.float32], box: tuple[int, int, int, int]) -> NDArray[np.float32]:
    """Return each map's mass inside a box."""
    left, top, right, bottom = box
    inside: NDArray[np.float32] = shares[:, top:bottom, left:right].sum(axis=(1, 2))
    return inside


def area_of(box: tuple[int, int, int, int], shape: Sequence[int]) -> float:
    """Return a box's share of an image."""
    left, top, right, bottom = box
    return (right - left) * (bottom - top) / (shape[0] * shape[1])


def similarity(
    pictures: Sequence[Picture], reference: Sequence[Picture], box: tuple[int, int, int, int]
) -> float:
    """Return how alike some pictures are inside a box: 1 minus their share of the variance."""
    left, top, right, bottom = box

    def spread(some: Sequence[Picture]) -> float:
        cropped = np.stack([p[top:bottom, left:right].astype(np.float64) for p in some])
        return float(cropped.var(axis=0).mean())

    whole = spread([*reference, *pictures])
    return float(np.clip(1 - spread(pictures) / whole, -1, 1)) if whole > 0 else 0.0


def sampled(count: int, most: int, seed: int = 0) -> list[int]:
    """Return at most so many of ``count`` places, drawn without repetition, in order."""
    generator = torch.Generator().manual_seed(seed)
    return sorted(torch.randperm(count, generator=generator)[:most].tolist())
