"""Demo: an audit of a network whose faults are known, because they were planted."""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor

from whence.adapters import LoadedModel
from whence.core import Progress, silent
from whence.influence import Scorer
from whence.recipes.audit import audit
from whence.recipes.demo_case import pictured, save_case
from whence.recipes.digits import PlantedDigits, planted_digits, train_network
from whence.results import AuditRecord, InfluenceRecord

__all__ = ["Demonstration", "PatchShare", "demonstrate"]


@final
@dataclass(frozen=True, kw_only=True)
class PatchShare:
    """How much of some training-feature maps lies in the planted patch.

    Args:
        maps: How many maps were looked at.
        mass: The mean share of a map's positive mass inside the patch.
        area: The patch's share of an image.
    """

    maps: int
    mass: float
    area: float

    @property
    def ratio(self) -> float:
        """How many times its share of the area the patch holds."""
        return self.mass / self.area


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Demonstration:
    """What the audit found, held against what had been planted.

    Args:
        digits: What had been planted.
        record: What the audit found.
        accuracy: Share of the test images without a patch that the network gets right.
        fooled: Share of the test images with a patch, none of the shortcut's class, that the
            network takes for that class.
        carriers: Of the top proponents of such predictions, the share that carry the patch.
        with_patch: The patch's share of the maps of those proponents that carry it.
        all_maps: Its share of the maps of all of them.
        precision: Of the first training images flagged for their label, as many as were flipped,
            the share that were flipped.
        region: Whether the marked regions include one that overlaps the patch by half.
    """

    digits: PlantedDigits
    record: AuditRecord
    accuracy: float
    fooled: float
    carriers: float
    with_patch: PatchShare
    all_maps: PatchShare
    precision: float
    region: bool


def demonstrate(
    out: Path | str | None,
    *,
    seed: int = 0,
    score: Scorer | str = "grad-cos",
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Demonstration:
    """Plant faults in digits, train a network on them, audit it, and compare.

    A red patch is planted in 90 % of the training images of one class and in 40 test images of
    others; 5 % of the labels of the other classes are flipped. The audit is told none of it.
    Under a minute on two cores.

    Args:
        out: The folder for the report, and for the network and its data, which every command can
            take up; nothing is written if None.
        seed: Of everything that is drawn.
        score: How gradients become scores; see ``whence.influence.SCORERS``.
        overwrite: Replace an earlier result in ``out``.
        command: What to note as the command.
        progress: Told how far each stage is.

    Raises:
        OutputError: If ``out`` holds something.
    """
    digits = planted_digits(seed=seed)
    model = train_network(digits, seed=seed, progress=progress)
    record = audit(
        model,
        pictured(digits.train, digits),
        pictured(digits.test, digits),
        out=out,
        score=score,
        overwrite=overwrite,
        command=command,
        progress=progress,
    )
    if out is not None:
        save_case(Path(out), digits, model)
    return compared(digits, record, predictions_of(model, digits))


def compared(digits: PlantedDigits, record: AuditRecord, predictions: Tensor) -> Demonstration:
    """Hold what an audit found against what had been planted.

    Args:
        digits: What had been planted.
        record: What the audit found.
        predictions: The network's predictions of all test images.
    """
    labels = torch.tensor([digits.test.label(k) for k in range(len(digits.test))])
    probes = torch.tensor(digits.probes)
    clean = torch.ones(len(labels), dtype=torch.bool)
    clean[probes] = False
    planted = set(digits.probes)
    found = [
        influence
        for query in record.queries
        if query.index in planted and query.prediction == digits.shortcut
        for influence in query.proponents
    ]
    carriers, flipped = set(digits.carriers), set(digits.flipped)
    marked = [influence for influence in found if influence.index in carriers]
    flagged = record.suspect_labels[: len(flipped)]
    return Demonstration(
        digits=digits,
        record=record,
        accuracy=float((predictions == labels)[clean].double().mean()),
        fooled=float((predictions[probes] == digits.shortcut).double().mean()),
        carriers=len(marked) / max(len(found), 1),
        with_patch=patch_share(marked, digits),
        all_maps=patch_share(found, digits),
        precision=sum(one.index in flipped for one in flagged) / max(len(flipped), 1),
        region=any(overlap(region.box, digits.box) >= 0.5 for region in record.regions),  # noqa: PLR2004 - half
    )


def predictions_of(model: LoadedModel, digits: PlantedDigits) -> Tensor:
    """Return the network's predictions of all test images."""
    with torch.no_grad():
        predictions: Tensor = model.module(digits.test.images).argmax(dim=1)
    return predictions


def patch_share(influences: list[InfluenceRecord], digits: PlantedDigits) -> PatchShare:
    """Return the mean share of the maps' positive mass inside the patch."""
    left, top, right, bottom = digits.box
    shares = []
    for influence in influences:
        positive = np.maximum(influence.map.values.astype(np.float64), 0)
        if positive.sum() > 0:
            shares.append(float(positive[top:bottom, left:right].sum() / positive.sum()))
    return PatchShare(
        maps=len(shares), mass=sum(shares) / len(shares) if shares else 0.0, area=digits.area
    )


def overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> float:
    """Return how much two boxes share: the area of both over the area of either."""
    wide = min(first[2], second[2]) - max(first[0], second[0])
    high = min(first[3], second[3]) - max(first[1], second[1])
    both = max(wide, 0) * max(high, 0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (first, second)]
    return both / (sum(areas) - both)
