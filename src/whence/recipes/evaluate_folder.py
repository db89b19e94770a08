"""The folder of an evaluation: cells that are kept as they are done, and what it was started as."""

import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from whence.errors import MismatchError, OutputError
from whence.results.folder import write_whole

__all__ = ["CELLS", "MANIFEST", "Cells", "prepared"]

MANIFEST = "settings.json"
CELLS = "cells"
OURS = (
    MANIFEST,
    CELLS,
    "evaluation.json",
    "arrays.npz",
    "values.csv",
    "table.csv",
    "comparisons.csv",
    "table.md",
    "report.html",
    "evaluate.toml",
    "run.toml",
)


class Cells:
    """Finished cells by name: in memory, and each as a file that is whole or not there.

    Args:
        folder: Where; None keeps them in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.held: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, NDArray[Any]] = {}
        for path in sorted(folder.glob("*.json")) if folder is not None else ():
            try:
                found = json.loads(path.read_bytes())
            except (OSError, ValueError):
                continue  # damaged: it is done again
            if isinstance(found, dict):
                self.held[path.stem] = found

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a cell, or None if it is still to be done."""
        return self.held.get(name)

    def put(self, name: str, content: dict[str, Any]) -> None:
        """Keep a cell.

        Raises:
            OutputError: It cannot be written.
        """
        text = json.dumps(content, allow_nan=False)
        if self.folder is not None:
            write_whole(self.folder / f"{name}.json", text.encode())
        self.held[name] = json.loads(text)

    def array(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return an array that is kept beside the cells, made if it is not there, or damaged.

        Raises:
            OutputError: It cannot be written.
        """
        if self.folder is None:
            if name not in self.arrays:
                self.arrays[name] = make()
            return self.arrays[name]
        path = self.folder / f"{name}.npy"
        try:
            found: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            found = make()
            content = io.BytesIO()
            np.save(content, found, allow_pickle=False)
            write_whole(path, content.getvalue())
        return found

    def weights(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return weights that are kept beside the cells, made if they are not there, or damaged.

        Raises:
            OutputError: They cannot be written.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{name}.safetensors"
        try:
            return load(path.read_bytes())
        except (OSError, SafetensorError):
            made = {key: value.detach().cpu().contiguous() for key, value in make().items()}
            write_whole(path, save(made))
            return made


def prepared(folder: Path, values: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Cells:
    """Make a folder ready: empty, or with the cells of the very same evaluation.

    Args:
        folder: Where.
        values: Everything that decides what comes of the evaluation, as plain values.
        resume: Go on with what is there.
        overwrite: Replace what is there.

    Raises:
        MismatchError: What is there was started otherwise; what differs is named.
        OutputError: Something is there, or the place cannot be written.
    """
    plain = json.loads(json.dumps(dict(values)))
    if folder.exists() and not folder.is_dir():
        msg = f"A folder was needed, but {folder} is a file. Give another name."
        raise OutputError(msg)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in found if ".part-" not in name]
    foreign = [name for name in found if name not in OURS]
    if foreign or (found and MANIFEST not in found):
        msg = (
            f"A new or empty folder was needed, but {folder} holds {(foreign or found)[0]!r}, "
            f"which no evaluation wrote. Give another folder."
        )
        raise OutputError(msg)
    if found and resume:
        check_same(folder / MANIFEST, plain)
    elif found and not overwrite:
        msg = (
            f"{folder} holds an evaluation already. Go on with it (--resume, resume=True), replace "
            f"it (--overwrite, overwrite=True), or give another folder."
        )
        raise OutputError(msg)
    else:
        for name in found:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        msg = f"{folder} cannot be written: {error.strerror or error}. Give a place that can."
        raise OutputError(msg) from error
    write_whole(folder / MANIFEST, json.dumps(plain, indent=2).encode())
    return Cells(folder / CELLS)


def check_same(path: Path, values: Mapping[str, Any]) -> None:
    """Refuse to go on with another evaluation."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"{path} cannot be read ({error}), so the evaluation cannot go on. Start anew."
        raise MismatchError(msg) from error
    keys = [key for key in {**found, **values} if found.get(key) != values.get(key)]
    if keys:
        told = "; ".join(
            f"{k} was {short(found.get(k))} and is {short(values.get(k))}" for k in keys
        )
        msg = (
            f"The evaluation in {path.parent} was started otherwise: {told}. Give the same again, "
            f"or another folder."
        )
        raise MismatchError(msg)


def short(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Return a value as a short text."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:40]}..."  # noqa: PLR2004 - of a line
