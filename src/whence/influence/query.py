"""Queries: the predictions whose origin is asked for, as vectors in parameter space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.core import Images, Margin, Scalars, Target
from whence.errors import NumericsError
from whence.gradients import Recorder
from whence.influence.scorers import Scorer

__all__ = ["QueryVectors", "query_vectors", "residuals_of"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class QueryVectors:
    """The vectors ``u`` of some queries.

    Args:
        vectors: For each parameter ``(q, *shape)``.
        zero: Which queries have no gradient at all, ``(q,)``; all their scores are 0.
    """

    vectors: Mapping[str, Tensor]
    zero: Tensor

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.zero)

    def only(self, index: int) -> dict[str, Tensor]:
        """Return one query's vector, for each parameter ``(*shape)``."""
        return {name: v[index] for name, v in self.vectors.items()}

    def combined(self, coefficients: Tensor) -> "QueryVectors":
        """Return one query that is a linear combination: an average, or a difference.

        Scores are linear in the query, so scores of the combination are the same combination of
        scores.
        """
        return QueryVectors(
            vectors={
                name: torch.einsum("q,q...->...", coefficients.to(v), v)[None]
                for name, v in self.vectors.items()
            },
            zero=self.zero.all()[None],
        )


def residuals_of(logits: Tensor, target: Target) -> Scalars:
    """Return ``1 - p`` for a margin, computed without rounding to zero; 1 for other targets."""
    if isinstance(target, Margin):
        return torch.sigmoid(-target(logits))
    return torch.ones(len(logits), dtype=logits.dtype, device=logits.device)


def query_vectors(
    recorder: Recorder, images: Images, target: Target, scorer: Scorer, batch_size: int = 8
) -> QueryVectors:
    """Return the vectors of queries; costs one forward and one backward pass.

    Args:
        recorder: Records gradients for the chosen parameters.
        images: The query images, ``(q, c, h, w)``.
        target: What is asked about each: the margin of its predicted class, for example.
        scorer: How gradients become scores.
        batch_size: How many images at a time.

    Raises:
        NumericsError: If a gradient is NaN or infinite.
    """
    parts: list[dict[str, Tensor]] = []
    residuals: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        rows = torch.arange(start, min(start + batch_size, len(images)))
        some = target.at(rows)
        recorded = recorder.record(images[rows.to(images.device)], some)
        parts.append(recorded.materialise())
        residuals.append(residuals_of(recorded.logits, some))
    gradients = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    squares = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients.values()])
    if not squares.isfinite().all():
        bad = (~squares.isfinite().all(dim=0)).nonzero().flatten().tolist()
        msg = f"The gradients of queries {bad} are NaN or infinite: check the images and weights."
        raise NumericsError(msg)
    return QueryVectors(
        vectors=scorer.transformed(gradients, torch.cat(residuals)),
        zero=squares.sum(dim=0) == 0,
    )
