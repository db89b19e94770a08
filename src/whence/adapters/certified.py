"""X-DNNs that `whence convert` wrote: weights, graph, classes and preprocessing in one file."""

from pathlib import Path

from torch import nn

from whence.adapters.preprocessing import SETTINGS, Preprocessing, declared_preprocessing
from whence.convert import load_x_dnn
from whence.errors import SettingError

__all__ = ["open_certified"]


def open_certified(
    path: Path, weights: Path | None
) -> tuple[nn.Module, Preprocessing, tuple[str, ...] | None]:
    """Return the module in a file, its preprocessing and the names of its outputs.

    Args:
        path: What ``whence convert`` or :func:`whence.convert.save_x_dnn` wrote.
        weights: Must not be given: the file has them.

    Raises:
        RecordError: There is no such file, or it is damaged, or was changed.
        SettingError: Other weights are given, or the network takes a homogeneous coordinate.
    """
    if weights is not None:
        msg = f"{path} holds its own weights, so {weights} cannot be used too. Give one of them."
        raise SettingError(msg)
    found = load_x_dnn(path)
    channels, rows, columns = found.certificate["image"]["shape"]
    stated = {key: value for key, value in found.preprocessing.items() if key in SETTINGS}
    settings = {"size": (rows, columns), "channels": channels} | stated
    if settings["channels"] != channels:
        msg = (
            f"{path} takes a homogeneous coordinate as an extra channel, which no picture has. "
            f"Load it with whence.convert.load_x_dnn and give it with_coordinate(images)."
        )
        raise SettingError(msg)
    how = declared_preprocessing(settings, f"the certificate in {path.name}")
    return found.module, how, found.classes or None
