"""What a method did: its values, what they cost, and what they should add up to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from whence.core import Attributions, Images, ScalarFn, Scalars

__all__ = ["FORWARD", "Account", "Accountable", "Loss"]

FORWARD = 0.5
"""The cost in passes of a forward alone: going back to the input takes about as long again."""


@final
@dataclass(frozen=True, kw_only=True)
class Loss:
    """What an operation kept of what was to be shared out.

    Args:
        operation: The operation, ``conv2d``.
        path: The module that called it, ``layer1.0.conv1``.
        share: How much it kept, in parts of the whole; negative if it added.
    """

    operation: str
    path: str
    share: float

    def __str__(self) -> str:
        """Return it in words."""
        where = f"{self.operation} in {self.path}" if self.path else f"{self.operation}"
        return f"{where} {'kept' if self.share > 0 else 'added'} {100 * abs(self.share):.1f} %"


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Account:
    """The values of a method together with what it came to know on the way.

    Args:
        values: One value per pixel, ``(b, a, h, w)``, never rescaled.
        passes: Cost per image, in passes (a forward and an input-backward); the mean over the
            batch where images differ.
        explained: ``f(images)``, if the method had to compute it; ``(b,)``.
        reference: What ``values`` add up to in each image when the method is exact, such as
            ``f(images) - f(baseline)``; None for methods without such a law; ``(b,)``.
        absorbed: What biases took of it, for methods that share ``reference`` out layer by layer;
            ``(b,)``.
        found: Whether what was searched for was found, for methods that search; ``(b,)``.
        taken: What biases took, operation by operation: name, module path and ``(b,)``.
        trace: Returns what every operation kept of one image, given its row; one pass.
    """

    values: Attributions
    passes: float
    explained: Scalars | None = None
    reference: Scalars | None = None
    absorbed: Scalars | None = None
    found: Tensor | None = None
    taken: tuple[tuple[str, str, Tensor], ...] = ()
    trace: Callable[[int], tuple[Loss, ...]] | None = None


@runtime_checkable
class Accountable(Protocol):
    """A method that says what it did, not only what came out.

    Every method of this room is one. A :class:`whence.core.Method` that is not can be used in
    the same places; its cost is then unknown.
    """

    def account(self, f: ScalarFn, images: Images) -> Account:
        """Return what ``self(f, images)`` returns, with its cost and its law."""
        ...
