"""Small smooth networks whose second derivatives are everywhere defined, and a method."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class InputXGradient:
    """Input times gradient, from scratch: priors know methods by their calls alone."""

    create_graph: bool = True
    at_zero: bool = False

    def __call__(self, f, images):
        source = images.detach().requires_grad_()
        values = f(0.5 * source if self.at_zero else source)
        (gradient,) = torch.autograd.grad(values.sum(), source, create_graph=self.create_graph)
        return images * gradient


@pytest.fixture
def method():
    return InputXGradient()


@pytest.fixture
def model(generator):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 3)
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model.eval()


@pytest.fixture
def images(generator):
    return torch.randn(5, 1, 6, 6, generator=generator, dtype=torch.float64)


@pytest.fixture
def labels():
    return torch.tensor([0, 2, 1, 1, 0])
