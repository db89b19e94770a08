"""Classifiers in double precision with training images and queries, and maps by brute force."""

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from whence.core import Margin, TensorData
from whence.influence import GradCos, influence
from whence.network import Network


@dataclass(frozen=True, eq=False)
class Setting:
    """A model with four training images and two queries."""

    model: nn.Module
    train: TensorData
    images: torch.Tensor
    classes: torch.Tensor

    @cached_property
    def network(self):
        return Network.read(self.model, self.images)

    def influence(self, scorer=None):
        target = Margin(self.classes)
        return influence(self.network, self.train, self.images, target, scorer=scorer or GradCos())

    def margin_gradient(self, image, label, *, create_graph=False):
        """The margin and its gradient; the image stands twice in its batch."""
        model = deepcopy(self.model)
        labels = torch.tensor([label, label])
        margin = Margin(labels)(model(torch.stack([image, image])))[0]
        parts = torch.autograd.grad(
            margin, list(model.parameters()), create_graph=create_graph, materialize_grads=True
        )
        return margin, torch.cat([p.flatten() for p in parts])

    def brute_force(self, index, query, scorer):
        """The score of a training image and its gradient with respect to the image."""
        with sdpa_kernel(SDPBackend.MATH):
            image, label = self.images[query], int(self.classes[query])
            margin, v = self.margin_gradient(image, label)
            x = self.train.images[index].clone().requires_grad_()
            own, g = self.margin_gradient(x, int(self.train.labels[index]), create_graph=True)
            score = g @ v
            if isinstance(scorer, GradCos):
                score = score / (g.norm() * v.norm())
            else:
                score = score * torch.sigmoid(-own) * torch.sigmoid(-margin).detach()
            (pixels,) = torch.autograd.grad(score, x)
        return score.detach(), pixels


def smooth():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.GELU(),
        nn.Conv2d(5, 6, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(54, 4),
    )


def from_torchvision(build):
    def made():
        from whence.adapters.torchvision import open_torchvision

        return build(open_torchvision().models)

    return made


def resnet(models):
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)


def vit(models):
    return models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        mlp_dim=24,
        num_classes=4,
    )


def convnext(models):
    config = models.convnext.CNBlockConfig
    return models.ConvNeXt([config(8, 16, 1), config(16, None, 1)], num_classes=4)


def swin(models):
    return models.SwinTransformer([4, 4], 8, [2, 1], [2, 2], [4, 4], num_classes=4)


def levit():
    if find_spec("timm") is None:
        pytest.skip("needs timm")
    from whence.adapters.timm import open_timm

    return open_timm().create_model(
        "levit_128s",
        img_size=64,
        num_classes=4,
        embed_dim=(16, 24, 32),
        num_heads=(1, 2, 2),
        depth=(1, 1, 1),
        key_dim=8,
    )


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="zeros"),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 2, stride=2, groups=2, dilation=2),
        nn.BatchNorm2d(6, affine=True),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def relus():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)
    )


MODELS = {
    "convolutions": (convolutions, 9),
    "relus": (relus, 8),
    "smooth": (smooth, 8),
    "softmax regression": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 4)), 5),
    "two classes": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(75, 2, bias=False)), 5),
    "without biases": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 2, bias=False),
        ),
        8,
    ),
    "resnet": (from_torchvision(resnet), 32),
    "vit": (from_torchvision(vit), 32),
    "convnext": (from_torchvision(convnext), 32),
    "swin": (from_torchvision(swin), 32),
    "levit": (levit, 64),
}


@pytest.fixture(scope="module")
def setting():
    """Make a setting by name, once for all tests of a file."""
    made = {}

    def make(name="smooth", *, dtype=torch.float64):
        if (name, dtype) not in made:
            made[name, dtype] = setting_of(name, dtype)
        return made[name, dtype]

    return make


def setting_of(name, dtype):
    build, size = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().to(dtype).eval()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    with torch.no_grad():
        for value in model.parameters():
            shift = 0.5 if value.ndim == 1 else 0.0
            fan = value[0].numel() if value.ndim > 1 else 4
            value.copy_(shift + normal(*value.shape) / fan**0.5)
        for part, buffer in model.named_buffers():
            if "running_var" in part:
                buffer.copy_(0.5 + normal(*buffer.shape).square())
    images = normal(6, 3, size, size)
    with torch.no_grad():
        outputs = deepcopy(model)(images[:2]).shape[1]
    labels = torch.arange(4) * 3 % outputs
    return Setting(
        model=model,
        train=TensorData(images=images[:4], labels=labels),
        images=images[4:],
        classes=torch.tensor([1, 0]),
    )
