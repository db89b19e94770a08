"""Why a model could not be exported: the module, the line, and what to do."""

import linecache
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

import torch
from torch import nn

__all__ = ["WITHOUT_GRAPH", "why_not_exported"]

OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent))
"""Where frames are the exporter's or whence's, not the model's."""

WITHOUT_GRAPH = (
    "Methods that need no graph (gradient, input-x-gradient, smoothgrad, integrated-gradients, "
    "occlusion) work on the model itself."
)

MOST_WORDS = 400
"""How much is quoted of what the exporter says."""

CURES = (
    (
        ("data-dependent", "data dependent"),
        "its control flow depends on pixel values",
        "Replace the branch by arithmetic, such as torch.where.",
    ),
    (
        ("constraints violated", "specialized it to be a constant", "marked as dynamic"),
        "its code fixes the batch size",
        "Write images.shape[0] for it (len(images) does; images.shape[0] does not).",
    ),
    (
        (".numpy()", "from_numpy", "tolist"),
        "it leaves torch",
        "Replace NumPy by torch operations, which a gradient can pass too.",
    ),
)
"""What the exporter's words mean, and what to do about it."""


def why_not_exported(model: nn.Module, error: BaseException) -> str:
    """Return why a model could not be exported, where in its code, and what to do.

    Args:
        model: The model that the exporter ran, for the paths of its modules.
        error: What the exporter raised.
    """
    said = " ".join(line.strip() for line in str(error).strip().split("\n")[:3])
    meanings = [
        (meaning, cure)
        for signs, meaning, cure in CURES
        if any(sign in f"{type(error).__name__} {error}".lower() for sign in signs)
    ]
    meaning, cure = meanings[0] if meanings else (said[:MOST_WORDS], "")
    quoted = f"\nThe exporter says: {said[:MOST_WORDS]}" if meanings else ""
    return (
        f"The model {type(model).__name__} could not be read as a graph: {meaning}"
        f"{place_of(model, error)}. {cure} {WITHOUT_GRAPH}{quoted}"
    ).replace("  ", " ")


def place_of(model: nn.Module, error: BaseException) -> str:
    """Return the module and the line of the model's code in which an error arose, if known."""
    frames = list(frames_of(error))
    if not frames:
        return ""
    frame, line = frames[-1]
    file = frame.f_code.co_filename
    code = linecache.getline(file, line).strip()
    module = next((m for m in map(module_of, reversed([f for f, _ in frames])) if m), None)
    path = next((name for name, part in model.named_modules() if part is module), "")
    kind = "" if module is None else type(module).__name__
    where = f"{path!r} ({kind}), " if path else f"{kind}, " if kind else ""
    return f", in {where}{Path(file).name} line {line}: {code}"


def frames_of(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames of the model's own code and their lines, outermost first."""
    for frame, line in walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if not file.startswith((*OURS, "<")):
            yield frame, line


def module_of(frame: FrameType) -> nn.Module | None:
    """Return the module whose method a frame is in, if it is in one."""
    owner: Any = frame.f_locals.get("self")
    return owner if isinstance(owner, nn.Module) else None
