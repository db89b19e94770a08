"""Method: a frozen value that turns a ScalarFn and images into attributions."""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from whence.core.scalar import ScalarFn
from whence.core.types import Attributions, Images

__all__ = ["Method", "MethodCard"]


@runtime_checkable
class Method(Protocol):
    """Which pixels: hyper-parameters only, never a model.

    Implementations are frozen keyword-only dataclasses: they can be hashed, printed, written
    into a manifest and named on the command line.
    """

    def __call__(self, f: ScalarFn, images: Images) -> Attributions:
        """Return one value per pixel, shaped like the images or ``(b, 1, h, w)``."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """What the catalogue says of a method.

    Args:
        name: Its name on the command line, ``integrated-gradients``.
        family: ``gradient``, ``path``, ``relevance``, ``activation map``, ``perturbation``.
        passes: Cost in network passes (a forward and an input-backward), as text.
        needs: ``any callable``, or ``a network`` if it works on the graph.
        complete: What its values add up to, or ``no``.
        reference: The paper and the equation.
    """

    name: str
    family: str
    passes: str
    needs: str
    complete: str
    reference: str
