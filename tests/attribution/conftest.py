"""Small networks in double precision, and images for them."""

from collections.abc import Callable

import pytest
import torch
from torch import nn


@pytest.fixture
def images() -> torch.Tensor:
    """Five images of 3 x 8 x 8."""
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def classes() -> torch.Tensor:
    """A class for each of the five images, out of four."""
    return torch.tensor([0, 3, 1, 1, 2])


@pytest.fixture
def rectifier() -> Callable[..., nn.Module]:
    """Make a convolutional ReLU network for images of 3 x 8 x 8 with four classes."""

    def make(*, bias: bool = True) -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 16, 4, bias=bias),
        )
        return filled(model)

    return make


@pytest.fixture
def smooth() -> nn.Module:
    """A convolutional network without kinks, for images of 3 x 8 x 8 with four classes."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.GELU(),
        nn.Conv2d(6, 8, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )
    return filled(model)


@pytest.fixture
def linear() -> nn.Module:
    """A linear model for images of 3 x 8 x 8 with four classes."""
    return filled(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 4)))


def filled(model: nn.Module) -> nn.Module:
    """Fill a model's parameters from a seed; double precision, eval mode."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(
                scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            )
    return model
