"""What the graph shows of signs: the same maps for less work and memory."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from whence.attribution import Gradient
from whence.attribution.deeplift import DeepLift
from whence.attribution.relevance import LRP
from whence.attribution.relevance.layers import RuledLayer
from whence.core import ModelScalar
from whence.network import Network

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "write-a-rule.md"


def layers_of(network):
    graph = network.module.graph
    return {n.name: n.target for n in graph.nodes if isinstance(n.target, RuledLayer)}


def test_a_layer_takes_in_its_relu_and_knows_what_a_relu_made(models, scalar):
    network = LRP().prepared(scalar(models["vgg"]()).model)
    found = [(layer.rectified, layer.positive) for layer in layers_of(network).values()]
    expected = [(True, False), (True, True), (True, True), (True, True), (False, True)]
    assert found == expected
    assert not any("relu" in node.name for node in network.module.graph.nodes)


def test_a_relu_before_which_something_else_reads_stays(models, scalar, images):
    class Tapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, images):
            maps = self.layer(images)
            return self.head((maps.relu() + maps).mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tapped().double().eval()
    f = scalar(model)
    layers = layers_of(LRP().prepared(f.model))
    assert [(x.rectified, x.positive) for x in layers.values()] == [(False, False)] * 2
    account = LRP(composite="epsilon").account(f, images)
    whole = account.values.flatten(1).sum(1) + account.absorbed
    torch.testing.assert_close(whole, account.explained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "densenet", "vit"])
@pytest.mark.parametrize("name", ["epsilon-plus", "generalised-gamma"])
def test_what_signs_save_changes_no_map(name, kind, models, scalar, images, monkeypatch):
    f = scalar(models[kind]())
    expected = LRP(composite=name)(f, images)
    monkeypatch.setattr(
        "whence.attribution.relevance.assembly.simplified", lambda _, ruled, merge: ruled
    )
    plain = LRP(composite=name)(ModelScalar(Network.read(models[kind](), images), f.target), images)
    torch.testing.assert_close(expected, plain, rtol=1e-7, atol=1e-9)


def kept(method, f, images):
    """Return the bytes that a method's forward keeps for its way back, weights apart."""
    weights = {p.untyped_storage().data_ptr() for p in f.model.module.parameters()}
    method(f, images)
    found = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tensor.ndim > 2:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method(f, images)
    return sum(found.values())


@pytest.mark.parametrize("kind", ["vgg", "resnet", "densenet", "vit"])
def test_relevance_keeps_little_more_than_a_gradient(kind, models, scalar, images):
    f = scalar(models[kind]())
    assert kept(LRP(composite="epsilon-plus"), f, images) <= 1.1 * kept(Gradient(), f, images)


def flops(method, f, images):
    method(f, images)
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        method(f, images)
    return counter.get_total_flops()


def wide(kind):
    """A network in which layers that read the images weigh little, as in real ones."""

    def block(channels):
        return nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())

    if kind == "vit":
        layer = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0, activation="gelu", batch_first=True, norm_first=True
        )
        stem = nn.Sequential(nn.Conv2d(3, 32, 2, 2), nn.Flatten(2))
        return nn.Sequential(stem, Turned(), layer, Turned(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU())
    blocks = [block(32) for _ in range(3)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))


class Turned(nn.Module):
    def forward(self, values):
        return values.mT


@pytest.mark.parametrize(
    ("method", "kind", "passes"),
    [
        (LRP(composite="epsilon"), "cnn", 1.0),
        (LRP(composite="epsilon"), "vit", 1.0),
        (LRP(composite="epsilon", attention="cp-lrp"), "vit", 1.0),
        (LRP(composite="epsilon-plus"), "cnn", 1.5),
        (LRP(composite="epsilon-plus-flat"), "cnn", 1.5),
        (LRP(composite="epsilon-gamma-box"), "cnn", 1.5),
        (LRP(composite="gamma"), "cnn", 1.5),
        (LRP(composite="gamma"), "vit", 1.5),
        (LRP(composite="generalised-gamma"), "cnn", 1.5),
        (LRP(composite="generalised-gamma"), "vit", 2.0),
        (LRP(composite="epsilon-alpha2-beta1"), "cnn", 2.5),
        (DeepLift(), "cnn", 1.5),
        (DeepLift(), "vit", 1.5),
    ],
)
def test_the_work_in_passes_is_the_least_that_the_rule_needs(method, kind, passes, scalar, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = wide(kind).double().eval()
    f = scalar(model)
    spent = flops(method, f, images) / flops(Gradient(), f, images)
    assert spent == pytest.approx(passes, rel=0.1)


def test_a_rule_of_ones_own_takes_at_most_fifteen_lines():
    blocks = PAGE.read_text().split("```python\n")[1:]
    code = next(b.split("```")[0] for b in blocks if "class Absolute" in b)
    made = next(n for n in ast.parse(code).body if isinstance(n, ast.ClassDef))
    first = min([made.lineno, *(d.lineno for d in made.decorator_list)])
    assert made.end_lineno - first + 1 <= 15
