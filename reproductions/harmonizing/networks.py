"""Five small networks of two families: three convolutional ones, and two vision transformers."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.harmonizing.scenes import DIGITS
from reproductions.xdnn.networks import Layer

CNN, NORMED, EFFICIENT = "CNN", "CNN-BN", "EffNet"
CLASS_TOKEN, MEAN_TOKEN = "ViT-cls", "ViT-mean"
CONVOLUTIONAL = (CNN, NORMED, EFFICIENT)
TRANSFORMERS = (CLASS_TOKEN, MEAN_TOKEN)
NETWORKS = (*CONVOLUTIONAL, *TRANSFORMERS)
CLASSES = 10


class Squeeze(nn.Module):
    """Squeeze and excitation: each channel times what the means of all channels say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, max(width // 4, 4), 1)
        self.up = nn.Conv2d(max(width // 4, 4), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the channels ``(b, k, h, w)``, weighed."""
        means = x.mean(dim=(2, 3), keepdim=True)
        weighed: Tensor = x * torch.sigmoid(self.up(functional.silu(self.down(means))))
        return weighed


class Inverted(nn.Module):
    """An inverted bottleneck: 1 x 1 wide, 3 x 3 for each channel alone, squeeze, 1 x 1 narrow."""

    def __init__(self, before: int, after: int, step: int) -> None:
        super().__init__()
        wide = 3 * before
        self.body = nn.Sequential(
            nn.Conv2d(before, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, step, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.SiLU(),
            Squeeze(wide),
            nn.Conv2d(wide, after, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.added = step == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(b, after, h / step, w / step)``."""
        made: Tensor = self.body(x)
        return x + made if self.added else made


class Transformer(nn.Module):
    """A vision transformer over patches.

    Args:
        channels: Of the images.
        side: Pixels a side.
        patch: Pixels a side of a patch.
        width: Of the tokens.
        depth: Layers.
        token: Whether a class token is read, and not the mean of the patches.
    """

    def __init__(
        self, channels: int, side: int, patch: int, width: int, depth: int, *, token: bool
    ) -> None:
        super().__init__()
        count = (side // patch) ** 2
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if token else None
        self.places = nn.Parameter(0.02 * torch.randn(1, count + int(token), width))
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(b, 10)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], dim=1)
        seen = self.norm(self.layers(tokens + self.places))
        read = seen.mean(dim=1) if self.token is None else seen[:, 0]
        logits: Tensor = self.head(read)
        return logits


def plain(channels: int, width: int, side: int) -> nn.Module:
    """Return 3 x 3 convolutions with biases, pooled after each stage, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2 * width, 4 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width * (side // 8) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


def normed(channels: int, width: int) -> nn.Module:
    """Return convolutions with batch norm in three stages, and the mean over positions."""
    parts: list[nn.Module] = []
    for stage, after in enumerate((width, 2 * width, 4 * width)):
        for _ in range(1 if stage == 0 else 2):
            parts += [nn.Conv2d(channels, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            parts.append(nn.ReLU())
            channels = after
        if stage < 2:
            parts.append(nn.MaxPool2d(2))
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*parts, *pooled)


def efficient(channels: int, width: int) -> nn.Module:
    """Return a small network of inverted bottlenecks, as EfficientNet is."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.SiLU(),
        Inverted(width, width, 1),
        Inverted(width, 2 * width, 2),
        Inverted(2 * width, 2 * width, 1),
        Inverted(2 * width, 3 * width, 1),
        nn.Conv2d(3 * width, 6 * width, 1, bias=False),
        nn.BatchNorm2d(6 * width),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6 * width, CLASSES),
    )


def network(dataset: str, name: str, seed: int = 0) -> nn.Module:
    """Return an untrained network in eval mode."""
    channels, side, width = (1, 24, 16) if dataset == DIGITS else (3, 32, 16)
    transformer = partial(Transformer, channels, side, 4, 64, 4)
    makers: dict[str, Callable[[], nn.Module]] = {
        CNN: lambda: plain(channels, width, side),
        NORMED: lambda: normed(channels, width),
        EFFICIENT: lambda: efficient(channels, width),
        CLASS_TOKEN: lambda: transformer(token=True),
        MEAN_TOKEN: lambda: transformer(token=False),
    }
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        return makers[name]().eval()
