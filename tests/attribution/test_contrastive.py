"""Contrastive relevance: two propagations written out, and contrasts of every method."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from whence.attribution import (
    LRP,
    ClassContrast,
    Composite,
    ContrastiveLRP,
    GradCAM,
    GuidedBackpropagation,
    attribute,
    cards,
    method_named,
)
from whence.attribution.relevance import AlphaBeta, Epsilon
from whence.core import Custom, ModelScalar, contrast, logit
from whence.errors import SettingError
from whence.network import Network

DUALS = ["others", "negated", "softmax"]
each_dual = pytest.mark.parametrize("dual", DUALS)


class Layers(nn.Module):
    """Two linear layers over 2 x 4 x 4 values, with a ReLU between."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(32, 9, bias=False)
        self.last = nn.Linear(9, 4, bias=False)
        for layer in (self.first, self.last):
            with torch.no_grad():
                layer.weight.copy_(0.3 * torch.randn(layer.weight.shape, generator=generator))

    def forward(self, images):
        return self.last(self.first(images.flatten(1)).relu())


@pytest.fixture
def pictures():
    """Five images that are positive, 2 x 4 x 4."""
    return torch.rand(5, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def plus(inputs, weight, relevance):
    """The z+ rule of a layer without biases, for inputs of zero or more; written out."""
    positive = weight.clamp(min=0)
    sums = (inputs @ positive.T).clamp(min=1e-12)
    return inputs * ((relevance / sums) @ positive)


def relevance(model, images, start, last):
    """Relevance of two layers by z+, the last with other weights."""
    inputs = images.flatten(1)
    hidden = model.first(inputs).relu()
    middle = plus(hidden, last, start)
    return plus(inputs, model.first.weight, middle).reshape(images.shape).detach()


PLUS = Composite(otherwise=AlphaBeta(epsilon=1e-9))


@each_dual
def test_it_is_relevance_less_that_of_the_dual_concept(dual, pictures, classes):
    model = Layers().double().eval()
    f = ModelScalar(Network.read(model, pictures), logit(classes))
    logits = model(pictures).detach()
    own = nn.functional.one_hot(classes, 4).double()
    size = logits.gather(1, classes[:, None]).abs()
    weight = model.last.weight
    if dual == "softmax":
        chance = logits.softmax(dim=1)
        start = chance.gather(1, classes[:, None]) * (own - chance)
        expected = relevance(model, pictures, start, weight)
        assert (expected < 0).any()
    else:
        starts = {"others": size / 3 * (1 - own), "negated": size * own}
        less = relevance(model, pictures, starts[dual], weight if dual == "others" else -weight)
        expected = (relevance(model, pictures, size * own, weight) - less).clamp(min=0)
        assert (logits.gather(1, classes[:, None]) < 0).any()
    values = ContrastiveLRP(dual=dual, composite=PLUS)(f, pictures)
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-6)
    assert (expected.flatten(1).abs().sum(dim=1) > 1e-3).all()


@each_dual
@pytest.mark.parametrize("composite", [None, "gamma", "epsilon-plus"], ids=str)
def test_both_parts_have_the_same_sum(dual, composite, rectifier, images, classes):
    f = ModelScalar(Network.read(rectifier(bias=False), images), logit(classes))
    method = ContrastiveLRP(dual=dual, composite=composite, positive=False)
    result = attribute(method, f, images)
    size = result.values.flatten(1).abs().sum(dim=1)
    assert (size > 1e-3).all()
    assert (result.total.abs() < 1e-3 * size).all()
    assert torch.equal(replace(method, positive=True)(f, images), result.values.clamp(min=0))


def test_with_biases_ignored_both_parts_stay_comparable(rectifier, images, classes):
    f = ModelScalar(Network.read(rectifier(), images), logit(classes))
    even, apart = (
        attribute(replace(ContrastiveLRP(positive=False), **bias), f, images)
        for bias in ({}, {"bias": "absorb"})
    )
    size = even.values.flatten(1).abs().sum(dim=1)
    assert (even.total.abs() < 1e-3 * size).all()
    assert (apart.total.abs() > 0.01 * size).any()


def test_the_maps_of_two_classes_share_less_than_plain_relevance_does(rectifier, images):
    network = Network.read(rectifier(), images)

    def alike(method):
        maps = [method(ModelScalar(network, logit(k)), images).sum(dim=1) for k in (0, 2)]
        return nn.functional.cosine_similarity(*(m.abs().flatten(1) for m in maps)).mean()

    plain = LRP(composite=ContrastiveLRP().propagation().chosen())
    assert alike(ContrastiveLRP()) < 0.7 * alike(plain)


def test_where_the_network_is_sure_the_softmax_form_does_not_vanish(rectifier, images):
    model = rectifier()
    with torch.no_grad():
        model[6].weight.mul_(60)
    network = Network.read(model, images)
    sure = model(images).argmax(dim=1)
    assert (model(images).float().softmax(dim=1).amax(dim=1) == 1).any()
    values = ContrastiveLRP(dual="softmax")(ModelScalar(network, logit(sure)), images)
    assert (values.flatten(1).abs().sum(dim=1) > 0).all()


@each_dual
def test_cost_and_batches(dual, rectifier, images, classes, untouched):
    model = rectifier()
    f = ModelScalar(Network.read(model, images), logit(classes))
    method = ContrastiveLRP(dual=dual, composite="epsilon")
    with untouched(model), torch.inference_mode():
        result = attribute(method, f, images.clone())
    assert result.cost == 1.5
    torch.testing.assert_close(result.explained.clone(), f(images).detach())
    torch.testing.assert_close(replace(method, batch_size=2)(f, images), result.values.clone())
    alone = method(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, result.values[3:4].clone())


def test_what_is_no_class_of_a_network_is_refused(rectifier, images):
    model = rectifier()
    with pytest.raises(SettingError, match="ContrastiveLRP replaces the backward pass"):
        ContrastiveLRP()(ModelScalar(model, logit(0)), images)
    network = Network.read(model, images)
    with pytest.raises(SettingError, match="ContrastiveLRP weighs a class against the others"):
        ContrastiveLRP()(ModelScalar(network, Custom(lambda z: z[:, 0])), images)
    with pytest.raises(SettingError, match="one of others, negated, softmax; got 'all'"):
        method_named("contrastive-lrp", {"dual": "all"})
    chosen = method_named("contrastive-lrp", {"dual": "negated", "composite": "gamma"})
    assert chosen == ContrastiveLRP(dual="negated", composite="gamma")


QUICK = {
    "smoothgrad": {"samples": 3},
    "smoothgrad-squared": {"samples": 3},
    "vargrad": {"samples": 3},
    "expected-gradients": {"samples": 3},
    "gradient-shap": {"samples": 3},
    "integrated-gradients": {"steps": 3},
    "idgi": {"steps": 3},
    "guided-ig": {"steps": 4},
    "blur-ig": {"steps": 3},
    "grad-cam": {"relu": False},
    "hires-cam": {"relu": False},
    "xgrad-cam": {"relu": False},
}
NOT_LINEAR = {
    "smoothgrad-squared": "it squares gradients",
    "vargrad": "it squares gradients",
    "idgi": "it divides by the squared length of the gradient",
    "guided-ig": "its path depends on the gradient",
    "guided-backpropagation": "it keeps positive gradients",
    "deconvnet": "it keeps positive gradients",
    "guided-grad-cam": "it keeps positive gradients",
    "grad-cam++": "it squares gradients, and keeps the positive part",
    "layer-cam": "it keeps positive gradients",
    "score-cam": "its weights come from the value's softmax",
    "xgrad-cam": "it divides by the sum of the maps, alike for every class",
}
FAMILIES = ("gradient", "path", "relevance", "activation map")
PROVEN = {"x-gradient"}  # it refuses a network that is no X-DNN
NAMES = [c.name for c in cards() if c.family in FAMILIES and c.name not in PROVEN]


@pytest.mark.filterwarnings("ignore:.*dead.*")
@pytest.mark.parametrize("name", NAMES)
def test_a_contrast_is_a_target_of_every_gradient_rule_and_map_method(
    name, rectifier, images, classes
):
    method = method_named(name, QUICK.get(name))
    network = Network.read(rectifier(), images)
    foils = (classes + 1) % 4
    values = method(ModelScalar(network, contrast(classes, foils)), images)
    own, other = (method(ModelScalar(network, logit(k)), images) for k in (classes, foils))
    assert values.isfinite().all()
    assert values.abs().sum() > 0
    assert not torch.allclose(values, own)
    if name not in NOT_LINEAR or name == "xgrad-cam":
        torch.testing.assert_close(values, own - other, rtol=1e-6, atol=1e-9)


INNER = [LRP(composite="epsilon"), LRP(composite="gamma"), GradCAM(relu=False)]


@pytest.mark.parametrize("inner", INNER, ids=str)
def test_class_contrast_weighs_relevance_and_maps_by_the_softmax(inner, rectifier, images, classes):
    model = rectifier()
    network = Network.read(model, images)
    parts = torch.stack([inner(ModelScalar(network, logit(k)), images) for k in range(4)])
    chance = model(images).detach().softmax(dim=1)
    share = chance.scatter(1, classes[:, None], 0.0)
    share = share / share.sum(dim=1, keepdim=True)
    expected = parts[classes, torch.arange(5)] - torch.einsum("bk,kbchw->bchw", share, parts)
    values = ClassContrast(method=inner)(ModelScalar(network, logit(classes)), images)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "inner",
    [*INNER, GuidedBackpropagation(), LRP(composite=Composite(otherwise=Epsilon()))],
    ids=str,
)
def test_of_two_classes_the_class_contrast_is_their_difference(inner, images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    network = Network.read(model.double().eval(), images)
    first, second = (
        ClassContrast(method=inner)(ModelScalar(network, logit(k)), images) for k in (0, 1)
    )
    difference = inner(ModelScalar(network, contrast(0, 1)), images)
    torch.testing.assert_close(first, difference)
    if not isinstance(inner, GuidedBackpropagation):
        torch.testing.assert_close(first, -second)
        plain = [inner(ModelScalar(network, logit(k)), images) for k in (0, 1)]
        torch.testing.assert_close(first, plain[0] - plain[1])
    else:
        assert not torch.allclose(first, -second)
