"""Rules: the same values, other gradients, only where they were asked for."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.errors import SettingError
from whence.network import (
    DECONVOLUTION,
    GUIDED_BACKPROPAGATION,
    Network,
    Place,
    Rule,
    everywhere,
    places,
)


class Modules(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.one = nn.Conv2d(3, 6, 3)
            self.two = nn.Conv2d(6, 6, 3)
            self.head = nn.Linear(6, 4)
        self.first, self.second = nn.ReLU(), nn.ReLU(inplace=True)
        self.eval().double()

    def forward(self, images):
        return self.head(self.second(self.two(self.first(self.one(images)))).mean((2, 3)))


class Functional(Modules):
    def forward(self, images):
        hidden = functional.relu(self.one(images))
        hidden = hidden + functional.relu(hidden - 0.1)
        return self.head(torch.relu_(self.two(hidden)).mean((2, 3)))


IMAGES = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def gradient(function, images=IMAGES, place=1):
    leaf = images.clone().requires_grad_()
    logits = function(leaf)
    return torch.autograd.grad(logits[:, place].sum(), leaf)[0]


def naive_guided(values):
    """Apply a ReLU whose gradient is clipped at zero before and masked after, by a hook."""
    result = values.clamp(min=0)
    if result.requires_grad:
        result.register_hook(lambda upstream: upstream.clamp(min=0))
    return result


@pytest.mark.parametrize("kind", [Modules, Functional])
def test_guided_backpropagation_is_what_hooks_on_every_relu_give(kind, monkeypatch):
    model = kind()
    network = Network.read(model, IMAGES).under([GUIDED_BACKPROPAGATION])
    actual = gradient(network)
    assert torch.equal(network(IMAGES), model(IMAGES))
    monkeypatch.setattr(functional, "relu", lambda values, inplace=False: naive_guided(values))
    monkeypatch.setattr(torch, "relu_", naive_guided)
    torch.testing.assert_close(actual, gradient(model))
    assert not torch.allclose(actual, gradient(Network.read(kind(), IMAGES)))


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.filterwarnings("ignore:Input Tensor")
def test_guided_backpropagation_agrees_with_captum():
    attr = pytest.importorskip("captum.attr")
    model = Modules()
    network = Network.read(model, IMAGES).under([GUIDED_BACKPROPAGATION])
    actual = gradient(network)
    expected = attr.GuidedBackprop(model).attribute(IMAGES.clone().requires_grad_(), target=1)
    torch.testing.assert_close(actual, expected)


def test_rules_leave_the_network_that_they_were_applied_to():
    network = Network.read(Modules(), IMAGES)
    before = gradient(network)
    network.under([GUIDED_BACKPROPAGATION])
    assert torch.equal(gradient(network), before)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, upstream):
        return 2 * upstream


def doubling(operation, *arguments):
    """Apply an operation; its gradient comes back twice as large."""
    return Doubled.apply(operation(*arguments))


def test_a_rule_applies_where_it_says():
    network = Network.read(Modules(), IMAGES)
    plain = gradient(network)
    by_path = Rule(
        operations=frozenset({"conv2d"}), function=doubling, where=lambda p: p.path == "two"
    )
    torch.testing.assert_close(gradient(network.under([by_path])), 2 * plain)
    all_convolutions = Rule(operations=frozenset({"conv2d"}), function=doubling)
    torch.testing.assert_close(gradient(network.under([all_convolutions])), 4 * plain)
    nowhere = Rule(
        operations=frozenset({"conv2d"}), function=doubling, where=lambda p: False, optional=True
    )
    torch.testing.assert_close(gradient(network.under([nowhere])), plain)


def test_the_first_fitting_rule_wins():
    network = Network.read(Modules(), IMAGES)
    plain = gradient(network)
    first = Rule(operations=frozenset({"conv2d"}), function=doubling, where=lambda p: p.first)
    rest = Rule(operations=frozenset({"conv2d", "linear"}), function=lambda op, *args: op(*args))
    torch.testing.assert_close(gradient(network.under([first, rest])), 2 * plain)
    torch.testing.assert_close(gradient(network.under([rest, first])), plain)


SOURCES = (("placeholder", "", ""), ("relu", "", ""))


def test_a_rule_is_asked_about_every_operation_of_its_name_once_in_order():
    asked = []

    def note(place):
        asked.append(place)
        return False

    operations = frozenset({"conv2d", "relu"})
    rule = Rule(operations=operations, function=doubling, where=note, optional=True)
    Network.read(Modules(), IMAGES).under([rule])
    assert asked == [
        Place(name="conv2d", path="one", first=True, depth=0, height=2, sources=SOURCES[0]),
        Place(name="relu", path="first", first=True, depth=1, height=2, sources=("conv2d",)),
        Place(name="conv2d", path="two", first=False, depth=1, height=1, sources=SOURCES[1]),
        Place(name="relu", path="second", first=False, depth=2, height=1, sources=("conv2d",)),
    ]
    assert all(everywhere(place) for place in asked)


def test_places_count_layers_along_the_longest_way():
    found = places(Network.read(Functional(), IMAGES).module)
    added = next(place for place in found if place.name == "add")
    assert (added.depth, added.height, added.sources) == (1, 2, ("relu", "relu"))
    last = next(place for place in found if place.name == "linear")
    assert (last.depth, last.height, last.path) == (2, 0, "head")


def test_a_network_under_rules_is_cut_at_the_same_nodes():
    network = Network.read(Modules(), IMAGES)
    ruled = network.under([GUIDED_BACKPROPAGATION])
    node = network.cut().node
    assert node.startswith("relu")
    torch.testing.assert_close(ruled.cut(node).head(IMAGES)[0], network.cut(node).head(IMAGES)[0])


def positive_gradients(values):
    result = functional.threshold(values, 0.0, 0.0)
    if result.requires_grad:
        return Rectified.apply(values)
    return result


class Rectified(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clamp(min=0)

    @staticmethod
    def backward(ctx, upstream):
        return upstream * (upstream > 0)


def test_deconvolution_passes_positive_gradients_through_silent_units_too(monkeypatch):
    model = Functional()
    actual = gradient(Network.read(model, IMAGES).under([DECONVOLUTION]))
    monkeypatch.setattr(functional, "relu", positive_gradients)
    monkeypatch.setattr(torch, "relu_", positive_gradients)
    torch.testing.assert_close(actual, gradient(model))


def test_parameters_of_a_network_under_rules_are_the_users():
    model = Modules()
    network = Network.read(model, IMAGES).under([GUIDED_BACKPROPAGATION])
    assert all(network.parameters[name] is p for name, p in model.named_parameters())
    before = network(IMAGES)
    with torch.no_grad():
        model.head.bias += 1
    torch.testing.assert_close(network(IMAGES), before + 1)


def test_the_same_rules_asked_for_again_give_the_same_network():
    network = Network.read(Modules(), IMAGES)
    guided = network.under([GUIDED_BACKPROPAGATION])
    assert network.under((GUIDED_BACKPROPAGATION,)) is guided
    assert network.under([DECONVOLUTION]) is not guided
    assert places(network.module) is places(network.module)


class Smooth(Modules):
    def forward(self, images):
        return self.head(functional.gelu(self.two(functional.gelu(self.one(images)))).mean((2, 3)))


@pytest.mark.parametrize("rule", [GUIDED_BACKPROPAGATION, DECONVOLUTION])
def test_a_rule_that_fits_no_operation_is_refused_with_those_that_there_are(rule):
    network = Network.read(Smooth(), IMAGES)
    with pytest.raises(
        SettingError, match=r"A rule for relu fits no operation.*it has conv2d, gelu"
    ):
        network.under([rule])
    with pytest.raises(SettingError, match="for relu fits no operation"):
        network.under([Rule(operations=frozenset({"conv2d"}), function=doubling), rule])


def test_a_misspelt_operation_is_refused_with_the_closest():
    network = Network.read(Modules(), IMAGES)
    with pytest.raises(SettingError, match=r"Did you mean conv2d\? network\.describe"):
        network.under([Rule(operations=frozenset({"conv2"}), function=doubling)])


def test_a_rule_for_places_that_are_not_there_is_refused_with_those_that_are():
    network = Network.read(Modules(), IMAGES)
    rule = Rule(
        operations=frozenset({"conv2d"}), function=doubling, where=lambda p: p.path == "three"
    )
    with pytest.raises(SettingError, match=r"accepts none of the 2 places: one, two\. network"):
        network.under([rule])


def test_a_rule_whose_operations_all_went_to_another_is_no_mistake():
    network = Network.read(Modules(), IMAGES)
    rule = Rule(operations=frozenset({"conv2d"}), function=doubling)
    again = Rule(operations=frozenset({"conv2d"}), function=lambda op, *args: op(*args))
    torch.testing.assert_close(gradient(network.under([rule, again])), 4 * gradient(network))
