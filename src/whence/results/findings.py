"""Findings: what an audit proposes to put right, and what a person decided about it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from whence.display import card, facts, note
from whence.errors import RecordError, SettingError

__all__ = ["ACTIONS", "KINDS", "VERDICTS", "Audited", "Finding", "check_findings", "decide"]

VERDICTS = ("open", "accepted", "rejected")

ACTIONS = {"region": ("mask", "drop"), "label": ("relabel", "drop"), "images": ("drop", "relabel")}
"""What may be done about a finding, by its kind; the first is what is done by default."""

KINDS = tuple(ACTIONS)

INSIDE = 255

Box = tuple[int, int, int, int]
Masks = NDArray[np.uint8]


@final
@dataclass(frozen=True, kw_only=True)
class Audited:
    """What findings speak of, so that a decision can be checked without the audit's arrays.

    Args:
        images: How many training images there are.
        classes: Names of the classes.
        height: Rows of the model's input; 0 if no map was made.
        width: Columns of it.
        train: The fingerprint of the training data.
        model: The fingerprint of the model.
    """

    images: int
    classes: tuple[str, ...]
    height: int
    width: int
    train: str
    model: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """Something that an audit holds to be wrong with the training data, and a person's verdict.

    Args:
        id: Its name, which stays: ``shortcut-1``; ``label-17`` for the label of training image 17;
            ``images-1``.
        kind: ``region``: pixels that carry influence and should not; ``label``: a label that looks
            wrong; ``images``: training images that do harm together.
        verdict: ``open`` until a person has ``accepted`` or ``rejected`` it.
        summary: One sentence for a person.
        label: The class concerned, if there is one.
        images: Places in the training set of the images concerned.
        box: A region that is the same in all training images: ``(left, top, right, bottom)`` in
            pixels of the model's input, right and bottom exclusive.
        masks: A region that is elsewhere in each image: ``(len(images), h, w)``, 255 inside.
        suggested: The class that the images should have.
        action: What is done about it once accepted: ``mask`` keeps attributions out of the region,
            ``drop`` leaves the images out of the training, ``relabel`` gives them ``suggested``.
        evidence: What speaks for it, in words, with what chance gives.
        note: The person's own words.
    """

    id: str
    kind: str
    verdict: str = "open"
    summary: str = ""
    label: int | None = None
    images: tuple[int, ...] = ()
    box: Box | None = None
    masks: Masks | None = None
    suggested: int | None = None
    action: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without the audit; fill in the usual action.

        Raises:
            RecordError: A word that there is not, or parts that do not belong together.
        """
        if not self.id or self.id != self.id.strip() or "/" in self.id or "," in self.id:
            msg = (
                f"A finding needs an id without commas, slashes and outer spaces, such as "
                f"'shortcut-1'; got {self.id!r}."
            )
            raise RecordError(msg)
        check_word(self.id, "kind", self.kind, KINDS)
        check_word(self.id, "verdict", self.verdict, VERDICTS)
        if not self.action:
            object.__setattr__(self, "action", ACTIONS[self.kind][0])
        check_word(self.id, "action", self.action, ACTIONS[self.kind])
        if len(set(self.images)) != len(self.images):
            msg = f"{self.id} names a training image twice; name each once."
            raise RecordError(msg)
        self.check_region()
        if self.action == "mask" and self.box is None and self.masks is None:
            msg = f"{self.id} has neither a box nor masks, so there is nothing to mask. Give a box."
            raise RecordError(msg)
        if self.action == "relabel" and self.suggested is None:
            msg = f"{self.id} is to relabel images, but has no suggested class. Give suggested."
            raise RecordError(msg)
        if self.action != "mask" and not self.images:
            msg = f"{self.id} is to {self.action} images, but names none. Give images."
            raise RecordError(msg)

    def _repr_html_(self) -> str:
        """Show the finding in a notebook: what it is, what speaks for it, what was decided."""
        told = {
            "kind": self.kind,
            "verdict": self.verdict,
            "action": self.action,
            "images": len(self.images),
            "box": self.box,
            "note": self.note,
        }
        return card(self.id, note(self.summary), facts(told), facts(self.evidence))

    def check_region(self) -> None:
        """Check box and masks.

        Raises:
            RecordError: Both, a box without an area, or masks that are none.
        """
        if self.box is not None and self.masks is not None:
            msg = f"{self.id} has a box and masks of its own; keep one of them."
            raise RecordError(msg)
        if self.box is not None:
            left, top, right, bottom = self.box
            if not (0 <= left < right and 0 <= top < bottom):
                msg = (
                    f"{self.id} needs a box of left < right and top < bottom, from 0; got "
                    f"{list(self.box)}."
                )
                raise RecordError(msg)
        masks = self.masks
        if masks is not None and (
            masks.ndim != 3  # noqa: PLR2004 - images, rows, columns
            or len(masks) != len(self.images)
            or masks.dtype != np.uint8
            or not np.isin(masks, (0, INSIDE)).all()
        ):
            msg = (
                f"{self.id} needs masks (n, h, w) of uint8, 0 or 255, one for each of its "
                f"{len(self.images)} images; got {masks.shape} of {masks.dtype}."
            )
            raise RecordError(msg)


def check_word(owner: str, name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a word that there is not.

    Raises:
        RecordError: With those that there are.
    """
    if value not in known:
        msg = f"{owner} has the {name} {value!r}, which there is not. Write {' or '.join(known)}."
        raise RecordError(msg)


def check_findings(findings: Sequence[Finding], audited: Audited) -> None:
    """Check findings against what was audited.

    Raises:
        RecordError: An id that is there twice, a class or training image that does not exist, a
            box or masks that do not fit the images.
    """
    seen = set[str]()
    for one in findings:
        if one.id in seen:
            msg = f"Two findings are called {one.id}. Give one of them another id."
            raise RecordError(msg)
        seen.add(one.id)
        for name, label in (("label", one.label), ("suggested class", one.suggested)):
            if label is not None and not 0 <= label < len(audited.classes):
                msg = (
                    f"{one.id} has class {label} as its {name}, but the model has classes 0 to "
                    f"{len(audited.classes) - 1}."
                )
                raise RecordError(msg)
        missing = [place for place in one.images if not 0 <= place < audited.images]
        if missing:
            msg = (
                f"{one.id} names training image {missing[0]}, but the training data have places 0 "
                f"to {audited.images - 1}."
            )
            raise RecordError(msg)
        check_fit(one, audited)


def check_fit(one: Finding, audited: Audited) -> None:
    """Check that a region lies in the image.

    Raises:
        RecordError: It does not.
    """
    size = (audited.height, audited.width)
    if one.box is not None and (one.box[2] > size[1] or one.box[3] > size[0]):
        msg = (
            f"{one.id} has the box {list(one.box)}, but the model sees images of {size[1]} x "
            f"{size[0]} pixels (width x height). Right and bottom may be at most that."
        )
        raise RecordError(msg)
    if one.masks is not None and one.masks.shape[1:] != size:
        msg = (
            f"{one.id} has masks of {one.masks.shape[1:]} pixels, but the model sees images of "
            f"{size} (rows, columns)."
        )
        raise RecordError(msg)


def decide(
    findings: Sequence[Finding], ids: str | Collection[str], verdict: str = "accepted"
) -> tuple[Finding, ...]:
    """Return findings with a verdict on some of them.

    Args:
        findings: Those of an audit.
        ids: Which of them: an id, several, or ``"all"``; a pattern such as ``"label-*"`` stands
            for all that fit.
        verdict: ``"accepted"``, ``"rejected"`` or ``"open"``.

    Raises:
        SettingError: There is no such finding; those that there are are named.
        RecordError: There is no such verdict.
    """
    wanted = {ids} if isinstance(ids, str) else set(ids)
    known = [one.id for one in findings]
    fitting = {
        one: [k for k in known if one in (k, "all") or fnmatchcase(k, one)] for one in wanted
    }
    chosen = {name for names in fitting.values() for name in names}
    unknown = sorted(one for one, names in fitting.items() if not names and one != "all")
    if unknown:
        listed = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")  # noqa: PLR2004
        msg = f"There is no finding {unknown[0]!r}. " + (
            f"There are: {listed}." if known else "The audit found nothing."
        )
        raise SettingError(msg)
    return tuple(replace(one, verdict=verdict) if one.id in chosen else one for one in findings)
