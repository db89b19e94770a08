"""Randomisation of data attribution: do scores depend on what the model has learnt?"""

import copy
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence.errors import ShapeError
from whence.evaluation.metric import MetricCard
from whence.evaluation.randomisation import redraw
from whence.evaluation.ranking import check_scores, rank_correlation

__all__ = ["ScoreRandomisation", "reinitialised"]


@final
@dataclass(frozen=True, kw_only=True)
class ScoreRandomisation:
    """The rank correlation of the trained model's scores with those of a random model.

    Scores that stay the same look at the images only, not at the model that they explain.
    Make the other model with :func:`reinitialised`. NaN where all scores of a query are equal.
    """

    card: ClassVar[MetricCard] = MetricCard(
        better="lower",
        low=-1.0,
        high=1.0,
        chance="0 for scores that depend on the weights alone; 1 for scores that ignore them",
        reference="Hanawa et al. (2021), Evaluation of Similarity-based Explanations (model "
        "randomization test), after Adebayo et al. (2018)",
    )

    def __call__(self, scores: Tensor, randomised: Tensor) -> Float[Tensor, " q"]:
        """Return one correlation per query, of two sets of scores ``(n, q)``.

        Raises:
            ShapeError: If the two sets differ in their shape.
        """
        first, second = check_scores(scores), check_scores(randomised)
        if first.shape != second.shape:
            msg = (
                f"Scores of the same training images and queries are needed under both models; "
                f"got {tuple(first.shape)} and {tuple(second.shape)}."
            )
            raise ShapeError(msg)
        return rank_correlation(first, second.to(first.device))


def reinitialised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model whose parameters are noise of the same root mean square.

    Parameters that are zero everywhere stay, and so do buffers such as running statistics.

    Args:
        model: The model, which is not changed.
        seed: Seed of the noise, drawn on the CPU.
    """
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in copied.parameters():
        redraw(parameter, generator)
    return copied
