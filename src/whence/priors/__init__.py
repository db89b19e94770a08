"""Attribution priors: training that also says where the evidence shall lie.

A prior is a penalty of any method's attributions, added to the training loss; methods are seen
only through ``whence.core``.
"""

from whence.priors.fit import Epoch, Fit, fit
from whence.priors.loss import Prior, PriorLoss, prior_loss
from whence.priors.penalties import GiniSparsity, OutsideMask, Penalty, TotalVariation

__all__ = [
    "Epoch",
    "Fit",
    "GiniSparsity",
    "OutsideMask",
    "Penalty",
    "Prior",
    "PriorLoss",
    "TotalVariation",
    "fit",
    "prior_loss",
]
