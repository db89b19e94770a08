"""Records <-> files: JSON for people and programs, NPZ for arrays, CSV for tables.

A folder holds ``audit.json`` (or ``explanation.json``), ``arrays.npz`` and, for an audit,
``influences.csv``. The JSON names the schema version and the checksum of the arrays; nothing
is a pickle. Only this module knows the format.
"""

import hashlib
import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import TypeVar

import numpy as np

from whence.errors import OutputError, RecordError
from whence.results.check import check_audit, check_explanation
from whence.results.coding import Arrays, decode, encode
from whence.results.folder import write_whole
from whence.results.records import SCHEMA_VERSION, AuditRecord, ExplanationRecord
from whence.results.tables import audit_tables, influence_table

__all__ = [
    "influence_table",
    "load_audit",
    "load_explanation",
    "read_record",
    "save_audit",
    "save_explanation",
    "write_record",
]

_ARRAYS = "arrays.npz"

Record = TypeVar("Record")


def save_audit(record: AuditRecord, folder: str | Path) -> None:
    """Write ``audit.json``, ``arrays.npz`` and tables as CSV into a folder.

    The JSON comes last, so a folder that has one is complete.

    Args:
        record: What the audit found.
        folder: Made if missing; use :func:`~whence.results.folder.new_folder` to have all
            files of a result appear at once.

    Raises:
        RecordError: The record is inconsistent.
        OutputError: The folder holds a result already, or cannot be written.
    """
    check_audit(record)
    target = _prepare(folder)
    for name, table in audit_tables(record).items():
        write_whole(target / name, table.encode("utf-8", "backslashreplace"))
    write_record(record, target, "audit")


def load_audit(folder: str | Path) -> AuditRecord:
    """Read back what :func:`save_audit` wrote.

    Raises:
        RecordError: A file is missing or damaged, or has another schema version.
    """
    record = read_record(Path(folder), "audit", AuditRecord)
    check_audit(record)
    return record


def save_explanation(record: ExplanationRecord, folder: str | Path) -> None:
    """Write ``explanation.json`` and ``arrays.npz`` into a folder.

    Args:
        record: The explained images.
        folder: Made if missing.

    Raises:
        RecordError: The record is inconsistent.
        OutputError: The folder holds a result already, or cannot be written.
    """
    check_explanation(record)
    write_record(record, _prepare(folder), "explanation")


def load_explanation(folder: str | Path) -> ExplanationRecord:
    """Read back what :func:`save_explanation` wrote.

    Raises:
        RecordError: A file is missing or damaged, or has another schema version.
    """
    record = read_record(Path(folder), "explanation", ExplanationRecord)
    check_explanation(record)
    return record


def _prepare(folder: str | Path) -> Path:
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"A folder was needed at {target}, but it cannot be made: {error.strerror}."
        raise OutputError(msg) from error
    for name in ("audit.json", "explanation.json"):
        if (target / name).exists():
            msg = (
                f"{target} holds {name} already. Give another folder, or replace it with "
                f"new_folder(path, overwrite=True)."
            )
            raise OutputError(msg)
    return target


def write_record(record: object, target: Path, kind: str) -> None:
    """Write any record as ``KIND.json`` and ``arrays.npz`` into a folder that exists.

    Raises:
        OutputError: The folder cannot be written.
    """
    arrays: Arrays = {}
    content = encode(record, arrays)
    packed = _pack(arrays)
    document = {
        "whence": kind,
        "schema_version": SCHEMA_VERSION,
        "arrays": {"file": _ARRAYS, "sha256": hashlib.sha256(packed).hexdigest()},
        "record": content,
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(target / _ARRAYS, packed)
    # A file name that is no UTF-8 becomes a JSON escape, which reads back as it was.
    write_whole(target / f"{kind}.json", text.encode("utf-8", "backslashreplace"))


def read_record(folder: Path, kind: str, record: type[Record]) -> Record:
    """Read back what :func:`write_record` wrote.

    Raises:
        RecordError: A file is missing or damaged, or has another schema version.
    """
    path = folder / f"{kind}.json"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        msg = f"{path} does not exist. Give a folder that `whence` wrote with `--out`."
        raise RecordError(msg) from error
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} is damaged and cannot be read: {error}."
        raise RecordError(msg) from error
    if not isinstance(document, dict) or document.get("whence") != kind:
        msg = f"{path} needs to be written by whence, but is not its {kind}."
        raise RecordError(msg)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        msg = (
            f"{path} has schema version {version!r}, but this whence reads {SCHEMA_VERSION}. "
            f"Use the version of whence that wrote it, or run the command again."
        )
        raise RecordError(msg)
    arrays = _unpack(folder / _ARRAYS, document.get("arrays"))
    return decode(record, document.get("record"), arrays)


def _pack(arrays: Arrays) -> bytes:
    """Arrays as the bytes of an NPZ file; the same arrays always give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for key, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy")
            archive.writestr(entry, content.getvalue(), zipfile.ZIP_DEFLATED, 1)
    return packed.getvalue()


def _unpack(path: Path, entry: object) -> Arrays:
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    try:
        packed = path.read_bytes()
    except OSError as error:
        msg = (
            f"{path} cannot be read: {error.strerror}. It belongs to the JSON beside it; keep "
            f"the files of one result together."
        )
        raise RecordError(msg) from error
    if hashlib.sha256(packed).hexdigest() != expected:
        msg = (
            f"{path} is damaged, or does not belong to the JSON beside it: their checksums "
            f"differ. Keep the files of one result together, or run the command again."
        )
        raise RecordError(msg)
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path} is no archive of arrays: {error}."
        raise RecordError(msg) from error
