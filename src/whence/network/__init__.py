"""A model read as a graph of tensor operations, and what comes of it."""

from whence.network.certificate import Certificate, Euler
from whence.network.cut import Cut
from whence.network.describe import Description, OperationRow
from whence.network.homogeneity import Homogeneity, Needed, Offence, OperationDegree
from whence.network.layout import BatchAxis, Plane
from whence.network.read import Network
from whence.network.rules import (
    DECONVOLUTION,
    GUIDED_BACKPROPAGATION,
    Place,
    Rule,
    everywhere,
    places,
)

__all__ = [
    "DECONVOLUTION",
    "GUIDED_BACKPROPAGATION",
    "BatchAxis",
    "Certificate",
    "Cut",
    "Description",
    "Euler",
    "Homogeneity",
    "Needed",
    "Network",
    "Offence",
    "OperationDegree",
    "OperationRow",
    "Place",
    "Plane",
    "Rule",
    "everywhere",
    "places",
]
