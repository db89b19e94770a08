"""Frozen records of what was found, and their files. Needs no torch.

:func:`save_audit` and :func:`load_audit` (and the same for explanations) write and read
``audit.json`` + ``arrays.npz`` + tables as CSV; :func:`new_folder` makes a result folder
appear all at once or not at all. :func:`load_findings` and :func:`save_findings` read and write
what an audit proposes, for a person to decide.
"""

from whence.results.files import (
    influence_table,
    load_audit,
    load_explanation,
    save_audit,
    save_explanation,
)
from whence.results.findings import Audited, Finding, decide
from whence.results.findings_file import load_audited, load_findings, save_findings
from whence.results.fix import FixRecord, FixTraining, load_fix, save_fix
from whence.results.folder import new_folder
from whence.results.records import (
    SCHEMA_VERSION,
    AuditRecord,
    DatasetCard,
    ExplanationRecord,
    GroupRecord,
    HarmfulImage,
    InfluenceRecord,
    MapRecord,
    ModelCard,
    QueryRecord,
    RegionRecord,
    RemovalRecord,
    RunCard,
    SuspectLabel,
    TrainingImage,
)
from whence.results.transfer import (
    IntervalRecord,
    TransferMethod,
    TransferNetworkCard,
    TransferRecord,
    TransferRow,
    load_transfer,
    save_transfer,
)

__all__ = [
    "SCHEMA_VERSION",
    "AuditRecord",
    "Audited",
    "DatasetCard",
    "ExplanationRecord",
    "Finding",
    "FixRecord",
    "FixTraining",
    "GroupRecord",
    "HarmfulImage",
    "InfluenceRecord",
    "IntervalRecord",
    "MapRecord",
    "ModelCard",
    "QueryRecord",
    "RegionRecord",
    "RemovalRecord",
    "RunCard",
    "SuspectLabel",
    "TrainingImage",
    "TransferMethod",
    "TransferNetworkCard",
    "TransferRecord",
    "TransferRow",
    "decide",
    "influence_table",
    "load_audit",
    "load_audited",
    "load_explanation",
    "load_findings",
    "load_fix",
    "load_transfer",
    "new_folder",
    "save_audit",
    "save_explanation",
    "save_findings",
    "save_fix",
    "save_transfer",
]
