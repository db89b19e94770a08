"""Frozen records of what was found, and their files. Needs no torch.

:func:`save_audit` and :func:`load_audit` (and the same for explanations) write and read
``audit.json`` + ``arrays.npz`` + tables as CSV; :func:`new_folder` makes a result folder
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
    "DatasetCard",
    "ExplanationRecord",
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
    "influence_table",
    "load_audit",
    "load_explanation",
    "load_transfer",
    "new_folder",
    "save_audit",
    "save_explanation",
    "save_transfer",
]
