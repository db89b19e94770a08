"""Shortcuts that have no place and no outline: appearances that told the class in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from whence.core import ImageData, Images, Progress, silent
from whence.errors import UnsupportedOperation
from whence.network import Network
from whence.recipes.boxes import CarriedMap, one_each
from whence.recipes.findings import sampled
from whence.recipes.shortcut_cells import Cells, Look, clusters, look_of, nearest
from whence.recipes.shortcut_tests import (
    Reading,
    chance_of_drops,
    leaning,
    reliability,
    smoothed,
    split,
)
from whence.results import Finding

__all__ = ["LEVEL", "Appearances", "propose_shortcuts"]

LEVEL = 0.01
"""A proposal's p value, at most: the rule by which it is made, and accepted if nobody looks."""

CLUSTERS = 96
CLUSTERINGS = 2
"""Every cell gets the mean of several clusterings, whose borders lie elsewhere."""

POINTS = 20_000
"""Cells from which clusters are made."""

FEWEST = 40
"""Audited images with labels without which nothing can be told from chance."""

SHOWS = 0.01
"""The share of an image that an appearance covers at the least, for the image to show it."""

STAGE = "looking for appearances"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Appearances:
    """Kinds of cells, and which of them fail on audited images.

    Args:
        look: Where in the network to look.
        mean: Of the features of training images, ``(k,)``.
        scale: Their standard deviations, ``(k,)``.
        centres: Of the clusters, one clustering per entry, ``(clusters, k)`` each.
        leans: How much more often each cluster is seen in a class than anywhere,
            ``(runs, clusters, classes)``.
        reading: What the clusters are worth on the audited images.
        threshold: Cells of a lower reliability fail.
    """

    look: Look
    mean: Tensor
    scale: Tensor
    centres: tuple[Tensor, ...]
    leans: Tensor
    reading: Reading
    threshold: float

    def failing(self, assigned: Tensor, reading: Reading, threshold: float) -> Tensor:
        """Return the class that each failing cell speaks for; -1 for the others, ``(n, cells)``.

        Args:
            assigned: The cluster of each cell, ``(runs, n, cells)``.
            reading: What the clusters are worth.
            threshold: Which reliability is too low.
        """
        worth = smoothed(looked_up(reading.reliability, assigned), self.look.grid)
        owner = looked_up(self.leans, assigned).argmax(dim=-1)
        return torch.where(worth < threshold, owner, torch.full_like(owner, -1))

    def assigned(self, features: Tensor) -> Tensor:
        """Return the cluster of each cell, ``(runs, n, cells)``, from features."""
        flat = ((features - self.mean) / self.scale).flatten(0, 1)
        return torch.stack([nearest(flat, c).view(features.shape[:2]) for c in self.centres])

    def owners(self, images: Images) -> Tensor:
        """Return the class that each failing pixel speaks for, -1 elsewhere, ``(b, h, w)``."""
        assigned = self.assigned(self.look.features(images))
        worth = smoothed(looked_up(self.reading.reliability, assigned), self.look.grid)
        owner = looked_up(self.leans, assigned).argmax(dim=-1)
        size = (images.shape[2], images.shape[3])
        wide = functional.interpolate(
            worth.view(len(images), 1, *self.look.grid), size=size, mode="bilinear"
        )[:, 0]
        whose = functional.interpolate(
            owner.view(len(images), 1, *self.look.grid).double(), size=size, mode="nearest"
        )[:, 0].long()
        return torch.where(wide < self.threshold, whose, torch.full_like(whose, -1))


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Tested:
    """What the test of one class's appearance says.

    Args:
        label: The class.
        before: How well it tells the class in training images: the area under the ROC curve.
        after: The same in audited images that had no part in finding it.
        p: The chance of such a drop.
        worth: Share of the network's evidence from it that points to the label, in audited images
            that had no part in finding it.
        rest: The same of all evidence from elsewhere.
    """

    label: int
    before: float
    after: float
    p: float
    worth: float
    rest: float


def propose_shortcuts(  # noqa: PLR0913 - limits of its cost, each with a default
    network: Network,
    train: ImageData,
    test: ImageData,
    *,
    classes: Sequence[str] = (),
    maps: Sequence[CarriedMap] = (),
    audited: int = 1000,
    sample: int = 2000,
    most: int = 20_000,
    level: float = LEVEL,
    shuffles: int = 199,
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Finding, ...]:
    r"""Return shortcuts that are an appearance: a background, a texture, a stamp anywhere.

    Cells of training images are clustered by what the network sees in them (a feature map of at
    least 12 cells a side). On the audited images each cluster gets its reliability: the share of
    what the network reads from it that points to the label,

    .. math:: r_k = \frac{\sum_q \max(e_{qk}, 0)}{\sum_q |e_{qk}|} .

    An object's parts point to the label nearly always; what merely came with the class in
    training does not. The clusters are parted by reliability, and the failing ones by the class
    in whose training images they are seen most. One class's failing cells are proposed if they
    tell the class in training images and do so less in audited ones (the areas under two ROC
    curves), beyond chance: cells are found with half of the audited images and tested on the
    other half, both ways, against shuffles that deal the images of each label out anew to
    training and audit. The larger of the two p values counts.

    No person is needed for a rule that knows no truth: accept what is proposed, since nothing is
    proposed above ``level``. A person looks at the pixels and knows better.

    Two limits: the audited images must include some in which the appearance does not come with
    the class, as otherwise nothing fails; and an object of which the audited images show other
    kinds than the training images fails as well.

    Cost: less than one forward pass over the training images, and about a training step over the
    audited ones; no pass depends on the number of clusters. Memory: the features of ``sample``
    images, and one byte per pixel of every image in a finding.

    Args:
        network: The network.
        train: Training images with labels.
        test: The audited images; only those with labels count.
        classes: Names of the classes; those of the training data if none are given.
        maps: Training-feature maps of the audit, for their share of mass in what is proposed.
        audited: Audited images looked at, at most.
        sample: Training images from which clusters are made, at most.
        most: Training images whose pixels are masked, at most; the rest keep theirs.
        level: The p value of a proposal, at most, over all classes.
        shuffles: How often images are dealt out anew.
        batch_size: Images at a time.
        seed: Of samples, clusters and shuffles.
        progress: Told how far it is.

    Returns:
        Findings ``appearance-1``, ... of kind ``region`` with a mask for each image that shows
        it; none if the network has no feature map, or there are too few labelled images.
    """
    try:
        look = look_of(network)
    except UnsupportedOperation:
        return ()
    known = [i for i in range(len(test)) if (test.label(i) or 0) >= 0 and test.label(i) is not None]
    if len(known) < FEWEST:
        return ()
    total = min(sample, len(train)) + min(audited, len(known)) + min(most, len(train))
    progress(STAGE, 0, total)
    places = sampled(len(train), sample, seed)
    first = next(train.batches(min(256, len(places)), places)).images
    look = look.centred(first.to(network.example.device))
    own = look.cells(train.batches(batch_size, places), evidence=False)
    asked = [known[k] for k in sampled(len(known), audited, seed)]
    others = look.cells(test.batches(batch_size, asked), evidence=True)
    progress(STAGE, len(places) + len(asked), total)
    made, tested = studied(look, own, others, seed=seed, shuffles=shuffles)
    chosen = [one for one in tested if one.p <= level]
    if not chosen:
        progress(STAGE, total, total)
        return ()
    masked = masks_of(made, chosen, train, sampled(len(train), most, seed), batch_size, progress)
    names = tuple(classes) or train.classes
    return tuple(
        finding(k + 1, one, masked, names, maps, len(asked)) for k, one in enumerate(chosen)
    )


def looked_up(values: Tensor, assigned: Tensor) -> Tensor:
    """Return each cell's value by its cluster, mean over the clusterings."""
    return torch.stack([v[a] for v, a in zip(values, assigned, strict=True)]).mean(dim=0)


def studied(
    look: Look, own: Cells, others: Cells, *, seed: int, shuffles: int
) -> tuple[Appearances, list[Tested]]:
    """Return the clusters with what they are worth, and each class's test, the surest first.

    Args:
        look: Where in the network to look.
        own: Cells of training images.
        others: Cells of audited images.
        seed: Of clusters, halves and shuffles.
        shuffles: How often images are dealt out anew.
    """
    flat = own.features.flatten(0, 1)
    mean, scale = flat.mean(dim=0), flat.std(dim=0).clamp(min=1e-6)
    generator = torch.Generator().manual_seed(seed)
    centres = []
    for run in range(CLUSTERINGS):
        rows = torch.randperm(len(flat), generator=generator)[:POINTS]
        centres.append(clusters((flat[rows] - mean) / scale, CLUSTERS, seed + run))
    count = max(len(c) for c in centres)
    classes = int(max(own.labels.max(), others.labels.max())) + 1
    made = Appearances(
        look=look,
        mean=mean,
        scale=scale,
        centres=tuple(centres),
        leans=torch.zeros(0),
        reading=Reading(reliability=torch.zeros(0), usual=0.0, mass=torch.zeros(0)),
        threshold=0.0,
    )
    here, there = made.assigned(own.features), made.assigned(others.features)
    reading = reliability(there, others.evidence, count)
    made = Appearances(
        look=look,
        mean=mean,
        scale=scale,
        centres=tuple(centres),
        leans=leaning(here, own.labels, count, classes),
        reading=reading,
        threshold=split(reading),
    )
    return made, tests_of(made, own, others, here, there, seed=seed, shuffles=shuffles)


def tests_of(
    made: Appearances,
    own: Cells,
    others: Cells,
    here: Tensor,
    there: Tensor,
    *,
    seed: int,
    shuffles: int,
) -> list[Tested]:
    """Return each class's test, the surest first: found with one half, tested on the other."""
    count, classes = made.leans.shape[1:]
    first = halves(others.labels, seed)
    parts = []
    for found, left in ((first, ~first), (~first, first)):
        reading = reliability(there[:, found], others.evidence[found], count)
        threshold = split(reading)
        ours = made.failing(here, reading, threshold)
        theirs = made.failing(there[:, left], reading, threshold)
        drops = chance_of_drops(
            amounts(ours, classes),
            own.labels,
            amounts(theirs, classes),
            others.labels[left],
            shuffles=shuffles,
            seed=seed,
        )
        worth = [pointing(others.evidence[left], theirs == k) for k in range(classes)]
        rest = pointing(others.evidence[left], theirs < 0)
        parts.append((*drops, torch.tensor(worth), torch.full((classes,), rest)))
    both = [torch.stack(each).double() for each in zip(*parts, strict=True)]
    tested = [
        Tested(
            label=k,
            before=float(both[0][:, k].mean()),
            after=float(both[1][:, k].mean()),
            p=float(both[2][:, k].max()),
            worth=float(both[3][:, k].mean()),
            rest=float(both[4][:, k].mean()),
        )
        for k in range(classes)
    ]
    return sorted(tested, key=lambda one: (one.p, one.after - one.before))


def halves(labels: Tensor, seed: int) -> Tensor:
    """Return a random half of each class, as truths."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(rows), generator=generator)
        chosen[rows[order[: len(rows) // 2]]] = True
    return chosen


def amounts(owners: Tensor, classes: int) -> Tensor:
    """Return how much of each image fails and speaks for each class, ``(n, classes)``."""
    return torch.stack([(owners == k).double().mean(dim=1) for k in range(classes)], dim=1)


def pointing(evidence: Tensor, inside: Tensor) -> float:
    """Return the share of the evidence in some cells that points to the label; 1/2 if none."""
    sums = (evidence * inside).sum(dim=1)
    whole = float(sums.abs().sum())
    return float(sums.clamp(min=0).sum()) / whole if whole > 0 else 0.5


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Masked:
    """Which pixels of training images fail, and for which class they speak.

    Args:
        owners: The class, -1 elsewhere, ``(n, h, w)`` int16.
        places: Places of the images in the training data.
        labels: Their labels.
        shares: Their share of all pixels that were looked at, by class.
    """

    owners: NDArray[np.int16]
    places: tuple[int, ...]
    labels: tuple[int, ...]
    shares: dict[int, float]


def masks_of(
    made: Appearances,
    chosen: Sequence[Tested],
    train: ImageData,
    places: Sequence[int],
    batch_size: int,
    progress: Progress,
) -> Masked:
    """Return the failing pixels of training images."""
    device = made.look.network.example.device
    kept: list[NDArray[np.int16]] = []
    found: list[int] = []
    labels: list[int] = []
    done = 0
    for batch in train.batches(batch_size, places):
        kept.append(made.owners(batch.images.to(device)).numpy().astype(np.int16))
        found.extend(batch.indices.tolist())
        labels.extend(batch.labels.tolist())
        done += len(batch.indices)
        progress(STAGE, done, len(places))
    owners = np.concatenate(kept)
    shares = {one.label: float((owners == one.label).mean()) for one in chosen}
    return Masked(owners=owners, places=tuple(found), labels=tuple(labels), shares=shares)


def finding(
    number: int,
    one: Tested,
    masked: Masked,
    names: Sequence[str],
    maps: Sequence[CarriedMap],
    audited: int,
) -> Finding:
    """Return one class's appearance as a finding, with a mask for each image that shows it."""
    inside = masked.owners == one.label
    covered = inside.mean(axis=(1, 2))
    rows = np.flatnonzero(covered >= SHOWS)
    labels = np.array(masked.labels)
    own, rest = (mean_of(covered[chosen]) for chosen in (labels == one.label, labels != one.label))
    name = names[one.label] if one.label < len(names) else str(one.label)
    evidence: dict[str, float | int] = {
        "tells the class in training images": round(one.before, 4),
        "tells the class in audited images": round(one.after, 4),
        "p": round(one.p, 4),
        "evidence that points to the label": round(one.worth, 4),
        "evidence from elsewhere that does": round(one.rest, 4),
        "share of the area": round(masked.shares[one.label], 4),
        "share of the class's images": round(own, 4),
        "share of other classes' images": round(rest, 4),
        "audited images": audited,
        **mass_evidence(one.label, masked, inside, maps),
    }
    summary = (
        f"Class {name}: an appearance that covers {own:.0%} of the class's training images and "
        f"{rest:.0%} of others. In training it tells the class ({one.before:.2f}; 0.5 is chance), "
        f"in audited images it does not ({one.after:.2f}): {one.worth:.0%} of what the network "
        f"reads from it points to the label, and {one.rest:.0%} of what it reads elsewhere."
    )
    return Finding(
        id=f"appearance-{number}",
        kind="region",
        summary=summary,
        label=one.label,
        images=tuple(masked.places[k] for k in rows),
        masks=np.where(inside[rows], 255, 0).astype(np.uint8),
        evidence=evidence,
    )


def mean_of(values: NDArray[np.float64]) -> float:
    """Return the mean; 0 if there is nothing."""
    return float(values.mean()) if len(values) else 0.0


def mass_evidence(
    label: int, masked: Masked, inside: NDArray[np.bool_], maps: Sequence[CarriedMap]
) -> dict[str, float | int]:
    """Return the share of training-feature maps' mass in an appearance, and of the area."""
    row = {place: k for k, place in enumerate(masked.places)}
    own = [
        m
        for m in one_each([m for m in maps if m.label == label and (m.values > 0).any()])
        if m.index in row and m.values.shape == inside.shape[1:]
    ]
    if not own:
        return {}
    held = [float(m.values[inside[row[m.index]]].sum()) for m in own]
    area = [float(inside[row[m.index]].mean()) for m in own]
    return {
        "share of the influence": round(float(np.mean(held)), 4),
        "share of the area of these images": round(float(np.mean(area)), 4),
        "maps looked at": len(own),
    }
