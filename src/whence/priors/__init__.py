"""Attribution priors: training that also says where the evidence shall lie.

A prior is a penalty of any method's attributions, added to the training loss; methods are seen
only through ``whence.core``.
"""

from whence.priors.fit import Epoch, Fit, fit
from whence.priors.loss import Prior, PriorLoss, prior_loss
from whence.priors.masks import (
    MaskCrossEntropy,
    MaskEnergy,
    MaskL1,
    OutsideMask,
    RightReasons,
    all_log_probabilities,
    box_masks,
)
from whence.priors.named import PENALTIES, penalty_named
from whence.priors.penalties import (
    L1,
    L2,
    Entropy,
    GiniSparsity,
    Magnitude,
    MeanMap,
    Penalty,
    TotalVariation,
)
from whence.priors.relations import GraphLaplacian, PairwiseSimilarity

__all__ = [
    "L1",
    "L2",
    "PENALTIES",
    "Entropy",
    "Epoch",
    "Fit",
    "GiniSparsity",
    "GraphLaplacian",
    "Magnitude",
    "MaskCrossEntropy",
    "MaskEnergy",
    "MaskL1",
    "MeanMap",
    "OutsideMask",
    "PairwiseSimilarity",
    "Penalty",
    "Prior",
    "PriorLoss",
    "RightReasons",
    "TotalVariation",
    "all_log_probabilities",
    "box_masks",
    "fit",
    "penalty_named",
    "prior_loss",
]
