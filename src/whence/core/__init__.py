"""The few nouns that every room shares: ScalarFn and targets, Method, Statistic, baselines."""

from whence.core.baseline import (
    BASELINES,
    Baseline,
    Blur,
    Colour,
    Mean,
    Uniform,
    Zero,
    baseline_named,
)
from whence.core.data import Batch, ImageData, TensorData, batch_indices
from whence.core.fingerprint import fingerprint_data, fingerprint_model, fingerprint_tensor
from whence.core.gini import gini
from whence.core.method import Method, MethodCard
from whence.core.normalisation import Normalisation
from whence.core.progress import Progress, silent
from whence.core.scalar import (
    ModelScalar,
    ScalarFn,
    check_images,
    check_logits,
    check_mode,
    logits_of,
)
from whence.core.statistic import Statistic
from whence.core.target import (
    Contrast,
    Custom,
    Logit,
    LogProbability,
    Loss,
    Margin,
    Target,
    TargetLike,
    contrast,
    log_probability,
    logit,
    loss,
    margin,
    resolve_target,
)
from whence.core.types import Attributions, Images, Labels, Logits, Scalars

__all__ = [
    "BASELINES",
    "Attributions",
    "Baseline",
    "Batch",
    "Blur",
    "Colour",
    "Contrast",
    "Custom",
    "ImageData",
    "Images",
    "Labels",
    "LogProbability",
    "Logit",
    "Logits",
    "Loss",
    "Margin",
    "Mean",
    "Method",
    "MethodCard",
    "ModelScalar",
    "Normalisation",
    "Progress",
    "ScalarFn",
    "Scalars",
    "Statistic",
    "Target",
    "TargetLike",
    "TensorData",
    "Uniform",
    "Zero",
    "baseline_named",
    "batch_indices",
    "check_images",
    "check_logits",
    "check_mode",
    "contrast",
    "fingerprint_data",
    "fingerprint_model",
    "fingerprint_tensor",
    "gini",
    "log_probability",
    "logit",
    "logits_of",
    "loss",
    "margin",
    "resolve_target",
    "silent",
]
