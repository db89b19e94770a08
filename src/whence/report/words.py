"""Numbers and findings in words."""

import ast
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = [
    "brief_method",
    "brief_name",
    "cells",
    "counted",
    "duration",
    "moment",
    "number",
    "percent",
    "setting",
    "short",
    "shortened",
    "signed",
    "thousands",
]

_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_NARROW = "\N{NARROW NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LONGEST_PLAIN = 1e6


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits; a power of ten where it is far from one.

    >>> number(0.01234), number(12.5), number(0.0)
    ('0.0123', '12.5', '0')
    """
    if not math.isfinite(value):
        return "not finite"
    text = f"{value:.{digits}g}"
    if "e+" in text and abs(value) < _LONGEST_PLAIN:
        return thousands(round(value)).replace("-", _MINUS)
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}{_TIMES}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return text.replace("-", _MINUS)


def signed(value: float, digits: int = 3) -> str:
    """The same with its sign, plus included, and zeros at its end kept.

    >>> signed(0.5), signed(0.0)
    ('+0.500', '0')
    """
    text = number(value, digits)
    plain = f"{abs(value):#.{digits}g}"
    if value and math.isfinite(value) and "e" not in plain and not plain.endswith("."):
        text = plain if value > 0 else f"{_MINUS}{plain}"
    return f"+{text}" if value > 0 else text


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent.

    >>> percent(0.9134).replace(_NARROW, " "), percent(1.0).replace(_NARROW, " ")
    ('91.3 %', '100 %')
    """
    if share is None or not math.isfinite(share):
        return "\N{EN DASH}"
    text = f"{100 * share:.{digits}f}"
    whole = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{whole}{_NARROW}%".replace("-", _MINUS)


def thousands(count: int) -> str:
    """A whole number in groups of three digits."""
    return f"{count:,}".replace(",", _NARROW)


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(2, "image"), counted(0, "class", "classes")
    ('1 image', '2 images', '0 classes')
    """
    return f"{thousands(count)} {one if count == 1 else many or one + 's'}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(0.25), duration(12.34), duration(125), duration(7300)
    ('0.25 s', '12.3 s', '2 min 5 s', '2 h 2 min')
    """
    if seconds < 60:  # noqa: PLR2004 - a minute
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min"


def moment(created: str) -> str:
    """A time stamp as a person writes it; what is none stays as it is."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    zone = when.tzname() or ""
    return f"{when.day} {when:%B %Y, %H:%M} {zone}".strip()


def short(fingerprint: str) -> str:
    """The first twelve characters of a fingerprint, which is enough to tell two apart."""
    name, colon, digits = fingerprint.rpartition(":")
    return f"{name}{colon}{digits[:12]}"


def shortened(name: str, longest: int) -> str:
    """A name with its middle left out where it is too long; its end tells files apart.

    >>> shortened("animals/cats/00017.png", 15)
    'anima…00017.png'
    """
    if len(name) <= longest:
        return name
    end = min(longest - 1, max(9, longest // 2))
    return f"{name[: longest - 1 - end]}…{name[len(name) - end :]}"


def brief_name(model: str) -> str:
    """A model's name without the folders of its file.

    >>> brief_name("models/small/net.py:make"), brief_name("timm/resnet18")
    ('net.py:make', 'timm/resnet18')
    """
    found = re.fullmatch(r"(?:.*[/\\\\])?([^/\\\\]+\.py(?::.*)?)", model, re.DOTALL)
    return found[1] if found else model


def brief_method(text: str) -> str:
    """A method without most of its settings: its first number or name, and what it is built of.

    >>> brief_method("SmoothGrad(samples=25, sigma=0.15, method=Gradient(relu=True))")
    'SmoothGrad(samples=25, method=Gradient, …)'

    What belongs to the model's input, its normalisation, is told elsewhere.

    >>> brief_method("LRP(composite='gamma', normalisation=Normalisation(mean=(0.5,)))")
    "LRP(composite='gamma', …)"

    A text that is not a name with settings stays as it is.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return text
    return _brief_call(tree) if isinstance(tree, ast.Call) else text


def _brief_call(call: ast.Call) -> str:
    kept, left_out = [], bool(call.args)
    for at, one in enumerate(call.keywords):
        if one.arg == "normalisation":
            left_out = True
        elif isinstance(one.value, ast.Call):
            kept.append(f"{one.arg}={_brief_call(one.value)}")
        elif isinstance(one.value, ast.Constant) and isinstance(one.value.value, bool | None):
            continue
        elif at == 0:
            kept.append(f"{one.arg}={ast.unparse(one.value)}")
        else:
            left_out = True
    name = ast.unparse(call.func)
    settings = ", ".join([*kept, *["…"] * left_out])
    return f"{name}({settings})" if settings else name


def cells(height: float, width: float) -> str:
    """What a map was summed over, if not over single pixels.

    >>> cells(7, 7).replace(_TIMES, "x"), cells(1, 1)
    ('cells of 7 x 7 pixels', '')
    """
    if height == width == 1:
        return ""
    return f"cells of {number(height, 2)} {_TIMES} {number(width, 2)} pixels"


def setting(value: Any) -> str:  # noqa: ANN401 - settings are free-form
    """A setting's value as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {setting(item)}" for key, item in value.items()) or "none"
    return json.dumps(value, ensure_ascii=False, default=str)
