"""Curvature: statistics of gradients whose result is an operator on gradients."""

from whence.curvature.diagonal import Diagonal, FisherDiagonal
from whence.curvature.gram import Gram, InverseSecondMoment, SecondMoment

__all__ = ["Diagonal", "FisherDiagonal", "Gram", "InverseSecondMoment", "SecondMoment"]
