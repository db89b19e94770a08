"""Which pixels of which training examples: the influence as a ScalarFn, and its maps."""

from whence.training_features.influence_fn import InfluenceFn, influence_fn
from whence.training_features.maps import TrainingFeatures, training_features

__all__ = ["InfluenceFn", "TrainingFeatures", "influence_fn", "training_features"]
