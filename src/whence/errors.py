"""Every error that whence raises on purpose.

Each derives from :class:`WhenceError` and from the builtin that it refines, so that
``except ValueError`` keeps working for those who do not know whence::

    WhenceError
    ├── ShapeError (ValueError)          a tensor has another shape than was needed
    ├── TargetError (ValueError)         a class, label or target that the model does not have
    ├── SettingError (ValueError)        an option outside its range, or options that contradict
    ├── ModeError (RuntimeError)         the model is in train mode
    ├── NumericsError (ArithmeticError)  NaN or infinity in weights, activations or attributions
    ├── ReadError (RuntimeError)         the model could not be read as a graph
    ├── UnsupportedOperation (TypeError) an operation of the graph that a rule cannot treat
    ├── WeightsError (ValueError)        a weight file that is missing, unreadable or does not fit
    ├── ImageError (ValueError)          an image file that cannot be used
    ├── DataError (ValueError)           a dataset that is missing, empty or inconsistent
    ├── OutputError (OSError)            a place that cannot be written, or exists already
    ├── RecordError (ValueError)         a saved result that cannot be read back
    ├── MismatchError (ValueError)       two things that must agree (fingerprints) do not
    └── MissingExtra (ImportError)       an optional dependency is not installed
"""

from typing import final

__all__ = [
    "DataError",
    "ImageError",
    "MismatchError",
    "MissingExtra",
    "ModeError",
    "NumericsError",
    "OutputError",
    "ReadError",
    "RecordError",
    "SettingError",
    "ShapeError",
    "TargetError",
    "UnsupportedOperation",
    "WeightsError",
    "WhenceError",
]


class WhenceError(Exception):
    """The root of whence's errors."""


@final
class ShapeError(WhenceError, ValueError):
    """A tensor has another shape than was needed."""


@final
class TargetError(WhenceError, ValueError):
    """A class, label or target that the model does not have."""


@final
class SettingError(WhenceError, ValueError):
    """An option outside its range, or options that contradict each other."""


@final
class ModeError(WhenceError, RuntimeError):
    """The model is in train mode, where predictions depend on the batch."""


@final
class NumericsError(WhenceError, ArithmeticError):
    """NaN or infinity where a finite number was needed."""


@final
class ReadError(WhenceError, RuntimeError):
    """The model could not be read as a graph of operations."""


@final
class UnsupportedOperation(WhenceError, TypeError):
    """An operation of the graph that a rule cannot treat."""


@final
class WeightsError(WhenceError, ValueError):
    """A weight file is missing, unreadable, or does not fit the model."""


@final
class ImageError(WhenceError, ValueError):
    """An image file cannot be used."""


@final
class DataError(WhenceError, ValueError):
    """A dataset is missing, empty or inconsistent."""


@final
class OutputError(WhenceError, OSError):
    """A place that cannot be written, or that holds something already."""


@final
class RecordError(WhenceError, ValueError):
    """A saved result that cannot be read back."""


@final
class MismatchError(WhenceError, ValueError):
    """Two things that must agree do not."""


@final
class MissingExtra(WhenceError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed. "
            f"Install it with:  pip install 'whence[{extra}]'"
        )
        self.extra = extra
