"""Which pixels of which training examples: the influence as a ScalarFn, and its maps."""

from whence.training_features.additive import Additive
from whence.training_features.complete import InfluenceXGradient
from whence.training_features.differences import AntitheticDifferences
from whence.training_features.influence_fn import InfluenceFn, held_weights, influence_fn
from whence.training_features.maps import DEFAULT_MAP, TrainingFeatures, training_features
from whence.training_features.normalisers import Normalisers, SplitInfluence, normalisers
from whence.training_features.readings import MAPS, Reduction, TrainingMap, map_named, reduced

__all__ = [
    "DEFAULT_MAP",
    "MAPS",
    "Additive",
    "AntitheticDifferences",
    "InfluenceFn",
    "InfluenceXGradient",
    "Normalisers",
    "Reduction",
    "SplitInfluence",
    "TrainingFeatures",
    "TrainingMap",
    "held_weights",
    "influence_fn",
    "map_named",
    "normalisers",
    "reduced",
    "training_features",
]
