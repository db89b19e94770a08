"""Which pixels: methods that turn a scalar function and images into one value per pixel."""

from whence.attribution.account import Account, Accountable
from whence.attribution.attention import AttentionRollout, TransformerAttribution
from whence.attribution.cam import GradCAM
from whence.attribution.catalogue import CATALOGUE, Entry, cards, method_named, settings_of
from whence.attribution.classes import ClassContrast
from whence.attribution.coalitions import LIME, KernelSHAP
from whence.attribution.contrastive import ContrastiveLRP
from whence.attribution.deeplift import DeepLift
from whence.attribution.evidence import Evidence, PertinentNegatives, PertinentPositives
from whence.attribution.expected import ExpectedGradients, GradientSHAP, References
from whence.attribution.explain import Attribution, attribute
from whence.attribution.explain_function import as_quantus, needs_network
from whence.attribution.extremal import ExtremalPerturbation, Extremes
from whence.attribution.foreign import captum_method, function_method, zennit_method
from whence.attribution.gradient import Gradient, InputXGradient
from whence.attribution.guided import Deconvnet, GuidedBackpropagation, GuidedGradCAM
from whence.attribution.maps import GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM
from whence.attribution.noise import SmoothGrad, SmoothGradSquared, VarGrad
from whence.attribution.occlusion import RISE, Occlusion
from whence.attribution.path import IntegratedGradients, relative_gap
from whence.attribution.quadrature import Quadrature, quadrature, refined
from whence.attribution.relevance import LRP, Assignment, Composite, composite_named
from whence.attribution.soundness import SoundnessSaliency
from whence.attribution.stepwise import IDGI, BlurIG, GuidedIG
from whence.attribution.superpixels import SLIC, Grid, Superpixels, superpixels_named
from whence.attribution.xgradient import XGradient

__all__ = [
    "CATALOGUE",
    "IDGI",
    "LIME",
    "LRP",
    "RISE",
    "SLIC",
    "Account",
    "Accountable",
    "Assignment",
    "AttentionRollout",
    "Attribution",
    "BlurIG",
    "ClassContrast",
    "Composite",
    "ContrastiveLRP",
    "Deconvnet",
    "DeepLift",
    "Entry",
    "Evidence",
    "ExpectedGradients",
    "ExtremalPerturbation",
    "Extremes",
    "GradCAM",
    "GradCAMPlusPlus",
    "Gradient",
    "GradientSHAP",
    "Grid",
    "GuidedBackpropagation",
    "GuidedGradCAM",
    "GuidedIG",
    "HiResCAM",
    "InputXGradient",
    "IntegratedGradients",
    "KernelSHAP",
    "LayerCAM",
    "Occlusion",
    "PertinentNegatives",
    "PertinentPositives",
    "Quadrature",
    "References",
    "ScoreCAM",
    "SmoothGrad",
    "SmoothGradSquared",
    "SoundnessSaliency",
    "Superpixels",
    "TransformerAttribution",
    "VarGrad",
    "XGradCAM",
    "XGradient",
    "as_quantus",
    "attribute",
    "captum_method",
    "cards",
    "composite_named",
    "function_method",
    "method_named",
    "needs_network",
    "quadrature",
    "refined",
    "relative_gap",
    "settings_of",
    "superpixels_named",
    "zennit_method",
]
