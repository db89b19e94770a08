"""Small networks in double precision, and the other libraries where they are installed."""

import importlib
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType

import pytest
import torch
from torch import nn


def opened(name: str) -> ModuleType:
    """Import a library that may import torchvision, whose compiled part may not fit torch."""
    with suppress(ImportError):  # the library may do without it
        importlib.import_module("whence.adapters.torchvision").open_torchvision()
    return pytest.importorskip(name, reason="needs whence[parity]", exc_type=ImportError)


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """Its vision transformers."""
    return opened("timm")


@pytest.fixture(scope="session")
def captum() -> ModuleType:
    """Captum's attributions."""
    return pytest.importorskip("captum.attr", reason="needs whence[parity]")


@pytest.fixture(scope="session")
def grad_cam() -> ModuleType:
    """pytorch-grad-cam."""
    return opened("pytorch_grad_cam")


@pytest.fixture(scope="session")
def quantus() -> ModuleType:
    """Quantus."""
    return opened("quantus")


@pytest.fixture(scope="session")
def zennit() -> ModuleType:
    """Zennit with its attributors and composites."""
    package = opened("zennit")
    for part in ("attribution", "composites"):
        importlib.import_module(f"zennit.{part}")
    return package


@pytest.fixture
def images() -> torch.Tensor:
    """Three images of 3 x 8 x 8."""
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def classes() -> torch.Tensor:
    """A class for each of the three images, out of four."""
    return torch.tensor([0, 3, 1])


class Plain(nn.Sequential):
    """Layers in order; flattened before the last one, which Captum's LRP has no module for."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = images
        for layer in self[:-1]:
            x = layer(x)
        return self[-1](x.flatten(1))


@pytest.fixture
def rectifier() -> Callable[..., nn.Module]:
    """Make a network of ReLU modules, each used once, for images of 3 x 8 x 8; four classes."""

    def make(*, bias: bool = True) -> nn.Module:
        layers = [
            nn.Conv2d(3, 6, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1, bias=bias),
            nn.ReLU(),
            nn.Linear(8 * 16, 4, bias=bias),
        ]
        return filled(Plain(*layers))

    return make


@pytest.fixture
def smooth() -> nn.Module:
    """A network without kinks for images of 3 x 8 x 8; four classes."""
    layers = [
        nn.Conv2d(3, 6, 3),
        nn.GELU(),
        nn.Conv2d(6, 8, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 4),
    ]
    return filled(nn.Sequential(*layers))


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
