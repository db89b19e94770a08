"""The entries of the catalogue: methods of rules on operations."""

from whence.attribution.deeplift import DeepLift
from whence.attribution.entries import Entry
from whence.attribution.guided import Deconvnet, GuidedBackpropagation, GuidedGradCAM
from whence.attribution.relevance import LRP
from whence.core import MethodCard

__all__ = ["RULE_ENTRIES"]

RULE_ENTRIES: tuple[Entry, ...] = (
    Entry(
        card=MethodCard(
            name="guided-backpropagation",
            family="relevance",
            passes="1",
            needs="a network of ReLUs",
            complete="no",
            reference="Springenberg et al. (2015), arXiv:1412.6806, section 3.4",
        ),
        make=GuidedBackpropagation,
    ),
    Entry(
        card=MethodCard(
            name="deconvnet",
            family="relevance",
            passes="1",
            needs="a network of ReLUs",
            complete="no",
            reference="Zeiler and Fergus (2014), arXiv:1311.2901, section 2.1",
        ),
        make=Deconvnet,
    ),
    Entry(
        card=MethodCard(
            name="guided-grad-cam",
            family="activation map",
            passes="1",
            needs="a network of ReLUs",
            complete="no",
            reference="Selvaraju et al. (2017), arXiv:1610.02391, section 3.2",
        ),
        make=GuidedGradCAM,
    ),
    Entry(
        card=MethodCard(
            name="lrp",
            family="relevance",
            passes="1 (epsilon), 1.5 (z+, gamma), 2 (generalised gamma) or 2.5 (alpha-beta)",
            needs="a network",
            complete="f(x) less what biases take, which is reported; not with alpha2-beta1",
            reference="Bach et al. (2015), doi:10.1371/journal.pone.0130140, Eq. 56 to 60; "
            "Achtibat et al. (2024), arXiv:2402.05602, section 3",
        ),
        make=LRP,
    ),
    Entry(
        card=MethodCard(
            name="deeplift",
            family="relevance",
            passes="1.5",
            needs="a network",
            complete="f(x) - f(baseline), to rounding",
            reference="Shrikumar, Greenside and Kundaje (2017), arXiv:1704.02685, section 3.2",
        ),
        make=DeepLift,
    ),
)
"""Methods that replace the backward pass of operations."""
