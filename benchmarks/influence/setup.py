"""What the influence benchmark runs on: networks, training images and queries."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from whence.adapters.torchvision import open_torchvision
from whence.core import TensorData
from whence.network import Network

__all__ = ["SUBJECTS", "ResNet9", "Setup", "ready"]

DIGITS = Path(__file__).parents[3] / "shared" / "data" / "mnist.npz"
CLASSES = 10
TRAINED = 3
"""Epochs of training on the training images, so that gradients are not those of noise."""


@final
class Joined(nn.Module):
    """A convolution without bias, batch norm and ReLU."""

    def __init__(
        self, wide: int, out: int, *, kernel: int = 3, stride: int = 1, pad: int = 1
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(wide, out, kernel, stride, pad, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map."""
        return functional.relu(self.norm(self.convolution(images)))


@final
class Residual(nn.Module):
    """Two layers and a shortcut."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.first, self.second = Joined(wide, wide), Joined(wide, wide)

    def forward(self, images: Tensor) -> Tensor:
        """Return the feature map."""
        return images + self.second(self.first(images))


@final
class ResNet9(nn.Module):
    """The nine-layer residual network of data-attribution papers: 2,274,880 parameters.

    References:
        Park et al. (2023), "TRAK: Attributing Model Behavior at Scale", for CIFAR-10.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Sequential(Joined(3, 64), Joined(64, 128, kernel=5, stride=2, pad=2))
        self.early = Residual(128)
        self.middle = Joined(128, 256)
        self.late = Residual(256)
        self.last = Joined(256, 128, pad=0)
        self.head = nn.Linear(128, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        values = functional.max_pool2d(self.middle(self.early(self.stem(images))), 2)
        values = functional.adaptive_max_pool2d(self.last(self.late(values)), 1).flatten(1)
        return 0.2 * self.head(values)


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18 with random weights."""
    model: nn.Module = open_torchvision().models.resnet18(weights=None, num_classes=CLASSES)
    return model


@final
@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network of the table.

    Args:
        make: Builds it.
        side: The side of its images in pixels.
        images: Training images, unless the command says otherwise.
        batch: Images at a time, for everybody who takes a batch size.
        queries: How many queries.
        few: Training images of other libraries' rows, and of ours with one map per image.
        weights: The subject whose weights it has; its own if empty.
        only: Parts of the names of its rows; all if empty.
    """

    make: Callable[[], nn.Module]
    side: int
    images: int
    batch: int
    queries: int
    few: int
    weights: str = ""
    only: tuple[str, ...] = ()


SUBJECTS = {
    "resnet9-32": Subject(make=ResNet9, side=32, images=2000, batch=32, queries=20, few=200),
    "resnet9-32-large": Subject(
        make=ResNet9,
        side=32,
        images=10000,
        batch=32,
        queries=20,
        few=200,
        weights="resnet9-32",
        only=("exact Grad-Cos", "index, "),
    ),
    "resnet18-224": Subject(make=resnet18, side=224, images=96, batch=8, queries=4, few=96),
}
"""By name; the number is the side of the images."""


@final
@dataclass(frozen=True, kw_only=True)
class Setup:
    """One network with its data.

    Args:
        name: Of the subject.
        images: How many training images.
        queries: How many queries.
    """

    name: str
    images: int
    queries: int

    def part(self, images: int) -> "Setup":
        """Return the same with fewer training images."""
        train, test = self.data
        labels = None if train.labels is None else train.labels[:images]
        some = TensorData(images=train.images[:images], labels=labels, classes=train.classes)
        part = Setup(name=self.name, images=images, queries=self.queries)
        part.__dict__.update(model=self.model, network=self.network, data=(some, test))
        return part

    @property
    def batch(self) -> int:
        """Images at a time."""
        return SUBJECTS[self.name].batch

    @cached_property
    def data(self) -> tuple[TensorData, TensorData]:
        """Training images and queries: real digits in colour; without the file, random ones."""
        side, usual = SUBJECTS[self.name].side, SUBJECTS[self.name].images
        start = max(self.images, usual)  # the same queries, however many training images
        count = start + self.queries
        if DIGITS.is_file():
            with np.load(DIGITS) as file:
                grey = torch.from_numpy(file["x_train"][:count]).float()[:, None] / 255
                labels = torch.from_numpy(file["y_train"][:count].astype(np.int64))
        else:
            generator = torch.Generator().manual_seed(0)
            grey = torch.rand(count, 1, 28, 28, generator=generator)
            labels = torch.randint(CLASSES, (count,), generator=generator)
        images = functional.interpolate(grey, size=side, mode="bilinear")
        images = (images.expand(-1, 3, -1, -1) - 0.13) / 0.31
        classes = tuple(str(k) for k in range(CLASSES))
        parts = (slice(0, self.images), slice(start, count))
        train, test = (
            TensorData(images=images[p].contiguous(), labels=labels[p], classes=classes)
            for p in parts
        )
        return train, test

    @cached_property
    def model(self) -> nn.Module:
        """The network in eval mode, briefly trained if it is the small one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = SUBJECTS[self.name].make()
            if SUBJECTS[self.name].side <= 32:
                train(model, self.data[0], SUBJECTS[self.name].batch)
            else:
                settle(model, self.data[0].images[:16])
        return model.eval()

    @cached_property
    def network(self) -> Network:
        """The network as whence reads it."""
        return Network.read(self.model, self.data[0].images[:2])


def train(model: nn.Module, data: TensorData, batch: int) -> None:
    """Train for a few epochs on at most 1,000 of the images."""
    if data.labels is None:
        return
    images, labels = data.images[:1000], data.labels[:1000]
    steps = TRAINED * -(-len(images) // batch)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps)
    model.train()
    for _ in range(TRAINED):
        for rows in torch.randperm(len(images)).split(batch):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rates.step()


def settle(model: nn.Module, images: Tensor) -> None:
    """Set batch norms to the statistics of some images."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(images)


def ready(setup: Setup, folder: Path) -> Setup:
    """Return the setup with its trained weights, which are kept in a folder."""
    first = SUBJECTS[setup.name].weights or setup.name
    if first != setup.name:
        ready(Setup(name=first, images=SUBJECTS[first].images, queries=setup.queries), folder)
    path = folder / f"{first}.pt"
    if path.is_file():
        model = SUBJECTS[setup.name].make().eval()
        model.load_state_dict(torch.load(path, weights_only=True))
        setup.__dict__["model"] = model
        return setup
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(setup.model.state_dict(), path)
    return setup
