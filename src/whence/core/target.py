r"""Targets: which number of the model's output is explained.

A target is a frozen value that maps logits ``(b, k)`` to one scalar per image ``(b,)``. Classes
may be one integer for the whole batch, or a tensor with one class per image; :meth:`at` picks
rows, so that methods which evaluate an image several times keep each copy with its own class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, SupportsIndex, final, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from whence.core.types import Labels, Logits, Scalars
from whence.errors import TargetError

__all__ = [
    "Contrast",
    "Custom",
    "LogProbability",
    "Logit",
    "Loss",
    "Margin",
    "Probability",
    "Target",
    "TargetLike",
    "check_count",
    "contrast",
    "log_probability",
    "logit",
    "loss",
    "margin",
    "probability",
    "resolve_target",
]

Classes = int | Labels


@runtime_checkable
class Target(Protocol):
    """One scalar per image from the model's logits."""

    def __call__(self, logits: Logits) -> Scalars:
        """Return one scalar per row of ``logits``."""
        ...

    def at(self, rows: Tensor) -> "Target":
        """Return the target of these rows of the batch (repeats allowed)."""
        ...


def pick(logits: Logits, classes: int | Int[Tensor, " n"], name: str) -> Scalars:
    """Return ``logits[i, classes[i]]`` after checking that the classes exist."""
    count = logits.shape[1]
    if isinstance(classes, int):
        if not 0 <= classes < count:
            msg = (
                f"{name}({classes}): the model's output has shape {tuple(logits.shape)}, "
                f"so classes run from 0 to {count - 1}. Example: {name}({count - 1})."
            )
            raise TargetError(msg)
        return logits[:, classes]
    if len(classes) != len(logits):
        msg = (
            f"{name}() holds {len(classes)} classes, but the model returned {len(logits)} rows. "
            f"Give one class per image, or one integer for all."
        )
        raise TargetError(msg)
    if classes.is_floating_point() or classes.dtype == torch.bool or classes.ndim != 1:
        msg = (
            f"{name}() needs one whole number per image; got {classes.dtype} of shape "
            f"{tuple(classes.shape)}. From scores or one-hot rows take .argmax(dim=1)."
        )
        raise TargetError(msg)
    if classes.is_cuda:
        # A GPU that is asked for a class that is not there is lost until the process ends.
        check_classes(classes, logits, name)
    if classes.is_inference():
        classes = classes.clone()  # autograd cannot keep an inference tensor, nor index with one
    try:
        return logits.gather(1, classes.to(logits.device, torch.int64)[:, None])[:, 0]
    except RuntimeError:
        check_classes(classes, logits, name)
        raise


def check_classes(classes: Tensor, logits: Logits, name: str) -> None:
    """Refuse a class that the model does not have."""
    count = logits.shape[1]
    wrong = ((classes < 0) | (classes >= count)).nonzero()[:, 0].tolist()
    if wrong:
        msg = (
            f"{name}() holds class {int(classes[wrong[0]])}, but the model's output has shape "
            f"{tuple(logits.shape)}, so classes run from 0 to {count - 1}."
        )
        raise TargetError(msg)


def check_count(target: Target, count: int) -> None:
    """Refuse a target whose classes are not one per image.

    Methods ask a target for the rows of a part of the batch, so that it cannot tell itself
    whether it holds too many.
    """
    for name, classes in vars(target).items():
        if isinstance(classes, Tensor) and classes.ndim == 1 and len(classes) != count:
            msg = (
                f"The target holds {len(classes)} {name}, but there are {count} images. Give one "
                f"class per image, or one integer for all."
            )
            raise TargetError(msg)


def rows_of(classes: Classes, rows: Tensor) -> int | Int[Tensor, " rows"]:
    """Return the classes of these rows; one class for all stays as it is."""
    return classes if isinstance(classes, int) else classes[rows.to(classes.device)]


@final
@dataclass(frozen=True, eq=False)
class Logit:
    """The logit of a class, before the softmax."""

    classes: Classes

    def __call__(self, logits: Logits) -> Scalars:
        """Return the logit of the class."""
        return pick(logits, self.classes, "logit")

    def at(self, rows: Tensor) -> "Logit":
        """Return the target of these rows."""
        return Logit(rows_of(self.classes, rows))


@final
@dataclass(frozen=True, eq=False)
class LogProbability:
    """The logarithm of a class's softmax probability."""

    classes: Classes

    def __call__(self, logits: Logits) -> Scalars:
        """Return the log-probability of the class."""
        return pick(logits.log_softmax(dim=1), self.classes, "log_probability")

    def at(self, rows: Tensor) -> "LogProbability":
        """Return the target of these rows."""
        return LogProbability(rows_of(self.classes, rows))


@final
@dataclass(frozen=True, eq=False)
class Probability:
    """A class's softmax probability."""

    classes: Classes

    def __call__(self, logits: Logits) -> Scalars:
        """Return the probability of the class."""
        return pick(logits.softmax(dim=1), self.classes, "probability")

    def at(self, rows: Tensor) -> "Probability":
        """Return the target of these rows."""
        return Probability(rows_of(self.classes, rows))


@final
@dataclass(frozen=True, eq=False)
class Contrast:
    """The logit of a class minus the logit of a foil: why this *rather than* that."""

    classes: Classes
    foils: Classes

    def __call__(self, logits: Logits) -> Scalars:
        """Return the difference of the two logits."""
        return pick(logits, self.classes, "contrast") - pick(logits, self.foils, "contrast")

    def at(self, rows: Tensor) -> "Contrast":
        """Return the target of these rows."""
        return Contrast(rows_of(self.classes, rows), rows_of(self.foils, rows))


@final
@dataclass(frozen=True, eq=False)
class Loss:
    """The cross-entropy of the labels, one value per image (never reduced)."""

    labels: Classes

    def __call__(self, logits: Logits) -> Scalars:
        """Return ``-log softmax(logits)[label]``."""
        return -pick(logits.log_softmax(dim=1), self.labels, "loss")

    def at(self, rows: Tensor) -> "Loss":
        """Return the target of these rows."""
        return Loss(rows_of(self.labels, rows))


@final
@dataclass(frozen=True, eq=False)
class Margin:
    r"""The log-odds of a class: its logit minus the log-sum-exp of all others.

    .. math:: m = \log \frac{p_y}{1 - p_y}

    The cross-entropy is :math:`\ell = \log(1 + e^{-m})`, so its gradient is
    :math:`-(1 - p_y) \nabla m`: the same direction, but the margin's stays exact where the
    probability rounds to one.
    """

    labels: Classes

    def __call__(self, logits: Logits) -> Scalars:
        """Return the log-odds of the label."""
        if logits.shape[1] < 2:  # noqa: PLR2004 - odds compare a class with another
            msg = (
                f"margin() needs at least two classes; the model's output has shape "
                f"{tuple(logits.shape)}. For one score per image use logit(0)."
            )
            raise TargetError(msg)
        own = pick(logits, self.labels, "margin")
        count = torch.arange(logits.shape[1], device=logits.device)
        mine = (
            count[None] == self.labels
            if isinstance(self.labels, int)
            else count[None] == self.labels.to(logits.device)[:, None]
        )
        others = logits.masked_fill(mine, -torch.inf)
        top = others.detach().amax(dim=1, keepdim=True)
        return own - top[:, 0] - (others - top).exp().sum(dim=1).log()

    def at(self, rows: Tensor) -> "Margin":
        """Return the target of these rows."""
        return Margin(rows_of(self.labels, rows))


@final
@dataclass(frozen=True, eq=False)
class Custom:
    """Any function of the logits that returns one scalar per row."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, logits: Logits) -> Scalars:
        """Apply the function and check what it returned."""
        values = self.function(logits)
        if values.shape != logits.shape[:1]:
            msg = (
                f"A target callable must return one scalar per image, shape {(len(logits),)}; "
                f"it returned {tuple(values.shape)}. Example: lambda logits: logits[:, 3]."
            )
            raise TargetError(msg)
        return values

    def at(self, rows: Tensor) -> "Custom":
        """Return itself: a function of the logits alone does not depend on the row."""
        del rows
        return self


logit = Logit
log_probability = LogProbability
contrast = Contrast
loss = Loss
margin = Margin
probability = Probability

TargetLike = (
    Target
    | Tensor
    | int
    | SupportsIndex
    | str
    | Callable[[Tensor], Tensor]
    | list[int]
    | tuple[int, ...]
)
"""What users may write for a target (NumPy's numbers and arrays too); :func:`resolve_target` makes
a :class:`Target` of it."""

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def resolve_target(
    target: TargetLike,
    logits: Logits,
    labels: Labels | None = None,
    versus: TargetLike | None = None,
) -> Target:
    """Turn what a user wrote into a :class:`Target`: the one target grammar of whence.

    Args:
        target: A :class:`Target`; an integer; one integer per image; ``"predicted"``;
            ``"label"``; or a callable on logits.
        logits: The model's output ``(b, k)`` for the images to be explained.
        labels: The true classes ``(b,)``, for ``"label"``.
        versus: A second class (same grammar, plus ``"runner-up"``), which makes it a contrast.

    Returns:
        A target whose classes exist in ``logits``.

    Raises:
        TargetError: If the target is not of this grammar or names a class that is not there.
    """
    if versus is not None:
        classes = resolve_classes(target, logits, labels)
        foils = resolve_classes(versus, logits, labels)
        check_foils(classes, foils, logits)
        return Contrast(classes, foils)
    if isinstance(target, (Logit, LogProbability, Probability, Contrast, Loss, Margin, Custom)):
        return target
    if callable(target) and not isinstance(target, Tensor):
        return target if isinstance(target, Target) else Custom(target)
    return Logit(resolve_classes(target, logits, labels))


def resolve_classes(target: TargetLike, logits: Logits, labels: Labels | None) -> Classes:
    """Return class indices for what a user wrote, checked against the logits."""
    grammar = (
        f"The model's output has shape {tuple(logits.shape)}. Give a class from 0 to "
        f"{logits.shape[1] - 1} (target=0), one class per image (target=[0, 1]), "
        f"'predicted', 'label', or a callable (lambda logits: logits[:, 0])."
    )
    if isinstance(target, str):
        target = named_classes(target, logits, labels, grammar)
    if hasattr(target, "__array__") and not isinstance(target, Tensor):
        target = torch.as_tensor(target)
    if isinstance(target, Tensor) and target.ndim == 0 and target.dtype in WHOLE:
        target = int(target)
    if isinstance(target, bool) or not isinstance(target, (int, Tensor, list, tuple)):
        msg = f"Cannot read {target!r} as a class. {grammar}"
        raise TargetError(msg)
    if isinstance(target, int):
        if not 0 <= target < logits.shape[1]:
            last = logits.shape[1] - 1
            msg = f"Class {target} does not exist: classes run from 0 to {last}. {grammar}"
            raise TargetError(msg)
        return target
    return listed_classes(target, logits, grammar)


def check_foils(classes: Classes, foils: Classes, logits: Logits) -> None:
    """Refuse a contrast of every image's class with itself."""
    first, second = (
        torch.as_tensor(k).to(logits.device).expand(len(logits)) for k in (classes, foils)
    )
    if bool((first == second).all()):
        msg = (
            f"target and versus name the same class (for the first image {int(first[0])}), so that "
            f"their difference is zero everywhere. Give versus='runner-up', or another class."
        )
        raise TargetError(msg)


def named_classes(name: str, logits: Logits, labels: Labels | None, grammar: str) -> Labels:
    """Return the classes that a word of the grammar stands for."""
    match name:
        case "predicted":
            return logits.argmax(dim=1)
        case "runner-up":
            if logits.shape[1] < 2:  # noqa: PLR2004 - two classes are what a runner-up needs
                msg = f"'runner-up' needs at least two classes. {grammar}"
                raise TargetError(msg)
            return logits.topk(2, dim=1).indices[:, 1]
        case "label":
            if labels is None:
                msg = f"target='label' needs labels=, and none were given. {grammar}"
                raise TargetError(msg)
            return labels
        case _:
            msg = f"Unknown target {name!r}. {grammar}"
            raise TargetError(msg)


def listed_classes(
    target: Tensor | list[int] | tuple[int, ...], logits: Logits, grammar: str
) -> Labels:
    """Return one class per image, after checking that there is one and that each exists."""
    classes = torch.as_tensor(target, device=logits.device)
    whole = not (classes.is_floating_point() or classes.dtype == torch.bool)
    if not whole or classes.shape != logits.shape[:1]:
        msg = (
            f"Classes must be {len(logits)} integers, one per image; "
            f"got {classes.dtype} of shape {tuple(classes.shape)}. {grammar}"
        )
        raise TargetError(msg)
    classes = classes.long()
    wrong = (classes < 0) | (classes >= logits.shape[1])
    if wrong.any():
        first = int(wrong.nonzero()[0, 0])
        msg = f"Class {int(classes[first])} of image {first} does not exist. {grammar}"
        raise TargetError(msg)
    return classes
