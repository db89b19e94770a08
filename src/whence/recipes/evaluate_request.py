"""An evaluation as lines of a command: what is asked for, and loaded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from whence.adapters import LoadedModel
from whence.adapters.streamed import PictureData
from whence.errors import DataError, SettingError
from whence.evaluation.bootstrap import Bootstrap
from whence.recipes.evaluate_masks import load_maps, load_object_masks
from whence.recipes.load import load_images, load_subject, spread
from whence.recipes.transfer_request import NetworkLine

__all__ = [
    "EvaluationRequest",
    "LoadedRequest",
    "load_request",
]


@final
@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """An evaluation as it is asked for; what is None is left to :func:`whence.evaluate`.

    Args:
        networks: One or more.
        data: The images.
        labels: A file of their labels.
        masks: Object masks: a folder or archive of pictures with the images' names, or an array.
        methods: Names with settings, or such texts by a name.
        metrics: The same of metrics.
        controls: Further controls.
        maps: Files of maps that somebody else made, by name.
        method_settings: For every method that has them.
        metric_settings: For every metric that has them.
        target: ``predicted``, ``label`` or a class.
        value: What metrics look at.
        count: At most so many images.
        batch_size: Images per cell.
        train: Training images, for metrics that train again.
        train_labels: A file of their labels.
        train_count: At most so many of them.
        retrain: How to train again, ``scratch:epochs=20``.
        permuted: Weights that were trained on permuted labels, by network.
        confidence: Of the intervals.
        draws: Resamples of the bootstrap.
        seed: Of the bootstrap.
        out: The folder of the result.
        device: Where the networks live.
        download: Whether libraries may fetch published weights.
    """

    networks: tuple[NetworkLine, ...] = ()
    data: str | None = None
    labels: str | None = None
    masks: str | None = None
    methods: tuple[str, ...] | dict[str, str] | None = None
    metrics: tuple[str, ...] | dict[str, str] | None = None
    controls: tuple[str, ...] | None = None
    maps: dict[str, str] = field(default_factory=dict)
    method_settings: dict[str, str] = field(default_factory=dict)
    metric_settings: dict[str, str] = field(default_factory=dict)
    target: str | int | None = None
    value: str | None = None
    count: int | None = None
    batch_size: int | None = None
    train: str | None = None
    train_labels: str | None = None
    train_count: int | None = None
    retrain: str | None = None
    permuted: dict[str, str] = field(default_factory=dict)
    confidence: float | None = None
    draws: int | None = None
    seed: int | None = None
    out: str | None = None
    device: str | None = None
    download: bool | None = None

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, under the names that :func:`whence.evaluate` gives it."""
        names: tuple[str, ...] = ("methods", "metrics", "controls", "target", "value", "count")
        names = (*names, "batch_size", "train_count", "retrain")
        given = {name: getattr(self, name) for name in names}
        found = {name: value for name, value in given.items() if value is not None}
        for name in ("method_settings", "metric_settings"):
            found[name] = dict(getattr(self, name))
        return found

    @property
    def bootstrap(self) -> Bootstrap:
        """How intervals are made."""
        usual = Bootstrap()
        return Bootstrap(
            confidence=usual.confidence if self.confidence is None else self.confidence,
            draws=usual.draws if self.draws is None else self.draws,
            seed=usual.seed if self.seed is None else self.seed,
        )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedRequest:
    """What a request names, loaded: all but foreign maps by the networks' names."""

    models: dict[str, LoadedModel]
    data: dict[str, PictureData]
    masks: dict[str, Any] | None
    maps: dict[str, Any]
    train: dict[str, PictureData] | None
    permuted: dict[str, LoadedModel]


def load_request(request: EvaluationRequest) -> LoadedRequest:
    """Load what a request names.

    Raises:
        SettingError: No network, or two of one name.
        WhenceError: As :func:`whence.recipes.load_subject` and :func:`whence.recipes.load_images`.
    """
    if not request.networks:
        msg = "Give a network with --model, or as [[network]] in a file for --config."
        raise SettingError(msg)
    if request.data is None:
        msg = (
            "Give the images to judge on: whence evaluate IMAGES, or images = ... in a file for "
            "--config."
        )
        raise DataError(msg)
    models: dict[str, LoadedModel] = {}
    data: dict[str, PictureData] = {}
    train: dict[str, PictureData] = {}
    labels, train_labels = (
        None if one is None else Path(one) for one in (request.labels, request.train_labels)
    )
    for line in request.networks:
        if line.name in models:
            msg = f"Two networks are called {line.name!r}. Name them: --model NAME=MODEL."
            raise SettingError(msg)
        model = models[line.name] = loaded(line, line.weights, request)
        data[line.name] = load_images(request.data, model, labels=labels)
        if request.train is not None:
            train[line.name] = load_images(request.train, model, labels=train_labels)
    masks = None
    if request.masks is not None:
        masks = {
            name: load_object_masks(
                request.masks,
                own,
                spread(len(own), len(own) if request.count is None else request.count),
            )
            for name, own in data.items()
        }
    maps = {name: load_maps(file) for name, file in request.maps.items()}
    return LoadedRequest(
        models=models,
        data=data,
        masks=masks,
        maps=maps,
        train=train or None,
        permuted=load_permuted(request),
    )


def loaded(line: NetworkLine, weights: str | None, request: EvaluationRequest) -> LoadedModel:
    """Return a network with some weights."""
    return load_subject(
        line.model,
        weights=None if weights is None else Path(weights),
        classes=None if line.classes is None else Path(line.classes),
        settings=line.input,
        device=request.device or "cpu",
        download=bool(request.download) and weights is None,
    )


def load_permuted(request: EvaluationRequest) -> dict[str, LoadedModel]:
    """Return the networks that were trained on permuted labels, by the names of those they match.

    Raises:
        SettingError: One is for a network that is not there.
        WhenceError: As :func:`whence.recipes.load_subject`.
    """
    lines = {line.name: line for line in request.networks}
    found = {}
    for name, file in request.permuted.items():
        if name not in lines:
            msg = (
                f"Weights of permuted labels are given for {name!r}, which is no network of this "
                f"evaluation. Name one of: {', '.join(lines)}."
            )
            raise SettingError(msg)
        found[name] = loaded(lines[name], file, request)
    return found
