"""A model becomes an X-DNN, with a report of what changed."""

from whence.convert.change import Change, Route, Wrapping
from whence.convert.coordinate import HomogeneousCoordinate, bias_mass, with_coordinate
from whence.convert.cures import (
    ClampGuards,
    ScaleOnlyNorms,
    SizedConstants,
    UnitAttention,
    UnitGates,
)
from whence.convert.files import CertifiedModel, load_x_dnn, read_certificate, save_x_dnn
from whence.convert.model import Conversion, converted, x_dnn
from whence.convert.names import ROUTE_NAMES, ROUTES, routes_named
from whence.convert.refit import RefitLayers, Refitting
from whence.convert.report import ConversionReport, DivergenceWarning, Refusal
from whence.convert.routes import (
    ChannelScale,
    ReplaceActivations,
    ScaleOnlyBatchNorms,
    StripBiases,
    UncentredBatchNorm,
    UncentredBatchNorms,
)
from whence.convert.scales import LayerScale
from whence.convert.surgery import GraphRoute, Surgery
from whence.convert.wrapper import NormWrapper, Wrapped, energy_share

__all__ = [
    "ROUTES",
    "ROUTE_NAMES",
    "CertifiedModel",
    "Change",
    "ChannelScale",
    "ClampGuards",
    "Conversion",
    "ConversionReport",
    "DivergenceWarning",
    "GraphRoute",
    "HomogeneousCoordinate",
    "LayerScale",
    "NormWrapper",
    "RefitLayers",
    "Refitting",
    "Refusal",
    "ReplaceActivations",
    "Route",
    "ScaleOnlyBatchNorms",
    "ScaleOnlyNorms",
    "SizedConstants",
    "StripBiases",
    "Surgery",
    "UncentredBatchNorm",
    "UncentredBatchNorms",
    "UnitAttention",
    "UnitGates",
    "Wrapped",
    "Wrapping",
    "bias_mass",
    "converted",
    "energy_share",
    "load_x_dnn",
    "read_certificate",
    "routes_named",
    "save_x_dnn",
    "with_coordinate",
    "x_dnn",
]
