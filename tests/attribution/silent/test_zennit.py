"""What zennit 0.5 does with the same networks, for the table in the manual."""

import importlib

import pytest
import torch
from torch import nn

from whence.attribution import LRP, Gradient, GuidedBackpropagation, attribute
from whence.core import ModelScalar, logit
from whence.network import Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture
def theirs(zennit, images, classes):
    """Return zennit's relevance of each image's class, which starts at the logit or at one."""

    def explain(model, composite="EpsilonPlus", *, start_at_one=False, merged=False):
        canonizers = [zennit.canonizers.SequentialMergeBatchNorm()] if merged else None
        made = getattr(zennit.composites, composite)(canonizers=canonizers)
        given = images.to(next(model.parameters()).dtype)
        chosen = torch.eye(4, dtype=given.dtype)[classes]
        start = chosen if start_at_one else lambda logits: chosen * logits
        with zennit.attribution.Gradient(model, made) as attributor:
            return attributor(given.clone().requires_grad_(), start)[1].detach()

    return explain


def far(one, other):
    """By how much two maps differ, as a part of the second's largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("way", ["clean", "reused", "tied", "nested"])
def test_zennits_guided_rule_is_right_for_modules(way, theirs, make, explained):
    values = theirs(make(way), "GuidedBackprop", start_at_one=True)
    assert far(values, explained("clean", GuidedBackpropagation())) < 1e-12


@pytest.mark.parametrize("way", ["functional", "in-place"])
def test_zennit_gives_the_gradient_for_guided_rules_where_a_relu_is_a_function(
    way, theirs, make, explained
):
    values = theirs(make(way), "GuidedBackprop", start_at_one=True)
    assert far(values, explained("clean", Gradient())) < 1e-12
    assert far(values, explained("clean", GuidedBackpropagation())) > 1


def test_zennit_gives_the_gradient_for_guided_rules_on_gelus(theirs, images, classes):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 4))
    model = model.double().eval()
    values = theirs(model, "GuidedBackprop", start_at_one=True)
    assert far(values, Gradient()(ModelScalar(model, logit(classes)), images)) < 1e-12


@pytest.mark.parametrize("way", ["clean", "functional", "reused", "in-place", "tied", "nested"])
def test_zennits_relevance_is_right_without_residual_sums(way, theirs, make, explained):
    assert far(theirs(make(way)), explained("clean", LRP())) < 1e-4


def test_zennits_relevance_is_another_where_a_layer_is_called_twice(theirs, make, explained):
    """It holds one input per module: of a second call, the first one's is lost."""
    assert far(theirs(make("called-twice")), explained("clean", LRP())) > 0.1
    assert far(explained("called-twice", LRP()), explained("clean", LRP())) < 1e-12


def test_zennits_relevance_doubles_at_each_residual_sum_and_ours_does_not(
    theirs, read, images, classes
):
    model, network = read("residual without biases")
    logits = model(images)[torch.arange(5), classes].detach()
    ratio = theirs(model).flatten(1).sum(1) / logits
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0), rtol=1e-3, atol=0)
    result = attribute(LRP(), ModelScalar(network, logit(classes)), images)
    torch.testing.assert_close(result.total, logits, rtol=1e-3, atol=1e-6)


class Summed(nn.Module):
    """A residual sum, written for zennit as a module of its own."""

    def __init__(self, layer=None):
        super().__init__()
        self.conv, self.act, self.sum = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.ReLU(), layer
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(3, 4, bias=False)
        generator = torch.Generator().manual_seed(0)
        self.double().eval()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def forward(self, images):
        maps = self.act(self.conv(images))
        both = maps + images if self.sum is None else self.sum(torch.stack([maps, images], -1))
        return self.head(self.pool(both).flatten(1))


def test_zennits_relevance_adds_up_where_the_sum_is_a_module(zennit, theirs, images, classes):
    model = Summed(importlib.import_module("zennit.layer").Sum())
    logits = model(images)[torch.arange(5), classes].detach()
    ratio = theirs(model).flatten(1).sum(1) / logits
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-2, atol=0)
    ratio = theirs(Summed()).flatten(1).sum(1) / logits
    torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0), rtol=1e-2, atol=0)


def test_zennit_needs_a_canonizer_for_batch_norms_and_does_not_say_so(
    theirs, images, classes, make
):
    stem, norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
    model = (
        nn.Sequential(stem, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        .double()
        .eval()
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in (*model.parameters(), norm.running_mean):
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    expected = LRP()(ModelScalar(Network.read(model, images), logit(classes)), images)
    assert far(theirs(model), expected) > 0.05
    assert far(theirs(model, merged=True), expected) < 1e-3


@pytest.mark.parametrize("depth", [6, 12])
def test_zennits_relevance_explodes_on_a_transformer_and_ours_does_not(
    depth, theirs, make, images, classes
):
    model = type(make("transformer"))(depth=depth)
    logits = model(images)[torch.arange(5), classes].detach()
    ratio = theirs(model).flatten(1).sum(1) / logits
    assert ratio.abs().max() > 1000
    result = attribute(LRP(), ModelScalar(Network.read(model, images), logit(classes)), images)
    assert (result.total / logits).abs().max() < 0.1 * ratio.abs().max()


def test_zennits_hooks_are_passed_by_on_a_compiled_model(theirs, make, images, explained):
    model = torch.compile(make("clean"), backend="eager")
    model(images)
    model(images.clone().requires_grad_())
    assert far(theirs(model), explained("clean", LRP())) > 1


class Square(nn.Module):
    """The square of every pixel; of the second, four logits tell one."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.flatten(1).square()[:, :4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_zennit_adds_half_precision_up_in_half_precision_and_from_the_right(
    dtype, zennit, generator
):
    images = 1 + torch.rand(2, 3, 8, 8, generator=generator)
    exact = images.flatten(1)[:, 1] ** 2
    with zennit.attribution.IntegratedGradients(Square(), n_iter=200) as attributor:
        chosen = torch.eye(4, dtype=dtype)[[1, 1]]
        values = attributor(images.to(dtype), chosen)[1].float().flatten(1)[:, 1]
    bias = 1 / 200  # of the right rule, at any precision
    assert ((values - exact).abs() / exact).max() > bias
    if dtype is torch.bfloat16:
        assert ((values - exact).abs() / exact).max() > 5 * bias


def test_zennit_leaves_the_model_as_it_was(theirs, make, untouched):
    """What is right is said too: version 0.5 takes its merges of batch norms back."""
    model = make("residual")
    with untouched(model):
        theirs(model, merged=True)
