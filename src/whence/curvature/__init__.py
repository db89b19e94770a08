"""Curvature: statistics of gradients whose result is an operator on gradients."""

from whence.curvature.datainf import DataInf, datainf_dampings
from whence.curvature.dense import (
    ExplicitInverse,
    WoodburyInverse,
    dense_matrix,
    explicit_inverse,
    woodbury,
)
from whence.curvature.diagonal import Diagonal, FisherDiagonal
from whence.curvature.draws import (
    Draws,
    EveryClass,
    Margins,
    RandomSigns,
    SampledLabels,
    TrueLabels,
)
from whence.curvature.eigen import EigenLayer, KroneckerCurvature
from whence.curvature.files import load_operator, save_operator
from whence.curvature.gram import Gram, InverseSecondMoment, SecondMoment
from whence.curvature.kronecker import EigenvalueCorrection, KroneckerFactors, joined_biases
from whence.curvature.krylov import LowRank, ritz
from whence.curvature.passes import TrainingImages
from whence.curvature.products import CurvatureKind, CurvatureProduct
from whence.curvature.sandwich import Sandwich
from whence.curvature.solve import ConjugateGradient, Lissa, Solution, largest_eigenvalue

__all__ = [
    "ConjugateGradient",
    "CurvatureKind",
    "CurvatureProduct",
    "DataInf",
    "Diagonal",
    "Draws",
    "EigenLayer",
    "EigenvalueCorrection",
    "EveryClass",
    "ExplicitInverse",
    "FisherDiagonal",
    "Gram",
    "InverseSecondMoment",
    "KroneckerCurvature",
    "KroneckerFactors",
    "Lissa",
    "LowRank",
    "Margins",
    "RandomSigns",
    "SampledLabels",
    "Sandwich",
    "SecondMoment",
    "Solution",
    "TrainingImages",
    "TrueLabels",
    "WoodburyInverse",
    "datainf_dampings",
    "dense_matrix",
    "explicit_inverse",
    "joined_biases",
    "largest_eigenvalue",
    "load_operator",
    "ritz",
    "save_operator",
    "woodbury",
]
