"""Small networks of every kind in double precision, and their gradients one image at a time."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from whence.core import Margin
from whence.gradients import Recorder
from whence.network import Network


def redrawn(model):
    """Return the model in double precision and eval mode, nothing in it at zero or one."""
    generator = torch.Generator().manual_seed(0)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
            shift = 0.5 if parameter.ndim == 1 else 0.0
            parameter.copy_(
                shift + 0.5 * torch.randn(parameter.shape, generator=generator) / fan**0.5
            )
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            if "running_var" in name:
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with a few images, and its gradients taken one image at a time."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    @cached_property
    def network(self) -> Network:
        return Network.read(self.model, self.images)

    @cached_property
    def recorder(self) -> Recorder:
        return Recorder(self.network)

    @property
    def target(self) -> Margin:
        return Margin(self.labels)

    def copied(self) -> nn.Module:
        """A copy of the model: some keep in eval mode what they made of their parameters."""
        return deepcopy(self.model)

    @cached_property
    def loop(self) -> dict[str, torch.Tensor]:
        """The gradients by one backward pass for each image.

        It stands twice in its batch: for a single image PyTorch's batch norm may be wrong.
        """
        names = [name for name, _ in self.model.named_parameters()]
        rows = []
        for image, label in zip(self.images, self.labels, strict=True):
            model = self.copied()
            margin = Margin(label[None].repeat(2))(model(torch.stack([image, image])))[0]
            rows.append(
                torch.autograd.grad(margin, list(model.parameters()), materialize_grads=True)
            )
        return {name: torch.stack(parts) for name, *parts in zip(names, *rows, strict=True)}

    def flat(self, gradients) -> torch.Tensor:
        values = [gradients[name] for name in self.network.parameters]
        return torch.cat([v.reshape(len(v), -1) for v in values], dim=1)


def assert_gradients(found, expected, *, relative=1e-10):
    """Every parameter's gradients agree, relative to that parameter's largest one."""
    top = max(float(v.abs().max()) for v in expected.values())
    for name, value in expected.items():
        scale = max(float(value.abs().max()), 1e-4 * top)
        if name not in found:
            assert not value.any(), f"{name} is missing"
            continue
        assert found[name].shape == value.shape, name
        error = float((found[name] - value).abs().max())
        assert error <= relative * scale, f"{name}: {error / scale:.1e}"


def from_torchvision(build):
    def made():
        from whence.adapters.torchvision import open_torchvision

        return build(open_torchvision().models)

    return made


def from_timm(name, **settings):
    def made():
        if find_spec("timm") is None:
            pytest.skip("needs timm")
        from whence.adapters.timm import open_timm

        return open_timm().create_model(name, num_classes=5, **settings)

    return made


def resnet(models):
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5)


def vit(models):
    return models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=24,
        num_classes=5,
    )


def convnext(models):
    config = models.convnext.CNBlockConfig
    return models.ConvNeXt([config(8, 16, 2), config(16, None, 1)], num_classes=5)


def swin(models):
    return models.SwinTransformer([4, 4], 8, [2, 1], [2, 2], [4, 4], num_classes=5)


SMALL_LEVIT = {"embed_dim": (16, 24, 32), "num_heads": (1, 2, 2), "depth": (1, 1, 1), "key_dim": 8}

ARCHITECTURES = {
    "resnet": (from_torchvision(resnet), 32),
    "vit": (from_torchvision(vit), 32),
    "convnext": (from_torchvision(convnext), 32),
    "swin": (from_torchvision(swin), 32),
    "levit": (from_timm("levit_128s", img_size=64, **SMALL_LEVIT), 64),
}


def subject_of(build, size, count=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = redrawn(build())
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)
    return Subject(model=model, images=images, labels=torch.arange(count) * 2 % 3)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request):
    build, size = ARCHITECTURES[request.param]
    return subject_of(build, size)


@pytest.fixture(scope="module")
def named_architecture() -> Callable[[str], Subject]:
    return lambda name: subject_of(*ARCHITECTURES[name])


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """Make a subject of a model."""
    return lambda model, size=9, count=3: subject_of(lambda: model, size, count)


@pytest.fixture
def agree() -> Callable[..., None]:
    return partial(assert_gradients)
