"""Which training examples: scores of training images for a prediction."""

from whence.influence.checkpoints import Checkpoint, network_at
from whence.influence.members import Member
from whence.influence.query import QueryVectors, query_vectors
from whence.influence.rank import Influence, Ranking, influence
from whence.influence.scorers import GAS, SCORERS, GradCos, GradDot, TracIn, scorer_named
from whence.influence.scoring import Scorer, Scoring, inverse_norm, one, residual
from whence.influence.select import choose_parameters

__all__ = [
    "GAS",
    "SCORERS",
    "Checkpoint",
    "GradCos",
    "GradDot",
    "Influence",
    "Member",
    "QueryVectors",
    "Ranking",
    "Scorer",
    "Scoring",
    "TracIn",
    "choose_parameters",
    "influence",
    "inverse_norm",
    "network_at",
    "one",
    "query_vectors",
    "residual",
    "scorer_named",
]
