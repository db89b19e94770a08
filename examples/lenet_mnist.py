"""A model in a file of one's own: LeNet for MNIST, as ``--model examples/lenet_mnist.py:lenet``.

A class attribute says how a picture becomes the model's input. Run as a script it builds the
network and says why it is no X-DNN.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whence.network import Network


class LeNet(nn.Module):
    """Two convolutions and three linear layers."""

    preprocessing: dict[str, Any] = {"size": 28, "channels": 1, "mean": 0.1307, "std": 0.3081}  # noqa: RUF012 - as one writes it

    def __init__(self) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc_1, self.fc_2 = nn.Linear(256, 120), nn.Linear(120, 84)
        self.fc_3 = nn.Linear(84, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        values = functional.max_pool2d(functional.relu(self.conv_1(images)), 2)
        values = functional.max_pool2d(functional.relu(self.conv_2(values)), 2)
        values = functional.relu(self.fc_1(values.flatten(1)))
        logits: Tensor = self.fc_3(functional.relu(self.fc_2(values)))
        return logits


def lenet() -> LeNet:
    """Return an untrained LeNet."""
    return LeNet()


if __name__ == "__main__":
    images = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    print(Network.read(lenet().eval(), images).homogeneity(images))
