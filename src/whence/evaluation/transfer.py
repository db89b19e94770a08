r"""Harmony across architectures: do other networks see what the features of one network show?

The cube of generating networks x evaluating networks x methods x {original, features, controls}
x {accuracy, probability of the class, agreement with the evaluator's own prediction}, as a
statistic that can be merged over images and over cells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Self, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.core import Images, Labels, Normalisation, check_mode, logits_from
from whence.errors import DataError, SettingError, ShapeError, TargetError
from whence.evaluation.transfer_masks import FEATURES, ORIGINAL, SHUFFLED

__all__ = [
    "Interval",
    "Judgement",
    "Transfer",
    "TransferCell",
    "Verdict",
    "wilson",
]

CORRECT, PROBABILITY, AGREES = range(3)
"""Columns of what is kept of an image."""


@final
@dataclass(frozen=True, kw_only=True, order=True)
class TransferCell:
    """One cell of the cube.

    Args:
        evaluator: The network that looks.
        shown: ``original``, ``features``, or a control: ``shuffled``, ``smooth``, ``complement``,
            ``alone``, ``object``.
        generator: The network whose maps are used; empty where there is no map.
        method: The method of the maps, in the same way.
        mask: The kind of mask: ``soft``, or the coverage of a hard one, ``25 %``.
        fill: What stands where the mask is zero.
    """

    evaluator: str
    shown: str
    generator: str = ""
    method: str = ""
    mask: str = ""
    fill: str = ""


@final
@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with the ends of its interval; NaN where it is undefined."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the value with its interval."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@final
@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a cell comes to.

    Args:
        cell: Which.
        count: Images.
        accuracy: Share of the images whose class the evaluator finds; Wilson interval.
        agreement: Share of the images of which it says what it says of the original; Wilson.
        probability: Mean probability of the class; bootstrap over images.
        kept: Accuracy among the images that it gets right as they are; Wilson. NaN if there is
            none.
        of_original: Accuracy divided by the evaluator's accuracy on originals; bootstrap over
            images. NaN where that is zero.
        of_self: Accuracy divided by the generator's own accuracy on these features, in the same
            way; for features only.
        advantage: Accuracy on the features less that on the same images behind masks of other
            images; paired bootstrap. Features only: where the interval holds 0, the maps show no
            more than any mask would.
        agreement_advantage: The same of the agreement.
    """

    cell: TransferCell
    count: int
    accuracy: Interval
    agreement: Interval
    probability: Interval
    kept: Interval
    of_original: Interval
    of_self: Interval | None = None
    advantage: Interval | None = None
    agreement_advantage: Interval | None = None


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What a network says of pictures, one row for each.

    Args:
        predictions: The most probable classes, ``(b,)``.
        correct: Whether they are the labels.
        probability: The probability of the label.
        agrees: Whether they are the network's predictions of the originals.
    """

    predictions: Labels
    correct: Tensor
    probability: Tensor
    agrees: Tensor

    @staticmethod
    @torch.no_grad()
    def of(
        model: Callable[[Tensor], Any],
        normalisation: Normalisation,
        pixels: Images,
        labels: Labels,
        own: Labels | None = None,
    ) -> "Judgement":
        """Return what a network says of pictures.

        Args:
            model: From images in its units to logits, in eval mode.
            normalisation: Its units.
            pixels: Pictures in pixels from 0 to 1, of its size.
            labels: Their classes, in the order of its outputs.
            own: Its predictions of the originals; None if these are the originals.

        Raises:
            TargetError: If a label does not exist.
        """
        if isinstance(model, torch.nn.Module):
            check_mode(model)
        logits = logits_from(model, normalisation.to_model(pixels)).cpu()
        wrong = ((labels < 0) | (labels >= logits.shape[1])).nonzero()
        if len(wrong):
            msg = (
                f"A label is {int(labels[wrong[0, 0]])}, but the network has {logits.shape[1]} "
                f"classes, numbered from 0. Every image needs its class."
            )
            raise TargetError(msg)
        found = logits.argmax(dim=1)
        chances = logits.double().softmax(dim=1)
        return Judgement(
            predictions=found,
            correct=found == labels,
            probability=chances.gather(1, labels[:, None])[:, 0],
            agrees=found == (found if own is None else own),
        )

    def columns(self) -> Float[Tensor, "b 3"]:
        """Return correct, probability and agreement as numbers."""
        parts = (self.correct.double(), self.probability, self.agrees.double())
        return torch.stack(parts, dim=1)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """What is kept of the images of a cell, in the order of their numbers.

    Args:
        indices: Numbers of the images.
        values: Correct, probability, agreement.
    """

    indices: Labels
    values: Float[Tensor, "n 3"]

    def joined(self, other: "Column", cell: TransferCell) -> "Column":
        """Return both; refuse an image that is in both."""
        indices = torch.cat([self.indices, other.indices])
        order = indices.argsort(stable=True)
        indices = indices[order]
        twice = (indices[1:] == indices[:-1]).nonzero()
        if len(twice):
            msg = (
                f"Image {int(indices[twice[0, 0]])} came twice in {cell}, and would count twice. "
                f"Give each image once."
            )
            raise DataError(msg)
        return Column(indices=indices, values=torch.cat([self.values, other.values])[order])


@final
@dataclass(kw_only=True)
class Transfer:
    """The statistic of the cube: what each evaluator said of each image, cell by cell.

    Values are kept under the images' numbers, 32 bytes for each image of a cell, so that
    ``whole == left.merge(right)`` holds to the bit, whether the parts share cells or not.

    Args:
        confidence: Of all intervals, between 0 and 1.
        draws: Resamples of the images, for means, differences and ratios.
        seed: Of the resamples.

    References:
        Kadir, Addluri and Sonntag (2023), "Harmonizing Feature Attributions Across Deep Learning
        Architectures: Enhancing Interpretability and Consistency"; Wilson (1927), "Probable
        Inference, the Law of Succession, and Statistical Inference".
    """

    confidence: float = 0.95
    draws: int = 1000
    seed: int = 0
    columns: dict[TransferCell, Column] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.confidence < 1 or self.draws < 1:
            msg = (
                f"An interval needs a confidence between 0 and 1 and at least one draw; got "
                f"{self.confidence} and {self.draws}."
            )
            raise SettingError(msg)

    def update(self, cell: TransferCell, indices: Labels, values: Float[Tensor, "n 3"]) -> None:
        """Take in what an evaluator said of some images.

        Args:
            cell: Where they belong.
            indices: Numbers of the images.
            values: As :meth:`Judgement.columns` returns them.

        Raises:
            DataError: If an image was taken in before.
            ShapeError: If there is not one number for each row.
        """
        if len(indices) != len(values):
            msg = f"One number per row is needed; got {len(indices)} for {len(values)} rows."
            raise ShapeError(msg)
        new = Column(indices=indices.cpu(), values=values.cpu().double())
        empty = Column(indices=indices.new_empty(0).cpu(), values=new.values[:0])
        self.columns[cell] = self.columns.get(cell, empty).joined(new, cell)

    def merge(self, other: Self) -> Self:
        """Return the statistic of both parts; neither is changed.

        Raises:
            DataError: If the parts share an image of a cell.
            SettingError: If they differ in their settings.
        """
        settings = (self.confidence, self.draws, self.seed)
        if settings != (other.confidence, other.draws, other.seed):
            msg = (
                f"Parts of one cube need one confidence, draws and seed; got {settings} and "
                f"{(other.confidence, other.draws, other.seed)}."
            )
            raise SettingError(msg)
        columns = dict(self.columns)
        for cell, column in other.columns.items():
            columns[cell] = columns[cell].joined(column, cell) if cell in columns else column
        return replace(self, columns=columns)

    def result(self) -> Mapping[TransferCell, Verdict]:
        """Return what each cell comes to, in the order in which cells came.

        Raises:
            DataError: If a cell has no original beside it, or other images than it is compared
                with.
        """
        return {cell: self.verdict(cell) for cell in self.columns}

    def verdict(self, cell: TransferCell) -> Verdict:
        """Return what one cell comes to."""
        own = self.columns[cell]
        original = self.beside(cell, TransferCell(evaluator=cell.evaluator, shown=ORIGINAL))
        right = own.values[original.values[:, CORRECT] == 1, CORRECT]
        made = Verdict(
            cell=cell,
            count=len(own.indices),
            accuracy=self.share(own.values[:, CORRECT]),
            agreement=self.share(own.values[:, AGREES]),
            probability=self.spread(self.resampled(own, PROBABILITY), own, PROBABILITY),
            kept=self.share(right),
            of_original=self.ratio(own, original),
        )
        if cell.shown != FEATURES:
            return made
        itself = self.beside(cell, replace(cell, evaluator=cell.generator), needed=False)
        other = self.beside(cell, replace(cell, shown=SHUFFLED), needed=False)
        return replace(
            made,
            of_self=None if itself is None else self.ratio(own, itself),
            advantage=None if other is None else self.difference(own, other, CORRECT),
            agreement_advantage=None if other is None else self.difference(own, other, AGREES),
        )

    def beside(self, cell: TransferCell, other: TransferCell, *, needed: bool = True) -> Any:  # noqa: ANN401 - a Column; None only where it is not needed
        """Return the column with which a cell is compared, image by image."""
        column = self.columns.get(other)
        if column is None:
            if not needed:
                return None
            msg = f"{cell} needs {other} beside it, which is not there. Judge the originals too."
            raise DataError(msg)
        if not torch.equal(column.indices, self.columns[cell].indices):
            msg = f"{cell} and {other} must be of the same images. Judge the missing ones."
            raise DataError(msg)
        return column

    def share(self, hits: Tensor) -> Interval:
        """Return a share with its Wilson interval."""
        return wilson(int(hits.sum()), len(hits), confidence=self.confidence)

    def resampled(self, column: Column, which: int) -> Tensor:
        """Return the means of resamples of the images."""
        weights = resamples(len(column.indices), self.draws, self.seed)
        return weights @ column.values[:, which]

    def spread(self, means: Tensor, column: Column, which: int) -> Interval:
        """Return a mean with its percentile interval."""
        low, high = self.ends(means)
        return Interval(value=float(column.values[:, which].mean()), low=low, high=high)

    def ends(self, means: Tensor) -> tuple[float, float]:
        """Return the ends of the percentile interval."""
        tail = (1 - self.confidence) / 2
        ends = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype))
        return float(ends[0]), float(ends[1])

    def difference(self, own: Column, other: Column, which: int) -> Interval:
        """Return a paired difference with its percentile interval."""
        paired = Column(indices=own.indices, values=own.values - other.values)
        return self.spread(self.resampled(paired, which), paired, which)

    def ratio(self, own: Column, other: Column) -> Interval:
        """Return a ratio of accuracies with its percentile interval, over the same resamples."""
        above, below = own.values[:, CORRECT], other.values[:, CORRECT]
        if not below.any():
            return Interval(value=torch.nan, low=torch.nan, high=torch.nan)
        under = self.resampled(other, CORRECT)
        ratios = (self.resampled(own, CORRECT) / under)[under > 0]
        low, high = self.ends(ratios)
        return Interval(value=float(above.mean() / below.mean()), low=low, high=high)


@lru_cache(maxsize=8)
def resamples(count: int, draws: int, seed: int) -> Float[Tensor, "d n"]:
    """Return the weight of each image in each resample; the draws are those of :class:`Mean`."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        torch.bincount(torch.randint(count, (count,), generator=generator), minlength=count)
        for _ in range(draws)
    ]
    return torch.stack(rows).double() / count


def wilson(hits: int, count: int, *, confidence: float = 0.95) -> Interval:
    r"""Return a share with Wilson's interval.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    It stays inside [0, 1] and is right for small numbers, and for shares near 0 and 1.

    Args:
        hits: How many of them.
        count: Of how many; the share of none is NaN.
        confidence: Between 0 and 1.

    References:
        Wilson (1927), "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if not count:
        return Interval(value=torch.nan, low=torch.nan, high=torch.nan)
    share = hits / count
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    size = 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / size
    half = z / size * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return Interval(value=share, low=max(0.0, middle - half), high=min(1.0, middle + half))
