"""Residual sums, batch norms, layer norms, attention: relevance and differences arrive whole."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import LRP, DeepLift, InputXGradient, attribute
from whence.attribution.relevance import Composite, GeneralisedGamma
from whence.core import ModelScalar, logit
from whence.errors import UnsupportedOperation
from whence.network import Network

CONSERVING = ["epsilon", "epsilon-plus", "epsilon-plus-flat", "epsilon-gamma-box", "gamma"]


def total(values):
    return values.flatten(1).sum(1)


def read_as(model, images, k=1):
    return ModelScalar(Network.read(model, images), logit(k))


class Skip(nn.Module):
    """One residual sum, behind one convolution and without any bias."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = (
            nn.Conv2d(3, 3, 3, padding=1, bias=False),
            nn.Linear(3, 4, bias=False),
        )
        generator = torch.Generator().manual_seed(0)
        self.double().eval()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def forward(self, images):
        return self.head((self.conv(images).relu() + images).mean((2, 3)))


def test_a_residual_sum_hands_each_part_its_share(images):
    """The definition, relevance by relevance: a part ``a`` of a sum ``a + b`` gets a / (a + b)."""
    model = Skip()
    with torch.no_grad():
        z = model.conv(images)
        branch = z.relu()
        both = branch + images
        relevance = both / 64 * model.head.weight[1].view(1, 3, 1, 1)
        per_unit = relevance * (branch / both) / torch.where(z == 0, 1.0, z)
        lower = images * functional.conv_transpose2d(per_unit, model.conv.weight, padding=1)
        expected = lower + relevance * (images / both)
    actual = LRP(composite="epsilon", epsilon=0)(read_as(model, images), images)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("composite", CONSERVING)
def test_relevance_adds_up_to_the_logit_on_a_residual_network(composite, read, images):
    _, network = read("residual without biases")
    account = LRP(composite=composite).account(ModelScalar(network, logit(1)), images)
    torch.testing.assert_close(total(account.values), account.explained, rtol=1e-4, atol=1e-6)
    assert account.absorbed.abs().max() == 0


@pytest.mark.parametrize("composite", ["epsilon", "epsilon-plus", "epsilon-gamma-box", "gamma"])
@pytest.mark.parametrize("name", ["residual", "clean"])
def test_what_biases_took_is_reported_and_nothing_else_is_lost(composite, name, read, images):
    result = attribute(LRP(composite=composite), ModelScalar(read(name)[1], logit(1)), images)
    torch.testing.assert_close(
        result.total + result.absorbed, result.explained, rtol=1e-4, atol=1e-5
    )
    assert result.absorbed.abs().min() > 0
    assert result.conservation.abs().max() < 100


def merged(model):
    """The residual network with its batch norms merged by hand."""
    with torch.no_grad():
        for i, norm in enumerate(model.norms):
            conv = model.convs[i]
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.bias = nn.Parameter(norm.bias - norm.running_mean * scale)
            conv.weight.mul_(scale.view(-1, 1, 1, 1))
            model.norms[i] = nn.Identity()
    return model.eval()


@pytest.mark.parametrize("composite", [*CONSERVING, "epsilon-alpha2-beta1", "pixel-wise"])
def test_batch_norms_are_folded_as_they_would_be_by_hand(composite, make, read, images):
    """Negative scales included, which turn what speaks for a unit into what speaks against it."""
    assert any((norm.weight < 0).any() for norm in make("residual").norms)
    by_hand = LRP(composite=composite)(read_as(merged(make("residual")), images), images)
    ours = LRP(composite=composite)(ModelScalar(read("residual")[1], logit(1)), images)
    torch.testing.assert_close(ours, by_hand)


class NormFirst(nn.Module):
    """Batch norms before their layer and behind a concatenation, as in DenseNet."""

    def __init__(self):
        super().__init__()
        self.stem, self.grow = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.norm, self.last = nn.BatchNorm2d(6), nn.BatchNorm2d(10)
        self.head = nn.Linear(10, 4)

    def forward(self, images):
        maps = self.stem(images)
        maps = torch.cat([maps, self.grow(functional.relu(self.norm(maps)))], 1)
        return self.head(functional.relu(self.last(maps)).mean((2, 3)))


@pytest.fixture
def norm_first(make):
    """The network above, filled as the others."""
    model = NormFirst().double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value.copy_(0.5 + noise.square() if name.endswith("var") else 0.3 * noise)
    return model


def test_a_batch_norm_that_nothing_can_be_folded_into_is_a_scale_and_a_bias(norm_first, images):
    f = read_as(norm_first, images)
    zero = LRP(composite="epsilon", epsilon=0).account(f, images)
    torch.testing.assert_close(zero.values, InputXGradient()(f, images))
    torch.testing.assert_close(total(zero.values) + zero.absorbed, zero.explained)
    plus = LRP(composite="epsilon-plus").account(f, images)
    torch.testing.assert_close(
        total(plus.values) + plus.absorbed, plus.explained, rtol=1e-4, atol=1e-5
    )


LAYERS = {
    "Identity": nn.Identity,
    "Flatten": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Unflatten(1, (6, -1))),
    "LeakyReLU": lambda: nn.LeakyReLU(0.1),
    "GELU": nn.GELU,
    "LayerNorm": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "Conv1d": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(6, 6, 3, padding=1, bias=False), nn.Unflatten(2, (8, 8))
    ),
    "Conv3d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv3d(2, 2, 3, padding=1, bias=False), nn.Flatten(1, 2)
    ),
    "MaxPool2d": lambda: nn.MaxPool2d(2),
    "AdaptiveAvgPool2d": lambda: nn.AdaptiveAvgPool2d(4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_that_others_refuse_hand_on_what_arrives(name, images):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv, head = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.Linear(6, 4, bias=False)
        pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        model = nn.Sequential(conv, LAYERS[name](), pool, head).double().eval()
    account = LRP(composite="epsilon", epsilon=1e-9).account(read_as(model, images), images)
    torch.testing.assert_close(
        total(account.values) + account.absorbed, account.explained, rtol=1e-4, atol=1e-7
    )


def test_an_operation_without_a_rule_is_named(images):
    class Exponential(nn.Module):
        def forward(self, images):
            return images.exp().mean((2, 3))

    for method in (LRP(), LRP(composite="epsilon-alpha2-beta1")):
        with pytest.raises(UnsupportedOperation, match="operation 'exp'"):
            method(read_as(Exponential().eval(), images), images)


def transformer_of(make, depth):
    return type(make("transformer"))(depth=depth)


@pytest.mark.parametrize("attention", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("depth", [2, 6, 12])
def test_relevance_does_not_explode_on_a_deep_transformer(depth, attention, make, images):
    """In single precision, where others reach 1e24 to infinity."""
    model, single = transformer_of(make, depth).float(), images.float()
    method = LRP(composite=Composite(otherwise=GeneralisedGamma(gamma=0.1)), attention=attention)
    result = attribute(method, read_as(model, single), single)
    assert result.values.isfinite().all()
    assert (result.total.abs() < 100 * result.explained.abs().max()).all()


def test_deeplift_is_complete_on_a_transformer_and_is_not_input_times_gradient(read, images):
    f = ModelScalar(read("transformer")[1], logit(1))
    result = attribute(DeepLift(), f, images)
    change = (f(images) - f(torch.zeros_like(images))).detach()
    torch.testing.assert_close(result.total, change, rtol=1e-7, atol=1e-9)
    assert result.gap.max() < 1e-7
    other = InputXGradient()(f, images)
    assert (result.values - other).abs().max() > 0.1 * other.abs().max()


def test_deeplift_is_complete_on_a_residual_network(read, images):
    result = attribute(DeepLift(), ModelScalar(read("residual")[1], logit(1)), images)
    assert result.gap.max() < 1e-9


def test_every_method_runs_on_a_transformer(token_method, explained):
    assert explained("transformer", token_method).isfinite().all()
