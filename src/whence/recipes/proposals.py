"""Proposals: what an audit found, as findings that a person accepts, edits or rejects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from numpy.typing import NDArray

from whence.core import ImageData, Progress
from whence.network import Network
from whence.recipes.audit_subject import Subject
from whence.recipes.boxes import CarriedMap
from whence.recipes.likeness import Box, Picture, likeness, pooled, spread_of
from whence.recipes.shortcuts import propose_shortcuts
from whence.results import Finding, HarmfulImage, RegionRecord, SuspectLabel

__all__ = [
    "Grounds",
    "image_findings",
    "label_findings",
    "proposed",
    "region_findings",
    "shown_in",
]

ALIKE = 0.7
"""How alike pixels must be to show the same mark: 1 for equal, 0 by chance."""

MARK = 0.8
"""From this similarity on a region shows the same pixels, and can be looked for in any image."""

FINE = 48
"""Cells on a side to which pictures are pooled to look for a mark that moves."""

RANDOM = 16
"""Windows of each arbitrary picture, which say how alike two are anyhow."""

LABELS = 48
"""Labels proposed, at most: as many as the audit keeps pictures of."""

Values = NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Grounds:
    """What proposals are made of.

    Args:
        network: The network.
        subject: Knows how an image looks.
        train: The training data.
        test: The test data.
        classes: Names of the classes.
        maps: Training-feature maps of the audit.
        pictures: Training images by place, among them those of the regions.
        reference: Arbitrary training images.
    """

    network: Network
    subject: Subject
    train: ImageData
    test: ImageData
    classes: tuple[str, ...]
    maps: Sequence[CarriedMap]
    pictures: Mapping[int, Picture]
    reference: Sequence[Picture]


def proposed(
    grounds: Grounds,
    regions: Sequence[RegionRecord],
    images: tuple[Sequence[SuspectLabel], Sequence[HarmfulImage]],
    lists: Mapping[str, tuple[int, ...]],
    wrong: int,
    progress: Progress,
) -> tuple[Finding, ...]:
    """Return what a person may accept, edit or reject.

    Args:
        grounds: The networks, the data and the maps.
        regions: Regions in one place, and marks that move.
        images: Labels that look wrong, and images that harm predictions.
        lists: Groups of training images that were asked for, by name.
        wrong: How many wrong predictions were looked at.
        progress: Told how far it is.
    """
    suspects, harmful = images
    return (
        *region_findings(
            regions,
            grounds.pictures,
            grounds.reference,
            grounds.train,
            grounds.subject,
            grounds.classes,
            progress,
        ),
        *propose_shortcuts(
            grounds.network,
            grounds.train,
            grounds.test,
            classes=grounds.classes,
            maps=grounds.maps,
            progress=progress,
        ),
        *image_findings(harmful, lists, wrong, len(grounds.train)),
        *label_findings(suspects, grounds.classes),
    )


def region_findings(
    regions: Sequence[RegionRecord],
    pictures: Mapping[int, Picture],
    reference: Sequence[Picture],
    train: ImageData,
    subject: Subject,
    classes: Sequence[str],
    progress: Progress,
) -> tuple[Finding, ...]:
    """Return each region as a finding that names all training images that show it.

    A mark in one place becomes a box, which holds for all images. One that moves about is looked
    for in every training image, and gets a mask in each that shows it. The cost is one pass over
    the training data, if there is a region at all.

    Args:
        regions: Those of the audit.
        pictures: Training images by place, among them those of the regions.
        reference: Arbitrary training images.
        train: The training data.
        subject: Knows how an image looks.
        classes: Names of the classes.
        progress: Told how many training images have been looked at.
    """
    if not regions:
        return ()
    shown: list[dict[int, Box]] = [{} for _ in regions]
    labels: dict[int, int] = {}
    marks = [mark_of(region, pictures, reference) for region in regions]
    done = 0
    for batch in train.batches(32):
        for index, image, label in zip(
            batch.indices.tolist(), batch.images, batch.labels.tolist(), strict=True
        ):
            picture = subject.picture(image)
            labels[index] = label
            for at, mark in enumerate(marks):
                box = None if mark is None else shown_in(picture, *mark)
                if box is not None:
                    shown[at][index] = box
        done += len(batch.indices)
        progress("looking for the marks", done, len(train))
    return tuple(
        region_finding(f"shortcut-{at + 1}", region, shown[at], labels, pictures, classes)
        for at, region in enumerate(regions)
    )


def region_finding(
    name: str,
    region: RegionRecord,
    shown: Mapping[int, Box],
    labels: Mapping[int, int],
    pictures: Mapping[int, Picture],
    classes: Sequence[str],
) -> Finding:
    """Return one region as a finding."""
    moving = bool(region.boxes)
    places = {**dict(zip(region.images, region.boxes, strict=False)), **shown}
    images = tuple(sorted({*region.images, *shown}))
    own = sum(labels.get(i) == region.label for i in images)
    rows, columns = pictures[region.images[0]].shape[:2]
    masks = None
    if moving:
        masks = np.zeros((len(images), rows, columns), np.uint8)
        for mask, place in zip(masks, images, strict=True):
            left, top, right, bottom = places[place]
            mask[top:bottom, left:right] = 255
    width, height = region.box[2] - region.box[0], region.box[3] - region.box[1]
    where = "that moves about" if moving else f"at {list(region.box)}"
    elsewhere = len(images) - own
    summary = (
        f"Class {classes[region.label]}: a region of {width} x {height} pixels {where} carries "
        f"{region.mass:.0%} of the influence on {region.area:.1%} of the area; {own} training "
        f"images of the class show it, {elsewhere} of other classes."
    )
    evidence: dict[str, float | int | str | None] = {
        "share of the influence": round(region.mass, 4),
        "share of the area": round(region.area, 4),
        "share of the influence by chance": rounded(region.chance_mass),
        "images that agree by chance": rounded(region.chance_images),
        "p": rounded(region.p),
        "maps looked at": region.maps,
        "images whose maps agree": len(region.images),
        "pixels alike": round(region.similarity, 4),
        "pixels alike by chance": rounded(region.chance_similarity),
        "predictions it speaks for": len(region.queries),
        "predictions whose image shows it": len(region.shown_in),
        "training images of the class that show it": own,
        "training images of other classes that show it": elsewhere,
    }
    return Finding(
        id=name,
        kind="region",
        summary=summary,
        label=region.label,
        images=images,
        box=None if moving else region.box,
        masks=masks,
        evidence={key: value for key, value in evidence.items() if value is not None},
    )


def rounded(value: float | None) -> float | None:
    """Return a number as it is written down."""
    return None if value is None else round(value, 4)


Looked = tuple[Values, int, float, Box | None]
"""A mark's pixels ``(1, d)``, the pooling, the usual variance, and its place if it has one."""


def mark_of(
    region: RegionRecord, pictures: Mapping[int, Picture], reference: Sequence[Picture]
) -> Looked | None:
    """Return what to look for: the piece most like the others; None if they are not alike."""
    if region.similarity < MARK and not region.boxes:
        return None
    images = [i for i in region.images if i in pictures]
    boxes = region.boxes or (region.box,) * len(region.images)
    place = dict(zip(region.images, boxes, strict=True))
    factor = max(1, min(pictures[images[0]].shape[:2]) // FINE) if region.boxes else 1
    crops = np.stack([cut(pooled(pictures[i], factor), place[i], factor) for i in images])
    width, height = region.box[2] - region.box[0], region.box[3] - region.box[1]
    if region.boxes:
        anyhow = random_windows(reference, height // factor, width // factor, factor)
    else:
        anyhow = np.stack([*(cut(p.astype(float), region.box, 1) for p in reference), *crops])
    spread = spread_of(anyhow)
    centre = int(likeness(crops, crops, spread).sum(axis=1).argmax())
    return crops[centre][None], factor, spread, None if region.boxes else region.box


def shown_in(
    picture: Picture, mark: Values, factor: int, spread: float, box: Box | None
) -> Box | None:
    """Return where a picture shows a mark; None if it does not.

    Args:
        picture: The picture.
        mark: The mark's pixels, ``(1, d)``, of a square window if it moves.
        factor: By how much pictures are pooled first.
        spread: The usual variance of a value.
        box: Where to look; everywhere if None.
    """
    small = pooled(picture, factor)
    if box is not None:
        here = likeness(cut(small, box, 1)[None], mark, spread)[0, 0]
        return box if here >= ALIKE else None
    side = round((mark.shape[1] / small.shape[2]) ** 0.5)
    if side > min(small.shape[:2]):
        return None
    windows = np.lib.stride_tricks.sliding_window_view(small, (side, side), (0, 1))
    rows, columns = windows.shape[:2]
    crops = windows.transpose(0, 1, 3, 4, 2).reshape(rows * columns, -1)
    near = likeness(crops, mark, spread)[:, 0]
    best = int(near.argmax())
    if near[best] < ALIKE:
        return None
    top, left = (int(n) * factor for n in np.unravel_index(best, (rows, columns)))
    return left, top, left + side * factor, top + side * factor


def cut(picture: Values, box: Box, factor: int) -> Values:
    """Return what a pooled picture shows in a box of the whole one, as one row."""
    left, top, right, bottom = (n // factor for n in box)
    return picture[top:bottom, left:right].ravel()


def random_windows(pictures: Sequence[Picture], rows: int, columns: int, factor: int) -> Values:
    """Return windows of arbitrary pictures at random places, ``(n, d)``."""
    generator = np.random.default_rng(0)
    found = []
    for one in pictures:
        small = pooled(one, factor)
        for _ in range(RANDOM):
            top = int(generator.integers(0, small.shape[0] - rows + 1))
            left = int(generator.integers(0, small.shape[1] - columns + 1))
            found.append(small[top : top + rows, left : left + columns].ravel())
    return np.stack(found)


def label_findings(suspects: Sequence[SuspectLabel], classes: Sequence[str]) -> tuple[Finding, ...]:
    """Return the labels that look wrong most as findings, one for each image."""
    found = []
    for one in suspects[:LABELS]:
        numbers = {
            "self-influence is higher than that of": rounded(one.rank),
            "similar training images with another label": rounded(one.disagreement),
            "strong influences that speak against the label": rounded(one.opposition),
            "probability of the suggested class": rounded(one.confidence),
        }
        found.append(
            Finding(
                id=f"label-{one.index}",
                kind="label",
                summary=f"{one.name} is labelled {classes[one.label]} and looks like "
                f"{classes[one.suggested]}: {', '.join(one.evidence) or 'none'} speak against it.",
                label=one.label,
                images=(one.index,),
                suggested=one.suggested,
                evidence={key: value for key, value in numbers.items() if value is not None},
            )
        )
    return tuple(found)


def image_findings(
    harmful: Sequence[HarmfulImage], lists: Mapping[str, tuple[int, ...]], wrong: int, total: int
) -> tuple[Finding, ...]:
    """Return images that harm several predictions, and the groups asked for, as findings.

    Args:
        harmful: The images that harm the most predictions.
        lists: Groups of training images that were asked for, by name.
        wrong: How many wrong predictions were looked at.
        total: How many training images there are.
    """
    found = []
    several = [one for one in harmful if len(one.queries) > 1]
    if several:
        share = sum(one.share for one in several)
        found.append(
            Finding(
                id="images-1",
                kind="images",
                summary=f"{len(several)} training images are each among the ten that speak most "
                f"for several of {wrong} wrong predictions, against their labels.",
                images=tuple(sorted(one.index for one in several)),
                evidence={
                    "wrong predictions looked at": wrong,
                    "most predictions that one of them harms": max(
                        len(one.queries) for one in several
                    ),
                    "share of all harm": round(share, 4),
                    "share of the training images": round(len(several) / total, 4),
                },
            )
        )
    found += [
        Finding(
            id="images-1",
            kind="images",
            summary=f"The group {name!r} of {len(places)} training images, as it was given.",
            images=places,
        )
        for name, places in lists.items()
    ]
    return tuple(replace(one, id=f"images-{at}") for at, one in enumerate(found, start=1))
