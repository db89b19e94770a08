"""The catalogue: the name, card and settings of every method."""

import types
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from whence.attribution.entries import ENTRIES, Entry
from whence.attribution.rule_entries import RULE_ENTRIES
from whence.attribution.superpixels import (
    SLIC,
    Grid,
    Superpixels,
    superpixels_named,
    superpixels_written,
)
from whence.core import BASELINES, Baseline, Method, MethodCard, Normalisation, baseline_named
from whence.errors import SettingError

__all__ = ["CATALOGUE", "Entry", "Setting", "cards", "method_named", "settings_of"]

Setting = str | int | float | bool | None
"""What a setting may be given as; strings, as on a command line, are read as the setting's type."""

NONE = ("none", "auto")
"""How a command line writes None."""

TRUTHS = {"true": True, "yes": True, "on": True, "1": True} | dict.fromkeys(
    ("false", "no", "off", "0"), False
)


CATALOGUE: tuple[Entry, ...] = (*ENTRIES, *RULE_ENTRIES)
"""Every method that has a name on the command line."""


def cards() -> tuple[MethodCard, ...]:
    """Return the card of every method, in the order of the catalogue."""
    return tuple(entry.card for entry in CATALOGUE)


def entry_named(name: str) -> Entry:
    """Return the entry of this name."""
    known = {entry.card.name: entry for entry in CATALOGUE}
    if name not in known:
        raise SettingError(unknown("method", name, tuple(known)))
    return known[name]


def settings_of(name: str) -> dict[str, str]:
    """Return the settings of a method with their defaults, as a command line would write them.

    Example:
        >>> settings_of("gradient")
        {'create_graph': 'false', 'batch_size': 'none'}

    Raises:
        SettingError: If there is no method of this name.
    """
    entry = entry_named(name)
    default = entry.make()
    return {field.name: written(getattr(default, field.name)) for field in fields(entry.make)}


def written(value: object) -> str:
    """Return a default as a command line would write it."""
    for entry in CATALOGUE:
        if isinstance(value, entry.make):
            return entry.card.name
    if isinstance(value, (Grid, SLIC)):
        return superpixels_written(value)
    for name in BASELINES:
        if value == baseline_named(name):
            return name
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def method_named(
    name: str,
    settings: Mapping[str, Setting] | None = None,
    *,
    normalisation: Normalisation | None = None,
) -> Method:
    """Return the method of this name with these settings.

    Args:
        name: A name of the catalogue, such as ``"integrated-gradients"``.
        settings: Values by field name. Strings are read by the field's type, so that
            ``{"steps": "64"}`` is 64; baselines and inner methods are given by their names.
        normalisation: The model's, for baselines that are colours, such as ``black``, and for the
            box of possible pixels.

    Raises:
        SettingError: If the name or a setting is unknown (with the closest that exist), or a
            value cannot be read.

    Example:
        >>> method_named("integrated-gradients", {"steps": "64", "baseline": "mean"}).steps
        64
    """
    entry = entry_named(name)
    hints = get_type_hints(entry.make)
    known = tuple(field.name for field in fields(entry.make))
    values: dict[str, Any] = {}
    for key, value in (settings or {}).items():
        field = key.replace("-", "_")
        if field not in known:
            raise SettingError(unknown(f"setting of {name}", key, known))
        values[field] = read(value, hints[field], f"{name}: {key}", normalisation)
    if "normalisation" in known:
        values.setdefault("normalisation", normalisation)
    method: Method = entry.make(**values)
    return method


def read(value: Setting, hint: Any, where: str, normalisation: Normalisation | None) -> Any:  # noqa: ANN401 - any field's type
    """Return a setting's value as the type that its field has."""
    if hint is Baseline:
        return baseline_named(str(value), normalisation)
    if hint is Superpixels:
        return superpixels_named(str(value))
    if hint is Method:
        return method_named(str(value), normalisation=normalisation)
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in options and (value is None or str(value).lower() in NONE):
        return None
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif (found := as_type(value, option)) is not None:
            return found
    msg = f"{where} takes {' or '.join(spelled(o) for o in options)}; got {value!r}."
    raise SettingError(msg)


def as_type(value: Setting, wanted: Any) -> Setting:  # noqa: ANN401 - a type, or a form of typing
    """Return the value as this type, or None if it cannot be."""
    if wanted is bool:
        return value if isinstance(value, bool) else TRUTHS.get(str(value).lower())
    if value is None or isinstance(value, bool):
        return None
    if wanted is str:
        return str(value)
    if wanted in (int, float):
        try:
            number = float(value) if wanted is float else int(str(value))
        except ValueError:
            return None
        return number
    return None


def spelled(option: Any) -> str:  # noqa: ANN401 - a type, or a form of typing
    """Say what a type is, in words for the command line."""
    if get_origin(option) is Literal:
        return "one of " + ", ".join(map(str, get_args(option)))
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(option, "none")


def unknown(kind: str, name: str, known: tuple[str, ...]) -> str:
    """Say that a name does not exist, and which come closest."""
    close = get_close_matches(name.lower().replace("_", "-"), known, n=2, cutoff=0.5)
    close += [k for k in get_close_matches(name.lower(), known, n=2, cutoff=0.5) if k not in close]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"Unknown {kind} {name!r}.{hint} There are: {', '.join(known)}."
