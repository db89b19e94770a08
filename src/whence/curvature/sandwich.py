r"""Sandwich: an operator on projected gradients as one on gradients."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from whence.gradients import Projector
from whence.gradients.operator import Operator, Vectors

__all__ = ["Sandwich"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Sandwich(Operator):
    r"""Projects, applies an operator, and goes back: :math:`P^\top M P`.

    :math:`\langle g, P^\top M P v \rangle = \langle P g, M P v \rangle`: an inner product with the
    outcome is one in the projected space, without projecting the training gradients.

    Args:
        projector: ``P``.
        middle: ``M``, on projected vectors ``{name: (q, k)}``.
    """

    projector: Projector
    middle: Operator

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the map of each vector, in its own shape."""
        back = self.projector.adjoint(self.middle(self.projector(vectors)))
        return {name: back[name].reshape(value.shape) for name, value in vectors.items()}
