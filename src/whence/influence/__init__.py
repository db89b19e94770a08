"""Which training examples: scores of training images for a prediction."""

from whence.influence.build import index_gradients, repair_gradients, search_gradients
from whence.influence.candidates import Retrieval, retrieve
from whence.influence.checkpoints import Checkpoint, network_at
from whence.influence.curved import EKFAC, KFAC, RelatIF
from whence.influence.exact import (
    Arnoldi,
    DataInf,
    ExplicitInfluence,
    InfluenceFunction,
    LiSSA,
)
from whence.influence.execution import Execution, Route, plan
from whence.influence.features import FeatureRecorder, RepresentationSimilarity, RepresenterPoints
from whence.influence.members import Member
from whence.influence.optimiser import second_moments
from whence.influence.projected import TRAK, Projected, ProjectedFisher, TrackStar
from whence.influence.query import QueryVectors, query_vectors
from whence.influence.rank import Influence, Ranking, influence
from whence.influence.scorers import GAS, SCORERS, GradCos, GradDot, TracIn, scorer_named
from whence.influence.scoring import Scorer, Scoring, inverse_norm, one, residual
from whence.influence.select import choose_parameters
from whence.influence.self_scores import SelfInfluence, self_influence
from whence.influence.settings import plain_settings

__all__ = [
    "EKFAC",
    "GAS",
    "KFAC",
    "SCORERS",
    "TRAK",
    "Arnoldi",
    "Checkpoint",
    "DataInf",
    "Execution",
    "ExplicitInfluence",
    "FeatureRecorder",
    "GradCos",
    "GradDot",
    "Influence",
    "InfluenceFunction",
    "LiSSA",
    "Member",
    "Projected",
    "ProjectedFisher",
    "QueryVectors",
    "Ranking",
    "RelatIF",
    "RepresentationSimilarity",
    "RepresenterPoints",
    "Retrieval",
    "Route",
    "Scorer",
    "Scoring",
    "SelfInfluence",
    "TracIn",
    "TrackStar",
    "choose_parameters",
    "index_gradients",
    "influence",
    "inverse_norm",
    "network_at",
    "one",
    "plain_settings",
    "plan",
    "query_vectors",
    "repair_gradients",
    "residual",
    "retrieve",
    "scorer_named",
    "search_gradients",
    "second_moments",
    "self_influence",
]
