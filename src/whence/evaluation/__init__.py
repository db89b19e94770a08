"""Can an attribution be trusted? Metrics that see methods only through ``whence.core``.

A metric is a frozen value that maps attributions to one number per image; its ``card`` says which
direction is better, the range, and what chance would get. :class:`Mean` makes of them one number
with its uncertainty.
"""

from whence.evaluation.agreement import Spearman, TopOverlap
from whence.evaluation.complexity import Gini
from whence.evaluation.datamodel import (
    Datamodeling,
    DatamodelingResult,
    LinearDatamodelingScore,
    SeedCeiling,
)
from whence.evaluation.faithfulness import Curve, Deletion, Insertion, random_order
from whence.evaluation.idsds import IDSDS, CellDeletion, CellDropout, Cells, cells_of
from whence.evaluation.localisation import (
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    mask_share,
)
from whence.evaluation.masking import MASKING, Hit, MaskedArea, WindowBlur, masked_areas
from whence.evaluation.mean import Estimate, Mean
from whence.evaluation.metric import MetricCard
from whence.evaluation.randomisation import Cascade, ParameterRandomisation
from whence.evaluation.soundness import Completeness, Soundness

__all__ = [
    "IDSDS",
    "MASKING",
    "Cascade",
    "CellDeletion",
    "CellDropout",
    "Cells",
    "Completeness",
    "Curve",
    "Datamodeling",
    "DatamodelingResult",
    "Deletion",
    "Estimate",
    "Gini",
    "Hit",
    "Insertion",
    "LinearDatamodelingScore",
    "MaskedArea",
    "Mean",
    "MetricCard",
    "ParameterRandomisation",
    "PointingGame",
    "RelevanceMass",
    "RelevanceRank",
    "SeedCeiling",
    "Soundness",
    "Spearman",
    "TopOverlap",
    "WindowBlur",
    "cells_of",
    "mask_share",
    "masked_areas",
    "random_order",
]
