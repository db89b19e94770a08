"""Can an attribution be trusted? Metrics that see methods only through ``whence.core``.

A metric is a frozen value that maps attributions to one number per image; its ``card`` says which
direction is better, the range, and what chance would get. :class:`Mean` makes of them one number
with its uncertainty.
"""

from whence.evaluation.agreement import Pairwise, Spearman, TopOverlap
from whence.evaluation.bootstrap import Band, Bootstrap, Comparison
from whence.evaluation.complexity import (
    EffectivePixels,
    Entropy,
    Gini,
    MassArea,
    Participation,
)
from whence.evaluation.controls import (
    CONTROLS,
    AverageMap,
    CentreMap,
    ConstantMap,
    EdgeMap,
    InputMap,
    RandomMap,
    RedrawnMap,
    average_map,
)
from whence.evaluation.correlation import FaithfulnessCorrelation, SensitivityN
from whence.evaluation.data_randomisation import (
    DataRandomisation,
    PermutedLabels,
    permuted_labels,
)
from whence.evaluation.datamodel import (
    Datamodeling,
    DatamodelingResult,
    LinearDatamodelingScore,
    SeedCeiling,
)
from whence.evaluation.datamodel_randomisation import ScoreRandomisation, reinitialised
from whence.evaluation.datamodel_training import Brittleness, BrittlenessResult, TailPatch
from whence.evaluation.faithfulness import Curve, Deletion, Insertion, random_order
from whence.evaluation.gap import CompletenessGap
from whence.evaluation.hog import HOGCorrelation
from whence.evaluation.idsds import IDSDS, CellDeletion, CellDropout, Cells, cells_of
from whence.evaluation.imputation import NoisyLinear
from whence.evaluation.infidelity import AddedNoise, Infidelity, Perturbation, RemovedSquares
from whence.evaluation.judged import Judged, judge
from whence.evaluation.localisation import (
    AreaIoU,
    EnergyPointing,
    MapAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    ThresholdIoU,
    box_masks,
    mask_share,
)
from whence.evaluation.masking import MASKING, Hit, MaskedArea, WindowBlur, masked_areas
from whence.evaluation.mean import Estimate, Mean
from whence.evaluation.metric import MetricCard
from whence.evaluation.mislabel import Mislabel, MislabelResult
from whence.evaluation.monotonicity import Monotonicity
from whence.evaluation.mosaics import Focus, Mosaics, mosaics
from whence.evaluation.perturbation import IROF, ROAD, SRG, PixelFlipping, RegionPerturbation
from whence.evaluation.random_logit import RandomLogit
from whence.evaluation.randomisation import Cascade, ParameterRandomisation
from whence.evaluation.retraining import Retraining
from whence.evaluation.retrieval import (
    Cardinality,
    IdenticalClass,
    IdenticalSubclass,
    MixedDataset,
    ShortcutDetection,
    TopCardinality,
)
from whence.evaluation.robustness import AverageSensitivity, MaxSensitivity
from whence.evaluation.segment_correlation import FaithfulnessEstimate, MonotonicityCorrelation
from whence.evaluation.similarity import Similarities
from whence.evaluation.smooth_randomisation import (
    EfficientRandomisation,
    EntropyRise,
    SmoothRandomisation,
)
from whence.evaluation.soundness import Completeness, Soundness
from whence.evaluation.ssim import SSIM
from whence.evaluation.steps import Fill, Imputer, Segments, Squares, Tiles
from whence.evaluation.top_agreement import (
    TopAgreement,
    between_images,
    of_shuffled_pixels,
)
from whence.evaluation.training_maps import (
    Concentration,
    KeptPixels,
    MapStability,
    QueryShift,
    RegionFidelity,
    precision_at,
)
from whence.evaluation.transfer import (
    Interval,
    Judgement,
    Transfer,
    TransferCell,
    Verdict,
    wilson,
)
from whence.evaluation.transfer_masks import (
    Bank,
    Showing,
    features,
    hard_masks,
    random_smooth_masks,
    resampled_masks,
    soft_masks,
    strangers,
)

__all__ = [
    "CONTROLS",
    "IDSDS",
    "IROF",
    "MASKING",
    "ROAD",
    "SRG",
    "SSIM",
    "AddedNoise",
    "AreaIoU",
    "AverageMap",
    "AverageSensitivity",
    "Band",
    "Bank",
    "Bootstrap",
    "Brittleness",
    "BrittlenessResult",
    "Cardinality",
    "Cascade",
    "CellDeletion",
    "CellDropout",
    "Cells",
    "CentreMap",
    "Comparison",
    "Completeness",
    "CompletenessGap",
    "Concentration",
    "ConstantMap",
    "Curve",
    "DataRandomisation",
    "Datamodeling",
    "DatamodelingResult",
    "Deletion",
    "EdgeMap",
    "EffectivePixels",
    "EfficientRandomisation",
    "EnergyPointing",
    "Entropy",
    "EntropyRise",
    "Estimate",
    "FaithfulnessCorrelation",
    "FaithfulnessEstimate",
    "Fill",
    "Focus",
    "Gini",
    "HOGCorrelation",
    "Hit",
    "IdenticalClass",
    "IdenticalSubclass",
    "Imputer",
    "Infidelity",
    "InputMap",
    "Insertion",
    "Interval",
    "Judged",
    "Judgement",
    "KeptPixels",
    "LinearDatamodelingScore",
    "MapAUC",
    "MapStability",
    "MaskedArea",
    "MassArea",
    "MaxSensitivity",
    "Mean",
    "MetricCard",
    "Mislabel",
    "MislabelResult",
    "MixedDataset",
    "Monotonicity",
    "MonotonicityCorrelation",
    "Mosaics",
    "NoisyLinear",
    "Pairwise",
    "ParameterRandomisation",
    "Participation",
    "PermutedLabels",
    "Perturbation",
    "PixelFlipping",
    "PointingGame",
    "QueryShift",
    "RandomLogit",
    "RandomMap",
    "RedrawnMap",
    "RegionFidelity",
    "RegionPerturbation",
    "RelevanceMass",
    "RelevanceRank",
    "RemovedSquares",
    "Retraining",
    "ScoreRandomisation",
    "SeedCeiling",
    "Segments",
    "SensitivityN",
    "ShortcutDetection",
    "Showing",
    "Similarities",
    "SmoothRandomisation",
    "Soundness",
    "Spearman",
    "Squares",
    "TailPatch",
    "ThresholdIoU",
    "Tiles",
    "TopAgreement",
    "TopCardinality",
    "TopOverlap",
    "Transfer",
    "TransferCell",
    "Verdict",
    "WindowBlur",
    "average_map",
    "between_images",
    "box_masks",
    "cells_of",
    "features",
    "hard_masks",
    "judge",
    "mask_share",
    "masked_areas",
    "mosaics",
    "of_shuffled_pixels",
    "permuted_labels",
    "precision_at",
    "random_order",
    "random_smooth_masks",
    "reinitialised",
    "resampled_masks",
    "soft_masks",
    "strangers",
    "wilson",
]
