"""What a verification shows: the accepted findings in short, and images side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import ImageData, Images
from whence.recipes.audit_maps import map_record
from whence.recipes.audit_subject import Subject
from whence.recipes.fix_plan import Plan
from whence.recipes.verify_maps import Explained, inside_share
from whence.recipes.verify_plant import Planted
from whence.results import Audited
from whence.results.verify import Accepted, VerifyImage, View

__all__ = ["Seen", "accepted_in", "shots"]

SHOWN = 6
"""Images of each kind that are shown."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What both networks make of some images.

    Args:
        kind: ``planted`` or ``test``.
        rows: Which of the planted images, or of the test images.
        pair: Before and after.
    """

    kind: str
    rows: Tensor
    pair: tuple[Explained, Explained]


def accepted_in(plan: Plan, audited: Audited) -> tuple[Accepted, ...]:
    """Return the accepted findings in short."""
    return tuple(
        Accepted(
            id=one.id,
            action=one.action,
            summary=one.summary,
            images=audited.images
            if one.action == "mask" and one.box is not None
            else len(one.images),
            box=one.box,
            label=one.label,
            note=one.note,
        )
        for one in plan.accepted
    )


def shots(
    subject: Subject,
    test: ImageData,
    images: Images,
    labels: Tensor,
    places: Tensor,
    plan: Plan,
    put: Planted | None,
    views: list[Seen],
) -> Iterator[VerifyImage]:
    """Yield some images as both networks see them, those first whose prediction changed.

    Args:
        subject: Knows how an image looks.
        test: The test data, for names.
        images: The test images.
        labels: Their classes.
        places: Their places in the test data.
        plan: What was accepted.
        put: Images with a shortcut planted, if there are some.
        views: What was attributed.
    """
    boxes = {one.id: one.box for one in plan.accepted}
    for one in views:
        before, after = one.pair
        changed = (before.predictions != after.predictions).long()
        order = changed.argsort(descending=True, stable=True)[:SHOWN].tolist()
        for at in order:
            row = int(one.rows[at])
            planted = put is not None and one.kind == "planted"
            own = int(put.rows[row]) if put is not None and planted else row
            picture = put.images[row] if put is not None and planted else images[own]
            inside = put.inside[row : row + 1] if put is not None and planted else None
            yield VerifyImage(
                name=test.name(int(places[own])),
                kind=one.kind,
                label=None if labels[own] < 0 else int(labels[own]),
                picture=subject.picture(picture),
                before=view_of(before, at, inside),
                after=view_of(after, at, inside),
                box=boxes[put.findings[row]] if put is not None and planted else None,
            )


def view_of(seen: Explained, at: int, inside: Tensor | None) -> View:
    """Return what one network makes of one image."""
    attribution = seen.maps[at]
    share = None if inside is None else inside_share(attribution.values.detach().cpu(), inside)
    return View(
        prediction=int(seen.predictions[at]),
        confidence=float(seen.confidences[at]),
        map=map_record(attribution, 0, attribution.method),
        inside=None if share is None or torch.isnan(share).any() else float(share[0]),
    )
