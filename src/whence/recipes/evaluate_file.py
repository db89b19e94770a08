"""An evaluation as a file of settings, or as lines of a command: what is asked for."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, final

from whence.adapters import LoadedModel
from whence.adapters.streamed import PictureData
from whence.errors import DataError, SettingError
from whence.evaluation.bootstrap import Bootstrap
from whence.recipes.evaluate_masks import load_maps, load_object_masks
from whence.recipes.load import load_images, load_subject, spread
from whence.recipes.transfer_file import NetworkLine, beside, network_of

__all__ = [
    "EvaluationRequest",
    "LoadedRequest",
    "load_request",
    "read_evaluation",
    "request_text",
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
    method_settings: dict[str, Any] = field(default_factory=dict)
    metric_settings: dict[str, Any] = field(default_factory=dict)
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

    def over(self, other: "EvaluationRequest") -> "EvaluationRequest":
        """Return this request, with what it leaves open as another one has it."""
        empty = EvaluationRequest()
        names = [entry.name for entry in fields(self)]
        own = {n: getattr(self, n) for n in names if getattr(self, n) != getattr(empty, n)}
        return replace(other, **own)

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, under the names that :func:`whence.evaluate` gives it."""
        names: tuple[str, ...] = ("methods", "metrics", "controls", "target", "value", "count")
        names = (*names, "batch_size", "train_count", "retrain")
        given = {name: getattr(self, name) for name in names}
        found = {name: value for name, value in given.items() if value is not None}
        for name in ("method_settings", "metric_settings"):
            found[name] = {key: text_of(value) for key, value in getattr(self, name).items()}
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


TEXT, WHOLE, NUMBER, TRUTH = (str,), (int,), (int, float), (bool,)
KINDS: dict[str, tuple[type, ...]] = {
    "data": TEXT,
    "labels": TEXT,
    "masks": TEXT,
    "methods": (list, dict),
    "metrics": (list, dict),
    "controls": (list,),
    "maps": (dict,),
    "method_settings": (dict,),
    "metric_settings": (dict,),
    "target": (str, int),
    "value": TEXT,
    "count": WHOLE,
    "batch_size": WHOLE,
    "train": TEXT,
    "train_labels": TEXT,
    "train_count": WHOLE,
    "retrain": TEXT,
    "permuted": (dict,),
    "confidence": NUMBER,
    "draws": WHOLE,
    "seed": WHOLE,
    "out": TEXT,
    "device": TEXT,
    "download": TRUTH,
}
"""The settings of a file and what they may be."""


def read_evaluation(path: Path) -> EvaluationRequest:
    """Read an evaluation from a TOML file; sources beside the file may be named from there.

    Raises:
        DataError: The file does not exist, or is no TOML.
        SettingError: A setting that does not exist (with the closest that does), or is of another
            kind.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        msg = f"There is no file {path}. Check the path."
        raise DataError(msg) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} is no readable TOML: {error}."
        raise DataError(msg) from error
    lines = content.pop("network", [])
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        msg = f"{path}: each network is a section of its own, [[network]]."
        raise SettingError(msg)
    check_known(content, str(path))
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
    }
    for key in ("methods", "metrics", "controls", "maps", "permuted"):
        check_texts(values.get(key, ()), f"{path}: {key}")
    for key in ("data", "masks", "labels", "train", "train_labels"):
        if key in values:
            values[key] = beside(path, values[key])
    for key in ("maps", "permuted"):
        if key in values:
            values[key] = {name: beside(path, file) for name, file in values[key].items()}
    return EvaluationRequest(networks=tuple(network_of(one, path) for one in lines), **values)


def check_known(content: Mapping[str, Any], where: str) -> None:
    """Refuse settings that do not exist or are of another kind."""
    for key, value in content.items():
        if key not in KINDS:
            near = get_close_matches(key, (*KINDS, "network"), 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = f"{where} has no setting {key!r}.{hint} It takes {', '.join(KINDS)}, [[network]]."
            raise SettingError(msg)
        wrong = isinstance(value, bool) and bool not in KINDS[key]
        if wrong or not isinstance(value, KINDS[key]):
            words = " or ".join(kind.__name__ for kind in KINDS[key])
            msg = f"{where}: {key} takes a value of type {words}; got {value!r}."
            raise SettingError(msg)


def check_texts(values: Any, where: str) -> None:  # noqa: ANN401 - a list or a table
    """Refuse anything but texts in a list or a table."""
    for one in values.values() if isinstance(values, dict) else values:
        if not isinstance(one, str):
            msg = f"{where} takes texts such as 'deletion:steps=10'; got {one!r}."
            raise SettingError(msg)


def text_of(value: Any) -> str:  # noqa: ANN401 - a value of a file
    """Return a setting of a file as a command line would write it."""
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def request_text(request: EvaluationRequest) -> str:
    """Return a request as the TOML file that :func:`read_evaluation` reads."""
    empty = EvaluationRequest()
    lines, tables = [], []
    for entry in fields(request):
        value = getattr(request, entry.name)
        if entry.name == "networks" or value == getattr(empty, entry.name):
            continue
        if isinstance(value, dict):
            rows = [f"{quoted(key)} = {toml(one)}" for key, one in value.items()]
            tables.append("\n".join([f"[{entry.name}]", *rows]))
        else:
            lines.append(f"{entry.name} = {toml(value)}")
    for network in request.networks:
        rows = [
            f"{entry.name} = {toml(getattr(network, entry.name))}"
            for entry in fields(network)
            if getattr(network, entry.name) not in (None, "", ())
        ]
        tables.append("\n".join(["[[network]]", *rows]))
    return "\n\n".join(["\n".join(lines), *tables]).strip() + "\n"


def quoted(text: str) -> str:
    """Return a text as TOML has it."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml(value: Any) -> str:  # noqa: ANN401 - a value of a request
    """Return a value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(one) for one in value) + "]"
    return quoted(value) if isinstance(value, str) else repr(value)


def load_request(request: EvaluationRequest) -> LoadedRequest:
    """Load what a request names.

    Raises:
        SettingError: No network, or two of one name.
        WhenceError: As :func:`whence.recipes.load_subject` and :func:`whence.recipes.load_images`.
    """
    if not request.networks:
        msg = "Give a network with --model, or as [[network]] in the file."
        raise SettingError(msg)
    if request.data is None:
        msg = "Give the images to judge on: whence evaluate IMAGES, or data = ... in the file."
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
