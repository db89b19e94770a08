"""Manifest: what an index holds, of which model and data, in which files."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from whence.errors import MismatchError, RecordError
from whence.results.folder import write_whole

__all__ = ["DONE", "OPEN", "Manifest", "Provenance", "ShardEntry", "read_manifest"]

FORMAT = 1
"""Number of the file format."""

DONE = "manifest.json"
OPEN = "manifest.part.json"
"""The manifest of an index that is complete, and of one that is being built."""


@final
@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Of what an index is made. Two builds may share files only if all of this agrees.

    Args:
        model: Fingerprint of weights and graph.
        data: Fingerprint of images and labels, as the model gets them.
        parameters: Names of the parameters whose gradients are stored.
        settings: Everything else that the numbers depend on: projection, target, ...
        code: Version of the code that made the gradients.
    """

    model: str
    data: str
    parameters: tuple[str, ...]
    settings: Mapping[str, str | int | float] = field(default_factory=dict)
    code: str

    def check_same(self, stored: "Provenance", folder: Path) -> None:
        """Refuse a stored index of something else.

        Raises:
            MismatchError: If a field differs; the message names each that does, and its values.
        """
        ours, theirs = fields_of(self), fields_of(stored)
        names = [n for n in {**theirs, **ours} if ours.get(n) != theirs.get(n)]
        if names:
            lines = [
                f"  {n}: {shown(theirs.get(n))} stored, {shown(ours.get(n))} now" for n in names
            ]
            msg = (
                f"{folder} holds an index of something else; it differs in {', '.join(names)}:\n"
                + "\n".join(lines)
                + "\nGive another folder, or remove this one."
            )
            raise MismatchError(msg)


@final
@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One file of an index.

    Args:
        file: Its name in the folder.
        runs: The images that were asked for, as ranges ``(start, stop)``.
        rows: Rows in the file; fewer than asked for where images could not be used.
        zeros: Rows whose gradient is zero, which have no direction.
        sha256: Of the file's bytes.
        size: Bytes of the file; 0 if it was not noted.
    """

    file: str
    runs: tuple[tuple[int, int], ...]
    rows: int
    zeros: int
    sha256: str
    size: int = 0

    @property
    def indices(self) -> list[int]:
        """The images that were asked for."""
        return [index for start, stop in self.runs for index in range(start, stop)]


@final
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an index holds.

    Args:
        provenance: Of what it is made.
        dimension: Numbers per row.
        runs: All images of the index, as ranges.
        shard_size: Images per shard, at most.
        shards: The shards that are done, in order.
    """

    provenance: Provenance
    dimension: int
    runs: tuple[tuple[int, int], ...]
    shard_size: int
    shards: tuple[ShardEntry, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    def with_shard(self, place: int, entry: ShardEntry) -> "Manifest":
        """Return the manifest with a shard added at the end, or exchanged."""
        shards = list(self.shards)
        shards[place : place + 1] = [entry]
        return replace(self, shards=tuple(shards))

    def write(self, path: Path) -> None:
        """Write the manifest whole or not at all."""
        content = {"whence": "index", "format": FORMAT, **asdict(self)}
        write_whole(path, json.dumps(content, indent=1).encode())


def fields_of(provenance: Provenance) -> dict[str, Any]:
    """Return every field by name, settings under their own."""
    given = {
        "model": provenance.model,
        "data": provenance.data,
        "parameters": provenance.parameters,
        "code": provenance.code,
    }
    return given | {f"settings.{name}": value for name, value in provenance.settings.items()}


def shown(value: object) -> str:
    """Return a value in a few words."""
    if isinstance(value, tuple):
        return f"{len(value)} names ({', '.join(value[:3])}{', ...' if len(value) > 3 else ''})"  # noqa: PLR2004 - some
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."  # noqa: PLR2004 - a column


def as_runs(indices: list[int]) -> tuple[tuple[int, int], ...]:
    """Return ranges that hold these indices, in this order."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return tuple(runs)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        RecordError: If there is none, or it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["whence"] != "index" or content["format"] != FORMAT:
            msg = (
                f"{path} is no index of format {FORMAT}; it says {content['whence']!r}, format "
                f"{content['format']!r}. Build the index again."
            )
            raise RecordError(msg)
        return manifest_from(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RecordError):
            raise
        unfinished = path.with_name(OPEN).is_file() and path.name == DONE
        if isinstance(error, FileNotFoundError) and not unfinished:
            msg = (
                f"There is no index in {path.parent}: no {path.name}. Name the folder of an index, "
                f"or build it (again)."
            )
            raise RecordError(msg) from error
        cure = (
            "The build was interrupted: run it again, it will go on"
            if unfinished
            else ("Build the index again")
        )
        msg = f"{path} cannot be read as the manifest of an index. {cure}. ({error!r})"
        raise RecordError(msg) from error


def manifest_from(content: Mapping[str, Any]) -> Manifest:
    """Return the manifest that JSON holds."""
    made = content["provenance"]
    return Manifest(
        provenance=Provenance(
            model=made["model"],
            data=made["data"],
            parameters=tuple(made["parameters"]),
            settings=made["settings"],
            code=made["code"],
        ),
        dimension=content["dimension"],
        runs=pairs(content["runs"]),
        shard_size=content["shard_size"],
        shards=tuple(
            ShardEntry(
                file=shard["file"],
                runs=pairs(shard["runs"]),
                rows=shard["rows"],
                zeros=shard["zeros"],
                sha256=shard["sha256"],
                size=shard.get("size", 0),
            )
            for shard in content["shards"]
        ),
    )


def pairs(lists: list[list[int]]) -> tuple[tuple[int, int], ...]:
    """Return ranges from JSON."""
    return tuple((start, stop) for start, stop in lists)
