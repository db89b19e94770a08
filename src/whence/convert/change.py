"""Change: what a route did to a model, and what a route is."""

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from whence.core import Images

__all__ = ["Change", "Route", "Wrapping"]


@final
@dataclass(frozen=True, kw_only=True)
class Change:
    """One change to a model.

    Args:
        path: The module, ``layer1.0.bn1``.
        what: What was done to it.
        parameters: Parameters and statistics, counted in numbers, that it no longer has.
    """

    path: str
    what: str
    parameters: int


@runtime_checkable
class Route(Protocol):
    """Changes a copy of a model in place."""

    def __call__(self, model: nn.Module) -> tuple[Change, ...]:
        """Change the model and say what was changed."""
        ...


@runtime_checkable
class Wrapping(Protocol):
    """Makes another function of the whole model."""

    def wrapped(self, model: nn.Module, images: Images) -> tuple[nn.Module, Change]:
        """Return the new model, in eval mode, and what was done."""
        ...

    def images(self, images: Images) -> Float[Tensor, "b d h w"]:
        """Return the images that the new model takes."""
        ...
