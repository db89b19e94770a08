r"""Mislabel detection: does a score of single training images put those with a wrong label first?

Self-influence is such a score: how much a training image speaks for its own label. It is high for
images that the model fits only with effort. (Under a cosine it is 1 for all, which finds nothing.)
"""

from dataclasses import dataclass, field
from typing import ClassVar, Self, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence.core import Labels
from whence.errors import DataError, NumericsError, ShapeError
from whence.evaluation.metric import MetricCard
from whence.evaluation.ranking import area_under_roc, average_precision, gains

__all__ = ["Mislabel", "MislabelResult"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class MislabelResult:
    r"""How early a ranking finds the wrong labels.

    Args:
        auroc: The chance that a wrong label ranks above a right one; ties count half. Chance: 0.5.
        auprc: Average precision. Chance: the share of wrong labels.
        fractions: Shares of the training images that were inspected, ``(n + 1,)`` from 0 to 1.
        found: Share of the wrong labels found in them; chance: the fraction itself.
        area: The area under that curve, :math:`\pi / 2 + (1 - \pi)\, \mathrm{AUROC}` for a share
            :math:`\pi` of wrong labels. Chance: 0.5; highest: :math:`1 - \pi / 2`.
        count: Training images.
        wrong: Wrong labels among them.
    """

    auroc: float
    auprc: float
    fractions: Tensor
    found: Tensor
    area: float
    count: int
    wrong: int

    def found_at(self, fraction: float) -> float:
        """Return the share of wrong labels among the first ``fraction`` of the ranking."""
        place = fraction * self.count
        below = min(int(place), self.count - 1)
        low, high = float(self.found[below]), float(self.found[below + 1])
        return low + (place - below) * (high - low)

    def __str__(self) -> str:
        """Return the areas, and what a first tenth holds."""
        return (
            f"AUROC {self.auroc:.3f}, AUPRC {self.auprc:.3f}, {self.found_at(0.1):.0%} of "
            f"{self.wrong} wrong labels in the first tenth of {self.count}"
        )


@final
@dataclass(kw_only=True)
class Mislabel:
    """A statistic of training images' scores and whether their labels are wrong.

    Kept under the image's number, so that parts of a training set can be merged in any order.

    Args:
        values: Score and flag of each image so far.

    References:
        Koh and Liang (2017), "Understanding Black-box Predictions via Influence Functions", 5.4;
        Bareeva et al. (2024), "Quanda" (mislabeling detection, the area under the found curve).
    """

    values: dict[int, tuple[float, bool]] = field(default_factory=dict, repr=False)

    card: ClassVar[MetricCard] = MetricCard(
        better="higher",
        low=0.0,
        high=1.0,
        chance="AUROC and area 0.5; AUPRC the share of wrong labels",
        reference="Koh and Liang (2017), Understanding Black-box Predictions, section 5.4",
    )

    def update(
        self, indices: Labels, scores: Float[Tensor, " n"], wrong: Bool[Tensor, " n"]
    ) -> None:
        """Take in some training images.

        Args:
            indices: Their places in the training set.
            scores: The higher, the more suspicious.
            wrong: Which labels are wrong.

        Raises:
            DataError: If an image was taken in before.
            NumericsError: If a score is NaN or infinite.
        """
        if not len(indices) == len(scores) == len(wrong):
            msg = (
                f"One score and one flag per training image are needed; got {len(indices)} "
                f"numbers, {len(scores)} scores and {len(wrong)} flags."
            )
            raise ShapeError(msg)
        if not scores.isfinite().all():
            first = int(indices[int((~scores.isfinite()).nonzero()[0, 0])])
            msg = f"The score of training image {first} is NaN or infinite, and cannot be ranked."
            raise NumericsError(msg)
        pairs = zip(scores.double().tolist(), wrong.tolist(), strict=True)
        new = dict(zip(indices.tolist(), pairs, strict=True))
        self.check_new(new)
        if len(new) < len(indices):
            msg = "A training image came twice in one batch, and would count twice."
            raise DataError(msg)
        self.values.update(new)

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed.

        Raises:
            DataError: If the parts share an image.
        """
        self.check_new(other.values)
        return Mislabel(values=self.values | other.values)

    def check_new(self, values: dict[int, tuple[float, bool]]) -> None:
        """Refuse images that were seen before."""
        shared = self.values.keys() & values.keys()
        if shared:
            msg = f"Training image {min(shared)} came twice, and would count twice. Give it once."
            raise DataError(msg)

    def result(self) -> MislabelResult:
        """Return what the ranking finds.

        Raises:
            DataError: If all labels are right, or all wrong.
        """
        every = [self.values[i] for i in sorted(self.values)]
        scores = torch.tensor([score for score, _ in every], dtype=torch.float64)
        wrong = torch.tensor([flag for _, flag in every], dtype=torch.bool)
        auroc = area_under_roc(scores, wrong)
        found = gains(scores, wrong)
        fractions = torch.linspace(0, 1, len(found), dtype=torch.float64)
        return MislabelResult(
            auroc=auroc,
            auprc=average_precision(scores, wrong),
            fractions=fractions,
            found=found,
            area=float(torch.trapezoid(found, fractions)),
            count=len(every),
            wrong=int(wrong.sum()),
        )
