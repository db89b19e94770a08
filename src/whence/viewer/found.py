"""What was found on request, and kept."""

from dataclasses import dataclass
from typing import final

from whence.results import AuditRecord, ExplanationRecord
from whence.viewer.asking import Question

__all__ = ["Found"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A result: what was asked, the maps, and the training images if these were asked for."""

    id: str
    question: Question
    maps: tuple[ExplanationRecord, ...]
    trace: AuditRecord | None = None
