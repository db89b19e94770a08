r"""Operators: linear maps on gradients, composed with ``@``.

Vectors are named blocks, ``{name: (q, ...)}``, with several vectors at once on the first axis:
gradients in full (``ExampleGradients.materialise()``) or projected ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from torch import Tensor

from whence.errors import SettingError

__all__ = ["Composed", "Damped", "Identity", "Operator", "Scaled", "Vectors"]

Vectors = Mapping[str, Tensor]
"""Several vectors as named blocks, each ``(q, ...)``."""


@runtime_checkable
class Operator(Protocol):
    """A linear map on gradients."""

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the map of each vector."""
        ...

    def __matmul__(self, other: "Operator") -> "Operator":
        """Return the operator that applies ``other`` first, then this one."""
        return Composed(self, other)


@final
@dataclass(frozen=True)
class Composed(Operator):
    """One operator after another: ``Composed(a, b)(v) == a(b(v))``, written ``a @ b``."""

    outer: Operator
    inner: Operator

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the map of each vector."""
        return self.outer(self.inner(vectors))


@final
@dataclass(frozen=True, kw_only=True)
class Identity(Operator):
    """Every vector as it is."""

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the vectors."""
        return dict(vectors)


@final
@dataclass(frozen=True, kw_only=True)
class Scaled(Operator):
    r"""A multiple of another operator, :math:`s A`."""

    factor: float
    operator: Operator

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the scaled map of each vector."""
        return {name: self.factor * value for name, value in self.operator(vectors).items()}


@final
@dataclass(frozen=True, kw_only=True)
class Damped(Operator):
    r"""An operator plus a multiple of the identity, :math:`A + \lambda I`.

    Args:
        operator: Maps vectors to vectors of the same shape.
        damping: Lambda, 0 or more.
    """

    operator: Operator
    damping: float

    def __post_init__(self) -> None:
        """Check the damping."""
        if not 0 <= self.damping < float("inf"):
            msg = f"damping is 0 or more, and finite; got {self.damping}."
            raise SettingError(msg)

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the damped map of each vector."""
        mapped = self.operator(vectors)
        return {name: mapped[name] + self.damping * value for name, value in vectors.items()}
