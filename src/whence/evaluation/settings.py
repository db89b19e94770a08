"""Settings of metrics as texts, as a command line or a file has them."""

import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from whence.core import BASELINES, Baseline, Normalisation, baseline_named
from whence.errors import SettingError
from whence.evaluation.agreement import Pairwise, Spearman, TopOverlap
from whence.evaluation.imputation import NoisyLinear
from whence.evaluation.infidelity import AddedNoise, Perturbation, RemovedSquares
from whence.evaluation.ssim import SSIM
from whence.evaluation.steps import Imputer, Segments, Squares, Tiles
from whence.evaluation.top_agreement import TopAgreement

__all__ = ["SegmentsNamed", "Setting", "changed", "in_units", "segments_named", "settings_written"]

Value = TypeVar("Value")

Setting: TypeAlias = str | int | float | bool | list[float] | None
"""What a setting may be given as; texts are read as the setting's type."""

SegmentsNamed: TypeAlias = Callable[[str], Segments]
"""What makes segments of a name."""

IMPUTERS = {"noisy-linear": NoisyLinear()}
PERTURBATIONS: dict[str, Perturbation] = {
    "removed-squares": RemovedSquares(),
    "added-noise": AddedNoise(),
}
AGREEMENTS: dict[str, Pairwise] = {
    "spearman": Spearman(),
    "ssim": SSIM(),
    "top-overlap": TopOverlap(),
    "top-agreement": TopAgreement(),
}
NAMED: dict[Any, Mapping[str, Any]] = {Perturbation: PERTURBATIONS, Pairwise: AGREEMENTS}
"""Kinds of fields whose values have names."""

TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def segments_named(name: str) -> Segments:
    """Return segments by name: ``pixels``, ``squares:9`` (pixels a side), ``tiles:14`` (a side).

    Raises:
        SettingError: If the name is another, or what follows it is no number.
    """
    kind, _, number = name.partition(":")
    if kind == "pixels" and not number:
        return Squares()
    if kind == "squares" and number.isdecimal():
        return Squares(size=int(number))
    if kind == "tiles" and number.isdecimal():
        return Tiles(across=int(number))
    msg = (
        f"Unknown segments {name!r}. Choose pixels, squares:9 (pixels a side) or tiles:14 (tiles "
        f"a side), for example."
    )
    raise SettingError(msg)


def in_units(value: Value, normalisation: Normalisation | None) -> Value:
    """Return a metric whose fills are colours in the units of a model with this normalisation."""
    if normalisation is None:
        return value
    entries: Any = value
    for entry in fields(entries):
        held = getattr(entries, entry.name)
        if is_dataclass(held) and getattr(held, "normalisation", None) == Normalisation():
            made = replace(held, normalisation=normalisation)  # type: ignore[type-var]
            entries = replace(entries, **{entry.name: made})
    found: Value = entries
    return found


def changed(
    value: Value,
    settings: Mapping[str, Setting],
    where: str,
    *,
    normalisation: Normalisation | None = None,
    segments: SegmentsNamed = segments_named,
) -> Value:
    """Return a metric with some fields changed, each read by the field's type.

    Args:
        value: A metric.
        settings: By field name; ``agreement.absolute`` is a field of the field ``agreement``.
        where: What to call the metric in an error.
        normalisation: The model's, for fills that are colours.
        segments: Makes segments of a name.

    Raises:
        SettingError: If a field does not exist or a value cannot be read.
    """
    entries: Any = value
    hints = get_type_hints(type(entries))
    for key, given in settings.items():
        head, _, rest = key.replace("-", "_").partition(".")
        known = [e.name for e in fields(entries) if e.metadata.get("text", True)]
        if head not in known:
            near = get_close_matches(head, known, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            msg = f"{where} has no setting {key!r}.{hint} It has: {', '.join(known) or 'none'}."
            raise SettingError(msg)
        if rest:
            inner = getattr(entries, head)
            new = changed(
                inner,
                {rest: given},
                f"{where}: {head}",
                normalisation=normalisation,
                segments=segments,
            )
        else:
            new = read(given, hints[head], f"{where}: {key}", normalisation, segments)
        entries = replace(entries, **{head: new})
    found: Value = entries
    return found


def read(  # noqa: PLR0911 - one answer per kind of field
    value: Setting,
    hint: Any,  # noqa: ANN401 - any field's type
    where: str,
    normalisation: Normalisation | None,
    segments: SegmentsNamed,
) -> Any:  # noqa: ANN401 - as above
    """Return a setting's value as the type that its field has."""
    union = get_origin(hint) in (Union, types.UnionType)
    options = get_args(hint) if union else (hint,)
    if type(None) in options and (value is None or str(value).lower() == "none"):
        return None
    if Baseline in options or Imputer in options:
        return fill_named(str(value), where, normalisation, imputers=Imputer in options)
    table = next((known for kind, known in NAMED.items() if kind in options), None)
    if table is not None:
        return one_of(table, str(value), where)
    if Segments in options:
        return segments(str(value))
    for option in options:
        if get_origin(option) is tuple:
            return numbers(value, where)
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif (found := as_type(value, option)) is not None:
            return found
    words = " or ".join(spelled(option) for option in options)
    msg = f"{where} takes {words}; got {value!r}."
    raise SettingError(msg)


def fill_named(
    name: str, where: str, normalisation: Normalisation | None, *, imputers: bool
) -> Baseline | Imputer:
    """Return a fill by name, in the model's units: black is black."""
    if imputers and name in IMPUTERS:
        return IMPUTERS[name]
    if name not in BASELINES:
        known = (*BASELINES, *(IMPUTERS if imputers else ()))
        near = get_close_matches(name, known, 1, 0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        msg = f"{where}: there is no fill {name!r}.{hint} Choose one of: {', '.join(known)}."
        raise SettingError(msg)
    return baseline_named(name, normalisation)


def one_of(known: Mapping[str, Value], name: str, where: str) -> Value:
    """Return a value by its name."""
    if name not in known:
        msg = f"{where} takes {' or '.join(known)}; got {name!r}."
        raise SettingError(msg)
    return known[name]


def numbers(value: Setting, where: str) -> tuple[float, ...]:
    """Return several numbers, from a list or separated by commas or spaces."""
    parts = value if isinstance(value, list) else str(value).replace(",", " ").split()
    try:
        return tuple(float(part) for part in parts)
    except ValueError as error:
        msg = f"{where} takes numbers such as '0.1 0.2'; got {value!r}."
        raise SettingError(msg) from error


def as_type(value: Setting, wanted: Any) -> Setting:  # noqa: ANN401 - a type
    """Return the value as this type, or None if it cannot be."""
    if wanted is bool:
        return value if isinstance(value, bool) else TRUTHS.get(str(value).lower())
    if value is None or isinstance(value, bool | list):
        return None
    if wanted is str:
        return str(value)
    if wanted in (int, float):
        try:
            return float(value) if wanted is float else int(str(value))
        except ValueError:
            return None
    return None


def spelled(option: Any) -> str:  # noqa: ANN401 - a type, or a form of typing
    """Say what a type is, in words for the command line."""
    if get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, get_args(option)))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(option, "none" if option is type(None) else "a value that text cannot give")


def settings_written(value: object) -> dict[str, str]:
    """Return a metric's settings as a command line would write them."""
    found: dict[str, str] = {}
    if not is_dataclass(value) or isinstance(value, type):
        return found
    for entry in fields(value):
        held = getattr(value, entry.name)
        if not entry.metadata.get("text", True):
            continue  # no text can give it
        text = written(held)
        if text is not None:
            found[entry.name] = text
        elif is_dataclass(held):
            found |= {f"{entry.name}.{k}": text for k, text in settings_written(held).items()}
    return found


def written(value: object) -> str | None:
    """Return a value as a command line would write it; None if it cannot."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(value)
    if isinstance(value, tuple) and all(isinstance(part, int | float) for part in value):
        return " ".join(repr(part) for part in value)
    if isinstance(value, Squares):
        return f"squares:{value.size}"
    if isinstance(value, Tiles):
        return f"tiles:{value.across}"
    named: dict[str, object] = {name: baseline_named(name) for name in BASELINES}
    named |= {**IMPUTERS, **PERTURBATIONS, **AGREEMENTS}
    return next((name for name, known in named.items() if known == value), None)
