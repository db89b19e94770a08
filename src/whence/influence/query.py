"""Queries: the predictions whose origin is asked for, as vectors in parameter space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Images, Margin, Scalars, Target
from whence.errors import NumericsError
from whence.gradients import Block, DirectBlock
from whence.gradients.blocks import stacked
from whence.influence.scoring import Scoring

__all__ = ["QueryVectors", "joined", "query_vectors", "residuals_of"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class QueryVectors:
    """The vectors ``u`` of some queries.

    Args:
        blocks: For each parameter one block of ``q`` gradients, factored where a layer has few
            positions: products then need no gradient in full, and the vector little memory.
        zero: Which queries have no gradient at all, ``(q,)``; all their scores are 0.
    """

    blocks: Mapping[str, Block]
    zero: Tensor

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.zero)

    def only(self, index: int) -> "QueryVectors":
        """Return one of the queries."""
        return QueryVectors(
            blocks={n: b.rows(index, index + 1) for n, b in self.blocks.items()},
            zero=self.zero[index : index + 1],
        )

    def dense(self) -> dict[str, Tensor]:
        """Return the vectors in full: for each parameter ``(q, *shape)``."""
        return {
            name: block.materialise().reshape(len(self), *block.shape)
            for name, block in self.blocks.items()
        }

    def combined(self, coefficients: Tensor) -> "QueryVectors":
        """Return linear combinations of the queries: averages, or differences.

        Scores are linear in the query, so scores of a combination are the same combination of
        scores.

        Args:
            coefficients: ``(q,)`` for one combination, or ``(p, q)`` for several.
        """
        rows = coefficients.reshape(-1, len(self))
        return QueryVectors(
            blocks={
                name: DirectBlock(values=rows.to(dense) @ dense, shape=block.shape)
                for name, block in self.blocks.items()
                for dense in (block.materialise(),)
            },
            zero=((rows.to(self.zero.device) == 0) | self.zero).all(dim=1),
        )


def residuals_of(logits: Tensor, target: Target) -> Scalars:
    """Return ``1 - p`` for a margin, computed without rounding to zero; 1 for other targets."""
    if isinstance(target, Margin):
        return torch.sigmoid(-target(logits))
    return torch.ones(len(logits), dtype=logits.dtype, device=logits.device)


def query_vectors(
    scoring: Scoring, images: Images, target: Target, batch_size: int = 8
) -> QueryVectors:
    """Return the vectors of queries; costs one forward and one backward pass.

    Args:
        scoring: How gradients become scores, for one network.
        images: The query images, ``(q, c, h, w)``.
        target: What is asked about each: the margin of its predicted class, for example.
        batch_size: How many images at a time.

    Raises:
        NumericsError: If a gradient is NaN or infinite.
    """
    parts: list[dict[str, Block]] = []
    squares: list[Tensor] = []
    norms: list[Tensor] = []
    residuals: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(images)))
        some = target.at(rows)
        recorded = scoring.recorder.record(images[rows.to(images.device)], some)
        parts.append(recorded.settled(len(images)))
        squares.append(recorded.squared_norm())
        curved = scoring.normalised and scoring.metric is not None
        norms.append(scoring.squared_norms(recorded) if curved else squares[-1])
        residuals.append(residuals_of(recorded.logits, some))
    squared = torch.cat(squares)
    if not squared.isfinite().all():
        bad = (~squared.isfinite()).nonzero().flatten().tolist()
        msg = f"The gradients of queries {bad} are NaN or infinite: check the images and weights."
        raise NumericsError(msg)
    gradients = {name: stacked([p[name] for p in parts]) for name in parts[0]}
    return QueryVectors(
        blocks=scoring.vectors(gradients, torch.cat(norms), torch.cat(residuals)),
        zero=squared == 0,
    )


def joined(parts: Sequence[QueryVectors]) -> QueryVectors:
    """Return several sets of queries as one."""
    return QueryVectors(
        blocks={n: stacked([p.blocks[n] for p in parts]) for n in parts[0].blocks},
        zero=torch.cat([p.zero for p in parts]),
    )
