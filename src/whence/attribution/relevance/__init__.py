"""Relevance: rules that hand the explained value down to the pixels, layer by layer."""

from whence.attribution.relevance.composites import (
    Assignment,
    Composite,
    CompositeName,
    composite_named,
)
from whence.attribution.relevance.first import Flat, Pass, Square, ZBox
from whence.attribution.relevance.layers import LayerRule, LinearMap, Weighed
from whence.attribution.relevance.method import LRP
from whence.attribution.relevance.rules import AlphaBeta, Epsilon, Gamma, GeneralisedGamma

__all__ = [
    "LRP",
    "AlphaBeta",
    "Assignment",
    "Composite",
    "CompositeName",
    "Epsilon",
    "Flat",
    "Gamma",
    "GeneralisedGamma",
    "LayerRule",
    "LinearMap",
    "Pass",
    "Square",
    "Weighed",
    "ZBox",
    "composite_named",
]
