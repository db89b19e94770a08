"""Training again: each way against another way of doing the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import TensorData
from whence.errors import SettingError, UnsupportedOperation
from whence.network import Network
from whence.recipes import FineTune, LastLayer, Removal
from whence.recipes.retrain import order_of, way_named

COUNT = 20


@pytest.fixture
def model(generator):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return net.eval()


@pytest.fixture
def train(generator):
    images = torch.randn(COUNT, 1, 4, 4, generator=generator)
    return TensorData(images=images, labels=torch.arange(COUNT) % 3)


def subsets():
    keep = torch.ones(2, COUNT, dtype=torch.bool)
    keep[1, [0, 4, 7]] = False
    return keep


def given(model, train, queries):
    network = Network.read(model, train.images[:2])
    return model, network, train, torch.arange(COUNT), queries


def minimum(features, labels):
    """Return weight and bias at the penalised minimum, by another optimiser."""
    weight = torch.zeros(3, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-10)

    def closure():
        optimiser.zero_grad()
        fit = functional.cross_entropy(features @ weight.T + bias, labels)
        value = fit + 0.02 * (weight.square().sum() + bias.square().sum())
        value.backward()
        return value

    optimiser.step(closure)
    return weight.detach(), bias.detach()


def test_the_last_layer_is_fitted_to_the_minimum(model, train, generator):
    queries = torch.randn(4, 1, 4, 4, generator=generator)
    way = LastLayer(penalty=0.02, tolerance=1e-8)
    found = way.of(*given(model, train, queries))(subsets())
    for row, keep in enumerate(subsets()):
        with torch.no_grad():
            features = model[:3](train.images[keep]).double()
            asked = model[:3](queries).double()
        weight, bias = minimum(features, train.labels[keep])
        expected = asked @ weight.T + bias
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-4, atol=1e-4)


def test_fine_tuning_is_adam_on_the_images_that_are_left(model, train, generator):
    queries = torch.randn(4, 1, 4, 4, generator=generator)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    way = FineTune(steps=3, rate=0.05, batch_size=4, seed=2)
    found = way.of(*given(model, train, queries))(subsets())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(p.grad is not None for p in model.parameters())
    for row, keep in enumerate(subsets()):
        model.load_state_dict(before)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
        order = order_of(keep.nonzero().flatten(), COUNT, 12, 2)
        assert keep[order].all()
        for step in range(3):
            some = order[4 * step : 4 * step + 4]
            optimiser.zero_grad()
            functional.cross_entropy(model(train.images[some]), train.labels[some]).backward()
            optimiser.step()
        with torch.no_grad():
            torch.testing.assert_close(found[row], model(queries), rtol=1e-4, atol=1e-5)


def test_the_order_of_what_is_left_does_not_depend_on_what_is_gone():
    every = order_of(torch.arange(COUNT), COUNT, COUNT, 0)
    some = order_of(torch.tensor([k for k in range(COUNT) if k not in (3, 8)]), COUNT, 18, 0)
    assert [k for k in every.tolist() if k not in (3, 8)] == some.tolist()
    assert sorted(order_of(torch.tensor([1, 2]), COUNT, 4, 0).tolist()) == [1, 1, 2, 2]


def test_without_a_last_layer_fine_tuning_is_proposed(train):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(UnsupportedOperation, match="fine-tune"):
        LastLayer().of(*given(net, train, train.images[:1]))


def test_frozen_parameters_cannot_be_fine_tuned(model, train):
    frozen = model.requires_grad_(requires_grad=False)
    with pytest.raises(SettingError, match="frozen"):
        FineTune(steps=1).of(*given(frozen, train, train.images[:1]))(subsets())


def test_a_way_is_named_with_its_settings():
    assert way_named("fine-tune", {"steps": 7}) == FineTune(steps=7)
    assert way_named("last-layer", {"penalty": 0.1}) == LastLayer(penalty=0.1)
    with pytest.raises(SettingError, match="last-layer, fine-tune"):
        way_named("scratch", {})
    with pytest.raises(SettingError, match="no setting steeps"):
        way_named("fine-tune", {"steeps": 7})
    with pytest.raises(SettingError, match="steps=0"):
        way_named("fine-tune", {"steps": 0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": (5, 2)}, "ascending"),
        ({"counts": ()}, "ascending"),
        ({"counts": (1,), "by": "opponents"}, "'proponents' or 'harmful'"),
        ({"counts": (1,), "draws": 0}, "draws"),
    ],
)
def test_a_removal_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        Removal(**settings)
