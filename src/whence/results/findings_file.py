"""Findings <-> files: ``findings.toml`` for people to edit, ``findings.npz`` for pixel masks."""

import hashlib
import io
import json
import re
import textwrap
import tomllib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from whence.errors import RecordError
from whence.results.findings import Audited, Finding, check_findings
from whence.results.folder import write_whole

__all__ = ["FINDINGS", "MASKS", "keep_decisions", "load_audited", "load_findings", "save_findings"]

FINDINGS = "findings.toml"
MASKS = "findings.npz"
BEFORE = "findings-before.toml"
DECIDED = re.compile(r"""^\s*verdict\s*=\s*["'](accepted|rejected)""", re.MULTILINE)
VERSION = 1

HEAD = """\
# What the audit proposes to put right. Decide about each finding, then run
#
#     whence fix THIS_FOLDER --model ... --weights ... --train ... --out fixed/
#
#   verdict    "open" for now; write "accepted" or "rejected".
#   action     what is done about an accepted one:
#                "mask"     attributions are kept out of the region,
#                "drop"     its images are left out of the training,
#                "relabel"  its images get the class in `suggested`.
#   box        the region as [left, top, right, bottom], in pixels of the model's input, right and
#              bottom exclusive; it holds for all training images. A region with pixel masks has
#              them in findings.npz: write `masks = false` and a box to use a box instead.
#   suggested  the class that the images should have, by its number.
#   images     places in the training set; take out those that do not belong.
#   note       your own words.
#
# A region of your own: add [[finding]] with an id, kind = "region", a verdict and a box.
"""

_KEYS = tuple(entry.name for entry in fields(Finding))


def save_findings(
    folder: str | Path, findings: Sequence[Finding], audited: Audited | None = None
) -> None:
    """Write ``findings.toml`` and, if one has masks, ``findings.npz``.

    Each file is replaced at once or not at all; masks that are there already are not written
    again. Read the findings anew before you change some, since people edit the file, too.

    Args:
        folder: The audit's folder, which exists.
        findings: All findings of the audit.
        audited: What they speak of; as in the file that is there already, if None.

    Raises:
        RecordError: A finding is impossible, or there is no file yet and no ``audited``.
        OutputError: The folder cannot be written.
    """
    target = Path(folder)
    known = load_audited(target) if audited is None else audited
    check_findings(findings, known)
    digest = masks_digest(findings)
    if digest and digest != digest_of(target / MASKS):
        write_whole(target / MASKS, packed(findings))
    write_whole(target / FINDINGS, text_of(findings, known).encode("utf-8", "replace"))


def load_findings(folder: str | Path) -> tuple[Finding, ...]:
    """Read the findings of an audit, as a person may have edited them.

    Raises:
        RecordError: The file is missing, is no TOML, has an unknown key, or a finding in it is
            impossible; the finding is named.
    """
    target = Path(folder)
    document = document_of(target)
    audited = audited_of(document, target / FINDINGS)
    rows = document.get("finding", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        msg = f"{target / FINDINGS} needs each finding under [[finding]], in double brackets."
        raise RecordError(msg)
    wanted = any(row.get("masks") is True for row in rows)
    masks = masks_of(target / MASKS) if wanted else {}
    try:
        found = tuple(finding_of(row, masks, at) for at, row in enumerate(rows, start=1))
        check_findings(found, audited)
    except RecordError as error:
        msg = f"{target / FINDINGS}: {error}"
        raise RecordError(msg) from error
    return found


def load_audited(folder: str | Path) -> Audited:
    """Read what the findings of a folder speak of.

    Raises:
        RecordError: The file is missing, or is no TOML of findings.
    """
    target = Path(folder)
    return audited_of(document_of(target), target / FINDINGS)


def keep_decisions(old: Path, new: Path) -> None:
    """Keep decided findings of a folder that will be replaced, as ``findings-before.toml``."""
    with suppress(OSError, UnicodeDecodeError):
        text = (old / FINDINGS).read_text("utf-8")
        if DECIDED.search(text):
            write_whole(new / BEFORE, text.encode())


def document_of(target: Path) -> dict[str, Any]:
    """Return the file as plain values."""
    path = target / FINDINGS
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        msg = (
            f"{target} has no {FINDINGS}, which `whence audit` writes. Give the folder of an "
            f"audit; one of an earlier version has to be run again."
        )
        raise RecordError(msg) from error
    except (OSError, UnicodeDecodeError) as error:
        msg = f"{path} cannot be read: {error}."
        raise RecordError(msg) from error
    except tomllib.TOMLDecodeError as error:
        msg = f'{path} is no valid TOML: {error}. Words need quotes: verdict = "accepted".'
        raise RecordError(msg) from error
    if document.get("whence") != "findings" or document.get("version") != VERSION:
        msg = (
            f'{path} needs whence = "findings" and version = {VERSION} at its top, but has '
            f"{document.get('whence')!r} and {document.get('version')!r}."
        )
        raise RecordError(msg)
    unknown = sorted(set(document) - {"whence", "version", "audited", "finding"})
    if unknown:
        msg = f"{path} has {unknown[0]!r}, which there is not. Findings stand under [[finding]]."
        raise RecordError(msg)
    return document


def audited_of(document: Mapping[str, Any], path: Path) -> Audited:
    """Return what the findings speak of."""
    row = document.get("audited")
    kinds = {"images": int, "classes": list, "height": int, "width": int, "train": str}
    kinds["model"] = str
    if (
        not isinstance(row, dict)
        or set(row) != set(kinds)
        or not all(isinstance(row[name], kind) for name, kind in kinds.items())
    ):
        msg = f"{path} needs the table [audited] as `whence audit` wrote it; leave it as it is."
        raise RecordError(msg)
    return Audited(**{**row, "classes": tuple(str(name) for name in row["classes"])})


def finding_of(
    row: Mapping[str, Any],
    masks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    number: int,
) -> Finding:
    """Return one finding of the file."""
    name = row.get("id", f"Finding number {number}")
    unknown = sorted(set(row) - set(_KEYS))
    if unknown:
        msg = f"{name} has {unknown[0]!r}, which there is not. There are: {', '.join(_KEYS)}."
        raise RecordError(msg)
    content = {key: plain(name, key, value) for key, value in row.items() if key != "masks"}
    if "id" not in content:
        msg = f'{name} has no id. Give it one, such as id = "shortcut-2".'
        raise RecordError(msg)
    pixels = None
    if row.get("masks", False) is not False:
        pixels = own_masks(str(name), row, masks)
    return Finding(**{"kind": "region", **content}, masks=pixels)


def plain(name: str, key: str, value: Any) -> Any:  # noqa: ANN401 - any TOML
    """Return a value of the type that a finding has, or refuse it."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "label": int,
        "suggested": int,
        "images": list,
        "box": list,
        "evidence": dict,
    }
    kind = kinds.get(key, str)
    numbers = key in ("images", "box")
    bad = not isinstance(value, kind) or isinstance(value, bool)
    if bad or (numbers and not all(type(one) is int for one in value)):
        wanted = {int: "a number", list: "a list of numbers", dict: "a table", str: "text"}
        msg = f"{name}: {key} needs {wanted[kind]}, but is {value!r}."  # type: ignore[index]
        raise RecordError(msg)
    if key == "box" and len(value) != 4:  # noqa: PLR2004 - left, top, right, bottom
        msg = f"{name}: box needs four numbers, [left, top, right, bottom], but is {value!r}."
        raise RecordError(msg)
    return tuple(value) if numbers else value


def own_masks(
    name: str, row: Mapping[str, Any], masks: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the masks of the images that a finding still has."""
    if name not in masks:
        listed = ", ".join(masks) or "none"
        msg = (
            f"{name} has no masks in {MASKS}; masks are there for: {listed}. Leave ids as they "
            f"are, or write masks = false and a box."
        )
        raise RecordError(msg)
    images, pixels = masks[name]
    rows = {int(place): at for at, place in enumerate(images)}
    foreign = [place for place in row.get("images", ()) if place not in rows]
    if foreign:
        msg = (
            f"{name} names training image {foreign[0]}, for which it has no mask. Images can be "
            f"taken out, not added."
        )
        raise RecordError(msg)
    return pixels[[rows[place] for place in row.get("images", ())]]


def masks_of(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return by id the images that have masks, and the masks."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = [key.removesuffix("/masks") for key in archive.files if key.endswith("/masks")]
            return {
                name: (
                    archive[f"{name}/images"],
                    unpacked(archive[f"{name}/masks"], archive[f"{name}/shape"]),
                )
                for name in names
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        msg = f"{path} cannot be read ({error}). Keep it beside {FINDINGS}, as the audit wrote it."
        raise RecordError(msg) from error


def unpacked(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Return masks from eight pixels to a byte."""
    size = tuple(int(n) for n in shape)
    flat = np.unpackbits(bits, count=int(np.prod(size)))
    masks: np.ndarray = flat.reshape(size) * np.uint8(255)
    return masks


def packed(findings: Sequence[Finding]) -> bytes:
    """Return the masks as the bytes of an NPZ file, eight pixels to a byte."""
    arrays: dict[str, Any] = {"digest": np.array(masks_digest(findings))}
    for one in findings:
        if one.masks is not None:
            arrays[f"{one.id}/images"] = np.array(one.images, dtype=np.int64)
            arrays[f"{one.id}/shape"] = np.array(one.masks.shape, dtype=np.int64)
            arrays[f"{one.id}/masks"] = np.packbits(one.masks > 0)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def masks_digest(findings: Sequence[Finding]) -> str:
    """Return the SHA-256 of all masks and what they belong to; empty if there are none."""
    digest, some = hashlib.sha256(), False
    for one in findings:
        if one.masks is not None:
            some = True
            digest.update(f"{one.id}|{one.images}|{one.masks.shape}|".encode())
            digest.update(np.packbits(one.masks > 0).data)
    return digest.hexdigest() if some else ""


def digest_of(path: Path) -> str:
    """Return the digest of the masks in a file; empty if there is none that can be read."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return str(archive["digest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return ""


def text_of(findings: Sequence[Finding], audited: Audited) -> str:
    """Return findings as TOML, with how to edit it."""
    lines = [HEAD, 'whence = "findings"', f"version = {VERSION}", "", "[audited]  # leave this"]
    lines += [f"{key} = {toml(value)}" for key, value in asdict(audited).items()]
    for one in findings:
        lines += ["", "[[finding]]", f"id = {toml(one.id)}", f"summary = {toml(one.summary)}"]
        lines += [f"verdict = {toml(one.verdict)}", f"action = {toml(one.action)}"]
        lines += [f"note = {toml(one.note)}", f"kind = {toml(one.kind)}"]
        for key in ("label", "suggested"):
            value = getattr(one, key)
            if value is not None:
                lines.append(f"{key} = {value}  # {comment(audited.classes[value])}")
        if one.box is not None:
            lines.append(f"box = {toml(one.box)}")
        if one.masks is not None:
            lines.append(f"masks = true  # in {MASKS}")
        lines.append(f"images = {wrapped(one.images)}")
        lines += [f"evidence.{toml(key)} = {toml(value)}" for key, value in one.evidence.items()]
    return "\n".join(lines) + "\n"


def toml(value: object) -> str:
    """Return a plain value as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(float(value)))
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml(one) for one in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def wrapped(places: Sequence[int]) -> str:
    """Return places as a list of several lines, if there are many."""
    text = ", ".join(str(place) for place in places)
    if len(text) <= 80:  # noqa: PLR2004 - of a line
        return f"[{text}]"
    return "[\n" + textwrap.fill(text, 96, initial_indent="  ", subsequent_indent="  ") + "\n]"


def comment(text: str) -> str:
    """Return a text that may stand in a comment, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
