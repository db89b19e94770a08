"""A small network of many kinds of layer in double precision, with its curvature as a matrix."""

from dataclasses import dataclass
from functools import cached_property

import pytest
import torch
from torch import nn
from torch.func import functional_call

from whence.core import TensorData
from whence.curvature import TrainingImages
from whence.gradients import Recorder
from whence.network import Network


class Mixed(nn.Module):
    """Convolutions (plain, grouped, depthwise), a norm, a layer on tokens, one used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 2)
        self.grouped = nn.Conv2d(4, 4, 2, groups=2, stride=2, padding=1, bias=False)
        self.depthwise = nn.Conv2d(4, 4, 2, groups=4)
        self.norm = nn.LayerNorm(4)
        self.tokens = nn.Linear(4, 3)
        self.twice = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, images):
        values = self.depthwise(self.grouped(self.stem(images).tanh()).tanh())
        values = self.norm(values.flatten(2).transpose(1, 2))
        values = self.tokens(values).tanh()
        return self.head(self.twice(self.twice(values).tanh()).mean(dim=1))


class Linear(nn.Module):
    """Softmax regression."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        return self.head(images.flatten(1))


@dataclass(frozen=True, eq=False)
class Subject:
    """A model, images, labels, and its curvature by autograd alone, one image at a time."""

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor

    @cached_property
    def network(self):
        return Network.read(self.model, self.images)

    @cached_property
    def recorder(self):
        return Recorder(self.network)

    @property
    def train(self):
        return TensorData(images=self.images, labels=self.labels)

    def chosen(self, **settings):
        return TrainingImages(recorder=self.recorder, data=self.train, **settings)

    @property
    def names(self):
        return list(self.network.parameters)

    def vectors(self, count=2, seed=5):
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(count, *p.shape, generator=generator, dtype=p.dtype)
            for name, p in self.network.parameters.items()
        }

    def flat(self, vectors):
        return torch.cat([vectors[name].flatten(1) for name in self.names], dim=1)

    def matrix_of(self, operator):
        """The operator as a matrix, column by column."""
        sizes = [self.network.parameters[n].numel() for n in self.names]
        parts = torch.split(torch.eye(sum(sizes), dtype=torch.float64), sizes, dim=1)
        shaped = {
            n: part.reshape(len(part), *self.network.parameters[n].shape)
            for n, part in zip(self.names, parts, strict=True)
        }
        return self.flat(operator(shaped)).T

    @cached_property
    def places(self):
        """Where each parameter is in a flat vector."""
        found, start = {}, 0
        for name in self.names:
            size = self.network.parameters[name].numel()
            found[name] = slice(start, start + size)
            start += size
        return found

    @cached_property
    def class_gradients(self):
        """The gradient of the cross-entropy of every class, ``(n, k, p)``."""
        rows = []
        for image in self.images:
            log = self.model(image[None]).log_softmax(dim=1)[0]
            for k in range(len(log)):
                parts = torch.autograd.grad(
                    -log[k], list(self.model.parameters()), retain_graph=True
                )
                rows.append(torch.cat([part.flatten() for part in parts]))
        return torch.stack(rows).reshape(len(self.images), -1, len(rows[0]))

    @cached_property
    def chances(self):
        with torch.no_grad():
            return self.model(self.images).softmax(dim=1)

    @cached_property
    def gauss_newton(self):
        g = self.class_gradients
        return torch.einsum("nk,nkp,nkq->pq", self.chances, g, g) / len(g)

    @cached_property
    def label_gradients(self):
        return self.class_gradients[torch.arange(len(self.labels)), self.labels]

    @cached_property
    def empirical(self):
        return self.label_gradients.T @ self.label_gradients / len(self.labels)

    @cached_property
    def hessian(self):
        held = {name: p.detach() for name, p in self.model.named_parameters()}
        start = torch.cat([held[name].flatten() for name in self.names])

        def loss(flat):
            parts = {n: flat[self.places[n]].reshape(held[n].shape) for n in self.names}
            return nn.functional.cross_entropy(
                functional_call(self.model, parts, (self.images,)), self.labels
            )

        return torch.autograd.functional.hessian(loss, start)


def made(model, shape, *, scale=0.7, count=6):
    model = model.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    images = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return Subject(model, images, torch.tensor([0, 2, 1, 1, 0, 2])[:count])


@pytest.fixture(scope="session")
def mixed():
    """Layers of many kinds."""
    return made(Mixed(), (2, 4, 4))


@pytest.fixture(scope="session")
def linear():
    """Softmax regression."""
    return made(Linear(), (2, 2, 2))


@pytest.fixture(scope="session")
def even():
    """Softmax regression whose weights are zero: inputs and gradients are independent."""
    return made(Linear(), (2, 2, 2), scale=0.0)
