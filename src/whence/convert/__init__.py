"""A model becomes an X-DNN, with a report of what changed."""

from whence.convert.model import Conversion, converted, x_dnn
from whence.convert.report import ConversionReport, Refusal
from whence.convert.routes import (
    ROUTES,
    Change,
    ChannelScale,
    ReplaceActivations,
    Route,
    ScaleOnlyBatchNorms,
    StripBiases,
)

__all__ = [
    "ROUTES",
    "Change",
    "ChannelScale",
    "Conversion",
    "ConversionReport",
    "Refusal",
    "ReplaceActivations",
    "Route",
    "ScaleOnlyBatchNorms",
    "StripBiases",
    "converted",
    "x_dnn",
]
