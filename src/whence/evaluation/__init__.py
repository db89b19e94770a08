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
from whence.evaluation.datamodel_randomisation import ScoreRandomisation, reinitialised
from whence.evaluation.datamodel_training import Brittleness, BrittlenessResult, TailPatch
from whence.evaluation.faithfulness import Curve, Deletion, Insertion, random_order
from whence.evaluation.idsds import IDSDS, CellDeletion, CellDropout, Cells, cells_of
from whence.evaluation.imputation import NoisyLinear
from whence.evaluation.localisation import (
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    mask_share,
)
from whence.evaluation.masking import MASKING, Hit, MaskedArea, WindowBlur, masked_areas
from whence.evaluation.mean import Estimate, Mean
from whence.evaluation.metric import MetricCard
from whence.evaluation.mislabel import Mislabel, MislabelResult
from whence.evaluation.perturbation import IROF, ROAD, SRG, PixelFlipping, RegionPerturbation
from whence.evaluation.randomisation import Cascade, ParameterRandomisation
from whence.evaluation.retrieval import (
    Cardinality,
    IdenticalClass,
    IdenticalSubclass,
    MixedDataset,
    ShortcutDetection,
    TopCardinality,
)
from whence.evaluation.soundness import Completeness, Soundness
from whence.evaluation.steps import Fill, Imputer, Segments, Squares
from whence.evaluation.training_maps import (
    Concentration,
    KeptPixels,
    MapStability,
    QueryShift,
    RegionFidelity,
    precision_at,
)

__all__ = [
    "IDSDS",
    "IROF",
    "MASKING",
    "ROAD",
    "SRG",
    "Brittleness",
    "BrittlenessResult",
    "Cardinality",
    "Cascade",
    "CellDeletion",
    "CellDropout",
    "Cells",
    "Completeness",
    "Concentration",
    "Curve",
    "Datamodeling",
    "DatamodelingResult",
    "Deletion",
    "Estimate",
    "Fill",
    "Gini",
    "Hit",
    "IdenticalClass",
    "IdenticalSubclass",
    "Imputer",
    "Insertion",
    "KeptPixels",
    "LinearDatamodelingScore",
    "MapStability",
    "MaskedArea",
    "Mean",
    "MetricCard",
    "Mislabel",
    "MislabelResult",
    "MixedDataset",
    "NoisyLinear",
    "ParameterRandomisation",
    "PixelFlipping",
    "PointingGame",
    "QueryShift",
    "RegionFidelity",
    "RegionPerturbation",
    "RelevanceMass",
    "RelevanceRank",
    "ScoreRandomisation",
    "SeedCeiling",
    "Segments",
    "ShortcutDetection",
    "Soundness",
    "Spearman",
    "Squares",
    "TailPatch",
    "TopCardinality",
    "TopOverlap",
    "WindowBlur",
    "cells_of",
    "mask_share",
    "masked_areas",
    "precision_at",
    "random_order",
    "reinitialised",
]
