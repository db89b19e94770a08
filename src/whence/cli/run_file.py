"""What was asked for as a TOML file: read as options, and written."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from whence.cli.entries import Entry
from whence.cli.options import NETWORKS
from whence.cli.toml import line_of, read_toml, toml_line
from whence.errors import SettingError

__all__ = ["NETWORK", "config_text", "read_config"]

COMMAND = "command"
"""The key of a file that says which command it is for."""
NETWORK = "network"
"""The section of a file that describes one network of several."""
UNSAVED = ("config", "save-config", "dry-run", "overwrite", "resume", "json", "verbose")
"""How to treat what is there, and what to show: not what a run is."""
WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def read_config(
    path: Path, entries: Sequence[Entry], name: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the options that a file gives, by parameter, and which come from its networks.

    Relative paths are relative to the file.

    Args:
        path: The file.
        entries: What the command takes.
        name: The command's name.

    Raises:
        DataError: There is no such file, or it is no TOML.
        SettingError: A key that the command does not have, with the nearest that it has; a value
            of another type or out of bounds, with its line; a file of another command.
    """
    content, text = read_toml(path)
    meant = content.pop(COMMAND, name)
    if meant != name:
        msg = f"{path} is for `whence {meant}`; this is `whence {name}`."
        raise SettingError(msg)
    by_key = {entry.key: entry for entry in entries if entry.key not in UNSAVED[:3]}
    named = {key: one for key, one in by_key.items() if one.panel == NETWORKS and one.repeated}
    tables = content.pop(NETWORK, []) if named else []
    found: dict[str, Any] = {}
    for key, value in content.items():
        where = f"{path}, line {line_of(text, key)}"
        known = (*by_key, NETWORK) if named else tuple(by_key)
        entry = by_key[known_key(key, known, where, f"whence {name}")]
        found[entry.name] = read_value(value, entry, where, path.parent)
    lists = list(read_networks(tables, named, path, text))
    for entry, value in lists:
        found.setdefault(entry.name, [])
        found[entry.name] = [*found[entry.name], value]
    return found, tuple({entry.name: None for entry, _ in lists})


def known_key(key: str, known: Sequence[str], where: str, what: str) -> str:
    """Return a key as the flag has it."""
    plain = key.replace("_", "-")
    if plain in known:
        return plain
    near = get_close_matches(plain, known, 1, 0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    msg = f"{where}: {what} has no setting {key!r}.{hint} It takes {', '.join(known)}."
    raise SettingError(msg)


def read_networks(
    tables: Any,  # noqa: ANN401 - of a file
    named: Mapping[str, Entry],
    path: Path,
    text: str,
) -> Iterator[tuple[Entry, str]]:
    """Yield the options that describe each network, written NAME=VALUE."""
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        msg = f"{path}, line {line_of(text, NETWORK)}: a network is a section, [[network]]."
        raise SettingError(msg)
    for place, table in enumerate(tables):
        at = [line_of(text, key, within=NETWORK, place=place) for key in table]
        if "model" not in table:
            msg = (
                f"{path}, line {min(at, default=1)}: every [[network]] needs a model; this one "
                f"has {', '.join(table) or 'nothing'}."
            )
            raise SettingError(msg)
        for (key, value), line in zip(table.items(), at, strict=True):
            where = f"{path}, line {line}"
            if key == "name":
                continue
            entry = named[known_key(key, (*named, "name"), where, "a network")]
            own = str(table.get("name", table["model"]))
            mark = ":" if entry.metavar.startswith("[NAME:]") else "="
            values = read_value(value, entry, where, path.parent)
            for one in values:
                plain = key == "model" and "name" not in table
                yield entry, one if plain else f"{own}{mark}{one}"


def read_value(value: Any, entry: Entry, where: str, folder: Path) -> Any:  # noqa: ANN401
    """Return a value of a file as the command takes it."""
    if not entry.repeated:
        return read_one(value, entry, where, folder)
    if isinstance(value, dict) and entry.kind is str:
        return [
            f"{key}={read_one(one, entry, where, folder, loose=True)}" for key, one in value.items()
        ]
    many = value if isinstance(value, list) else [value]
    return [read_one(one, entry, where, folder) for one in many]


def read_one(
    value: Any,  # noqa: ANN401 - of a file
    entry: Entry,
    where: str,
    folder: Path,
    *,
    loose: bool = False,
) -> Any:  # noqa: ANN401 - of the entry's kind
    """Return one value, checked; with ``loose`` a setting of any kind as text."""
    if loose and isinstance(value, list):
        return ("," if entry.key == "input" else " ").join(str(part) for part in value)
    if loose and isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    kind = str if entry.kind is Path else entry.kind
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        str: isinstance(value, str) or (isinstance(value, int) and number),
        int: isinstance(value, int) and number,
        float: number,
        bool: isinstance(value, bool),
    }[kind]
    if not fits:
        words = f"a list, each {WORDS[kind]}" if entry.repeated else WORDS[kind]
        msg = f"{where}: {entry.key} takes {words}; got {value!r}."
        raise SettingError(msg)
    low, high = entry.low, entry.high
    if number and ((low is not None and value < low) or (high is not None and value > high)):
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        msg = f"{where}: {entry.key} is {bounds}; got {value!r}."
        raise SettingError(msg)
    if kind is not str:
        return value
    return place_from(str(value), entry, folder) if entry.place else str(value)


def split_place(text: str, entry: Entry) -> tuple[str, str, str]:
    """Return what stands before a path in a value, the path, and what stands behind it."""
    before, rest = "", text
    if "NAME=" in entry.metavar:
        head, mark, tail = text.partition("=")
        if mark and "/" not in head and ":" not in head:
            before, rest = f"{head}=", tail
    door = re.match(r"transformers/|torchvision/[^:/]+:", rest)
    if door and entry.kind is str:
        before, rest = before + door[0], rest[len(door[0]) :]
    plain = rest if entry.kind is Path else re.split(r"[#:]", rest, maxsplit=1)[0]
    return before, plain, rest[len(plain) :]


def place_from(text: str, entry: Entry, folder: Path) -> str:
    """Return a place that a file in a folder names, as it is named from here."""
    before, plain, after = split_place(text, entry)
    if not plain or Path(plain).is_absolute():
        return text
    near = Path(os.path.normpath(folder / plain))
    return f"{before}{near}{after}" if entry.kind is Path or near.exists() else text


def place_for(text: str, entry: Entry, folder: Path) -> str:
    """Return a place that is named from here, as a file in a folder names it."""
    before, plain, after = split_place(text, entry)
    if not plain or Path(plain).is_absolute():
        return text
    if entry.kind is not Path and not Path(plain).exists():
        return text
    return f"{before}{Path(os.path.relpath(plain, folder)).as_posix()}{after}"


def config_text(
    options: Mapping[str, Any], entries: Sequence[Entry], name: str, folder: Path
) -> str:
    """Return options as the TOML file that repeats the run.

    Args:
        options: By parameter.
        entries: What the command takes.
        name: The command's name.
        folder: Where the file will lie; relative paths are relative to it.

    Raises:
        SettingError: A text that is no Unicode.
    """
    from whence import __version__

    lines = [f"# whence {__version__}: repeat this with `whence {name} --config FILE`."]
    lines.append(toml_line(COMMAND, name))
    for entry in entries:
        value = options.get(entry.name)
        if entry.key in UNSAVED or value is None or value == []:
            continue
        values = [
            place_for(str(one), entry, folder) if entry.place else one
            for one in (value if entry.repeated else [value])
        ]
        lines.append(toml_line(entry.key, values if entry.repeated else values[0]))
    text = "\n".join(lines) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        msg = f"These options hold a name that is no Unicode and cannot stand in a file: {error}."
        raise SettingError(msg) from error
    return text
