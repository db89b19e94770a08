r"""DataInf: the mean of inverses in place of the inverse of a mean."""

import functools
from collections.abc import Mapping, Sequence
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

__all__ = ["DataInf", "datainf_dampings", "layers_of"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class DataInf(Operator):
    r"""DataInf's inverse, for each layer :math:`l` (a weight and its bias) by itself.

    .. math:: \frac{1}{n} \sum_i (g_i g_i^\top + \lambda_l I)^{-1} v = \frac{1}{n \lambda_l} \sum_i
              \left( v - \frac{\langle g_i, v \rangle}{\lambda_l + \lVert g_i \rVert^2} g_i \right)

    with :math:`g_i` the gradients of the labels' loss. Exact for what it says, which is the damped
    empirical Fisher's inverse only up to the exchange of inverse and mean; the error grows with
    the number of elements of a layer. A call is one pass over the training images, for all
    vectors at once; nothing is stored.

    Args:
        data: The training images, with labels.
        dampings: Lambda for each layer, over 0; see :func:`layers_of`.

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
        check_names(dict.fromkeys(self.data.recorder.names), vectors)
        flat = {name: value.flatten(1) for name, value in vectors.items()}
        total = {name: torch.zeros_like(value) for name, value in flat.items()}
        layers = layers_of(self.data.recorder.names)
        draws, seen = TrueLabels(), 0
        numbers = self.data.numbers(draws, None)
        for batch in self.data.batches("datainf"):
            for gradients in self.data.draws(batch, draws, numbers):
                for layer, names in layers.items():
                    blocks = {name: gradients.blocks[name] for name in names}
                    add_pulled(total, blocks, flat, self.dampings[layer])
            seen += len(batch.indices)
        found = {}
        for layer, names in layers.items():
            for name in names:
                mean = (flat[name] - total[name] / seen) / self.dampings[layer]
                if not bool(mean.isfinite().all()):
                    msg = f"DataInf's map of {name!r} is NaN or infinite: a gradient or vector is."
                    raise NumericsError(msg)
                found[name] = mean.reshape(vectors[name].shape)
        return {name: found[name] for name in vectors}


def layers_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return parameters by layer: those of one module belong together.

    Args:
        names: Of parameters, such as ``"head.weight"``; its layer is ``"head"``.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        path, reparametrised, _ = name.partition(".parametrizations.")
        layer = path if reparametrised else name.rpartition(".")[0]
        found[layer] = (*found.get(layer, ()), name)
    return found


def add_pulled(
    total: dict[str, Tensor],
    blocks: Mapping[str, tuple[Block, ...]],
    vectors: Vectors,
    damping: float,
) -> None:
    """Add a batch's weighted gradients of one layer, for each vector ``(q, size)``."""
    size = sum(parts[0].size for parts in blocks.values())
    some = next(iter(blocks))
    count = len(blocks[some][0])
    step = max(1, CHUNK_BYTES // max(1, size * vectors[some].element_size()))
    for start in range(0, count, step):
        rows = {
            name: combined([block.rows(start, start + step) for block in parts])
            for name, parts in blocks.items()
        }
        products = sum_of([rows[name] @ vectors[name].T for name in rows])
        squares = sum_of([row.square().sum(dim=1, keepdim=True) for row in rows.values()])
        weights = products / (damping + squares)
        for name, row in rows.items():
            total[name] += weights.T @ row


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """Return the sum of tensors, of one at least."""
    return functools.reduce(torch.add, parts)


def datainf_dampings(
    data: TrainingImages, draws: Draws | None = None, share: float = 0.1
) -> dict[str, float]:
    r"""Return a damping for each layer, as DataInf's authors choose it.

    .. math:: \lambda_l = \frac{0.1}{n d_l} \sum_i \lVert g_{il} \rVert^2

    A layer without a gradient for any image, which no score depends on, gets 1.

    Args:
        data: The training images.
        draws: Which gradients; those of the labels' loss by default.
        share: The share of the mean square of a gradient's element.
    """
    draws = TrueLabels() if draws is None else draws
    numbers = data.numbers(draws, None)
    layers = layers_of(data.recorder.names)
    squares = dict.fromkeys(layers, 0.0)
    seen = 0
    for batch in data.batches("datainf: dampings"):
        for gradients in data.draws(batch, draws, numbers):
            for layer, names in layers.items():
                for name in names:
                    squares[layer] += squares_of(gradients.blocks[name])
        seen += len(batch.indices)
    every = data.network.parameters
    sizes = {layer: sum(every[n].numel() for n in names) for layer, names in layers.items()}
    return {
        layer: share * total / (seen * sizes[layer]) if total else 1.0
        for layer, total in squares.items()
    }


def squares_of(blocks: Sequence[Block]) -> float:
    """Return the sum of squares of a parameter's gradients over a batch."""
    single = blocks[0].squared_norm() if len(blocks) == 1 else combined(blocks).square().sum(dim=1)
    return float(single.double().sum())
