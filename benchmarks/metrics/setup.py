"""What both sides judge: a network, images, labels and maps."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from whence.attribution import InputXGradient
from whence.core import ModelScalar, logit

__all__ = ["SIDE", "Task", "made"]

SIDE = 30
"""Pixels a side: a tenth of the pixels is a whole number, however a library rounds."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A network of one channel, since Quantus counts every channel of a pixel as a feature."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    values: Tensor

    @property
    def f(self) -> ModelScalar:
        """The logit of each image's label."""
        return ModelScalar(self.model, logit(self.labels))

    @property
    def theirs(self) -> dict[str, object]:
        """The same as arguments of a metric of Quantus."""
        return {
            "model": self.model,
            "x_batch": self.images.numpy(),
            "y_batch": self.labels.numpy(),
            "a_batch": self.values.numpy(),
            "softmax": False,
            "device": "cpu",
        }


def made(count: int) -> Task:
    """Return the task: the size of network, and kind of image, of Quantus' own tutorials."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    with torch.no_grad():
        for p in model.parameters():
            scale = (2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.05
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    model.eval()
    images = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    images[:, :, 0, 0], images[:, :, -1, -1] = 0.0, 1.0  # black and white occur in each image
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    values = InputXGradient()(ModelScalar(model, logit(labels)), images).detach()
    values = values + 1e-7 * torch.from_numpy(np.linspace(0, 1, SIDE * SIDE)).view(SIDE, SIDE)
    return Task(model=model, images=images, labels=labels, values=values.float())
