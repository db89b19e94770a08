"""The residual networks for CIFAR-10 of He et al. (2016), Section 4.2, as model factories.

Three stages of n blocks with 16, 32 and 64 channels; a shortcut that changes shape has no
parameters: it takes every second pixel and pads the new channels with zeros (option A).

    whence audit --model examples/cifar_resnet.py:resnet20 --weights resnet20.th ...
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PREPROCESSING = {"size": 32, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.step = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, self.step, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.new = after - before

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (b, channels, h / step, w / step)."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        half = self.new // 2
        short = x[:, :, :: self.step, :: self.step]
        if self.new:
            short = functional.pad(short, (0, 0, 0, 0, half, self.new - half))
        return functional.relu(y + short)


class CifarResNet(nn.Module):
    """The network of 6 n + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks)
        self.layer2 = stage(16, 32, blocks)
        self.layer3 = stage(32, 64, blocks)
        self.linear = nn.Linear(64, len(CLASSES))
        self.classes = CLASSES
        self.preprocessing = PREPROCESSING

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (b, 10) for images (b, 3, 32, 32)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(torch.mean(x, dim=(2, 3)))


def stage(before: int, after: int, blocks: int) -> nn.Sequential:
    """Return a stage, whose first block changes the shape."""
    return nn.Sequential(*(Block(before if k == 0 else after, after) for k in range(blocks)))


def resnet20() -> nn.Module:
    """Return the network with three blocks a stage, untrained."""
    return CifarResNet(3)


def resnet56() -> nn.Module:
    """Return the network with nine blocks a stage, untrained."""
    return CifarResNet(9)
