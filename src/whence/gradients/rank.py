r"""Low rank: a layer's queries as a few pairs of vectors each, within a stated tolerance."""

from typing import cast

import torch

from whence.errors import SettingError
from whence.gradients.blocks import Block, FactoredBlock

__all__ = ["low_rank"]


def low_rank(block: Block, *, wide: int, tolerance: float) -> FactoredBlock:
    r"""Return gradients of a weight as :math:`\sum_{r} e_r b_r^\top`, in as few terms as will do.

    .. math:: \lVert V - \hat V \rVert_F \le \varepsilon \lVert V \rVert_F ,

    by the singular values of ``V``; with a tolerance at the size of rounding it is exact. What an
    inner product with a gradient ``g`` loses is at most :math:`\varepsilon \lVert V \rVert
    \lVert g \rVert`.

    Args:
        block: Gradients of one weight, ``q`` of them.
        wide: Rows of the weight as a matrix.
        tolerance: The relative error in the Frobenius norm, of each query.

    Raises:
        SettingError: If the tolerance is not in ``[0, 1)``.

    References:
        Grosse et al. (2023), "Studying Large Language Model Generalization with Influence
        Functions", section 3.2.2 (query batching with low-rank approximations).
    """
    if not 0 <= tolerance < 1:
        msg = f"A tolerance is 0 or more and under 1; got {tolerance}."
        raise SettingError(msg)
    matrices = block.materialise().reshape(len(block), wide, -1)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    square = values.square()
    behind = square.flip(1).cumsum(1).flip(1)  # what is lost if terms from here on are left out
    floor = square.sum(dim=1, keepdim=True) * tolerance**2
    needed = int((behind > floor).sum(dim=1).max()) if len(block) else 0
    count = max(1, needed)
    return FactoredBlock(
        output=(left * values[:, None])[:, None, :, :count],
        input=cast("torch.Tensor", right[:, None, :count].transpose(2, 3)),
        shape=block.shape,
    )
