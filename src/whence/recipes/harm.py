r"""Harm: what speaks for a wrong prediction, and against the label.

The query is a difference of two, :math:`\nabla m_{\text{predicted}} - \nabla m_{\text{label}}`:
training images that score high moved the model from the one to the other. Lengths of gradients
count here: a cosine puts a mislabelled image, whose gradient is long and unlike any other, behind
many short ones that point the same way.
"""

from dataclasses import replace

import torch
from torch import Tensor

from whence.gradients import Recorder
from whence.influence import Influence
from whence.influence.query import joined

__all__ = ["harm_of", "lengths_of", "rather_than"]


def rather_than(influence: Influence, first: int, second: int) -> Influence:
    """Return the scores for one query minus those for another, as a single query.

    Args:
        influence: Scores for several queries.
        first: What is spoken for.
        second: What is spoken against.
    """
    pair = replace(
        influence,
        scores=influence.scores[:, [first, second]],
        members=tuple(
            replace(m, queries=joined([m.queries.only(first), m.queries.only(second)]))
            for m in influence.members
        ),
    )
    return pair.combined(torch.tensor([1.0, -1.0]))


def lengths_of(influence: Influence) -> Tensor:
    """Return by what a score that leaves out lengths of gradients is multiplied, ``(n,)``.

    The loss gradient's length, in the score's own metric; 1 where scores have it already.
    """
    scoring = influence.members[-1].scoring
    if not scoring.normalised or not isinstance(scoring.recorder, Recorder):
        return torch.ones(len(influence.scores))
    weights = influence.weights.mean(dim=1)
    safe = torch.where(weights == 0, torch.ones_like(weights), weights)
    return torch.where(weights == 0, torch.zeros_like(weights), influence.residuals / safe)


def harm_of(difference: Influence) -> Tensor:
    """Return how much each training image speaks for one query rather than another, ``(n,)``."""
    return difference.scores[:, 0] * lengths_of(difference)
