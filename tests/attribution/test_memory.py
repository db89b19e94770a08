"""Long loops over a dataset: calls leave nothing behind, and a network dies with its last name."""

import gc
import weakref

import pytest
import torch
from torch import nn

from whence.attribution import CATALOGUE, attribute, method_named
from whence.attribution.catalogue import settings_of
from whence.core import ModelScalar, logit
from whence.errors import WhenceError
from whence.network import Network, rewrite

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

FEW = {"steps": 2, "samples": 2, "masks": 4, "draws": 1, "searches": 1, "window": 4, "stride": 4}

CALLS = {"gradient": 100, "integrated-gradients": 100, "grad-cam": 100, "lrp": 100, "deeplift": 100}
OTHERS = 12
"""How often each method is called; fewer than one object per call may be left behind."""


class Attends(nn.Module):
    """Convolutions and ReLUs, then one attention over all patches of the grid."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.ReLU(), nn.BatchNorm2d(8))
            self.mix, self.head = nn.Linear(8, 24), nn.Linear(8, 3)
        self.eval()

    def forward(self, images):
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        query, key, value = (part[:, None] for part in self.mix(tokens).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)[:, 0]
        return self.head((tokens + mixed).relu().mean(1))


def few(name):
    known = settings_of(name)
    settings = {key: value for key, value in FEW.items() if key in known}
    if "superpixels" in known:
        settings["superpixels"] = "grid:2"
    return method_named(name, settings)


@pytest.fixture(scope="module")
def network():
    return Network.read(Attends(), IMAGES)


def objects():
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("name", [e.card.name for e in CATALOGUE if e.card.name != "x-gradient"])
def test_calls_leave_nothing_behind(name, network):
    method, f = few(name), ModelScalar(network, logit(torch.tensor([0, 2])))
    for _ in range(2):
        result = attribute(method, f, IMAGES)
    assert not result.values.requires_grad
    calls = CALLS.get(name, OTHERS)
    before = objects()
    for _ in range(calls):
        result = attribute(method, f, IMAGES)
    assert objects() - before < calls // 2


def test_refusals_leave_nothing_behind(network):
    f = ModelScalar(network, logit(0))

    def refused():
        with pytest.raises(WhenceError):
            attribute(few("grad-cam"), f, IMAGES[:, :, :7])

    refused()
    before = objects()
    for _ in range(100):
        refused()
    assert objects() - before < 50


@pytest.mark.parametrize("name", ["grad-cam", "lrp", "deeplift", "guided-grad-cam"])
def test_what_was_made_of_a_network_dies_with_it(name):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    ).eval()
    network = Network.read(model, IMAGES)
    attribute(few(name), ModelScalar(network, logit(0)), IMAGES)
    dying = [weakref.ref(network), weakref.ref(network.module), weakref.ref(network.cut())]
    own = weakref.ref(model[0].weight)
    del network
    gc.collect()
    assert [one() for one in dying] == [None, None, None]
    del model
    gc.collect()
    assert own() is None


def test_reading_the_same_model_again_and_again_keeps_no_graph_and_no_text():
    model = Attends()
    Network.read(model, IMAGES)
    gc.collect()
    texts, dying = len(rewrite.generated()), []
    for _ in range(4):
        network = Network.read(model, IMAGES)
        cut = network.cut()
        kept = (network, network.module, network.graph, network.under([]), cut.tail_module)
        dying += [weakref.ref(one) for one in kept]
        del network, cut, kept
    gc.collect()
    assert [one() for one in dying] == [None] * len(dying)
    assert len(rewrite.generated()) <= texts
