"""Settings as TOML: read with the line of every mistake, and written."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from whence.errors import DataError

__all__ = ["line_of", "read_toml", "toml_line", "toml_value"]


def read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Return what a TOML file holds, and its text.

    Raises:
        DataError: The file does not exist, or is no TOML.
    """
    try:
        text = path.read_text("utf-8")
        return tomllib.loads(text), text
    except FileNotFoundError as error:
        msg = f"There is no file {path}. Check the path."
        raise DataError(msg) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path} is no readable TOML: {error}."
        raise DataError(msg) from error


def line_of(text: str, key: str, *, within: str = "", place: int = 0) -> int:
    """Return the line of a TOML text in which a key is set, or its section begins; 1 if unseen.

    Args:
        text: The whole text.
        key: The key, as the file writes it.
        within: The section that holds it, if it is not at the top.
        place: Of sections of the same name, which.
    """
    section, seen = "", -1
    for number, line in enumerate(text.splitlines(), start=1):
        head = re.match(r"\s*\[+\s*[\"']?(.*?)[\"']?\s*\]+\s*(#.*)?$", line)
        if head:
            section = head[1]
            seen += section == within
            if not within and section == key:
                return number
        elif section == within and (not within or seen == place):
            name = re.match(r"\s*[\"']?(.*?)[\"']?\s*[=.]", line)
            if name and name[1] == key:
                return number
    return 1


def toml_line(key: str, value: Any) -> str:  # noqa: ANN401 - any value of TOML
    """Return a key and its value."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]+", key)
    return f"{key if plain else toml_value(key)} = {toml_value(value)}"


def toml_value(value: Any) -> str:  # noqa: ANN401 - any value of TOML
    """Return a value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(one) for one in value) + "]"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
