"""Which training examples: scores of training images for a prediction."""

from whence.influence.query import QueryVectors, query_vectors
from whence.influence.rank import Influence, Ranking, influence
from whence.influence.scorers import SCORERS, GradCos, GradDot, Scorer, scorer_named
from whence.influence.select import choose_parameters

__all__ = [
    "SCORERS",
    "GradCos",
    "GradDot",
    "Influence",
    "QueryVectors",
    "Ranking",
    "Scorer",
    "choose_parameters",
    "influence",
    "query_vectors",
    "scorer_named",
]
