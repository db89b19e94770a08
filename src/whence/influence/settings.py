"""Settings of scorers as texts, as a command line has them."""

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from whence.errors import SettingError

__all__ = ["plain_settings", "with_settings"]

Value = TypeVar("Value")

TRUTHS = {"true": True, "yes": True, "false": False, "no": False}
PLAIN = (bool, int, float, str, type(None))


def with_settings(value: Value, settings: Mapping[str, str], where: str) -> Value:
    """Return a frozen value with some fields changed, each read by the field's type.

    Args:
        value: A scorer, or another value of settings.
        settings: Texts by field name; ``space.dimension`` is a field of the field ``space``.
        where: What to call the value in an error.

    Raises:
        SettingError: If a field does not exist or a text cannot be read.
    """
    for key, text in settings.items():
        head, _, rest = key.replace("-", "_").partition(".")
        hints = get_type_hints(type(value))
        held = getattr(value, head, None)
        inside = is_dataclass(held) and not isinstance(held, type)
        if head not in simple(value, hints) and not (rest and inside):
            near = get_close_matches(head, simple(value, hints), 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(simple(value, hints)) or "none"
            msg = f"{where} has no setting {key!r}.{hint} Its settings: {known}."
            raise SettingError(msg)
        new = (
            with_settings(held, {rest: text}, f"{where}: {head}")
            if rest
            else read(text, hints[head], f"{where}: {key}")
        )
        value = replace(value, **{head: new})  # type: ignore[type-var]
    return value


def plain_settings(value: object) -> dict[str, Any]:
    """Return the settings that are numbers, texts or truths; those of inner values by a dot.

    Not those whose field says ``{"recorded": False}``: where a file lies is no property of a score.
    """
    found: dict[str, Any] = {}
    if not is_dataclass(value):
        return found
    for field in fields(value):
        held = getattr(value, field.name)
        if field.name == "name" or not field.metadata.get("recorded", True):
            continue
        if isinstance(held, PLAIN):
            found[field.name] = held
        else:
            inner = plain_settings(held) if is_dataclass(held) else {}
            found |= {f"{field.name}.{name}": one for name, one in inner.items()}
    return found


def simple(value: object, hints: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the fields that a text can give."""
    if not is_dataclass(value):
        return ()
    return tuple(
        field.name
        for field in fields(value)
        if field.name != "name" and all(can_read(option) for option in options(hints[field.name]))
    )


def options(hint: object) -> tuple[Any, ...]:
    """Return the types that a field may have."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def can_read(option: object) -> bool:
    """Return whether a text can be read as this type."""
    return option in (*PLAIN, Path) or get_origin(option) is Literal


def read(text: str, hint: object, where: str) -> object:
    """Return a text as the type that a field has."""
    for option in sorted(options(hint), key=lambda option: option is not type(None)):
        if get_origin(option) is Literal and text in get_args(option):
            return text
        if option is type(None) and text.lower() == "none":
            return None
        if option is bool and text.lower() in TRUTHS:
            return TRUTHS[text.lower()]
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
        if option in (str, Path):
            return option(text)
    spelled = " or ".join(
        ", ".join(map(repr, get_args(o)))
        if get_origin(o) is Literal
        else "none"
        if o is type(None)
        else o.__name__
        for o in options(hint)
    )
    msg = f"{where} takes {spelled}; got {text!r}."
    raise SettingError(msg)
