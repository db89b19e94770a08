"""What both sides judge: a network, images, labels and maps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from whence.attribution import InputXGradient
from whence.core import ModelScalar, logit

__all__ = ["NETWORKS", "Task", "made"]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A network of one channel, since Quantus counts every channel of a pixel as a feature."""

    network: str
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


def lenet() -> nn.Module:
    """Return the size of network of Quantus' own tutorials."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(16 * 4 * 4, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Residual(nn.Module):
    """Two convolutions with batch norm beside a way around them."""

    def __init__(self, width: int, out: int) -> None:
        """Take the channels; more of them halve the image."""
        super().__init__()
        stride = 1 if width == out else 2
        self.first = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.last = nn.BatchNorm2d(out)
        self.around = nn.Identity() if stride == 1 else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of both ways."""
        found: Tensor = self.last(self.second(self.norm(self.first(images)).relu()))
        return found.add(self.around(images)).relu()


def residual() -> nn.Module:
    """Return a residual network for small photographs: nine convolutions."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        Residual(32, 32), Residual(32, 64), Residual(64, 128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10, bias=False),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "LeNet": (lenet, 30),
    "residual": (residual, 60),
}
"""Networks, and pixels a side: a tenth of them is a whole number, however a library rounds."""


def made(count: int, network: str = "LeNet") -> Task:
    """Return the task of so many images."""
    generator = torch.Generator().manual_seed(0)
    make, side = NETWORKS[network]
    model = make()
    with torch.no_grad():
        for p in model.parameters():
            if network == "residual" and p.ndim == 1:
                continue  # of norms
            scale = (2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.05
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    model.eval()
    images = torch.rand(count, 1, side, side, generator=generator)
    images[:, :, 0, 0], images[:, :, -1, -1] = 0.0, 1.0  # black and white occur in each image
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    values = InputXGradient()(ModelScalar(model, logit(labels)), images).detach()
    size = float(values.std()) if network == "residual" else 1.0
    values = values + 1e-7 * size * torch.from_numpy(np.linspace(0, 1, side**2)).view(side, side)
    return Task(network=network, model=model, images=images, labels=labels, values=values.float())
