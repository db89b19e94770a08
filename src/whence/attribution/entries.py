"""The entries of the catalogue: methods of gradients, of paths, of maps and of masks."""

from dataclasses import dataclass
from typing import Any, final

from whence.attribution.attention import AttentionRollout, TransformerAttribution
from whence.attribution.cam import GradCAM
from whence.attribution.classes import ClassContrast
from whence.attribution.coalitions import LIME, KernelSHAP
from whence.attribution.contrastive import ContrastiveLRP
from whence.attribution.evidence import PertinentNegatives, PertinentPositives
from whence.attribution.expected import ExpectedGradients, GradientSHAP
from whence.attribution.extremal import ExtremalPerturbation
from whence.attribution.gradient import Gradient, InputXGradient
from whence.attribution.maps import GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM
from whence.attribution.noise import SmoothGrad, SmoothGradSquared, VarGrad
from whence.attribution.occlusion import RISE, Occlusion
from whence.attribution.path import IntegratedGradients
from whence.attribution.soundness import SoundnessSaliency
from whence.attribution.stepwise import IDGI, BlurIG, GuidedIG
from whence.attribution.xgradient import XGradient
from whence.core import MethodCard

__all__ = ["ENTRIES", "Entry"]


@final
@dataclass(frozen=True, kw_only=True)
class Entry:
    """A method in the catalogue.

    Args:
        card: What ``whence methods`` shows.
        make: The method's class.
    """

    card: MethodCard
    make: type[Any]


ENTRIES: tuple[Entry, ...] = (
    Entry(
        card=MethodCard(
            name="gradient",
            family="gradient",
            passes="1",
            needs="any callable",
            complete="no",
            reference="Simonyan, Vedaldi and Zisserman (2014), arXiv:1312.6034, section 3",
        ),
        make=Gradient,
    ),
    Entry(
        card=MethodCard(
            name="input-x-gradient",
            family="gradient",
            passes="1",
            needs="any callable",
            complete="f(x) on a network homogeneous of degree one; otherwise no",
            reference="Shrikumar et al. (2016), arXiv:1605.01713, section 2",
        ),
        make=InputXGradient,
    ),
    Entry(
        card=MethodCard(
            name="x-gradient",
            family="gradient",
            passes="1",
            needs="a network that is an X-DNN",
            complete="f(x), exactly; every other network is refused",
            reference="Hesse, Schaub-Meyer and Roth (2021), arXiv:2111.07668, Definition 3.5",
        ),
        make=XGradient,
    ),
    Entry(
        card=MethodCard(
            name="smoothgrad",
            family="gradient",
            passes="samples (25) x the inner method's",
            needs="any callable",
            complete="no",
            reference="Smilkov et al. (2017), arXiv:1706.03825, section 3",
        ),
        make=SmoothGrad,
    ),
    Entry(
        card=MethodCard(
            name="integrated-gradients",
            family="path",
            passes="steps (32), or as many as a tolerance asks for",
            needs="any callable",
            complete="f(x) - f(baseline), up to the gap that is reported",
            reference="Sundararajan, Taly and Yan (2017), arXiv:1703.01365, Eq. 1",
        ),
        make=IntegratedGradients,
    ),
    Entry(
        card=MethodCard(
            name="grad-cam",
            family="activation map",
            passes="0.5",
            needs="a network",
            complete="no",
            reference="Selvaraju et al. (2017), arXiv:1610.02391, Eq. 1 and 2",
        ),
        make=GradCAM,
    ),
    Entry(
        card=MethodCard(
            name="smoothgrad-squared",
            family="gradient",
            passes="samples (25) x the inner method's",
            needs="any callable",
            complete="no",
            reference="Hooker et al. (2019), arXiv:1806.10758, section 4.2",
        ),
        make=SmoothGradSquared,
    ),
    Entry(
        card=MethodCard(
            name="vargrad",
            family="gradient",
            passes="samples (25) x the inner method's",
            needs="any callable",
            complete="no",
            reference="Adebayo et al. (2018), arXiv:1810.03307, section 2",
        ),
        make=VarGrad,
    ),
    Entry(
        card=MethodCard(
            name="expected-gradients",
            family="path",
            passes="samples (32)",
            needs="any callable",
            complete="f(x) - mean of f(references), up to the gap that is reported",
            reference="Erion et al. (2021), arXiv:1906.10670, Eq. 3",
        ),
        make=ExpectedGradients,
    ),
    Entry(
        card=MethodCard(
            name="gradient-shap",
            family="path",
            passes="samples (32)",
            needs="any callable",
            complete="f(x) - mean of f(references) in expectation, without noise",
            reference="Lundberg and Lee (2017), arXiv:1705.07874; Erion et al. (2021), Eq. 3",
        ),
        make=GradientSHAP,
    ),
    Entry(
        card=MethodCard(
            name="idgi",
            family="path",
            passes="steps (32) + 0.5",
            needs="any callable",
            complete="f(x) - f(baseline), for any number of steps",
            reference="Yang, Wang and Bilgic (2023), arXiv:2303.14242, algorithm 1",
        ),
        make=IDGI,
    ),
    Entry(
        card=MethodCard(
            name="guided-ig",
            family="path",
            passes="steps (64) + 0.5",
            needs="any callable",
            complete="f(x) - f(baseline), up to the gap that is reported",
            reference="Kapishnikov et al. (2021), arXiv:2106.09788, algorithm 1",
        ),
        make=GuidedIG,
    ),
    Entry(
        card=MethodCard(
            name="blur-ig",
            family="path",
            passes="steps (64)",
            needs="any callable",
            complete="f(x) - f(most blurred image), up to the gap that is reported",
            reference="Xu, Venugopalan and Sundararajan (2020), arXiv:2004.03383, Eq. 4",
        ),
        make=BlurIG,
    ),
    Entry(
        card=MethodCard(
            name="grad-cam++",
            family="activation map",
            passes="0.5",
            needs="a network",
            complete="no",
            reference="Chattopadhay et al. (2018), arXiv:1710.11063, Eq. 5 and 19",
        ),
        make=GradCAMPlusPlus,
    ),
    Entry(
        card=MethodCard(
            name="hires-cam",
            family="activation map",
            passes="0.5",
            needs="a network",
            complete="f(x) less its bias where the rest of the network is affine; otherwise no",
            reference="Draelos and Carin (2020), arXiv:2011.08891, Eq. 4",
        ),
        make=HiResCAM,
    ),
    Entry(
        card=MethodCard(
            name="layer-cam",
            family="activation map",
            passes="0.5",
            needs="a network",
            complete="no",
            reference="Jiang et al. (2021), doi:10.1109/TIP.2021.3089943, Eq. 5 and 6",
        ),
        make=LayerCAM,
    ),
    Entry(
        card=MethodCard(
            name="xgrad-cam",
            family="activation map",
            passes="0.5",
            needs="a network",
            complete="as hires-cam, without the ReLU",
            reference="Fu et al. (2020), arXiv:2008.02312, Eq. 8",
        ),
        make=XGradCAM,
    ),
    Entry(
        card=MethodCard(
            name="score-cam",
            family="activation map",
            passes="0.5 per channel, and 1",
            needs="a network",
            complete="no",
            reference="Wang et al. (2020), arXiv:1910.01279, Eq. 5 to 8",
        ),
        make=ScoreCAM,
    ),
    Entry(
        card=MethodCard(
            name="attention-rollout",
            family="attention",
            passes="0.5",
            needs="a network",
            complete="1, with class and register tokens counted",
            reference="Abnar and Zuidema (2020), arXiv:2005.00928, section 3",
        ),
        make=AttentionRollout,
    ),
    Entry(
        card=MethodCard(
            name="transformer-attribution",
            family="attention",
            passes="1",
            needs="a network",
            complete="no",
            reference="Chefer, Gur and Wolf (2021), arXiv:2103.15679, Eq. 5 and 6",
        ),
        make=TransformerAttribution,
    ),
    Entry(
        card=MethodCard(
            name="occlusion",
            family="perturbation",
            passes="0.5 per window, and 0.5",
            needs="any callable",
            complete="no",
            reference="Zeiler and Fergus (2014), arXiv:1311.2901, section 4.2",
        ),
        make=Occlusion,
    ),
    Entry(
        card=MethodCard(
            name="rise",
            family="perturbation",
            passes="0.5 per mask (2000)",
            needs="any callable",
            complete="no",
            reference="Petsiuk, Das and Saenko (2018), arXiv:1806.07421, Eq. 6",
        ),
        make=RISE,
    ),
    Entry(
        card=MethodCard(
            name="kernel-shap",
            family="perturbation",
            passes="0.5 per coalition (1000), and 1",
            needs="any callable",
            complete="f(x) - f(fill)",
            reference="Lundberg and Lee (2017), arXiv:1705.07874, theorem 2",
        ),
        make=KernelSHAP,
    ),
    Entry(
        card=MethodCard(
            name="lime",
            family="perturbation",
            passes="0.5 per sample (1000)",
            needs="any callable",
            complete="no",
            reference="Ribeiro, Singh and Guestrin (2016), arXiv:1602.04938, Eq. 1",
        ),
        make=LIME,
    ),
    Entry(
        card=MethodCard(
            name="class-contrast",
            family="contrast",
            passes="0.5, and the inner method's",
            needs="any callable",
            complete="as the inner method's, for the mixture of logits",
            reference="Wang and Wang (2022), NeurIPS, Eq. 5 to 8",
        ),
        make=ClassContrast,
    ),
    Entry(
        card=MethodCard(
            name="contrastive-lrp",
            family="contrast",
            passes="0.5, and that of lrp with the same rules (2.5)",
            needs="a network",
            complete="no",
            reference="Gu, Yang and Tresp (2018), arXiv:1812.02100, section 4; Iwana et al. "
            "(2019), arXiv:1908.04351, section 3",
        ),
        make=ContrastiveLRP,
    ),
    Entry(
        card=MethodCard(
            name="soundness-saliency",
            family="mask",
            passes="steps (2000), times draws (10) from a bank",
            needs="any callable",
            complete="no",
            reference="Gupta et al. (2022), arXiv:2211.02912; Kadir et al. (2023), 2307.02150",
        ),
        make=SoundnessSaliency,
    ),
    Entry(
        card=MethodCard(
            name="extremal-perturbation",
            family="mask",
            passes="steps (800) for each area, and 1.5; twice that for dual",
            needs="any callable",
            complete="no",
            reference="Fong, Patrick and Vedaldi (2019), arXiv:1910.08485, section 3",
        ),
        make=ExtremalPerturbation,
    ),
    Entry(
        card=MethodCard(
            name="pertinent-negatives",
            family="contrast",
            passes="steps (300) x searches (6)",
            needs="any callable",
            complete="no",
            reference="Dhurandhar et al. (2018), arXiv:1802.07623, Eq. 1",
        ),
        make=PertinentNegatives,
    ),
    Entry(
        card=MethodCard(
            name="pertinent-positives",
            family="contrast",
            passes="steps (300) x searches (6)",
            needs="any callable",
            complete="no",
            reference="Dhurandhar et al. (2018), arXiv:1802.07623, Eq. 2",
        ),
        make=PertinentPositives,
    ),
)
"""Methods that need gradients, paths, feature maps or masks; no rules on operations."""
