"""Training again on changed data: what is trained, what stays, what chance does."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import TensorData
from whence.errors import DataError, NumericsError, SettingError
from whence.recipes.retrain_anew import FromScratch, anew_named, by_chance, drawn_anew


class Net(nn.Module):
    """A batch norm, dropout, and a parameter that belongs to no layer."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.full((1, 1, 4, 4), 0.1))
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.2)
        self.layer = nn.Linear(16, 2)

    def forward(self, images):
        return self.layer(self.drop(self.norm(images + self.shift).flatten(1)))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(1).get_state())
        return Net().eval()


@pytest.fixture
def data(generator):
    labels = torch.arange(60) % 2
    images = torch.randn(60, 1, 4, 4, generator=generator) + labels.view(-1, 1, 1, 1) * 1.5
    return TensorData(images=images, labels=labels)


def accuracy(model, data):
    return float((model(data.images).argmax(dim=1) == data.labels).double().mean())


@pytest.mark.parametrize(
    "way", ["scratch:epochs=12,batch_size=16,rate=0.02", "fine-tune:steps=60,rate=0.02"]
)
def test_a_training_learns_keeps_the_given_network_and_follows_its_seed(net, data, way):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    chance = torch.get_rng_state()
    trained = anew_named(way)
    first, again, other = (trained(net, data, seed) for seed in (0, 0, 1))
    assert accuracy(first, data) > 0.9
    assert not first.training
    assert not net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(chance, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.layer.weight, other.layer.weight)


def test_from_scratch_remembers_nothing_of_the_weights_and_trains_batch_norms(net, data):
    with torch.no_grad():
        net.layer.weight.mul_(1e3)
        net.norm.running_mean.fill_(50)
    made = FromScratch(epochs=30, batch_size=16, rate=0.02)(net, data, 0)
    assert float(made.layer.weight.detach().abs().max()) < 10
    seen = (data.images + made.shift).detach().mean()
    assert float(made.norm.running_mean) == pytest.approx(float(seen), abs=0.3)


def test_every_weight_is_drawn_anew(net):
    made = drawn_anew(net, torch.Generator().manual_seed(3))
    changed = {
        name
        for name, value in made.named_parameters()
        if not torch.equal(value, dict(net.named_parameters())[name])
    }
    assert changed == {"shift", "layer.weight", "layer.bias"}  # norms are 1 and 0 already
    assert float(made.shift.detach().square().mean().sqrt()) == pytest.approx(0.1, rel=0.6)


def test_the_last_layer_is_at_its_minimum_and_the_rest_stays(net, data):
    made = anew_named("last-layer:penalty=0.02")(net, data, 0)
    assert torch.equal(made.shift, net.shift)
    features = net.norm(data.images + net.shift).flatten(1).double().detach()
    weight, bias = (
        value.double().detach().requires_grad_() for value in (made.layer.weight, made.layer.bias)
    )
    loss = functional.cross_entropy(features @ weight.T + bias, data.labels)
    loss = loss + 0.02 * (weight.square().sum() + bias.square().sum())
    slopes = torch.autograd.grad(loss, (weight, bias))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-4


def test_only_the_last_layer_leaves_nothing_to_chance():
    ways = ("scratch", "fine-tune", "last-layer")
    assert [by_chance(anew_named(way)) for way in ways] == [True, True, False]
    assert by_chance(lambda module, data, seed: module)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scrach", "Did you mean scratch"),
        ("scratch:steps=3", "no setting steps=3; it takes numbers for epochs"),
        ("scratch:epochs=many", "no setting epochs=many"),
        ("scratch:epochs=0", "one epoch at least"),
        ("scratch:rate=-1", "rate over 0"),
        ("fine-tune:steps=0", "at least one step"),
    ],
)
def test_impossible_ways_are_refused(text, message):
    with pytest.raises(SettingError, match=message):
        anew_named(text)


def test_images_without_labels_and_losses_that_are_no_number_are_named(net, data):
    with pytest.raises(DataError, match="all with labels"):
        FromScratch()(net, TensorData(images=data.images), 0)
    broken = TensorData(images=data.images * torch.inf, labels=data.labels)
    with pytest.raises(NumericsError, match="lower rate"):
        FromScratch()(net, broken, 0)
