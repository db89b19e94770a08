"""What a sanity check returns: how alike maps stay when what they should depend on is changed."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence.core import Scalars

__all__ = ["Similarities"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Similarities:
    """How alike the maps are to the original ones after each change.

    Args:
        stages: What was changed at each stage.
        values: Similarity to the original map at each stage, ``(s, b)``; NaN where undefined,
            such as the correlation with a map that has become constant.
    """

    stages: tuple[str, ...]
    values: Float[Tensor, "s b"]

    @property
    def score(self) -> Scalars:
        """The mean over the stages of each image that are defined; NaN if none is."""
        return self.values.nanmean(dim=0)

    @property
    def undefined(self) -> Int[Tensor, " b"]:
        """How many stages of each image are undefined, and left out of its score."""
        return torch.isnan(self.values).sum(dim=0)
