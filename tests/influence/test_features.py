import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import Gradient
from whence.core import Logit, Margin, TensorData
from whence.errors import NumericsError, SettingError, TargetError, UnsupportedOperation
from whence.influence import RepresentationSimilarity, RepresenterPoints, influence
from whence.network import Network
from whence.training_features import training_features


def assert_equal(found, expected, rtol=1e-10):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


def found_for(case, scorer, target=None):
    return influence(case.network, case.train, case.images, target or case.target, scorer=scorer)


def measured(measure, left, right):
    if measure == "cos":
        return functional.normalize(left) @ functional.normalize(right).T
    if measure == "dot":
        return left @ right.T
    return -torch.cdist(left, right).square()


@pytest.mark.parametrize("measure", ["cos", "dot", "l2"])
def test_similarity_compares_what_enters_the_last_layer(setting, measure):
    case = setting()
    found = found_for(case, RepresentationSimilarity(measure=measure))
    with torch.no_grad():
        h, h_q = case.model[:-1](case.train.images), case.model[:-1](case.images)
    assert_equal(found.scores, measured(measure, h, h_q))
    assert found.coverage == 0
    assert found.parameters == ("features",)


@pytest.mark.parametrize("measure", ["cos", "dot", "l2"])
def test_its_maps_are_ordinary_input_gradients(setting, measure):
    case = setting()
    found = found_for(case, RepresentationSimilarity(measure=measure))
    maps = training_features(found, 1, case.train, [3, 6], Gradient()).attribution
    images = case.train.images[[3, 6]].clone().requires_grad_()
    h_q = case.model[:-1](case.images[[1]]).detach()
    values = measured(measure, case.model[:-1](images), h_q)
    (expected,) = torch.autograd.grad(values.sum(), images)
    assert_equal(maps.values, expected)
    assert_equal(maps.explained, values[:, 0].detach())


def test_features_of_any_node_can_be_compared(setting):
    case = setting()
    node = next(n.name for n in case.network.graph.nodes if "gelu" in n.name)
    found = found_for(case, RepresentationSimilarity(node=node, measure="dot"))
    with torch.no_grad():
        h, h_q = (case.model[:3](x).flatten(1) for x in (case.train.images, case.images))
    assert_equal(found.scores, h @ h_q.T)
    with pytest.raises(SettingError, match="no node 'layer9'; the first are"):
        found_for(case, RepresentationSimilarity(node="layer9"))


@pytest.mark.parametrize("bias", [True, False])
def test_representer_points_add_up_to_every_logit_of_the_refitted_network(setting, bias):
    case = setting(count=20)
    if not bias:
        model = nn.Sequential(*case.model[:-1], nn.Linear(54, 4, bias=False).double()).eval()
        object.__setattr__(case, "network", Network.read(model, case.images))
    for k in range(4):
        found = found_for(case, RepresenterPoints(penalty=0.01), Logit(k))
        logits = found.recorder.network(case.images)
        assert_equal(found.scores.sum(dim=0), logits[:, k].detach(), rtol=1e-6)
    assert found.parameters == (("6.weight", "6.bias") if bias else ("6.weight",))


def test_the_refit_is_a_minimum_and_its_weights_are_a_sum_over_images(setting):
    case = setting(count=20)
    penalty = 0.02
    found = found_for(case, RepresenterPoints(penalty=penalty))
    refit = found.recorder.network
    weight, bias = refit.parameters["6.weight"], refit.parameters["6.bias"]
    with torch.no_grad():
        h = case.model[:-1](case.train.images)
    w, b = (v.detach().clone().requires_grad_() for v in (weight, bias))
    loss = functional.cross_entropy(h @ w.T + b, case.train.labels)
    loss = loss + penalty * (w.square().sum() + b.square().sum())
    for slope in torch.autograd.grad(loss, (w, b)):
        assert slope.abs().max() < 1e-9
    z = (h @ weight.T + bias).detach().requires_grad_()
    fit = functional.cross_entropy(z, case.train.labels, reduction="sum")
    alpha = -torch.autograd.grad(fit, z)[0] / (2 * penalty * 20)
    assert_equal(alpha.T @ h, weight.detach(), rtol=1e-6)
    for name, value in case.network.parameters.items():
        if not name.startswith("6."):
            assert torch.equal(refit.parameters[name], value)


def test_representer_scores_are_alpha_times_an_inner_product_of_features(setting):
    case = setting(count=12)
    found = found_for(case, RepresenterPoints(penalty=0.05), Logit(2))
    with torch.no_grad():
        h, h_q = (
            torch.cat([case.model[:-1](x), torch.ones(len(x), 1).double()], dim=1)
            for x in (case.train.images, case.images)
        )
        p = found.recorder.network(case.train.images).softmax(dim=1)
    hits = functional.one_hot(case.train.labels, 4)
    alpha = (hits - p)[:, 2] / (2 * 0.05 * 12)
    assert_equal(found.scores, alpha[:, None] * (h @ h_q.T))


def test_representer_maps_are_slopes_of_the_score(setting):
    case = setting(count=12)
    found = found_for(case, RepresenterPoints(penalty=0.05))
    maps = training_features(found, 0, case.train, [4], Gradient()).attribution
    refit = found.recorder.network
    x = case.train.images[[4]].clone().requires_grad_()
    h = torch.cat([case.model[:-1](x)[0], torch.ones(1).double()])
    h_q = torch.cat([case.model[:-1](case.images[[0]])[0], torch.ones(1).double()]).detach()
    z_q = refit(case.images[[0]]).detach().requires_grad_()
    (asked,) = torch.autograd.grad(Margin(case.classes[[0]])(z_q).sum(), z_q)
    hit = functional.one_hot(case.train.labels[[4]], 4)[0]
    score = ((hit - refit(x)[0].softmax(dim=0)) @ asked[0]) * (h @ h_q) / (2 * 0.05 * 12)
    (expected,) = torch.autograd.grad(score, x)
    assert_equal(found.scores[4, 0], score.detach())
    assert_equal(maps.values, expected)


def test_the_users_model_is_left_untouched(setting, untouched):
    case = setting()
    with untouched(case.model):
        found_for(case, RepresenterPoints())
        found_for(case, RepresentationSimilarity())


def test_a_network_without_a_last_linear_layer_is_refused(generator):
    images = torch.randn(4, 3, 6, 6, generator=generator)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    train = TensorData(images=images, labels=torch.tensor([0, 1, 2, 3]))
    network = Network.read(model, images)
    for scorer in (RepresenterPoints(), RepresentationSimilarity()):
        with pytest.raises(UnsupportedOperation, match="not from a linear layer over features"):
            influence(network, train, images[:1], Logit(0), scorer=scorer)


def test_a_refit_that_does_not_converge_says_so(setting):
    case = setting()
    with pytest.raises(NumericsError, match=r"did not converge: its slope is .* after 1 steps"):
        found_for(case, RepresenterPoints(steps=1))


@pytest.mark.parametrize(
    "settings", [{"penalty": 0.0}, {"tolerance": 0.0}, {"steps": 0}, {"penalty": float("nan")}]
)
def test_settings_of_a_refit_are_checked(settings):
    with pytest.raises(SettingError, match="Representer points need a penalty"):
        RepresenterPoints(**settings)


def test_a_label_that_the_model_does_not_have_is_named(setting):
    case = setting()
    labels = case.train.labels.clone()
    labels[6] = 4
    train = TensorData(images=case.train.images, labels=labels, classes=tuple("abcde"))
    with pytest.raises(TargetError, match="'6' has the label 4"):
        influence(case.network, train, case.images, case.target, scorer=RepresenterPoints())
