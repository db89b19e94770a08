"""What accepted findings ask for: masks, images to leave out, labels to change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from whence.core import Batch, ImageData, fingerprint_tensor
from whence.errors import DataError, MismatchError, SettingError
from whence.recipes.fit_data import Part
from whence.results import Audited, Finding

__all__ = ["Plan", "Relabelled", "check_same_data", "plan_of"]

SHOWN = 8


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Relabelled:
    """A dataset in which some images have other labels.

    Args:
        whole: The dataset.
        labels: The new labels, by place.
    """

    whole: ImageData
    labels: Mapping[int, int]

    @property
    def title(self) -> str:
        """What to call the dataset."""
        return self.whole.title

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.whole.classes

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Name and reason of each image found unusable so far."""
        return self.whole.skipped

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.whole)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return self.whole.name(index)

    def label(self, index: int) -> int | None:
        """Return the class of an image."""
        return self.labels.get(index, self.whole.label(index))

    def batches(self, size: int, indices: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yield batches of at most ``size`` images, in order."""
        for batch in self.whole.batches(size, indices):
            pairs = zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)
            new = [self.labels.get(place, label) for place, label in pairs]
            yield replace(batch, labels=torch.tensor(new, dtype=batch.labels.dtype))

    def fingerprint(self) -> str:
        """Return the fingerprint of the whole, and of the new labels."""
        changed = torch.tensor(sorted(self.labels.items()), dtype=torch.int64)
        return f"{self.whole.fingerprint()}:{fingerprint_tensor(changed)}"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """What is done about a training.

    Args:
        accepted: The findings that were accepted.
        shortcut: Where the shortcuts are, ``(n, 1, h, w)`` of truths, one for each training image,
            or ``(1, 1, h, w)`` for all alike; None if there is nothing to mask.
        dropped: Places of the training images that are left out.
        relabelled: New labels by place, of images that stay.
        notes: What a reader must know.
    """

    accepted: tuple[Finding, ...]
    shortcut: Tensor | None
    dropped: tuple[int, ...]
    relabelled: Mapping[int, int]
    notes: tuple[str, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether the regions are elsewhere in each image."""
        return self.shortcut is not None and len(self.shortcut) > 1

    @property
    def classes(self) -> frozenset[int]:
        """The classes whose shortcuts are masked."""
        return frozenset(
            one.label for one in self.accepted if one.action == "mask" and one.label is not None
        )

    def applied(self, train: ImageData) -> ImageData:
        """Return the training data that are left, with their new labels."""
        data = Relabelled(whole=train, labels=self.relabelled) if self.relabelled else train
        if not self.dropped:
            return data
        out = set(self.dropped)
        rest = tuple(place for place in range(len(train)) if place not in out)
        return Part(whole=data, places=rest, title=f"{len(rest)} of {train.title}")

    def masks(self, places: Tensor) -> Tensor:
        """Return where the shortcuts are in some training images, ``(b, 1, h, w)``.

        Raises:
            SettingError: Nothing is masked.
        """
        if self.shortcut is None:
            msg = "No accepted finding has a region, so there is nothing to mask."
            raise SettingError(msg)
        if len(self.shortcut) == 1:
            return self.shortcut.expand(len(places), *self.shortcut.shape[1:])
        return self.shortcut[places]


def plan_of(findings: Sequence[Finding], audited: Audited, train: ImageData) -> Plan:
    """Return what the accepted findings ask for.

    An image that one finding drops is dropped, whatever the others say of it.

    Args:
        findings: Those of the audit, decided.
        audited: What they speak of.
        train: The training data, whose labels say whether a class is left.

    Raises:
        SettingError: None is accepted, or two ask for different labels.
        DataError: A class would have no images left.
    """
    accepted = tuple(one for one in findings if one.verdict == "accepted")
    if not accepted:
        raise SettingError(none_accepted(findings))
    dropped: dict[int, str] = {}
    labels: dict[int, tuple[int, str]] = {}
    for one in accepted:
        for place in one.images if one.action == "drop" else ():
            dropped.setdefault(place, one.id)
    for one in accepted:
        for place in one.images if one.action == "relabel" and one.suggested is not None else ():
            wanted = (int(one.suggested or 0), one.id)
            other = labels.setdefault(place, wanted)
            if other[0] != wanted[0]:
                msg = (
                    f"{other[1]} and {one.id} ask for different labels of training image {place}: "
                    f"{audited.classes[other[0]]} and {audited.classes[wanted[0]]}. Reject one."
                )
                raise SettingError(msg)
    both = sorted(set(dropped) & set(labels))
    plan = Plan(
        accepted=accepted,
        shortcut=shortcut_of(accepted, audited),
        dropped=tuple(sorted(dropped)),
        relabelled={place: label for place, (label, _) in labels.items() if place not in dropped},
        notes=(f"{len(both)} images are dropped that were to be relabelled, too.",) if both else (),
    )
    check_classes(plan, dropped, train, audited.classes)
    return plan


def none_accepted(findings: Sequence[Finding]) -> str:
    """Return how a finding is accepted, where none is."""
    if not findings:
        return (
            "The audit found nothing to put right. Add a region of your own to findings.toml, or "
            "audit more predictions (--queries all, --count)."
        )
    rejected = sum(one.verdict == "rejected" for one in findings)
    listed = ", ".join(one.id for one in findings[:SHOWN]) + (
        ", ..." if len(findings) > SHOWN else ""
    )
    found = f"of {len(findings)} findings" + (f", {rejected} of them rejected" if rejected else "")
    return (
        f'Nothing is accepted {found}: {listed}. Write verdict = "accepted" in the audit\'s '
        f"findings.toml, accept in the viewer (whence view), or name them here: --accept "
        f'{findings[0].id} (accept=["{findings[0].id}"] in Python), --accept all.'
    )


def shortcut_of(accepted: Sequence[Finding], audited: Audited) -> Tensor | None:
    """Return where the accepted regions are: one mask for all images, or one for each."""
    size = (audited.height, audited.width)
    regions = [one for one in accepted if one.action == "mask"]
    if not regions:
        return None
    everywhere = torch.zeros(1, 1, *size, dtype=torch.bool)
    for one in regions:
        if one.box is not None:
            left, top, right, bottom = one.box
            everywhere[:, :, top:bottom, left:right] = True
    if all(one.masks is None for one in regions):
        return everywhere
    each = everywhere.repeat(audited.images, 1, 1, 1)
    for one in regions:
        if one.masks is not None:
            each[list(one.images), 0] |= torch.from_numpy(one.masks > 0)
    return each


def check_classes(
    plan: Plan, dropped: Mapping[int, str], train: ImageData, classes: Sequence[str]
) -> None:
    """Refuse a plan that leaves a class without images, which it had.

    Raises:
        DataError: With the findings that drop them.
    """
    before = {train.label(place) for place in range(len(train))} - {None}
    left = plan.applied(train)
    after = {left.label(place) for place in range(len(left))}
    for label in sorted(one for one in before - after if one is not None):
        own = {dropped[p] for p in dropped if train.label(p) == label}
        ids = sorted(
            {*own, *(o.id for o in plan.accepted if o.action == "relabel" and o.label == label)}
        )
        msg = (
            f"Class {classes[label]} would have no training image left, because of "
            f"{', '.join(ids)}. Reject one of them, or take images out of its list."
        )
        raise DataError(msg)


def check_same_data(audited: Audited, train: ImageData) -> None:
    """Refuse training data that are not those of the audit.

    Raises:
        MismatchError: They differ.
    """
    if len(train) != audited.images:
        msg = (
            f"The audit saw {audited.images} training images, and {train.title} holds "
            f"{len(train)}. Findings name images by place: give the training data of the audit."
        )
        raise MismatchError(msg)
    if train.fingerprint() != audited.train:
        msg = (
            f"{train.title} holds other images or labels than the audit saw (their fingerprints "
            f"differ). Findings name images by place: give the training data of the audit, with "
            f"the same preprocessing, or audit again."
        )
        raise MismatchError(msg)
