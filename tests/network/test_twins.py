"""The same network written in many ways is read as the same function; or refused with the cure."""

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, spectral_norm

from whence.errors import ReadError
from whence.network import GUIDED_BACKPROPAGATION, Network, places

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Clean(nn.Module):
    """Three convolutions, each ReLU its own module, and a linear layer."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one, self.two, self.three = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 3)
        self.first, self.second, self.third = nn.ReLU(), nn.ReLU(), nn.ReLU()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
            self.three.weight.copy_(self.two.weight)
            self.three.bias.copy_(self.two.bias)
        self.double().eval()

    def forward(self, images):
        maps = self.first(self.one(images))
        maps = maps + self.second(self.two(maps))
        maps = self.third(self.three(maps))
        return self.head(maps.mean((2, 3)))


class Functional(Clean):
    def forward(self, images):
        maps = functional.relu(self.one(images))
        maps = maps + torch.relu(self.two(maps))
        return self.head(self.three(maps).relu().mean((2, 3)))


class Reused(Clean):
    def forward(self, images):
        maps = self.first(self.one(images))
        maps = maps + self.first(self.two(maps))
        return self.head(self.first(self.three(maps)).mean((2, 3)))


class InPlace(Clean):
    def forward(self, images):
        maps = functional.relu_(self.one(images))
        total = maps.clone()
        total += nn.ReLU(inplace=True)(self.two(maps))
        out = self.three(total)
        out.relu_()
        return self.head(out.mean((2, 3)))


class Tied(Clean):
    def __init__(self):
        super().__init__()
        del self.three
        self.three = nn.Conv2d(4, 4, 1).double().eval()
        self.three.weight, self.three.bias = self.two.weight, self.two.bias


class OneLayerTwice(Clean):
    def forward(self, images):
        maps = self.first(self.one(images))
        maps = maps + self.second(self.two(maps))
        return self.head(self.third(self.two(maps)).mean((2, 3)))


class Nested(Clean):
    """Containers in containers, and a list that the forward walks through."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleDict(
            OrderedDict(
                stem=nn.Sequential(nn.Sequential(self.one), nn.ModuleList([self.first])[0]),
                blocks=nn.ModuleList([nn.ModuleList([self.two, self.second])]),
            )
        )
        self.eval()

    def forward(self, images):
        maps = self.stages["stem"](images)
        for block in self.stages["blocks"]:
            more = maps
            for layer in block:
                more = layer(more)
            maps = maps + more
        return self.head(nn.Sequential(self.three, self.third)(maps).mean((2, 3)))


def hooked():
    """A network whose hooks take part: one doubles, the next one halves what it returned."""
    model = Clean()
    model.two.register_forward_hook(lambda module, inputs, output: output * 2)
    model.second.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 2,))
    model.seen = []
    model.one.register_forward_hook(lambda module, inputs, output: model.seen.append(1))
    return model


def normed():
    """A network with a weight norm, which leaves the weights as they are."""
    model = Clean()
    parametrizations.weight_norm(model.one)
    return model.eval()


def spectral():
    """A network with a spectral norm of the old kind, and the same in plain weights."""
    model, plain = Clean(), Clean()
    spectral_norm(model.two)
    model(IMAGES)  # its first forward sets the weight
    model.eval()
    with torch.no_grad():
        model(IMAGES)
        plain.two.weight.copy_(model.two.weight)
    return model, plain


TWINS = {
    "functional": Functional,
    "one ReLU module, used three times": Reused,
    "in place": InPlace,
    "tied weights": Tied,
    "one layer, used twice": OneLayerTwice,
    "nested containers": Nested,
    "hooks": hooked,
    "weight norm": normed,
    "compiled": lambda: torch.compile(Clean(), backend="eager"),
    "compiled twin": lambda: torch.compile(InPlace(), backend="eager"),
    "data parallel": lambda: nn.DataParallel(Functional()).eval(),
    "data parallel in train mode": lambda: nn.DataParallel(Functional()),
}
each_twin = pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)


def gradient(network):
    images = IMAGES.clone().requires_grad_()
    return torch.autograd.grad(network(images)[:, 1].sum(), images)[0]


@each_twin
def test_a_twin_is_read_as_the_same_function_and_left_as_it_was(twin, untouched):
    model = twin()
    with untouched(model):
        network = Network.read(model, IMAGES)
        folded = network.folded()
    expected = Network.read(Clean(), IMAGES)
    for read in (network, network.under([]), folded):
        torch.testing.assert_close(read(IMAGES), expected(IMAGES), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient(read), gradient(expected), rtol=1e-10, atol=1e-12)


@each_twin
def test_rules_see_the_same_operations_in_a_twin(twin):
    network, expected = Network.read(twin(), IMAGES), Network.read(Clean(), IMAGES)
    assert [p.name for p in places(network.module)].count("relu") == 3
    guided = gradient(network.under([GUIDED_BACKPROPAGATION]))
    torch.testing.assert_close(guided, gradient(expected.under([GUIDED_BACKPROPAGATION])))
    assert not torch.allclose(guided, gradient(network))


@each_twin
def test_a_twin_is_cut_at_the_same_map(twin):
    cut, expected = Network.read(twin(), IMAGES).cut(), Network.read(Clean(), IMAGES).cut()
    assert cut.plane == expected.plane
    torch.testing.assert_close(cut.head(IMAGES)[0], expected.head(IMAGES)[0])


def test_a_spectral_norm_is_part_of_the_function(untouched):
    model, plain = spectral()
    with untouched(model):
        network = Network.read(model, IMAGES)
    torch.testing.assert_close(network(IMAGES), plain(IMAGES), rtol=1e-10, atol=1e-12)


def test_weights_that_are_tied_have_one_name_and_later_training_shows_in_both():
    model = Tied()
    network = Network.read(model, IMAGES)
    assert "three.weight" not in network.parameters
    with torch.no_grad():
        model.three.weight.mul_(3)
    torch.testing.assert_close(network(IMAGES), model(IMAGES))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_read_and_differentiated(kind, untouched):
    model = InPlace().to(kind)
    with untouched(model):
        network = Network.read(model, IMAGES.to(kind))
    images = IMAGES.to(kind)
    torch.testing.assert_close(network(images), model(images), rtol=0, atol=0)
    leaf = images.clone().requires_grad_()
    (found,) = torch.autograd.grad(network(leaf)[:, 1].sum(), leaf)
    apart = (found.double() - gradient(Clean())).norm() / gradient(Clean()).norm()
    assert apart < 20 * torch.finfo(kind).eps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("made", ["script", "trace"])
def test_torchscript_is_refused_with_the_cure(made):
    model = Clean()
    script = torch.jit.script(model) if made == "script" else torch.jit.trace(model, IMAGES)
    with pytest.raises(ReadError, match=r"The model is TorchScript.*load_state_dict\(scripted"):
        Network.read(script, IMAGES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_part_in_torchscript_is_named():
    model = Nested()
    model.stages["stem"][0] = torch.jit.script(model.stages["stem"][0])
    with pytest.raises(ReadError, match=re.escape("Its part 'stages.stem.0' is TorchScript")):
        Network.read(model, IMAGES)
