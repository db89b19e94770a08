"""What is made of a network is kept, and made again after its weights changed in any way."""

import pytest
import torch
from torch import nn

from whence.attribution import method_named
from whence.attribution.graphs import remade
from whence.core import ModelScalar, logit
from whence.network import Network

RULED = ("lrp", "contrastive-lrp", "guided-backpropagation", "guided-grad-cam", "deeplift")


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)]
    return nn.Sequential(*layers).double().eval()


def in_place(weight):
    with torch.no_grad():
        weight.mul_(0.5)


def through_data(weight):
    weight.data.mul_(0.5)


def through_numpy(weight):
    weight.detach().numpy()[:] *= 0.5


@pytest.mark.parametrize("change", [in_place, through_data, through_numpy])
@pytest.mark.parametrize("name", RULED)
def test_a_map_after_the_weights_changed_is_that_of_the_new_weights(model, name, change):
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    method = method_named(name)
    network = Network.read(model, images)
    before = method(ModelScalar(network, logit(1)), images)
    change(model[0].weight)
    after = method(ModelScalar(network, logit(1)), images)
    fresh = method(ModelScalar(Network.read(model, images), logit(1)), images)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, fresh, rtol=1e-12, atol=1e-12)


def test_nothing_is_made_twice_of_the_same_weights(model):
    network = Network.read(model, torch.rand(2, 3, 8, 8, dtype=torch.float64))
    assert remade(network, "key", lambda _: object()) is remade(network, "key", lambda _: object())
