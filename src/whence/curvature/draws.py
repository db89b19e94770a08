r"""Draws: of which gradients a curvature is made, for each training image.

The Gauss-Newton matrix of the cross-entropy, which is its Fisher matrix, is the second moment of
gradients under labels from the *model*, not under the true ones:

.. math:: F = \frac{1}{n} \sum_i \sum_k p_{ik} \,
          \nabla \ell_k(x_i) \nabla \ell_k(x_i)^\top

The gradient of a loss is taken through the margin,
:math:`\nabla \ell_k = -(1 - p_k) \nabla m_k`: in float32 this keeps its direction also where the
probability rounds to one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from whence.core import Labels, Logits, Margin, Scalars, Target
from whence.errors import SettingError

__all__ = ["Draws", "EveryClass", "Margins", "RandomSigns", "SampledLabels", "TrueLabels"]


@runtime_checkable
class Draws(Protocol):
    """Which gradients of an image a curvature is made of."""

    @property
    def name(self) -> str:
        """What it is, with its settings, for the record of a fit."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether the true labels are needed."""
        ...

    def passes(self, classes: int) -> int:
        """Return how many backward passes an image costs."""
        ...

    def numbers(self, classes: int) -> int:
        """Return how many random numbers an image needs."""
        ...

    def targets(self, labels: Labels, numbers: Tensor, classes: int) -> Iterator[Target]:
        """Yield what to differentiate; the second moments of these gradients are added up.

        Args:
            labels: True labels of a batch, ``(b,)``.
            numbers: Random numbers, uniform from 0 to 1, ``(b, numbers)``.
            classes: How many classes the model has.
        """
        ...


@final
@dataclass(frozen=True, eq=False)
class MarginLoss:
    """A value whose gradient is that of the cross-entropy of a label, times a factor."""

    labels: int | Labels
    factor: float = 1.0
    by_probability: bool = False

    def __call__(self, logits: Logits) -> Scalars:
        """Return the label's margin times a constant that makes its gradient the loss's."""
        margin = Margin(self.labels)(logits)
        weight = torch.sigmoid(-margin.detach()) * self.factor
        if self.by_probability:
            weight = weight * torch.sigmoid(margin.detach()).sqrt()
        return -weight * margin

    def at(self, rows: Tensor) -> "MarginLoss":
        """Return the target of these rows."""
        return MarginLoss(Margin(self.labels).at(rows).labels, self.factor, self.by_probability)


@final
@dataclass(frozen=True, eq=False)
class DrawnLoss:
    """The loss of a label that is drawn from the model's probabilities."""

    numbers: Scalars
    factor: float = 1.0

    def __call__(self, logits: Logits) -> Scalars:
        """Return the loss of the drawn labels, in the form of :class:`MarginLoss`."""
        return MarginLoss(drawn(logits.detach(), self.numbers), self.factor)(logits)

    def at(self, rows: Tensor) -> "DrawnLoss":
        """Return the target of these rows."""
        return DrawnLoss(self.numbers[rows.to(self.numbers.device)], self.factor)


@final
@dataclass(frozen=True, eq=False)
class SignedRoot:
    r"""A random combination of the columns of a root of the softmax's Hessian."""

    numbers: Tensor
    factor: float = 1.0

    def __call__(self, logits: Logits) -> Scalars:
        r"""Return the combination :math:`\sum_k \epsilon_k \sqrt{p_k}\, \ell_k`, weights held.

        Its gradient with respect to logit :math:`j` is
        :math:`p_j \sum_k \epsilon_k \sqrt{p_k} - \epsilon_j \sqrt{p_j}`, here in double precision
        and with the terms of :math:`j` taken together.
        """
        chances = logits.detach().double().softmax(dim=1)
        signed = torch.where(self.numbers < 0.5, -1.0, 1.0).to(chances) * chances.sqrt()  # noqa: PLR2004 - a fair coin
        others = signed.sum(dim=1, keepdim=True) - signed
        slopes = chances * others - signed * (1 - chances)
        return (self.factor * slopes.to(logits) * logits).sum(dim=1)

    def at(self, rows: Tensor) -> "SignedRoot":
        """Return the target of these rows."""
        return SignedRoot(self.numbers[rows.to(self.numbers.device)], self.factor)


def drawn(logits: Logits, numbers: Scalars) -> Labels:
    """Return one label for each row, drawn by its number from the softmax."""
    reached = logits.double().softmax(dim=1).cumsum(dim=1)
    below = reached <= numbers.to(reached)[:, None] * reached[:, -1:]
    return below.sum(dim=1).clamp(max=logits.shape[1] - 1)


@final
@dataclass(frozen=True)
class SampledLabels:
    """Labels drawn from the model: an unbiased estimate of the Gauss-Newton matrix.

    Args:
        count: Labels per image; each costs one pass. A confident model is asked for a rare label
            rarely, which makes the estimate rough: :class:`RandomSigns` is better there.
    """

    count: int = 1

    def __post_init__(self) -> None:
        """Check the count."""
        check_count(self.count)

    @property
    def name(self) -> str:
        """What it is."""
        return f"{self.count} sampled labels"

    @property
    def labelled(self) -> bool:
        """No true labels are needed."""
        return False

    def passes(self, classes: int) -> int:
        """Return the number of labels drawn."""
        del classes
        return self.count

    def numbers(self, classes: int) -> int:
        """Return one for each label."""
        del classes
        return self.count

    def targets(self, labels: Labels, numbers: Tensor, classes: int) -> Iterator[Target]:
        """Yield the loss of each drawn label."""
        del labels, classes
        for i in range(self.count):
            yield DrawnLoss(numbers[:, i], 1 / math.sqrt(self.count))


@final
@dataclass(frozen=True)
class RandomSigns:
    r"""All classes at once with random signs: an unbiased estimate of the Gauss-Newton matrix.

    .. math:: g = \sum_k \epsilon_k \sqrt{p_k}\, \nabla \ell_k , \qquad
              E[g g^\top] = \sum_k p_k \nabla \ell_k \nabla \ell_k^\top

    At the price of a sampled label it sees every class of every image.

    Args:
        count: Draws of signs per image; each costs one pass.
    """

    count: int = 1

    def __post_init__(self) -> None:
        """Check the count."""
        check_count(self.count)

    @property
    def name(self) -> str:
        """What it is."""
        return f"{self.count} random signs"

    @property
    def labelled(self) -> bool:
        """No true labels are needed."""
        return False

    def passes(self, classes: int) -> int:
        """Return the number of draws."""
        del classes
        return self.count

    def numbers(self, classes: int) -> int:
        """Return one for each class and draw."""
        return self.count * classes

    def targets(self, labels: Labels, numbers: Tensor, classes: int) -> Iterator[Target]:
        """Yield the combination of each draw."""
        del labels
        for some in torch.split(numbers, classes, dim=1):
            yield SignedRoot(some, 1 / math.sqrt(self.count))


@final
@dataclass(frozen=True)
class EveryClass:
    """Every class weighed by its probability: the Gauss-Newton matrix without noise.

    It costs one pass for each class.
    """

    name: str = "every class"
    labelled: bool = False

    def passes(self, classes: int) -> int:
        """Return one for each class."""
        return classes

    def numbers(self, classes: int) -> int:
        """Return none."""
        del classes
        return 0

    def targets(self, labels: Labels, numbers: Tensor, classes: int) -> Iterator[Target]:
        """Yield the loss of each class times the root of its probability."""
        del labels, numbers
        for k in range(classes):
            yield MarginLoss(k, by_probability=True)


@final
@dataclass(frozen=True)
class TrueLabels:
    """The labels' own loss: the empirical Fisher matrix, which is not the Gauss-Newton matrix."""

    name: str = "true labels"
    labelled: bool = True

    def passes(self, classes: int) -> int:
        """Return one."""
        del classes
        return 1

    def numbers(self, classes: int) -> int:
        """Return none."""
        del classes
        return 0

    def targets(self, labels: Labels, numbers: Tensor, classes: int) -> Iterator[Target]:
        """Yield the loss of the labels."""
        del numbers, classes
        yield MarginLoss(labels)


@final
@dataclass(frozen=True)
class Margins:
    """The margins of the labels, not weighed by ``1 - p``: the second moment that TRAK takes."""

    name: str = "margins"
    labelled: bool = True

    def passes(self, classes: int) -> int:
        """Return one."""
        del classes
        return 1

    def numbers(self, classes: int) -> int:
        """Return none."""
        del classes
        return 0

    def targets(self, labels: Labels, numbers: Tensor, classes: int) -> Iterator[Target]:
        """Yield the margin of the labels."""
        del numbers, classes
        yield Margin(labels)


def check_count(count: int) -> None:
    """Refuse less than one draw."""
    if count < 1:
        msg = f"A curvature needs at least one draw per image; got count={count}."
        raise SettingError(msg)
