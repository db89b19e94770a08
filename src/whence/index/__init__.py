"""An index: the projected gradients of a training set on disk, built once, queried often.

Files are safetensors shards and a manifest in JSON; only this room knows their format.
"""

from whence.index.manifest import Manifest, Provenance, ShardEntry
from whence.index.shard import Rows
from whence.index.store import (
    MakeRows,
    Neighbours,
    begun,
    build,
    cleared,
    manifest_of,
    query,
    verify,
)

__all__ = [
    "MakeRows",
    "Manifest",
    "Neighbours",
    "Provenance",
    "Rows",
    "ShardEntry",
    "begun",
    "build",
    "cleared",
    "manifest_of",
    "query",
    "verify",
]
