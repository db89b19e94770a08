from dataclasses import dataclass

import pytest
import torch
from torch import nn

from whence.core import logit
from whence.errors import SettingError
from whence.evaluation import ParameterRandomisation
from whence.evaluation.randomisation import layers_of
from whence.network import Network


class Tokens(nn.Module):
    """A network with a token, a norm and a scale beside its layers."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.embed = nn.Conv2d(3, 12, 4, stride=4)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), tokens], dim=1)
        return self.head(self.norm(tokens.square()).mean(dim=1))


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(3).get_state())
        return Tokens().double().eval()


@pytest.fixture
def images(generator):
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Gradient:
    def __call__(self, f, images):
        images = images.detach().requires_grad_()
        return torch.autograd.grad(f(images).sum(), images)[0]


@dataclass(frozen=True, kw_only=True)
class Edges:
    """A method that looks at the image alone."""

    def __call__(self, f, images):
        return images.diff(dim=3, append=images[..., :1])


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Shows the parameters in place of an attribution."""

    seen: list

    def __call__(self, f, images):
        held = {name: p.detach().clone() for name, p in f.model.parameters.items()}
        self.seen.append(held)
        return images


def test_every_parameter_on_the_way_is_redrawn_from_the_output_down(model, images):
    seen = []
    made = ParameterRandomisation()(model, images, logit(1), Parameters(seen=seen))
    assert made.layers == ("head", "norm", "token", "embed")
    first, last = seen[0], seen[-1]
    assert set(first) == {name for name, _ in model.named_parameters() if "unused" not in name}
    changed = [n for n in first if not torch.equal(first[n], last[n])]
    assert set(first) - set(changed) == {"norm.bias"}  # all zeros hold nothing learned
    assert not torch.equal(seen[1]["head.bias"], first["head.bias"])
    assert torch.equal(seen[1]["norm.weight"], first["norm.weight"])


def test_redrawn_parameters_keep_their_size(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 300)).double().eval()
    seen = []
    ParameterRandomisation()(model, images, logit(1), Parameters(seen=seen))
    before, after = (s["1.weight"].square().mean().sqrt().item() for s in (seen[0], seen[-1]))
    assert after == pytest.approx(before, rel=0.02)


def test_a_method_that_ignores_the_weights_stays_the_same(model, images):
    made = ParameterRandomisation()(model, images, logit(1), Edges())
    torch.testing.assert_close(made.correlations, torch.ones(4, 4, dtype=torch.float64))


def test_the_gradient_forgets_the_original_map(model, images):
    made = ParameterRandomisation()(model, images, logit(1), Gradient())
    assert made.correlations[-1].abs().mean().item() < 0.3


def test_the_users_model_is_untouched(model, images, untouched):
    with untouched(model):
        ParameterRandomisation()(model, images, logit(1), Gradient())


def test_the_same_seed_gives_the_same_cascade(model, images):
    one, two = (ParameterRandomisation()(model, images, logit(1), Gradient()) for _ in range(2))
    other = ParameterRandomisation(seed=1)(model, images, logit(1), Gradient())
    assert torch.equal(one.correlations, two.correlations)
    assert not torch.equal(one.correlations, other.correlations)


def test_a_model_without_parameters_is_refused(images):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(SettingError, match="no parameters"):
        ParameterRandomisation()(model, images, logit(1), Gradient())


class Attending(nn.Module):
    """Attention with positions and a head of two uses, and a branch that leads nowhere."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.places = nn.Parameter(torch.randn(1, 4, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.aside = nn.Linear(8, 2)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.places
        self.aside(tokens)
        return self.head(self.block(tokens).mean(dim=1)) + self.head(tokens.mean(dim=1))


class Normed(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(4, 2),
        )  # fmt: skip


@pytest.mark.parametrize("make", [Tokens, Attending, Normed])
def test_the_order_of_the_layers_is_that_of_the_graph(make, images):
    model = make().double().eval()
    network = Network.read(model, images)
    expected: dict[str, list[str]] = {}
    used = [
        str(source.target)
        for node in network.graph.nodes
        for source in node.all_input_nodes
        if source.op == "get_attr" and str(source.target) in network.parameters
    ]
    for name in reversed(list(dict.fromkeys(used))):
        expected.setdefault(name.rpartition(".")[0] or name, []).append(name)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {k: [names[id(p)] for p in some] for k, some in layers_of(model, images).items()}
    assert list(found.items()) == list(expected.items())


def test_a_method_of_gradients_needs_no_graph_and_frozen_weights_are_redrawn(
    model, images, monkeypatch
):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    expected = ParameterRandomisation()(model, images, logit(1), Gradient())

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(Network, "read", refuse)
    found = ParameterRandomisation()(model, images, logit(1), Gradient())
    assert torch.equal(found.correlations, expected.correlations)
    assert found.layers == ("head", "norm", "token", "embed")


@dataclass(frozen=True, kw_only=True)
class OfTheGraph:
    def __call__(self, f, images):
        if not isinstance(f.model, Network):
            raise SettingError
        return Gradient()(f, images)


def test_the_graph_and_the_module_tell_the_same(model, images):
    one, two = (
        ParameterRandomisation(order="independent")(model, images, logit(1), method)
        for method in (Gradient(), OfTheGraph())
    )
    torch.testing.assert_close(one.correlations, two.correlations)
    assert one.layers == two.layers


def test_maps_are_compared_alike_together_and_one_by_one(model, images, monkeypatch):
    one = ParameterRandomisation()(model, images, logit(1), Gradient())
    monkeypatch.setattr("whence.evaluation.randomisation.TOGETHER", 1)
    two = ParameterRandomisation()(model, images, logit(1), Gradient())
    assert torch.equal(one.correlations, two.correlations)


def test_a_model_that_switches_gradients_off_is_randomised_all_the_same(images):
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(192, 3)

        @torch.no_grad()
        def forward(self, images):
            return self.head(images.flatten(1))

    model = Silent().double().eval()
    assert list(layers_of(model, images)) == ["head"]
