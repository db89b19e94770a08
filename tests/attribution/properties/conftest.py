"""What the numbered properties are shown on: small networks in double precision, and how to ask."""

import pytest
import torch
from torch import nn

from whence.core import ModelScalar, logit
from whence.network import Network


def drawn(model, seed=0):
    """Fill a model's parameters, and its running statistics, from a seed."""
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


@pytest.fixture(scope="session")
def fill():
    """Fill a model from a seed: ``fill(model, seed=0)``."""
    return drawn


@pytest.fixture
def four_layers():
    """Make a ReLU network of four layers for images of 3 x 8 x 8: ``four_layers(bias=False)``."""

    def make(*, bias=True, norm=False):
        def block(inputs, outputs, **settings):
            after = [nn.BatchNorm2d(outputs)] if norm else []
            conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias, **settings)
            return [conv, *after, nn.ReLU()]

        return drawn(
            nn.Sequential(
                *block(3, 6),
                *block(6, 8, stride=2),
                nn.MaxPool2d(2),
                *block(8, 8),
                nn.Flatten(),
                nn.Linear(32, 4, bias=bias),
            )
        )

    return make


@pytest.fixture
def pooled():
    """A network whose head is an average over positions and a linear layer."""
    return drawn(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 7, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(7, 4),
        )
    )


@pytest.fixture(scope="session")
def ask():
    """Explain the logits of classes: ``ask(method, model, images, classes)``, read as a graph."""

    def explain(method, model, images, classes):
        return method.account(ModelScalar(Network.read(model, images), logit(classes)), images)

    return explain


@pytest.fixture(scope="session")
def total():
    """Add up each image's values."""

    def add(values):
        return values.flatten(1).sum(dim=1)

    return add
