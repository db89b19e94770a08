"""Networks that other libraries explain wrongly without a word, and every method of ours."""

import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import CATALOGUE, method_named
from whence.core import ModelScalar, logit
from whence.network import Network

CHEAP = {
    "smoothgrad": {"samples": 2},
    "smoothgrad-squared": {"samples": 2},
    "vargrad": {"samples": 2},
    "integrated-gradients": {"steps": 3},
    "expected-gradients": {"samples": 2},
    "gradient-shap": {"samples": 2},
    "idgi": {"steps": 3},
    "guided-ig": {"steps": 4},
    "blur-ig": {"steps": 2},
    "occlusion": {"window": 4, "stride": 4},
    "rise": {"masks": 8, "cells": 3},
    "kernel-shap": {"superpixels": "grid:2", "samples": 16},
    "lime": {"superpixels": "grid:2", "samples": 16},
    "soundness-saliency": {"steps": 3},
    "extremal-perturbation": {"steps": 3},
    "pertinent-negatives": {"steps": 5, "searches": 2, "rate": 0.3, "sparsity": 1e-4},
    "pertinent-positives": {"steps": 5, "searches": 2, "rate": 0.3, "sparsity": 1e-4},
}
COMPOSITES = ("epsilon", "epsilon-plus-flat", "epsilon-alpha2-beta1", "epsilon-gamma-box")
ATTENTION = {"attention-rollout", "transformer-attribution"}
RELU = {"guided-backpropagation", "deconvnet", "guided-grad-cam"}
HOMOGENEOUS = {"x-gradient"}
"""Refused on networks with biases, as these are."""

FEW = {"steps": 3, "samples": 4, "masks": 8, "searches": 2, "draws": 2}


def few(entry):
    """Return a method of the catalogue with settings that cost little."""
    fields = entry.make.__dataclass_fields__
    known = {name: value for name, value in FEW.items() if name in fields}
    return method_named(entry.card.name, known | CHEAP.get(entry.card.name, {}))


EVERY = {e.card.name: few(e) for e in CATALOGUE if e.card.name != "x-gradient"} | {
    f"lrp-{name}": method_named("lrp", {"composite": name}) for name in COMPOSITES
}
"""Every method of the catalogue, with few steps; relevance under its composites too.

X-Gradient refuses networks that are no X-DNN, as these are; it has tests of its own.
"""


def pytest_generate_tests(metafunc):
    """Run tests that ask for ``name`` and ``convolutional_method`` or ``token_method`` for all."""
    without = {
        "convolutional_method": ATTENTION | HOMOGENEOUS,
        "token_method": RELU | HOMOGENEOUS,
    }
    for fixture, others in without.items():
        if fixture in metafunc.fixturenames:
            chosen = {name: method for name, method in EVERY.items() if name not in others}
            metafunc.parametrize(fixture, list(chosen.values()), ids=list(chosen))


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


class Clean(nn.Module):
    """Five ReLUs, each a module of its own; the second and the third layer have equal weights."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.three, self.four = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=2)
        self.five, self.head = nn.Linear(8, 10), nn.Linear(10, 4)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.acts = nn.ModuleList([nn.ReLU() for _ in range(5)])
        drawn(self)
        with torch.no_grad():
            self.three.load_state_dict(self.two.state_dict())

    def forward(self, images):
        maps = self.acts[0](self.one(images))
        maps = self.acts[2](self.three(self.acts[1](self.two(maps))))
        maps = self.acts[3](self.four(maps))
        return self.head(self.acts[4](self.five(self.pool(maps).flatten(1))))


class Functional(Clean):
    """ReLUs that are functions, or made on the spot."""

    def forward(self, images):
        maps = functional.relu(self.one(images))
        maps = functional.relu(self.three(torch.relu(self.two(maps))))
        maps = nn.ReLU()(self.four(maps))
        return self.head(self.five(self.pool(maps).flatten(1)).clamp(min=0))


class Reused(Clean):
    """One ReLU module, used five times."""

    def forward(self, images):
        act = self.acts[0]
        maps = act(self.three(act(self.two(act(self.one(images))))))
        return self.head(act(self.five(self.pool(act(self.four(maps))).flatten(1))))


class InPlace(Clean):
    """ReLUs that overwrite their input, in five ways of writing."""

    def forward(self, images):
        maps = functional.relu(self.one(images), inplace=True)
        maps = torch.relu_(self.two(maps))
        maps = nn.ReLU(inplace=True)(self.three(maps))
        maps = self.four(maps).relu_()
        hidden = self.five(self.pool(maps).flatten(1))
        hidden.clamp_(min=0)
        return self.head(hidden)


class Tied(Clean):
    """The second and the third layer share their parameters."""

    def __init__(self):
        super().__init__()
        self.three.weight, self.three.bias = self.two.weight, self.two.bias


class Twice(Clean):
    """The second layer is called twice; there is no third."""

    def __init__(self):
        super().__init__()
        del self.three

    def forward(self, images):
        maps = self.acts[0](self.one(images))
        maps = self.acts[2](self.two(self.acts[1](self.two(maps))))
        maps = self.acts[3](self.four(maps))
        return self.head(self.acts[4](self.five(self.pool(maps).flatten(1))))


class Nested(nn.Module):
    """The same layers in containers in containers, called through a loop."""

    def __init__(self):
        super().__init__()
        clean = Clean()
        body = [nn.Sequential(layer, nn.ReLU()) for layer in (clean.one, clean.two, clean.three)]
        self.parts = nn.ModuleDict({"body": nn.ModuleList([nn.Sequential(*body)])})
        self.tail = nn.Sequential(
            nn.Sequential(nn.Identity(), clean.four), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.end = nn.ModuleList([nn.Flatten(), clean.five, nn.Sequential(nn.ReLU()), clean.head])
        self.eval()

    def forward(self, images):
        for part in self.parts.values():
            for block in part:
                images = block(images)
        images = self.tail(images)
        for part in self.end:
            images = part(images)
        return images


WRITTEN = {
    "functional": Functional,
    "reused": Reused,
    "in-place": InPlace,
    "tied": Tied,
    "called-twice": Twice,
    "nested": Nested,
}


class Residual(nn.Module):
    """Two residual blocks with batch norms, as torchvision writes them: one ReLU for all."""

    def __init__(self, *, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.convs = nn.ModuleList([nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(4)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(6) for _ in range(4)])
        self.act, self.pool = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 4, bias=bias)
        drawn(self)
        if not bias:
            with torch.no_grad():
                for norm in self.norms:
                    norm.bias.zero_()
                    norm.running_mean.zero_()

    def forward(self, images):
        maps = self.act(self.stem(images))
        for i in (0, 2):
            inner = self.act(self.norms[i](self.convs[i](maps)))
            maps = self.act(self.norms[i + 1](self.convs[i + 1](inner)) + maps)
        return self.head(self.pool(maps).flatten(1))


class Transformer(nn.Module):
    """A small vision transformer with a class token over 4 x 4 patches."""

    def __init__(self, depth=2):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.place = nn.Parameter(torch.zeros(1, 17, 8))
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(2 * depth + 1)])
        self.mix = nn.ModuleList([nn.Linear(8, 24) for _ in range(depth)])
        self.out = nn.ModuleList([nn.Linear(8, 8) for _ in range(depth)])
        self.think = nn.ModuleList(
            [nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(depth)]
        )
        self.head = nn.Linear(8, 4)
        drawn(self)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1) + self.place
        for i, mix in enumerate(self.mix):
            mixed = mix(self.norms[2 * i](tokens)).unflatten(-1, (3, 2, 4))
            query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
            attended = functional.scaled_dot_product_attention(query, key, value)
            tokens = tokens + self.out[i](attended.transpose(1, 2).flatten(2))
            tokens = tokens + self.think[i](self.norms[2 * i + 1](tokens))
        return self.head(self.norms[-1](tokens)[:, 0])


MAKERS = {
    "clean": Clean,
    "residual": Residual,
    "residual without biases": lambda: Residual(bias=False),
    "transformer": Transformer,
    **WRITTEN,
}


@pytest.fixture(scope="session")
def make():
    """Make one of these networks, by its name."""
    return lambda name: MAKERS[name]()


@pytest.fixture(scope="session")
def held():
    """Networks that were read, with their models, and maps of the clean one: made once."""
    return {}


@pytest.fixture
def read(held, images):
    """Return a model by its name, and the network read of it."""

    def find(name):
        if name not in held:
            model = MAKERS[name]()
            held[name] = (model, Network.read(model, images))
        return held[name]

    return find


@pytest.fixture
def explained(read, images, classes, held):
    """Return a method's values on a network by its name; held, so that twins compare with them."""

    def values(name, method):
        if (name, method) not in held:
            network = read(name)[1]
            held[name, method] = method(ModelScalar(network, logit(classes)), images).detach()
        return held[name, method]

    return values


@pytest.fixture(scope="session")
def captum():
    """Captum's methods."""
    return pytest.importorskip("captum.attr", reason="needs whence[parity]")


def behind_torchvision(name):
    """Import a library that imports torchvision, which whence can open where it is half built."""
    try:
        importlib.import_module("whence.adapters.torchvision").open_torchvision()
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs whence[parity]: {error}")


@pytest.fixture(scope="session")
def zennit():
    """Zennit, with its composites, canonizers and attributors."""
    package = behind_torchvision("zennit")
    for part in ("attribution", "canonizers", "composites", "rules"):
        importlib.import_module(f"zennit.{part}")
    return package


@pytest.fixture(scope="session")
def grad_cam():
    """The package of pytorch-grad-cam."""
    package = behind_torchvision("pytorch_grad_cam")
    importlib.import_module("pytorch_grad_cam.utils.model_targets")
    return package


@pytest.fixture(scope="session")
def behind():
    """Import a library of this name, or skip."""
    return behind_torchvision
