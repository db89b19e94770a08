"""Findings of an audit: what was proposed, and a person's verdict on each."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from whence.display import picture_uri
from whence.errors import RecordError
from whence.report import mask_uri
from whence.report.words import setting
from whence.results import AuditRecord, load_audit
from whence.results.findings import ACTIONS, VERDICTS, Audited, Box, Finding
from whence.results.findings_file import load_audited, load_findings, save_findings
from whence.viewer.asking import read_form, text
from whence.viewer.kinds import kind_of
from whence.viewer.sheets import Sheets

__all__ = ["FindingsDesk"]

EXAMPLES = 8
"""Training images shown with a finding."""

SIDE = 192


@final
@dataclass(frozen=True, kw_only=True)
class Example:
    """A training image of a finding, with its mask or box."""

    name: str
    picture: str
    mask: str
    width: int
    height: int


@final
@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A finding, ready to be shown."""

    finding: Finding
    label: str
    suggested: str
    evidence: tuple[tuple[str, str], ...]
    examples: tuple[Example, ...]
    more: int


@final
class FindingsDesk:
    """Shows the findings of an audit and writes verdicts into its ``findings.toml``."""

    def __init__(self, folder: Path, sheets: Sheets) -> None:
        self.folder = folder
        self.sheets = sheets

    @property
    def routes(self) -> list[Route]:
        """The addresses of the findings."""
        return [
            Route("/findings", self.show),
            Route("/findings/{id}", self.decide, methods=["POST"]),
        ]

    def show(self, request: Request) -> Response:
        """Show all findings."""
        del request
        self.check()
        findings, audited = load_findings(self.folder), load_audited(self.folder)
        record = load_audit(self.folder)
        values = {
            "sheets": [sheet_of(one, audited, record) for one in findings],
            "audited": audited,
            "actions": ACTIONS,
            "verdicts": VERDICTS,
            "counts": [(word, sum(f.verdict == word for f in findings)) for word in VERDICTS],
            "folder": self.folder.name,
        }
        return self.sheets.page("findings.html.j2", "/findings", values)

    async def decide(self, request: Request) -> Response:
        """Write a person's verdict on one finding."""
        self.check()
        name = request.path_params["id"]
        form = await read_form(request)
        findings = load_findings(self.folder)
        if name not in {one.id for one in findings}:
            raise HTTPException(404, f"There is no finding {name!r} any more.")
        changed = tuple(edited(one, form) if one.id == name else one for one in findings)
        save_findings(self.folder, changed)
        return RedirectResponse(f"/findings#{name}", status_code=303)

    def check(self) -> None:
        """Refuse what is no audit."""
        if kind_of(self.folder).name != "audit":
            raise HTTPException(404, "Only an audit has findings.")


def edited(finding: Finding, form: FormData) -> Finding:
    """Return a finding as a form wants it.

    Raises:
        RecordError: A box or a class that is none.
    """
    box = read_box(finding, text(form, "box"))
    masks = None if box is not None else finding.masks
    suggested = text(form, "suggested")
    if suggested and not suggested.isdecimal():
        msg = f"The suggested class of {finding.id} is given by its number; got {suggested!r}."
        raise RecordError(msg)
    return replace(
        finding,
        verdict=text(form, "verdict") or finding.verdict,
        action=text(form, "action") or finding.action,
        box=box,
        masks=masks,
        suggested=int(suggested) if suggested else finding.suggested,
        note=text(form, "note") if "note" in form else finding.note,
    )


def read_box(finding: Finding, line: str) -> Box | None:
    """Return the box that a form gives; the finding's own where it gives none."""
    if not line:
        return finding.box
    parts = line.replace(",", " ").split()
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):  # noqa: PLR2004 - l t r b
        msg = (
            f"The box of {finding.id} needs four whole numbers, left, top, right, bottom, such as "
            f"0, 0, 6, 6; got {line!r}."
        )
        raise RecordError(msg)
    left, top, right, bottom = (int(part) for part in parts)
    return left, top, right, bottom


def sheet_of(finding: Finding, audited: Audited, record: AuditRecord) -> Sheet:
    """Return a finding as it is shown."""
    shown: list[Example] = []
    for at, place in enumerate(finding.images):
        image = record.training_images.get(place)
        if image is None or len(shown) == EXAMPLES:
            continue
        height, width = image.picture.shape[:2]
        mask = "" if finding.masks is None else mask_uri(finding.masks[at])
        shown.append(
            Example(
                name=image.name,
                picture=picture_uri(image.picture, SIDE),
                mask=mask,
                width=width,
                height=height,
            )
        )

    def named(label: int | None) -> str:
        return "" if label is None else audited.classes[label]

    evidence = tuple(
        (name.replace("_", " "), told(value)) for name, value in finding.evidence.items()
    )
    return Sheet(
        finding=finding,
        label=named(finding.label),
        suggested=named(finding.suggested),
        evidence=evidence,
        examples=tuple(shown),
        more=len(finding.images) - len(shown),
    )


def told(value: object) -> str:
    """Return what speaks for a finding as text."""
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.3g}"
    return setting(value)
