"""The catalogue of metrics: the name, call form and settings of each that judges attributions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Literal, final

from whence.core import Normalisation
from whence.errors import SettingError
from whence.evaluation.agreement import Spearman, TopOverlap
from whence.evaluation.complexity import (
    EffectivePixels,
    Entropy,
    Gini,
    MassArea,
    Participation,
)
from whence.evaluation.correlation import FaithfulnessCorrelation, SensitivityN
from whence.evaluation.data_randomisation import DataRandomisation
from whence.evaluation.faithfulness import Deletion, Insertion
from whence.evaluation.gap import CompletenessGap
from whence.evaluation.hog import HOGCorrelation
from whence.evaluation.idsds import IDSDS
from whence.evaluation.infidelity import Infidelity
from whence.evaluation.localisation import (
    AreaIoU,
    EnergyPointing,
    MapAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    ThresholdIoU,
)
from whence.evaluation.masking import MASKING, MaskedArea
from whence.evaluation.monotonicity import Monotonicity
from whence.evaluation.mosaics import Focus
from whence.evaluation.perturbation import IROF, ROAD, SRG, PixelFlipping, RegionPerturbation
from whence.evaluation.random_logit import RandomLogit
from whence.evaluation.randomisation import ParameterRandomisation
from whence.evaluation.retraining import Retraining
from whence.evaluation.robustness import AverageSensitivity, MaxSensitivity
from whence.evaluation.segment_correlation import FaithfulnessEstimate, MonotonicityCorrelation
from whence.evaluation.settings import (
    SegmentsNamed,
    Setting,
    changed,
    in_units,
    segments_named,
    settings_written,
)
from whence.evaluation.smooth_randomisation import EfficientRandomisation, SmoothRandomisation
from whence.evaluation.soundness import Completeness, Soundness
from whence.evaluation.ssim import SSIM
from whence.evaluation.steps import Squares
from whence.evaluation.top_agreement import TopAgreement

__all__ = [
    "METRICS",
    "TRAINED",
    "MetricEntry",
    "entry_named",
    "metric_named",
    "metric_settings",
]

Form = Literal["function", "map", "mask", "pair", "method", "sanity", "retraining"]
Reads = Literal["value", "probability", "hit", "explained"]
Against = Literal["random-map", "constant-map", "edge-map", "none"]


@final
@dataclass(frozen=True, kw_only=True)
class MetricEntry:
    """A metric in the catalogue.

    Args:
        make: Makes the metric with its default settings.
        form: How it is called: with a ``function`` of images, with the ``map`` alone, with a
            ``mask`` of the object, with the maps of another method (``pair``), with the
            ``method`` (on changed images), with model and method (``sanity``), or with networks
            that are trained again on changed images (``retraining``).
        group: What it asks of a map.
        says: What it measures, in a few words.
        reads: Which number the function is: the ``value`` that the user chose, always the
            ``probability``, a ``hit`` (1 where the class is the first), or what was ``explained``.
        control: The control that it has to be better than.
        usual: Whether it is among those that are taken if none is named.
    """

    make: Callable[[], Any]
    form: Form
    group: str
    says: str
    reads: Reads = "value"
    control: Against = "random-map"
    usual: bool = False

    @property
    def needs(self) -> str:
        """What it needs beside a map, in words."""
        return {
            "function": "a network",
            "map": "nothing",
            "mask": "masks of the objects",
            "pair": "the maps of another method or network",
            "method": "a network and the method",
            "sanity": "a network and the method",
            "retraining": "a network, the method and training images",
        }[self.form]


PERTURBATION, LOCALISATION = "perturbation", "localisation"
COMPLEXITY, AGREEMENT, SANITY = "complexity", "agreement", "sanity"
ROBUSTNESS = "robustness"


def perturbs(
    make: Callable[[], Any],
    says: str,
    *,
    reads: Reads = "value",
    control: Against = "random-map",
    usual: bool = False,
) -> MetricEntry:
    """Return the entry of a metric that asks a function of changed images."""
    return MetricEntry(
        make=make,
        form="function",
        group=PERTURBATION,
        says=says,
        reads=reads,
        control=control,
        usual=usual,
    )


def foretells(make: Callable[[], Any], says: str, control: Against = "random-map") -> MetricEntry:
    """Return the entry of a metric that holds a map against what was explained itself."""
    return perturbs(make, says, reads="explained", control=control)


def masking(name: str) -> MetricEntry:
    """Return the entry of one of the six masking metrics."""
    what = {"P": "positive", "N": "negative", "A": "largest"}[name[1]]
    keeps = "stay first" if name[0] == "K" else "go first"
    return perturbs(
        lambda: MaskedArea(metric=name),
        f"area under the value while {what} pixels {keeps}, over a blurred image",
        reads="hit" if name[1] == "A" else "explained",
        control="none" if name in ("RPM", "RNM") else "random-map",
    )


def sane(make: Callable[[], Any], says: str) -> MetricEntry:
    """Return the entry of a sanity check; the edge map ignores network and class altogether."""
    return MetricEntry(make=make, form="sanity", group=SANITY, says=says, control="edge-map")


def plain(make: Callable[[], Any], form: Form, group: str, says: str) -> MetricEntry:
    """Return an entry without anything unusual."""
    control: Against = "random-map" if form == "mask" else "none"
    return MetricEntry(make=make, form=form, group=group, says=says, control=control)


METRICS: Final[Mapping[str, MetricEntry]] = MappingProxyType(
    {
        "insertion": perturbs(
            Insertion,
            "area under the value while the highest pixels are put onto a blurred image",
            usual=True,
        ),
        "deletion": perturbs(
            Deletion, "area under the value while the highest pixels are removed", usual=True
        ),
        "srg": perturbs(
            SRG,
            "area with the lowest pixels removed first, less that of the highest first",
            usual=True,
        ),
        "road": perturbs(
            ROAD, "the same at nine shares, with pixels imputed from those beside them"
        ),
        "pixel-flipping": perturbs(
            PixelFlipping,
            "area under the value while single pixels are replaced, highest or lowest first",
        ),
        "region-perturbation": perturbs(
            RegionPerturbation, "mean fall of the value while squares are replaced by noise (AOPC)"
        ),
        "irof": perturbs(
            lambda: IROF(segments=Squares(size=8)),
            "area over the relative probability while segments get the mean colour",
            reads="probability",
        ),
        "idsds": perturbs(
            IDSDS, "rank correlation of the map over cells with what deleting each cell does"
        ),
        "completeness": perturbs(
            Completeness,
            "how much of the class's probability the highest pixels keep",
            reads="probability",
        ),
        "soundness": perturbs(
            Soundness,
            "how little the highest pixels raise the probability above the whole image's",
            reads="probability",
            control="none",
        ),
        **{name.lower(): masking(name) for name in MASKING},
        "faithfulness-correlation": foretells(
            FaithfulnessCorrelation,
            "correlation of the map over random subsets with the fall without them",
        ),
        "faithfulness-estimate": foretells(
            FaithfulnessEstimate,
            "correlation of each segment's attribution with the fall without it alone",
        ),
        "sensitivity-n": foretells(
            SensitivityN, "mean of faithfulness-correlation over growing sizes of the subsets"
        ),
        "monotonicity-correlation": foretells(
            MonotonicityCorrelation,
            "rank correlation of a segment's size with the squared change without it",
        ),
        "monotonicity": foretells(
            lambda: Monotonicity(graded=True),
            "how rarely the value falls while segments are put onto a fill, the least first",
        ),
        "infidelity": foretells(
            Infidelity, "squared error of the fall of the value that the map foretells"
        ),
        "completeness-gap": foretells(
            CompletenessGap,
            "how far the map is from adding up to the difference that it explains",
            "none",
        ),
        "max-sensitivity": plain(
            MaxSensitivity, "method", ROBUSTNESS, "largest relative change of the map under noise"
        ),
        "average-sensitivity": plain(
            AverageSensitivity, "method", ROBUSTNESS, "mean relative change of the map under noise"
        ),
        "pointing-game": plain(
            PointingGame, "mask", LOCALISATION, "whether the highest pixel lies in the mask"
        ),
        "relevance-mass": plain(
            RelevanceMass, "mask", LOCALISATION, "share of the positive values inside the mask"
        ),
        "relevance-rank": plain(
            RelevanceRank, "mask", LOCALISATION, "share of the |M| highest pixels inside the mask"
        ),
        "energy-pointing": plain(
            EnergyPointing, "mask", LOCALISATION, "density inside the mask over that of the image"
        ),
        "area-iou": plain(
            AreaIoU, "mask", LOCALISATION, "overlap of the mask with as many highest pixels"
        ),
        "threshold-iou": plain(
            ThresholdIoU, "mask", LOCALISATION, "overlap of the mask with pixels over a threshold"
        ),
        "map-auc": plain(
            MapAUC, "mask", LOCALISATION, "area under the ROC curve of the map against the mask"
        ),
        "focus": plain(
            Focus, "mask", LOCALISATION, "share of the positive values on a mosaic's own quadrants"
        ),
        "gini": MetricEntry(
            make=Gini,
            form="map",
            group=COMPLEXITY,
            says="how concentrated the map is: 0 constant, 1 a single pixel",
            control="none",
            usual=True,
        ),
        "entropy": plain(Entropy, "map", COMPLEXITY, "entropy of the shares of the pixels, nats"),
        "effective-pixels": plain(
            EffectivePixels, "map", COMPLEXITY, "share of the pixels that the map effectively uses"
        ),
        "participation": plain(
            Participation, "map", COMPLEXITY, "the same, with large values counting more"
        ),
        "mass-area": plain(
            MassArea, "map", COMPLEXITY, "smallest share of the pixels that holds 90 % of the map"
        ),
        "spearman": plain(Spearman, "pair", AGREEMENT, "rank correlation of two maps"),
        "top-overlap": plain(TopOverlap, "pair", AGREEMENT, "overlap of the highest tenths"),
        "ssim": plain(SSIM, "pair", AGREEMENT, "structural similarity of two maps"),
        "hog": plain(
            HOGCorrelation, "pair", AGREEMENT, "correlation of histograms of oriented gradients"
        ),
        "top-agreement": plain(
            TopAgreement, "pair", AGREEMENT, "share of the largest tenth on which two maps agree"
        ),
        "mprt": sane(
            ParameterRandomisation,
            "likeness to the original map while weights are drawn anew, from the output down",
        ),
        "smooth-mprt": sane(
            SmoothRandomisation, "the same for maps averaged over 50 noisy images, from below up"
        ),
        "efficient-mprt": sane(
            EfficientRandomisation, "rise of the map's entropy when all weights are drawn anew"
        ),
        "random-logit": sane(RandomLogit, "likeness to the map of another class"),
    }
)
"""Every metric of one network, by its name on the command line."""

TRAINED: Final[Mapping[str, MetricEntry]] = MappingProxyType(
    {
        "data-randomisation": sane(
            DataRandomisation, "likeness to the map of a network that learned permuted labels"
        ),
        "roar": MetricEntry(
            make=Retraining,
            form="retraining",
            group=PERTURBATION,
            says="accuracy of networks trained again without the highest pixels",
        ),
    }
)
"""Those that need networks that are trained for them."""


def entry_named(name: str) -> MetricEntry:
    """Return the entry of this name.

    Raises:
        SettingError: If there is none, with the closest that exist.
    """
    known = {**METRICS, **TRAINED}
    if name in known:
        return known[name]
    near = get_close_matches(name.lower().replace("_", "-"), known, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    msg = f"Unknown metric {name!r}.{hint} There are: {', '.join(known)}."
    raise SettingError(msg)


def metric_named(
    name: str,
    settings: Mapping[str, Setting] | None = None,
    *,
    normalisation: Normalisation | None = None,
    segments: SegmentsNamed = segments_named,
) -> Any:  # noqa: ANN401 - metrics differ in how they are called, which the entry's form tells
    """Return the metric of this name with these settings.

    Args:
        name: A name of :data:`METRICS` or :data:`TRAINED`, such as ``"deletion"``.
        settings: Values by field name; texts are read by the field's type. Fills and segments are
            given by their names.
        normalisation: The model's, so that a black fill is black.
        segments: Makes segments of a name.

    Raises:
        SettingError: If the name or a setting is unknown (with the closest that exist), or a
            value cannot be read.

    Example:
        >>> metric_named("deletion", {"steps": "10", "fill": "blur"}).steps
        10
    """
    made = in_units(entry_named(name).make(), normalisation)
    return changed(made, settings or {}, name, normalisation=normalisation, segments=segments)


def metric_settings(name: str) -> dict[str, str]:
    """Return the settings of a metric with their defaults, as a command line would write them.

    Example:
        >>> metric_settings("pointing-game")
        {'tolerance': '0'}

    Raises:
        SettingError: If there is no metric of this name.
    """
    return settings_written(entry_named(name).make())
