"""Small networks of the kinds that the paper, and its readers, use: VGG, ResNet, transformer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from reproductions.xdnn.pictures import DATA, DIGITS, REPOSITORY
from whence.adapters import load_model

VGG, RESNET, VIT, RESNET20 = "VGG", "ResNet", "ViT", "ResNet-20"
ARCHITECTURES = (VGG, RESNET, VIT)
WEIGHTS = DATA / "weights" / "resnet20-12fca82f.th"
CLASSES = 10


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and a shortcut."""

    def __init__(self, before: int, after: int, step: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, step, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.short = nn.Conv2d(before, after, 1, step, bias=False)
        self.norm3 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(b, after, h / step, w / step)``."""
        y = functional.relu(self.norm1(self.conv1(x)))
        z: Tensor = self.norm2(self.conv2(y)) + self.norm3(self.short(x))
        return functional.relu(z)


class Layer(nn.Module):
    """One layer of a transformer: attention and two linear maps, each behind a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked = nn.Linear(width, 3 * width)
        self.given = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.activation = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens ``(b, t, d)`` after the layer."""
        b, t, d = x.shape
        parts = self.asked(self.norm1(x)).reshape(b, t, 3, self.heads, d // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.given(seen.transpose(1, 2).reshape(b, t, d))
        made: Tensor = x + self.down(self.activation(self.up(self.norm2(x))))
        return made


class SmallViT(nn.Module):
    """A vision transformer over patches, with the mean of the tokens before its head."""

    def __init__(self, channels: int, side: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        self.layers = nn.Sequential(*(Layer(width, 4) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(b, 10)``."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        logits: Tensor = self.head(self.norm(self.layers(tokens)).mean(dim=1))
        return logits


def vgg(channels: int, width: int, side: int) -> nn.Module:
    """Return 3 x 3 convolutions with biases, pooled after each stage, and two linear layers."""
    stages = [(width,), (2 * width, 2 * width), (4 * width, 4 * width)]
    parts: list[nn.Module] = []
    for stage in stages if side > 8 else stages[:2]:
        for after in stage:
            parts += [nn.Conv2d(channels, after, 3, padding=1), nn.ReLU()]
            channels = after
        parts.append(nn.MaxPool2d(2))
        side //= 2
    parts += [nn.Flatten(), nn.Linear(channels * side**2, 128), nn.ReLU(), nn.Linear(128, CLASSES)]
    for part in parts:
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(*parts)


def resnet(channels: int, width: int, side: int) -> nn.Module:
    """Return three blocks with batch norm behind a convolution, pooled at once if large."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2) if side > 8 else nn.Identity(),
        Block(width, width, 1),
        Block(width, 2 * width, 2),
        Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    )


def network(dataset: str, architecture: str, seed: int = 0) -> nn.Module:
    """Return an untrained network in eval mode; ResNet-20 alone is trained already."""
    small = dataset == DIGITS
    channels, side, width = (1, 8, 16) if small else (3, 32, 24)
    makers: dict[str, Callable[[], nn.Module]] = {
        VGG: lambda: vgg(channels, width, side),
        RESNET: lambda: resnet(channels, width, side),
        VIT: lambda: SmallViT(channels, side, 2 if small else 4, 2 * width, 3),
        RESNET20: published,
    }
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        made = makers[architecture]()
    return for_cpu(made).eval()


def for_cpu(model: nn.Module) -> nn.Module:
    """Return a network with the channels of its filters last, which a CPU is faster with."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return model


def published() -> nn.Module:
    """Return the ResNet-20 that others trained on lossless CIFAR-10."""
    maker = REPOSITORY / "examples" / "cifar_resnet.py"
    return load_model(f"{maker}:resnet20", weights=WEIGHTS).module
