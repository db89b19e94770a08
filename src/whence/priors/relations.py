r"""Penalties that relate pixels, or images, to each other."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Attributions
from whence.errors import DataError, ShapeError
from whence.priors.penalties import Scalar, norm, share

__all__ = ["GraphLaplacian", "PairwiseSimilarity"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class GraphLaplacian:
    r"""How much attributions differ along the edges of a graph of pixels or features.

    .. math:: \Omega = \frac{1}{b} \sum_b \frac{v_b^\top L\, v_b}{v_b^\top v_b}
              = \frac{1}{b} \sum_b
              \frac{\sum_{(i,j)} w_{ij} (v_{bi} - v_{bj})^2}{\sum_i v_{bi}^2}

    where :math:`v_b` is the sum of the attributions over the channels, row by row, and
    :math:`L` the graph's Laplacian. Between 0, where all neighbours are alike, and the largest
    eigenvalue of :math:`L`. A map of zeros counts as 0. The prior of the paper, for features of a
    table, is ``MeanMap(penalty=GraphLaplacian(...))``, without the denominator.

    Args:
        edges: Pairs of pixels ``(2, m)``, each edge once; pixel ``(i, j)`` of ``w`` columns has
            the number ``i * w + j``.
        weights: One weight of 0 or more per edge, ``(m,)``; all are 1 if None.

    References:
        Erion et al. (2021), "Improving performance of deep learning models with axiomatic
        attribution priors and expected gradients" (the prior for gene expression).
    """

    edges: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that there are edges, and a weight for each."""
        edges = self.edges
        if edges.ndim != 2 or len(edges) != 2 or not edges.numel() or edges.is_floating_point():  # noqa: PLR2004 - two ends
            msg = (
                f"Edges are pairs of pixel numbers, integers of shape (2, m); got {edges.dtype} of "
                f"shape {tuple(edges.shape)}."
            )
            raise ShapeError(msg)
        if int(edges.min()) < 0:
            msg = f"Pixels are numbered from 0; there is an edge to {int(edges.min())}."
            raise DataError(msg)
        if self.weights is None:
            return
        if self.weights.shape != edges.shape[1:]:
            msg = (
                f"{edges.shape[1]} edges need as many weights; got shape "
                f"{tuple(self.weights.shape)}."
            )
            raise ShapeError(msg)
        if not bool((self.weights >= 0).all() and self.weights.isfinite().all()):
            msg = "Weights of edges must be 0 or more, and finite."
            raise DataError(msg)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty.

        Raises:
            ShapeError: If an edge leads to a pixel that the attributions do not have.
        """
        pixels = values.sum(dim=1).flatten(1)
        last = int(self.edges.max())
        if last >= pixels.shape[1]:
            rows, columns = values.shape[2:]
            msg = (
                f"The graph has an edge to pixel {last}, and the attributions have {rows} x "
                f"{columns} = {pixels.shape[1]} pixels. Make the graph for this size."
            )
            raise ShapeError(msg)
        first, second = self.edges.to(values.device)
        squares = (pixels[:, first] - pixels[:, second]).square()
        if self.weights is not None:
            squares = squares * self.weights.to(squares)
        return share(squares.sum(dim=1), pixels.square().sum(dim=1)).mean()

    def at(self, rows: Tensor) -> "GraphLaplacian":
        """Return itself: there is one graph for all images."""
        del rows
        return self


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PairwiseSimilarity:
    r"""How unlike the maps of images of one group are.

    .. math:: \Omega = \frac{1}{|P|} \sum_{(b,c) \in P}
              \frac{1}{2}\big(1 - \cos(a_b, a_c)\big), \qquad
              P = \{(b, c) : b < c,\; g_b = g_c\}

    0 if all maps of a group are alike up to their scale, 1/2 if they are unrelated, 1 if they are
    opposite. A group may be a class, or the views of one object. A map of zeros is left out; a
    batch without a pair counts as 0, so make batches in which groups meet.

    Args:
        groups: The group of each image of the dataset, integers ``(n,)``; images of a negative
            group belong to none.
    """

    groups: Tensor

    def __post_init__(self) -> None:
        """Check that there is one whole number per image."""
        if self.groups.ndim != 1 or self.groups.is_floating_point():
            msg = (
                f"Groups are one integer per image, shape (n,); got {self.groups.dtype} of shape "
                f"{tuple(self.groups.shape)}."
            )
            raise ShapeError(msg)

    def __call__(self, values: Attributions) -> Scalar:
        """Return the mean penalty of the pairs.

        Raises:
            ShapeError: If there is not one group for each image.
        """
        if len(self.groups) != len(values):
            msg = (
                f"{len(values)} attributions need as many groups; got {len(self.groups)}. For a "
                f"batch of a dataset take penalty.at(indices)."
            )
            raise ShapeError(msg)
        flat = values.flatten(1)
        sizes = norm(flat.abs())
        something = sizes > 0
        unit = flat / torch.where(something, sizes, torch.ones_like(sizes))[:, None]
        unlike = (1 - unit @ unit.T) / 2
        groups = self.groups.to(values.device)
        alike = (groups[:, None] == groups[None]) & (groups >= 0)[:, None]
        pairs = (alike & something[:, None] & something[None]).triu(diagonal=1).to(unlike)
        return (unlike * pairs).sum() / pairs.sum().clamp_min(1)

    def at(self, rows: Tensor) -> "PairwiseSimilarity":
        """Return the penalty with the groups of these images."""
        if int(rows.max()) >= len(self.groups):
            msg = (
                f"There are {len(self.groups)} groups, and image {int(rows.max())} was asked for. "
                f"Give one group for each image of the dataset, in its order."
            )
            raise ShapeError(msg)
        return PairwiseSimilarity(groups=self.groups[rows.to(self.groups.device)])
