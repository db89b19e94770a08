"""A record as JSON and arrays, and back.

The record's own type hints drive both directions, so a new field of a record needs no line
here. JSON keeps everything that a person may want to read; an array is replaced by
``{"array": KEY}`` and kept under that key.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from whence.errors import RecordError

__all__ = ["Arrays", "decode", "encode"]

Arrays = dict[str, NDArray[Any]]
"""Arrays by their place in the record, such as ``queries/0/picture``."""

Record = TypeVar("Record")
Value = TypeVar("Value")

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(value: object, arrays: Arrays, place: str = "") -> object:
    """Turn a record, or a part of one, into what JSON can hold.

    What JSON does not know becomes text: NaN and infinities their names, anything else its
    ``str``. The records' own fields come back exactly; free-form settings that are no JSON
    values come back as that text, and their tuples as lists.

    Args:
        value: A record, or any part of one.
        arrays: Receives every array, by place; they are not copied.
        place: Where ``value`` stands in the whole.
    """
    if isinstance(value, np.ndarray):
        arrays[place] = value
        return {"array": place}
    if is_dataclass(value) and not isinstance(value, type):
        names = [entry.name for entry in fields(value)]
        return {name: encode(getattr(value, name), arrays, _join(place, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): encode(item, arrays, _join(place, key)) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [encode(item, arrays, _join(place, at)) for at, item in enumerate(value)]
    return _encode_leaf(value)


def _encode_leaf(value: object) -> object:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and not math.isfinite(plain):
        return "NaN" if math.isnan(plain) else ("Infinity" if plain > 0 else "-Infinity")
    return plain if plain is None or isinstance(plain, bool | int | float | str) else str(plain)


def decode(
    record: type[Record], value: object, arrays: Mapping[str, NDArray[Any]], place: str = ""
) -> Record:
    """Turn what JSON held back into a record.

    Args:
        record: The record's class.
        value: What JSON held.
        arrays: Every array, by place.
        place: Where ``value`` stands in the whole; errors name it.

    Raises:
        RecordError: A value of another type, an unknown or missing field, a missing array.
    """
    entries: tuple[Field[Any], ...] = fields(record)  # type: ignore[arg-type]
    content = _expect(dict, value, place)
    unknown = sorted(set(content) - {entry.name for entry in entries})
    missing = sorted(
        entry.name
        for entry in entries
        if entry.name not in content
        and entry.default is MISSING
        and entry.default_factory is MISSING
    )
    if unknown or missing:
        wrong = f"has unknown fields {unknown}" if unknown else f"lacks the fields {missing}"
        msg = (
            f"{_name(place)} {wrong}. The file was changed, or written by another version of "
            f"whence; run the command again to write it anew."
        )
        raise RecordError(msg)
    hints = get_type_hints(record)
    return record(
        **{
            name: _decode_value(hints[name], item, arrays, _join(place, name))
            for name, item in content.items()
        }
    )


def _decode_value(  # noqa: PLR0911 - one answer per kind of type
    hint: object, value: object, arrays: Mapping[str, NDArray[Any]], place: str
) -> object:
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        (kept,) = [argument for argument in arguments if argument is not type(None)]
        return None if value is None else _decode_value(kept, value, arrays, place)
    if origin is tuple:
        return _decode_tuple(arguments, value, arrays, place)
    if origin is dict:
        return _decode_dict(arguments, value, arrays, place)
    if origin is np.ndarray:
        return _decode_array(value, arrays, place)
    if not isinstance(hint, type):
        msg = f"A record's field has a type that no file can hold: {hint}."
        raise TypeError(msg)
    if is_dataclass(hint):
        return decode(hint, value, arrays, place)
    return _decode_leaf(hint, value, place)


def _decode_tuple(
    arguments: tuple[Any, ...], value: object, arrays: Mapping[str, NDArray[Any]], place: str
) -> tuple[Any, ...]:
    items = _expect(list, value, place)
    endless = arguments[-1] is Ellipsis
    hints = [arguments[0]] * len(items) if endless else list(arguments)
    if len(hints) != len(items):
        msg = f"{_name(place)} needs {len(hints)} values, but the file has {len(items)}."
        raise RecordError(msg)
    pairs = enumerate(zip(hints, items, strict=True))
    return tuple(_decode_value(hint, item, arrays, _join(place, at)) for at, (hint, item) in pairs)


def _decode_dict(
    arguments: tuple[Any, ...], value: object, arrays: Mapping[str, NDArray[Any]], place: str
) -> dict[Any, Any]:
    key_hint, item_hint = arguments
    found = {}
    for key, item in _expect(dict, value, place).items():
        try:
            read = key_hint(key)
        except ValueError as error:
            msg = f"{_name(place)} needs keys of type {key_hint.__name__}, but has {key!r}."
            raise RecordError(msg) from error
        found[read] = _decode_value(item_hint, item, arrays, _join(place, key))
    return found


def _decode_array(value: object, arrays: Mapping[str, NDArray[Any]], place: str) -> NDArray[Any]:
    key = _expect(dict, value, place).get("array")
    if not isinstance(key, str) or key not in arrays:
        msg = (
            f"{_name(place)} needs the array {key!r}, which arrays.npz does not hold. "
            f"Keep the files of one result together, or run the command again."
        )
        raise RecordError(msg)
    return arrays[key]


def _decode_leaf(hint: type[Any], value: object, place: str) -> object:
    if hint is float:
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        if isinstance(value, int) and not isinstance(value, bool):
            return float(value)
    if isinstance(value, bool) and hint is not bool:
        raise _wrong_type(hint, value, place)
    return _expect(hint, value, place)


def _expect(kind: type[Value], value: object, place: str) -> Value:
    if not isinstance(value, kind):
        raise _wrong_type(kind, value, place)
    return value


def _wrong_type(kind: type[Any], value: object, place: str) -> RecordError:
    return RecordError(
        f"{_name(place)} needs a value of type {kind.__name__}, but the file has "
        f"{type(value).__name__} ({str(value)[:40]!r}). The file is damaged or was changed."
    )


def _join(place: str, step: object) -> str:
    return f"{place}/{step}" if place else str(step)


def _name(place: str) -> str:
    return f"The record's {place}" if place else "The record"
