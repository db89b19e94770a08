"""Names for the tensors that pass between the rooms.

The axes: ``b`` images of a batch, ``c`` channels, ``h`` rows, ``w`` columns, ``k`` classes or
features.
"""

from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Attributions", "Images", "Labels", "Logits", "Scalars"]

Images = Float[Tensor, "b c h w"]
"""Preprocessed images, in the units that the model takes."""

Attributions = Float[Tensor, "b a h w"]
"""One value per pixel: ``a`` is the image's channels, or 1."""

Logits = Float[Tensor, "b k"]
"""The model's scores before the softmax."""

Labels = Int[Tensor, " b"]
"""One class index per image."""

Scalars = Float[Tensor, " b"]
"""One number per image."""
