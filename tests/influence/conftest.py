"""A small classifier in double precision, training images, queries, and scores by brute force."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import Margin, TensorData, batch_indices
from whence.network import Network

SIDE, CLASSES = 8, 4


@dataclass(frozen=True, eq=False)
class Setting:
    """A model with data, and what its scores must be."""

    model: nn.Module
    network: Network
    train: TensorData
    images: torch.Tensor
    classes: torch.Tensor

    @property
    def target(self):
        return Margin(self.classes)

    def loss_gradient(self, image, label):
        loss = functional.cross_entropy(self.model(image[None]), label[None])
        parts = torch.autograd.grad(loss, list(self.model.parameters()))
        return torch.cat([p.flatten() for p in parts])

    def gradients(self):
        """The loss gradients of training images and of queries, one after the other."""
        pairs = zip(self.train.images, self.train.labels, strict=True)
        training = torch.stack([self.loss_gradient(x, y) for x, y in pairs])
        pairs = zip(self.images, self.classes, strict=True)
        return training, torch.stack([self.loss_gradient(x, y) for x, y in pairs])


def network_of(kind):
    if kind == "softmax regression":
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.GELU(),
        nn.Conv2d(5, 6, 3, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(54, CLASSES),
    )


@pytest.fixture
def setting():
    """Make a setting: ``setting("cnn")`` or ``setting("softmax regression")``."""

    def make(kind="cnn", *, count=9, queries=3, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        model = network_of(kind).to(dtype).eval()
        with torch.no_grad():
            for value in model.parameters():
                fan = value[0].numel() if value.ndim > 1 else 4
                drawn = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(drawn / fan**0.5)

        def normal(n):
            shape = (n, 3, SIDE, SIDE)
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        labels = torch.randint(CLASSES, (count,), generator=generator)
        images = normal(queries)
        return Setting(
            model=model,
            network=Network.read(model, images),
            train=TensorData(
                images=normal(count), labels=labels, classes=tuple("abcd"), title="the images"
            ),
            images=images,
            classes=torch.arange(queries) % CLASSES,
        )

    return make


@dataclass(eq=False)
class Holed:
    """Data of which some images cannot be used."""

    inside: TensorData
    holes: tuple[int, ...]
    title: str = "holed"
    skipped: tuple[tuple[str, str], ...] = field(default=(), init=False)

    @property
    def classes(self):
        return self.inside.classes

    def __len__(self):
        return len(self.inside)

    def name(self, index):
        return self.inside.name(index)

    def label(self, index):
        return self.inside.label(index)

    def batches(self, size, indices=None):
        for chosen in batch_indices(len(self), size, indices):
            usable = [i for i in chosen if i not in self.holes]
            yield from self.inside.batches(size, usable)

    def fingerprint(self):
        return self.inside.fingerprint()


@pytest.fixture
def holed():
    return Holed
