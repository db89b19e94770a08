"""Frozen records of what was found, and their files. Needs no torch.

:func:`save_audit` and :func:`load_audit` (and the same for explanations) write and read
``audit.json`` + ``arrays.npz`` + ``influences.csv``; :func:`new_folder` makes a result folder
appear all at once or not at all.
"""

from whence.results.files import (
    influence_table,
    load_audit,
    load_explanation,
    save_audit,
    save_explanation,
)
from whence.results.folder import new_folder
from whence.results.records import (
    SCHEMA_VERSION,
    AuditRecord,
    DatasetCard,
    ExplanationRecord,
    InfluenceRecord,
    MapRecord,
    ModelCard,
    QueryRecord,
    RegionRecord,
    RunCard,
    SuspectLabel,
    TrainingImage,
)

__all__ = [
    "SCHEMA_VERSION",
    "AuditRecord",
    "DatasetCard",
    "ExplanationRecord",
    "InfluenceRecord",
    "MapRecord",
    "ModelCard",
    "QueryRecord",
    "RegionRecord",
    "RunCard",
    "SuspectLabel",
    "TrainingImage",
    "influence_table",
    "load_audit",
    "load_explanation",
    "new_folder",
    "save_audit",
    "save_explanation",
]
