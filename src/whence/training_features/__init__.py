"""Which pixels of which training examples: the influence as a ScalarFn, and its maps."""

from whence.training_features.additive import Additive
from whence.training_features.complete import InfluenceXGradient
from whence.training_features.differences import AntitheticDifferences
from whence.training_features.influence_fn import InfluenceFn, held_weights, influence_fn
from whence.training_features.maps import DEFAULT_MAP, TrainingFeatures, training_features
from whence.training_features.neutral import Neutral, neutral
from whence.training_features.normalisers import Normalisers, SplitInfluence, normalisers
from whence.training_features.readings import MAPS, Reduction, TrainingMap, map_named, reduced
from whence.training_features.relevance import InfluenceLRP
from whence.training_features.shared import SharedEvidence

__all__ = [
    "DEFAULT_MAP",
    "MAPS",
    "Additive",
    "AntitheticDifferences",
    "InfluenceFn",
    "InfluenceLRP",
    "InfluenceXGradient",
    "Neutral",
    "Normalisers",
    "Reduction",
    "SharedEvidence",
    "SplitInfluence",
    "TrainingFeatures",
    "TrainingMap",
    "held_weights",
    "influence_fn",
    "map_named",
    "neutral",
    "normalisers",
    "reduced",
    "training_features",
]
