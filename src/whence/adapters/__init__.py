"""The world outside: models and data of other libraries, and pictures from files.

Everything comes in by two functions, :func:`load_model` and :func:`load_data`. Each optional
library has one door here, which opens when it is first needed.
"""

from whence.adapters.data import load_data
from whence.adapters.images import load_image
from whence.adapters.models import LoadedModel, load_model
from whence.adapters.preprocessing import Preprocessing, declared_preprocessing

__all__ = [
    "LoadedModel",
    "Preprocessing",
    "declared_preprocessing",
    "load_data",
    "load_image",
    "load_model",
]
