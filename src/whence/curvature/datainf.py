r"""DataInf: the mean of inverses in place of the inverse of a mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.curvature.diagonal import CHUNK_BYTES, check_names
from whence.curvature.draws import Draws, TrueLabels
from whence.curvature.passes import TrainingImages
from whence.errors import NumericsError, SettingError
from whence.gradients import Block
from whence.gradients.operator import Operator, Vectors
from whence.gradients.record import combined

__all__ = ["DataInf", "datainf_dampings"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DataInf(Operator):
    r"""DataInf's inverse, for each parameter :math:`l` by itself.

    .. math:: \frac{1}{n} \sum_i (g_i g_i^\top + \lambda_l I)^{-1} v = \frac{1}{n \lambda_l} \sum_i
              \left( v - \frac{\langle g_i, v \rangle}{\lambda_l + \lVert g_i \rVert^2} g_i \right)

    with :math:`g_i` the gradients of the labels' loss. Exact for what it says, which is the damped
    empirical Fisher's inverse only up to the exchange of inverse and mean; the error grows with
    the number of elements of a parameter. A call is one pass over the training images, for all
    vectors at once; nothing is stored.

    Args:
        data: The training images, with labels.
        dampings: Lambda for each parameter, over 0.

    References:
        Kwon et al. (2024), "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs and
        Diffusion Models".
    """

    data: TrainingImages
    dampings: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check the dampings."""
        for name, damping in self.dampings.items():
            if not 0 < damping < float("inf"):
                msg = f"DataInf needs a damping over 0, and finite; {name!r} has {damping}."
                raise SettingError(msg)

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """Return the map of each vector.

        Raises:
            NumericsError: If a gradient is NaN or infinite.
        """
        check_names(self.dampings, vectors)
        flat = {name: value.flatten(1) for name, value in vectors.items()}
        total = {name: torch.zeros_like(value) for name, value in flat.items()}
        numbers, draws, seen = self.data.numbers(TrueLabels(), None), TrueLabels(), 0
        for batch in self.data.batches("datainf"):
            for gradients in self.data.draws(batch, draws, numbers):
                for name, blocks in gradients.blocks.items():
                    total[name] += pulled(blocks, flat[name], self.dampings[name])
            seen += len(batch.indices)
        found = {}
        for name, value in flat.items():
            mean = (value - total[name] / seen) / self.dampings[name]
            if not bool(mean.isfinite().all()):
                msg = f"DataInf's map of {name!r} is NaN or infinite: a gradient or a vector is."
                raise NumericsError(msg)
            found[name] = mean.reshape(vectors[name].shape)
        return found


def pulled(blocks: tuple[Block, ...], vectors: Tensor, damping: float) -> Tensor:
    """Return the sum over a batch of weighted gradients, for each vector ``(q, size)``."""
    first = blocks[0]
    step = max(1, CHUNK_BYTES // max(1, first.size * vectors.element_size()))
    total = torch.zeros_like(vectors)
    for start in range(0, len(first), step):
        rows = combined([block.rows(start, start + step) for block in blocks])
        weights = (rows @ vectors.T) / (damping + rows.square().sum(dim=1, keepdim=True))
        total = total + weights.T @ rows
    return total


def datainf_dampings(
    data: TrainingImages, draws: Draws | None = None, share: float = 0.1
) -> dict[str, float]:
    r"""Return a damping for each parameter, as DataInf's authors choose it.

    .. math:: \lambda_l = \frac{0.1}{n d_l} \sum_i \lVert g_{il} \rVert^2

    Args:
        data: The training images.
        draws: Which gradients; those of the labels' loss by default.
        share: The share of the mean square of a gradient's element.

    A parameter without a gradient for any image, which no score depends on, gets 1.
    """
    draws = TrueLabels() if draws is None else draws
    numbers = data.numbers(draws, None)
    squares: dict[str, float] = {}
    sizes: dict[str, int] = {}
    seen = 0
    for batch in data.batches("datainf: dampings"):
        for gradients in data.draws(batch, draws, numbers):
            for name, blocks in gradients.blocks.items():
                single = blocks[0].squared_norm() if len(blocks) == 1 else combined_norm(blocks)
                squares[name] = squares.get(name, 0.0) + float(single.double().sum())
                sizes[name] = blocks[0].size
        seen += len(batch.indices)
    return {
        name: share * total / (seen * sizes[name]) if total else 1.0
        for name, total in squares.items()
    }


def combined_norm(blocks: tuple[Block, ...]) -> Tensor:
    """Return squared norms of the sum of several blocks, ``(b,)``."""
    return combined(blocks).square().sum(dim=1)
