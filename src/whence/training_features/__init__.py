"""Which pixels of which training examples: the influence as a ScalarFn, and its maps."""

from whence.training_features.influence_fn import InfluenceFn, held_weights, influence_fn
from whence.training_features.maps import TrainingFeatures, training_features

__all__ = ["InfluenceFn", "TrainingFeatures", "held_weights", "influence_fn", "training_features"]
