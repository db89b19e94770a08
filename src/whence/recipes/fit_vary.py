"""Varied images with masks: both are moved and mirrored together."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from whence.adapters.training import TrainingSettings, seed_of, varied
from whence.core import Images
from whence.priors import Prior

__all__ = ["masked", "varied_together"]

KIND = 3
"""What the draws are for, among the purposes of a seed."""


def masked(prior: Prior | None) -> bool:
    """Return whether a prior has masks, which must move with the images."""
    return prior is not None and hasattr(prior.penalty, "masks")


def varied_together(
    images: Images, prior: Prior | None, settings: TrainingSettings, step: int
) -> tuple[Images, Prior | None]:
    """Return images, each moved and mirrored by chance, and the prior with its masks alike.

    What comes in from beyond the edge is zero: nothing in the image, outside in the mask. The draws
    depend on seed and step alone, so a training that goes on draws the same.

    Args:
        images: ``(b, c, h, w)``.
        prior: The prior of these images, if there is one.
        settings: Has the seed.
        step: The number of the step.
    """
    generator = torch.Generator().manual_seed(seed_of(settings.seed, step, KIND))
    if prior is None or not masked(prior):
        return varied(images.cpu(), generator).to(images.device), prior
    penalty: Any = prior.penalty
    masks: Tensor = penalty.masks
    each = masks.to("cpu", images.dtype).expand(len(images), *masks.shape[1:])
    moved = varied(torch.cat([images.cpu(), each], dim=1), generator)
    places, images_moved = moved[:, images.shape[1] :], moved[:, : images.shape[1]]
    changed = replace(penalty, masks=places.to(masks.device, masks.dtype))
    return images_moved.to(images.device), replace(prior, penalty=changed)
