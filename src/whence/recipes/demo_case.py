"""The demonstration's network and data as files, for any command to take up."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from whence.adapters import LoadedModel
from whence.adapters.streamed import PictureData
from whence.adapters.tables import array_source
from whence.core import TensorData
from whence.recipes.digits import PlantedDigits
from whence.results.folder import write_whole

__all__ = ["CASE_FILES", "pictured", "save_case"]

CASE_FILES = ("network.py", "weights.safetensors", "data.npz")

NETWORK = '''\
"""The network of `whence demo`, trained: --model {folder}/network.py:network."""

from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from whence.recipes.digits import network as untrained


def network() -> nn.Module:
    """Return the network with its weights, its classes and how a picture becomes its input."""
    model = untrained()
    model.load_state_dict(load_file(Path(__file__).parent / "weights.safetensors"))
    model.classes = {classes}
    model.preprocessing = {preprocessing}
    return model
'''


def pictured(data: TensorData, digits: PlantedDigits) -> PictureData:
    """Return planted digits as pictures, as they are read back from ``data.npz``."""
    labels = () if data.labels is None else tuple(int(label) for label in data.labels)
    return PictureData(
        source=array_source(pixels(data), "digits"),
        preprocessing=digits.preprocessing,
        title=data.title,
        classes=data.classes,
        labels=labels,
        mapping="by number",
    )


def pixels(data: TensorData) -> NDArray[Any]:
    """Return the images as an array ``(n, h, w, c)`` in [0, 1]."""
    found: NDArray[Any] = data.images.permute(0, 2, 3, 1).contiguous().numpy()
    return found


def save_case(folder: Path, digits: PlantedDigits, model: LoadedModel) -> None:
    """Write ``network.py``, ``weights.safetensors`` and ``data.npz`` into a folder that exists.

    Raises:
        OutputError: The folder cannot be written.
    """
    state = {k: v.detach().contiguous() for k, v in model.module.state_dict().items()}
    write_whole(folder / "weights.safetensors", save(state))
    arrays: dict[str, Any] = {}
    for part, data in (("train", digits.train), ("test", digits.test)):
        arrays[f"x_{part}"] = pixels(data)
        arrays[f"y_{part}"] = np.asarray(data.labels)
    with (folder / "data.npz").open("wb") as file:
        np.savez_compressed(file, **arrays)
    side = digits.train.images.shape[-1]
    how = {"size": side, "interpolation": "nearest", "mean": 0.0, "std": 1.0}
    text = NETWORK.format(folder=folder.name, classes=model.classes, preprocessing=how)
    write_whole(folder / "network.py", text.encode())
