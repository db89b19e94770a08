"""Class-contrastive weighting: its identities, and contrasts of two classes by the target."""

import pytest
import torch
from torch import nn

from whence.attribution import (
    ClassContrast,
    ExtremalPerturbation,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    Occlusion,
    PertinentNegatives,
    PertinentPositives,
    SoundnessSaliency,
    attribute,
    method_named,
)
from whence.core import Custom, Mean, ModelScalar, contrast, log_probability, logit, margin
from whence.errors import SettingError
from whence.network import Network

LINEAR = [
    Gradient(),
    InputXGradient(),
    IntegratedGradients(steps=3, baseline=Mean()),
    Occlusion(window=4, stride=4),
    GradCAM(relu=False),
]
each_linear = pytest.mark.parametrize("method", LINEAR, ids=lambda m: type(m).__name__)


def scalar(model, images, target):
    return ModelScalar(Network.read(model, images), target)


def share(logits, classes):
    """The weights of the other classes, written out."""
    powers = logits.exp().scatter(1, classes[:, None], 0.0)
    return powers / powers.sum(dim=1, keepdim=True)


@each_linear
def test_it_is_the_class_less_the_others_by_their_weights(method, smooth, images, classes):
    f = scalar(smooth, images, logit(classes))
    maps = [method(ModelScalar(f.model, logit(k)), images) for k in range(4)]
    weights = share(smooth(images).detach(), classes)
    expected = method(f, images) - sum(weights[:, k].view(-1, 1, 1, 1) * maps[k] for k in range(4))
    values = ClassContrast(method=method)(f, images)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)


@each_linear
@pytest.mark.parametrize("kind", ["mean", "strongest"])
def test_other_weights_are_the_mean_and_the_runner_up(kind, method, smooth, images, classes):
    f = scalar(smooth, images, logit(classes))
    maps = torch.stack([method(ModelScalar(f.model, logit(k)), images) for k in range(4)])
    rows, logits = torch.arange(5), smooth(images).detach()
    own = maps[classes, rows]
    if kind == "mean":
        expected = own - (maps.sum(dim=0) - own) / 3
    else:
        runner = logits.scatter(1, classes[:, None], -torch.inf).argmax(dim=1)
        expected = own - maps[runner, rows]
    values = ClassContrast(foils=kind, method=method)(f, images)
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_of_the_probability_is_a_multiple_of_it(smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    values = ClassContrast()(f, images)
    rows = torch.arange(5)
    chance = smooth(images).softmax(dim=1)[rows, classes].detach().view(-1, 1, 1, 1)
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(smooth(leaf).softmax(dim=1)[rows, classes].sum(), leaf)
    torch.testing.assert_close(slope, chance * (1 - chance) * values, rtol=1e-10, atol=1e-14)
    logarithm = Gradient()(ModelScalar(smooth, log_probability(classes)), images)
    torch.testing.assert_close(logarithm, (1 - chance) * values, rtol=1e-10, atol=1e-14)


def test_it_does_not_vanish_where_the_network_is_sure(smooth, images):
    with torch.no_grad():
        smooth[5].weight.mul_(300)
    classes = smooth(images).argmax(dim=1)
    f = ModelScalar(smooth, logit(classes))
    sure = smooth(images).softmax(dim=1).amax(dim=1) == 1
    assert sure.any()
    faint = Gradient()(ModelScalar(smooth, log_probability(classes)), images)
    assert (faint[sure].abs() < 1e-14).all()
    values = ClassContrast()(f, images)
    assert (values[sure].flatten(1).norm(dim=1) > 1).all()
    torch.testing.assert_close(values, Gradient()(ModelScalar(smooth, margin(classes)), images))


def test_of_two_classes_one_map_is_the_negative_of_the_other(images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 2))
    model = model.double().eval()
    first, second = (ClassContrast()(ModelScalar(model, logit(k)), images) for k in (0, 1))
    torch.testing.assert_close(first, -second)
    plain = [Gradient()(ModelScalar(model, logit(k)), images) for k in (0, 1)]
    torch.testing.assert_close(first, plain[0] - plain[1])


def test_equal_logits_give_the_mean_and_a_dominant_one_the_runner_up(linear, images):
    with torch.no_grad():
        linear[1].weight.mul_(1e-9)
        linear[1].bias.zero_()
    f = ModelScalar(linear, logit(1))
    settings = {"rtol": 1e-6, "atol": 1e-20}
    torch.testing.assert_close(
        ClassContrast()(f, images), ClassContrast(foils="mean")(f, images), **settings
    )
    with torch.no_grad():
        linear[1].bias[3] = 60.0
    torch.testing.assert_close(
        ClassContrast()(f, images), ClassContrast(foils="strongest")(f, images), **settings
    )


@each_linear
def test_a_contrast_of_two_classes_is_a_target_and_the_difference_of_their_maps(
    method, smooth, images, classes
):
    f = scalar(smooth, images, contrast(classes, (classes + 1) % 4))
    own, foil = (
        method(ModelScalar(f.model, logit(k)), images) for k in (classes, (classes + 1) % 4)
    )
    torch.testing.assert_close(method(f, images), own - foil, rtol=1e-9, atol=1e-12)


def test_cost_value_and_law_are_reported(smooth, images, classes, untouched):
    f = ModelScalar(smooth, logit(classes))
    with untouched(smooth), torch.inference_mode():
        result = attribute(ClassContrast(method=IntegratedGradients(steps=64)), f, images.clone())
    assert result.cost == 65.5
    torch.testing.assert_close(result.explained.clone(), f(images).detach())
    assert result.gap.max() < 0.01


@pytest.mark.parametrize("batch_size", [1, 2])
def test_maps_do_not_depend_on_how_the_work_was_cut(batch_size, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    whole = ClassContrast()(f, images)
    inner = Gradient(batch_size=batch_size)
    torch.testing.assert_close(ClassContrast(method=inner, batch_size=2)(f, images), whole)
    alone = ClassContrast()(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, whole[3:4])


class Blind(nn.Module):
    """Two classes, from which no gradient returns to the images."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, images):
        return images.detach().mean(dim=(2, 3))[:, :2] * self.weight


@pytest.mark.parametrize(
    "method",
    [
        ExtremalPerturbation(steps=2),
        SoundnessSaliency(steps=2),
        SoundnessSaliency(steps=2, area=0.0, variation=0.0),
        PertinentNegatives(steps=2),
        PertinentPositives(steps=2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_search_along_the_gradient_is_refused_where_there_is_none(method, images):
    model = Blind().double().eval()
    for frozen in (False, True):
        model.weight.requires_grad_(not frozen)
        with pytest.raises(SettingError, match=r"no gradient .* Occlusion, RISE, KernelSHAP, LIME"):
            method(ModelScalar(model, logit(0)), images)


def test_what_is_no_logit_of_one_of_many_classes_is_refused(smooth, images):
    with pytest.raises(SettingError, match=r"got Custom\. For two given classes explain contrast"):
        ClassContrast()(ModelScalar(smooth, Custom(lambda z: z[:, 0])), images)
    with pytest.raises(SettingError, match="at least two classes"):
        ClassContrast()(ModelScalar(lambda x: x[:, 0, 0, :1], logit(0)), images)
    with pytest.raises(SettingError, match="one of weighted, mean, strongest; got 'some'"):
        method_named("class-contrast", {"foils": "some"})
