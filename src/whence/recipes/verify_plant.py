"""Planting: what becomes of images when a shortcut of another class is put into them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence.core import ImageData, Images
from whence.recipes.audit_subject import Subject
from whence.recipes.findings import sampled
from whence.recipes.fix_plan import Plan
from whence.recipes.likeness import Box, Picture, similarity
from whence.recipes.proposals import MARK, Looked, mark_of, shown_in
from whence.recipes.swap import pasted
from whence.results import Finding, RegionRecord

__all__ = ["Planted", "Shown", "planted", "shown"]

DONORS = 64
"""Training images of a shortcut from which its pixels are taken."""

REFERENCE = 48
"""Arbitrary training images that say how alike pixels are anyhow."""

COVERED = 0.5
"""A region of more of the image cannot be planted: nothing else would be left to see."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """Test images with a shortcut of another class in them, beside their controls.

    Args:
        rows: Which of the test images, ``(m,)``.
        images: With the shortcut's pixels, ``(m, c, h, w)``.
        others: With pixels that an image of a class without the shortcut has there.
        elsewhere: With the shortcut's pixels at another place; as ``images`` where there is none.
        moved: Whether there is another place, ``(m,)``.
        classes: The shortcut's class, ``(m,)``.
        inside: Where it was planted, ``(m, 1, h, w)``.
        findings: Which finding each has.
    """

    rows: Tensor
    images: Images
    others: Images
    elsewhere: Images
    moved: Tensor
    classes: Tensor
    inside: Tensor
    findings: tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """Which test images show an accepted shortcut themselves.

    Args:
        by: For each finding whose pixels can be looked for, truths ``(n,)`` of the test images.
        unknown: Findings whose pixels differ from image to image, or are not known.
    """

    by: dict[str, Tensor]
    unknown: tuple[str, ...]

    def any(self, count: int) -> Tensor:
        """Return which of the test images show one of them."""
        found = torch.zeros(count, dtype=torch.bool)
        for own in self.by.values():
            found |= own
        return found


def shown(plan: Plan, train: ImageData, images: Images, subject: Subject) -> Shown:
    """Return which test images show the accepted regions.

    Args:
        plan: What was accepted.
        train: The training data, where the pixels are known from.
        images: The test images.
        subject: Knows how an image looks.
    """
    regions = [one for one in plan.accepted if one.action == "mask"]
    marks = {one.id: looked(one, train, subject) for one in regions}
    known = {name: mark for name, mark in marks.items() if mark is not None}
    by = {name: torch.zeros(len(images), dtype=torch.bool) for name in known}
    for row, image in enumerate(images if known else ()):
        picture = subject.picture(image)
        for name, mark in known.items():
            by[name][row] = shown_in(picture, *mark) is not None
    return Shown(by=by, unknown=tuple(name for name in marks if name not in known))


def looked(one: Finding, train: ImageData, subject: Subject) -> Looked | None:
    """Return the pixels of a region to look for; None if they are not alike in its images."""
    rows = sampled(len(one.images), DONORS)
    places = [one.images[k] for k in rows]
    boxes = [one.box] if one.box is not None else windows_of(one, rows)
    if len(places) < 2 or not boxes:  # noqa: PLR2004 - two can be alike
        return None
    pictures = dict(pictured(train, places, subject))
    usual = sampled(len(train), REFERENCE)
    reference = [picture for _, picture in pictured(train, usual, subject)]
    alike = similarity(list(pictures.values()), reference, boxes[0]) if one.box else 1.0
    if alike < MARK:
        return None
    held = [at for at, place in enumerate(places) if place in pictures]
    region = RegionRecord(
        box=boxes[0],
        label=one.label or 0,
        mass=0.0,
        area=0.0,
        images=tuple(places[at] for at in held),
        maps=0,
        similarity=alike,
        boxes=() if one.box is not None else tuple(boxes[at] for at in held),
    )
    return mark_of(region, pictures, reference)


def windows_of(one: Finding, rows: Sequence[int]) -> list[Box]:
    """Return the masks of a finding as boxes, if all are squares of one size; none otherwise."""
    if one.masks is None:
        return []
    boxes = []
    for mask in one.masks[list(rows)] > 0:
        down, across = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(down):
            return []
        box = (int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1)
        if not mask[box[1] : box[3], box[0] : box[2]].all():
            return []
        boxes.append(box)
    sizes = {(right - left, bottom - top) for left, top, right, bottom in boxes}
    square = len(sizes) == 1 and all(width == height for width, height in sizes)
    return boxes if square else []


def pictured(data: ImageData, places: Sequence[int], subject: Subject) -> list[tuple[int, Picture]]:
    """Return pictures of some images, by place."""
    return [
        (place, subject.picture(image))
        for batch in data.batches(32, list(places))
        for place, image in zip(batch.indices.tolist(), batch.images, strict=True)
    ]


def planted(
    plan: Plan,
    train: ImageData,
    images: Images,
    labels: Tensor,
    seen: Shown,
    *,
    most: int,
    seed: int,
    masks: NDArray[np.bool_] | None = None,
) -> tuple[Planted | None, tuple[str, ...]]:
    """Return test images with shortcuts of other classes planted, and what could not be.

    Each test image gets the shortcut of one finding, by chance, whose class is not its own.

    Args:
        plan: What was accepted.
        train: The training data, whose pixels are planted.
        images: The test images.
        labels: Their classes, -1 where there is none.
        seen: Which show a shortcut already; these are left out.
        most: At most so many.
        seed: Of what is drawn.
        masks: Where the region of each test image is, ``(n, h, w)``, if that is known: the
            donor's region is put there. Otherwise the donor's place is taken.
    """
    generator = torch.Generator().manual_seed(seed)
    notes: list[str] = []
    sources: dict[str, tuple[Finding, Images, Tensor]] = {}
    for one in plan.accepted:
        if one.action != "mask":
            continue
        if one.label is None:
            notes.append(f"{one.id} was not planted: it has no class (label) that it stands for.")
            continue
        donors = donors_of(one, plan, train)
        if donors is None:
            notes.append(f"{one.id} was not planted: no training image shows it.")
            continue
        if masks is None and float(donors[1].double().mean()) > COVERED:
            notes.append(
                f"{one.id} was not planted: its region takes more than half of an image, so that "
                f"nothing else would be left to see. Give masks of the test images (test_masks, "
                f"--test-masks), or test images of other backgrounds (also, --also)."
            )
            continue
        sources[one.id] = (one, *donors)
    free = (labels >= 0) & ~seen.any(len(images))
    rows = free.nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)][:most].sort().values
    others = others_of(plan, train)
    parts = []
    for row in rows.tolist():
        fitting = [name for name, (one, _, _) in sources.items() if one.label != int(labels[row])]
        if fitting:
            name = fitting[int(torch.randint(len(fitting), (1,), generator=generator))]
            own = None if masks is None else torch.from_numpy(masks[row])[None, None]
            made = plant(images[row : row + 1], *sources[name], others, own, generator)
            parts.append((row, name, int(sources[name][0].label or 0), *made))
    if not parts:
        return None, tuple(notes)
    columns = list(zip(*parts, strict=True))
    return Planted(
        rows=torch.tensor(columns[0]),
        findings=tuple(columns[1]),
        classes=torch.tensor(columns[2]),
        images=torch.cat(columns[3]),
        others=torch.cat(columns[4]),
        elsewhere=torch.cat(columns[5]),
        moved=torch.tensor(columns[6]),
        inside=torch.cat(columns[7]),
    ), tuple(notes)


def donors_of(one: Finding, plan: Plan, train: ImageData) -> tuple[Images, Tensor] | None:
    """Return training images that show a region, and where it is in them."""
    own = [place for place in one.images if train.label(place) == one.label]
    if not own and one.box is not None:
        own = [place for place in range(len(train)) if train.label(place) == one.label]
    places = [own[k] for k in sampled(len(own), DONORS)] if own else []
    batches = list(train.batches(DONORS, places)) if places else []
    if not batches:
        return None
    used = [place for batch in batches for place in batch.indices.tolist()]
    inside = plan.masks(torch.tensor(used))
    if one.box is not None:
        left, top, right, bottom = one.box
        inside = torch.zeros_like(inside)
        inside[:, :, top:bottom, left:right] = True
    elif one.masks is not None:
        at = {place: row for row, place in enumerate(one.images)}
        inside = torch.from_numpy(one.masks[[at[place] for place in used]] > 0)[:, None]
    return torch.cat([batch.images for batch in batches]), inside


def others_of(plan: Plan, train: ImageData) -> Images:
    """Return training images of classes without a shortcut, that show none; any, if all have."""
    held = {place for one in plan.accepted if one.action == "mask" for place in one.images}
    free = [k for k in range(len(train)) if k not in held and train.label(k) not in plan.classes]
    free = free or [k for k in range(len(train)) if k not in held] or list(range(len(train)))
    places = [free[k] for k in sampled(len(free), DONORS)]
    return torch.cat([batch.images for batch in train.batches(DONORS, places)])


def plant(
    image: Images,
    one: Finding,
    donors: Tensor,
    inside: Tensor,
    others: Tensor,
    own: Tensor | None,
    generator: torch.Generator,
) -> tuple[Images, Images, Images, bool, Tensor]:
    """Return an image with a shortcut, its two controls, whether it moved, and the region."""
    pick = int(torch.randint(len(donors), (1,), generator=generator))
    other = int(torch.randint(len(others), (1,), generator=generator))
    donor, theirs = donors[pick : pick + 1], inside[pick : pick + 1]
    where = theirs if own is None else own
    made = pasted(image, where, donor, None if own is None else theirs)
    control = pasted(image, where, others[other : other + 1])
    if one.box is None:
        return made, control, made, False, where
    moved = moved_to(image, donor, one.box, generator)
    return made, control, made if moved is None else moved, moved is not None, where


def moved_to(image: Images, donor: Images, box: Box, generator: torch.Generator) -> Images | None:
    """Return an image with a box of a donor at another place; None if there is no room."""
    left, top, right, bottom = box
    wide, high = right - left, bottom - top
    places = [
        (y, x)
        for y in range(image.shape[2] - high + 1)
        for x in range(image.shape[3] - wide + 1)
        if abs(y - top) >= high or abs(x - left) >= wide
    ]
    if not places:
        return None
    y, x = places[int(torch.randint(len(places), (1,), generator=generator))]
    made = image.clone()
    made[:, :, y : y + high, x : x + wide] = donor[:, :, top:bottom, left:right]
    return made
