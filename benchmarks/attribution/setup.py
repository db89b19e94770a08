"""What is measured: networks, images, and the pass that everything is compared with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn

from benchmarks.models import disturb
from whence.adapters.timm import open_timm
from whence.adapters.torchvision import open_torchvision
from whence.core import ModelScalar, logit
from whence.network import Network

__all__ = ["BATCH", "MODELS", "SIDE", "Setup", "Work", "made"]

BATCH = 8
SIDE = 224

Work = Callable[[], Any]
"""Computes attributions once; what it returns is looked at, if it is a tensor."""

MODELS = ("resnet18", "resnet50", "vit_tiny_patch16_224")
"""Two of torchvision and one of timm."""


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """A model with the same random weights every time, and images with a class for each.

    Args:
        name: The model's name.
        model: The model, as its library makes it.
        images: Images ``(b, 3, h, w)``.
        classes: The class that is predicted for each, ``(b,)``.
        steps: Steps, samples or draws of the methods that take some.
    """

    name: str
    model: nn.Module
    images: Tensor
    classes: Tensor
    steps: int

    @property
    def is_transformer(self) -> bool:
        """Whether the model is a vision transformer."""
        return self.name.startswith("vit")

    @cached_property
    def network(self) -> Network:
        """The model, read as a network."""
        return Network.read(self.model, self.images)

    @cached_property
    def tuned(self) -> Network:
        """The network in fewer operations, with channels last and frozen weights."""
        return self.network.tuned()

    @cached_property
    def lowered(self) -> Network:
        """The tuned network in bfloat16."""
        return self.network.tuned(dtype=torch.bfloat16)

    def f(self, network: Network) -> ModelScalar:
        """Return the logits of the predicted classes."""
        return ModelScalar(network, logit(self.classes))

    @property
    def one_hot(self) -> Tensor:
        """One in the place of each image's class, ``(b, classes)``."""
        return nn.functional.one_hot(self.classes, 1000).to(self.images)

    def one_pass(self) -> Tensor:
        """Return the gradient of the untouched model: a forward and an input-backward."""
        images = self.images.clone().requires_grad_()
        logits = self.model(images)
        chosen = logits.gather(1, self.classes[:, None])
        return torch.autograd.grad(chosen.sum(), images)[0]


def made(name: str, steps: int, side: int = SIDE, batch: int = BATCH) -> Setup:
    """Return a model by its name, with images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = built(name, side).eval()
        if not name.startswith("vit"):
            disturb(model)  # without biases, every path is straight and one step is enough
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, side, side, generator=generator)
    with torch.no_grad():
        classes = model(images).argmax(dim=1)
    return Setup(name=name, model=model, images=images, classes=classes, steps=steps)


def built(name: str, side: int) -> nn.Module:
    """Return a model as its library makes it."""
    if name.startswith("vit"):
        model: nn.Module = open_timm().create_model(name, img_size=side)
        return model
    made: nn.Module = getattr(open_torchvision().models, name)(weights=None)
    return made
