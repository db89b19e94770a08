"""The parts of an evaluation: networks, candidates (methods, controls, maps) and questions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from whence.adapters import LoadedModel
from whence.adapters.streamed import PictureData
from whence.attribution import method_named, superpixels_named
from whence.core import (
    ImageData,
    Logit,
    LogProbability,
    Margin,
    Method,
    Normalisation,
    Probability,
    Target,
)
from whence.errors import DataError, SettingError, UnsupportedOperation, WhenceError
from whence.evaluation.catalogue import (
    METRICS,
    TRAINED,
    MetricEntry,
    entry_named,
    metric_named,
)
from whence.evaluation.controls import CONTROLS
from whence.evaluation.masking import Hit
from whence.evaluation.settings import segments_named
from whence.evaluation.steps import Segments
from whence.network import Network
from whence.recipes.explained import Subject, subject_of
from whence.recipes.load import pairs

__all__ = [
    "CONTROLLED",
    "USUAL_METHODS",
    "VALUES",
    "Candidate",
    "JudgedSubject",
    "Question",
    "candidates_of",
    "maps_at",
    "nan_rows",
    "questions_of",
    "subjects_of",
    "usual_metrics",
    "value_target",
]

Model = nn.Module | LoadedModel | Network

USUAL_METHODS = ("gradient", "input-x-gradient", "integrated-gradients", "grad-cam")
CONTROLLED = ("random-map", "constant-map", "edge-map")
"""The controls that stand in every table."""

VALUES: dict[str, Callable[[Tensor], Target]] = {
    "probability": Probability,
    "logit": Logit,
    "log-probability": LogProbability,
    "margin": Margin,
}
"""Which number of the class metrics look at."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """What is judged: a method or control, or maps that somebody else made.

    Args:
        name: Its name in the tables.
        kind: ``method``, ``control`` or ``maps``.
        method: By network; empty for maps.
        maps: One per image of the data, ``(n, a, h, w)``; for ``maps`` only.
        text: The method with its settings, or what to call the maps.
    """

    name: str
    kind: str
    method: Mapping[str, Method]
    maps: Tensor | None
    text: str


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A metric as it is asked of each network, with its place in the catalogue."""

    name: str
    entry: MetricEntry
    metric: Mapping[str, Any]

    @property
    def first(self) -> Any:  # noqa: ANN401 - any metric
        """The metric as the first network gets it; fills are in the network's own units."""
        return next(iter(self.metric.values()))


@final
class JudgedSubject:
    """A network with its data; its graph is read once, when something needs it."""

    def __init__(self, name: str, subject: Subject, data: ImageData) -> None:
        self.name = name
        self.subject = subject
        self.data = data
        self.graph: Network | WhenceError | None = None

    @property
    def units(self) -> Normalisation | None:
        """How pixels become the network's units, if that is known."""
        found = self.subject.preprocessing
        return None if found is None else found.normalisation

    def network(self, images: Tensor) -> Network:
        """Return the network as a graph.

        Raises:
            ReadError: It cannot be read.
        """
        if self.graph is None:
            found = self.subject.callable
            try:
                self.graph = found if isinstance(found, Network) else Network.read(found, images)
            except WhenceError as error:
                self.graph = error
        if isinstance(self.graph, WhenceError):
            raise self.graph
        return self.graph


def subjects_of(
    models: Model | Mapping[str, Model], data: ImageData | Mapping[str, ImageData]
) -> tuple[JudgedSubject, ...]:
    """Return each network with the data as it takes them.

    Raises:
        DataError: If the networks' data are not the same images.
        SettingError: If there is no network, or one without data.
    """
    if isinstance(models, Mapping):
        named = dict(models)
    else:
        named = {models.name if isinstance(models, LoadedModel) else type(models).__name__: models}
    if not named:
        msg = "An evaluation needs a network at least; none was given."
        raise SettingError(msg)
    found = []
    for name, model in named.items():
        subject = subject_of(model, None)
        own = data.get(name) if isinstance(data, Mapping) else data
        if own is None:
            msg = f"There are no data for the network {name!r}. Give one source for each, or one."
            raise SettingError(msg)
        if isinstance(own, PictureData) and subject.preprocessing not in (
            None,
            own.preprocessing,
        ):
            own = replace(own, preprocessing=subject.preprocessing)
        found.append(JudgedSubject(name, subject, own))
    first = found[0].data
    for one in found[1:]:
        if len(one.data) != len(first) or any(
            one.data.name(k) != first.name(k) for k in range(len(first))
        ):
            msg = (
                f"All networks have to be judged on the same images; {one.name} has "
                f"{len(one.data)} in {one.data.title}, {found[0].name} has {len(first)} in "
                f"{first.title}, and their names must agree, too."
            )
            raise DataError(msg)
    return tuple(found)


def spec_of(text: str) -> tuple[str, dict[str, str]]:
    """Return name and settings of ``NAME`` or ``NAME:key=value,key=value``."""
    name, mark, rest = text.partition(":")
    return name.strip(), dict(pairs(rest.split(","), "steps=64")) if mark else {}


def candidates_of(
    methods: Sequence[str] | Mapping[str, str | Method],
    controls: Sequence[str],
    maps: Mapping[str, Tensor],
    subjects: Sequence[JudgedSubject],
    common: Mapping[str, str],
) -> tuple[Candidate, ...]:
    """Return everything that is judged, by name: methods, maps, controls.

    Args:
        methods: Names with settings, or values by name.
        controls: Names of controls; those of :data:`CONTROLLED` are added.
        maps: Maps by name.
        subjects: The networks.
        common: Settings for every method that has them.

    Raises:
        SettingError: A name that does not exist or comes twice, or a common setting that no
            method has.
    """
    given = dict(methods) if isinstance(methods, Mapping) else {text: text for text in methods}
    if not given and not maps:
        msg = "There is nothing to judge: give methods, or maps."
        raise SettingError(msg)
    unused = set(common)
    found: list[Candidate] = []
    for name, one in given.items():
        made: dict[str, Method] = {}
        for subject in subjects:
            if isinstance(one, str):
                method, own = spec_of(one)
                plain: Any = method_named(method, own, normalisation=subject.units)
                known = {entry.name for entry in fields(plain)}
                shared = {k: v for k, v in common.items() if k.replace("-", "_") in known}
                unused -= set(shared)
                settings = {**shared, **own}
                made[subject.name] = method_named(method, settings, normalisation=subject.units)
            else:
                made[subject.name] = one
        text = str(next(iter(made.values())))
        found.append(Candidate(name=name, kind="method", method=made, maps=None, text=text))
    check_used(unused, "method")
    for name, values in maps.items():
        found.append(
            Candidate(
                name=name,
                kind="maps",
                method={},
                maps=checked_maps(name, values, len(subjects[0].data)),
                text=f"maps {tuple(values.shape)} that were given",
            )
        )
    for name in dict.fromkeys((*CONTROLLED, *controls)):
        if name not in CONTROLS:
            msg = f"There is no control {name!r}. Choose from {', '.join(CONTROLS)}."
            raise SettingError(msg)
        control = CONTROLS[name]()
        found.append(
            Candidate(
                name=name,
                kind="control",
                method=dict.fromkeys((one.name for one in subjects), control),
                maps=None,
                text=str(control),
            )
        )
    names = [one.name for one in found]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        msg = f"Two candidates are called {twice[0]!r}. Give each a name of its own."
        raise SettingError(msg)
    return tuple(found)


def check_used(unused: set[str], what: str) -> None:
    """Refuse a setting that none has."""
    if unused:
        msg = f"No {what} has the setting {min(unused)!r}. Leave it out, or correct it."
        raise SettingError(msg)


def checked_maps(name: str, values: Tensor, count: int) -> Tensor:
    """Return maps as ``(n, a, h, w)``.

    Raises:
        DataError: If they are not one for each image of the data.
    """
    shaped = values[:, None] if values.ndim == 3 else values  # noqa: PLR2004 - n h w
    if shaped.ndim != 4 or len(shaped) != count:  # noqa: PLR2004 - n a h w
        msg = (
            f"The maps {name!r} must be one for each of the {count} images of the data, in their "
            f"order, (n, h, w) or (n, c, h, w); got shape {tuple(values.shape)}."
        )
        raise DataError(msg)
    return shaped.float()


def segments_of(name: str) -> Segments:
    """Return segments by name: those of metrics, or superpixels: ``grid:9``, ``slic:50``."""
    if name.partition(":")[0] in ("grid", "slic"):
        return superpixels_named(name)
    return segments_named(name)


def usual_metrics(*, masks: bool) -> tuple[str, ...]:
    """Return the metrics that are taken if none is named."""
    chosen = [name for name, entry in METRICS.items() if entry.usual]
    return (*chosen, *(("relevance-mass", "relevance-rank", "pointing-game") if masks else ()))


def questions_of(
    metrics: Sequence[str] | Mapping[str, Any],
    subjects: Sequence[JudgedSubject],
    common: Mapping[str, str],
) -> tuple[Question, ...]:
    """Return the metrics as each network gets them.

    Args:
        metrics: Names with settings, or values by name; a value must be of a class that is in
            the catalogue, which tells how it is called.
        subjects: The networks.
        common: Settings for every metric that has them, such as ``fill``.

    Raises:
        SettingError: A name or a setting that does not exist.
    """
    given = dict(metrics) if isinstance(metrics, Mapping) else {text: text for text in metrics}
    if not given:
        msg = "There is nothing to measure: give metrics."
        raise SettingError(msg)
    unused, found = set(common), []
    for name, one in given.items():
        made: dict[str, Any] = {}
        entry = entry_of(one)
        for subject in subjects:
            if isinstance(one, str):
                metric, own = spec_of(one)
                known = {each.name for each in fields(metric_named(metric))}
                shared = {k: v for k, v in common.items() if k.replace("-", "_") in known}
                unused -= set(shared)
                made[subject.name] = metric_named(
                    metric,
                    {**shared, **own},
                    normalisation=subject.units,
                    segments=segments_of,
                )
            else:
                made[subject.name] = one
        found.append(Question(name=name, entry=entry, metric=made))
    check_used(unused, "metric")
    return tuple(found)


def entry_of(metric: Any) -> MetricEntry:  # noqa: ANN401 - a name, or any metric
    """Return a metric's place in the catalogue."""
    if isinstance(metric, str):
        return entry_named(spec_of(metric)[0])
    for entry in (*METRICS.values(), *TRAINED.values()):
        made = entry.make()
        same = getattr(made, "metric", None) == getattr(metric, "metric", None)
        if type(made) is type(metric) and same and is_dataclass(metric):
            return entry
    msg = (
        f"{type(metric).__name__} is no metric of the catalogue, so it is not known how to call "
        f"it. There are: {', '.join((*METRICS, *TRAINED))}."
    )
    raise SettingError(msg)


def value_target(reads: str, value: str, classes: Tensor) -> Target:
    """Return the number that a metric looks at."""
    if reads == "hit":
        return Hit(classes)
    if reads == "explained":
        return Logit(classes)
    chosen = "probability" if reads == "probability" else value
    return VALUES[chosen](classes)


def maps_at(candidate: Candidate, indices: Tensor, images: Tensor) -> Tensor:
    """Return the given maps of some images.

    Raises:
        UnsupportedOperation: If they are of another size than the network's images.
    """
    if candidate.maps is None:
        msg = f"{candidate.name} has no maps of its own."
        raise UnsupportedOperation(msg)
    values = candidate.maps[indices]
    if values.shape[2:] != images.shape[2:]:
        msg = (
            f"the maps are of {tuple(values.shape[2:])} pixels, the network's images of "
            f"{tuple(images.shape[2:])}"
        )
        raise UnsupportedOperation(msg)
    return values.to(images)


def nan_rows(values: Tensor) -> Tensor:
    """Return which maps are not finite, ``(b,)``."""
    return ~torch.isfinite(values).flatten(1).all(dim=1)
