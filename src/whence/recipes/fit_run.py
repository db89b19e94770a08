"""The folder of a training: what it was started with, and whether it may be gone on with."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

from torch import Tensor, nn

from whence.adapters.lightning import is_first_process
from whence.adapters.training import TrainingSettings
from whence.core import ImageData, fingerprint_model, fingerprint_tensor
from whence.errors import MismatchError, OutputError
from whence.priors import Prior
from whence.results.folder import write_whole

__all__ = ["CERTIFIED", "RUNS", "Manifest", "prepared"]

RUNS = "runs"
MANIFEST = "settings.json"
CERTIFIED = "x-dnn.safetensors"
OURS = (
    MANIFEST,
    RUNS,
    "fit.json",
    "report.md",
    "weights.safetensors",
    CERTIFIED,
    "run.toml",
    "fix.json",
    "arrays.npz",
)


@final
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that decides what comes of a training.

    Args:
        values: By name, as plain values.
    """

    values: dict[str, Any]

    @staticmethod
    def of(
        model: nn.Module,
        train: ImageData,
        validation: ImageData,
        test: ImageData | None,
        settings: TrainingSettings,
        prior: Prior | None,
        weights: Sequence[float],
        *,
        convert: Sequence[object],
    ) -> "Manifest":
        """Return the manifest of a training."""
        values = {
            "whence": "fit-settings",
            "model": fingerprint_model(model, str(model)),
            "train": train.fingerprint(),
            "validation": validation.fingerprint(),
            "test": None if test is None else test.fingerprint(),
            "convert": [str(one) for one in convert],
            "prior": None if prior is None else f"{prior.method} {penalty_of(prior.penalty)}",
            "target": None if prior is None else getattr(prior.target, "__name__", ""),
            "weights": sorted(weights) if weights or prior is None else [prior.weight],
            **{f"settings.{key}": value for key, value in asdict(settings).items()},
        }
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return Manifest(values=plain)


def penalty_of(penalty: Any) -> str:  # noqa: ANN401 - any penalty
    """Return a penalty as text, tensors by their fingerprints."""
    held = vars(penalty) if hasattr(penalty, "__dict__") else {}
    words = [
        f"{key}={fingerprint_tensor(value) if isinstance(value, Tensor) else value}"
        for key, value in held.items()
    ]
    return f"{type(penalty).__name__}({', '.join(words)})"


def prepared(folder: Path, manifest: Manifest, *, resume: bool, overwrite: bool) -> None:
    """Make the folder ready: empty, or with the runs of the very same training.

    Raises:
        MismatchError: What is there has another manifest; the fields that differ are named.
        OutputError: Something is there, or the place cannot be written.
    """
    if not is_first_process():
        return
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        msg = f"A folder was needed, but {folder} is a file. Give another name."
        raise OutputError(msg)
    foreign = [name for name in found if name not in OURS]
    if foreign or (found and MANIFEST not in found):
        msg = (
            f"A new or empty folder was needed, but {folder} holds {(foreign or found)[0]!r}, "
            f"which no training wrote. Give another folder."
        )
        raise OutputError(msg)
    if found and resume:
        check_same(folder / MANIFEST, manifest)
        return
    if found and not overwrite:
        msg = (
            f"{folder} holds a training already. Go on with it (--resume, resume=True), replace "
            f"it (--overwrite, overwrite=True), or give another folder."
        )
        raise OutputError(msg)
    for name in found:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder} cannot be written: {error.strerror or error}. Give a place that can."
        raise OutputError(msg) from error
    write_whole(folder / MANIFEST, json.dumps(manifest.values, indent=2).encode())


def check_same(path: Path, manifest: Manifest) -> None:
    """Refuse to go on with another training."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}), so the training cannot go on. Start anew."
        raise MismatchError(msg) from error
    keys = [
        key for key in {**found, **manifest.values} if found.get(key) != manifest.values.get(key)
    ]
    if keys:
        told = "; ".join(
            f"{key.removeprefix('settings.')} was {short(found.get(key))} and is "
            f"{short(manifest.values.get(key))}"
            for key in keys
        )
        msg = (
            f"The training in {path.parent} was started otherwise: {told}. Give the same again, or "
            f"another folder."
        )
        raise MismatchError(msg)


def short(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Return a value as a short text."""
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."  # noqa: PLR2004 - of a line
