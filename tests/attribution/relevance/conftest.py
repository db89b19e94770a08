"""Small networks of every kind in double precision, and images for them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import ModelScalar, logit
from whence.network import Network


def drawn(model, seed=0):
    """Fill a model from a seed; running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            if name.endswith("running_var"):
                value.copy_(0.5 + noise.square())
            else:
                scale = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.3
                value.copy_(scale * noise)
    return model


def vgg(*, bias=True):
    """Convolutions, batch norm, both poolings and two linear layers."""
    return drawn(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, stride=2, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=bias),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 10, bias=bias),
            nn.ReLU(),
            nn.Linear(10, 4, bias=bias),
        )
    )


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in "ab")
        self.norm, self.last = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, maps):
        return self.act(self.last(self.two(self.act(self.norm(self.one(maps))))) + maps)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.blocks = nn.Sequential(Block(6), Block(6))
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.blocks(self.stem(images)).mean((2, 3)))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(6), nn.BatchNorm2d(10)])
        self.grow = nn.ModuleList([nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(10, 4, 1)])
        self.head = nn.Linear(14, 4)

    def forward(self, images):
        maps = self.stem(images)
        for norm, grow in zip(self.norms, self.grow, strict=True):
            maps = torch.cat([maps, grow(functional.relu(norm(maps)))], 1)
        return self.head(functional.avg_pool2d(maps, 2).relu().mean((2, 3)))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(6, 2, 1), nn.Conv2d(2, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        maps = functional.silu(self.stem(images))
        gate = self.excite(functional.silu(self.squeeze(maps.mean((2, 3), keepdim=True))))
        return self.head((maps * gate.sigmoid()).mean((2, 3)))


class ViT(nn.Module):
    """Two attention blocks over 4 x 4 patches and a class token; GELU and layer norm."""

    def __init__(self, *, fused=True):
        super().__init__()
        self.fused = fused
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.place = nn.Parameter(torch.zeros(1, 17, 8))
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(5)])
        self.mix = nn.ModuleList([nn.Linear(8, 24) for _ in range(2)])
        self.out = nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])
        self.think = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(2)]
        )
        self.head = nn.Linear(8, 4)

    def attend(self, query, key, value):
        if self.fused:
            return functional.scaled_dot_product_attention(query, key, value)
        return ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)).softmax(-1) @ value

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.place
        for i in range(2):
            mixed = self.mix[i](self.norms[2 * i](tokens)).unflatten(-1, (3, 2, 4))
            query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
            tokens = tokens + self.out[i](self.attend(query, key, value).transpose(1, 2).flatten(2))
            tokens = tokens + self.think[i](self.norms[2 * i + 1](tokens))
        return self.head(self.norms[4](tokens)[:, 0])


MODELS = {
    "vgg": vgg,
    "resnet": lambda: drawn(ResNet()),
    "densenet": lambda: drawn(DenseNet()),
    "gated": lambda: drawn(Gated()),
    "vit": lambda: drawn(ViT()),
    "vit-plain": lambda: drawn(ViT(fused=False)),
    "vgg-free": lambda: vgg(bias=False),
}


@pytest.fixture(scope="session")
def models():
    """Makers of small networks by kind."""
    return MODELS | {
        "vit-plain": lambda: drawn(ViT(fused=False)),
        "vgg-free": lambda: vgg(bias=False),
    }


@pytest.fixture
def scalar(images, classes):
    """Read a model, and explain a class for each of five images."""

    def make(model, at=classes, like=images):
        return ModelScalar(Network.read(model, like), logit(at))

    return make
