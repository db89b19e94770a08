"""Relatives of Grad-CAM against closed forms behind a pooled head, and their formulas."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
    attribute,
)
from whence.core import Custom, Mean, ModelScalar, contrast, logit
from whence.errors import SettingError
from whence.network import Network

METHODS = [GradCAMPlusPlus(), HiResCAM(), LayerCAM(), XGradCAM(), ScoreCAM()]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
RAW = {"relu": False, "upsample": False}


def made(head, *, bias=True):
    torch.manual_seed(3)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias), nn.ReLU())
    return nn.Sequential(body, head).double().eval()


@pytest.fixture
def pooled():
    """A network whose head is an average over positions and a linear layer."""
    return made(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)))


@pytest.fixture
def dense():
    """A network whose head mixes the 4 x 4 positions of 6 maps."""
    return made(nn.Sequential(nn.Flatten(), nn.Linear(96, 12), nn.Tanh(), nn.Linear(12, 4)))


class Tokens(nn.Module):
    """A transformer block over 2 x 2 patches, read by averaging its tokens."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        query, key, value = self.mix(self.norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + functional.scaled_dot_product_attention(query, key, value)
        return self.head(tokens.mean(dim=1))


def scalar(model, images, target):
    return ModelScalar(Network.read(model, images), target)


def by_hand(model, images, target):
    """Return activations and gradients of the body's output, by autograd."""
    activation = model[0](images).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(target(model[1](activation)).sum(), activation)
    return activation.detach(), slopes


def formula(name, maps, slopes):
    """The definitions, position by position."""
    weighed = torch.zeros_like(maps[:, :1])
    for k in range(maps.shape[1]):
        a, g = maps[:, k], slopes[:, k]
        mass = a.sum(dim=(1, 2)).view(-1, 1, 1)
        if name == "GradCAMPlusPlus":
            below = 2 * g**2 + mass * g**3
            alpha = torch.where(below == 0, 0.0, g**2 / below)
            weight = (alpha * g.clamp(min=0)).sum(dim=(1, 2)).view(-1, 1, 1)
        elif name == "XGradCAM":
            weight = ((g * a).sum(dim=(1, 2)).view(-1, 1, 1) / mass).nan_to_num()
        else:
            weight = g if name == "HiResCAM" else g.clamp(min=0)
        weighed[:, 0] += weight * a
    return weighed


@pytest.mark.parametrize("method", METHODS[:4], ids=lambda m: type(m).__name__)
def test_each_is_its_formula_with_gradients_by_autograd(method, dense, images, classes):
    target = contrast(classes, (classes + 1) % 4)
    maps = replace(method, **RAW)(scalar(dense, images, target), images)
    expected = formula(type(method).__name__, *by_hand(dense, images, target))
    torch.testing.assert_close(maps, expected, rtol=1e-10, atol=1e-13)


def test_grad_cam_plus_plus_has_its_closed_form_behind_a_pooled_head(pooled, images, classes):
    f = scalar(pooled, images, logit(classes))
    maps = GradCAMPlusPlus(**RAW)(f, images)
    activation = pooled[0](images)
    slope = pooled[1][2].weight[classes] / 16
    weights = 16 * slope.clamp(min=0) / (2 + slope * activation.sum(dim=(2, 3)))
    expected = (weights[:, :, None, None] * activation).sum(dim=1, keepdim=True)
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-11, atol=1e-14)


def test_small_gradients_keep_their_weights_in_grad_cam_plus_plus(pooled, images):
    network = Network.read(pooled, images)
    small = ModelScalar(network, Custom(lambda z: 1e-6 * z[:, 1]))
    maps = GradCAMPlusPlus(**RAW)(small, images)
    # As g falls, the share of the second order becomes one half.
    expected = 1e-6 * 0.5 * (pooled[1][2].weight[1].relu()[:, None, None] * pooled[0](images))
    torch.testing.assert_close(maps, expected.sum(dim=1, keepdim=True).detach(), rtol=1e-4, atol=0)


def test_behind_a_pooled_head_hires_and_xgrad_cam_are_grad_cam(pooled, images, classes):
    f = scalar(pooled, images, logit(classes))
    expected = GradCAM(**RAW)(f, images)
    for method in (HiResCAM(**RAW), XGradCAM(**RAW)):
        torch.testing.assert_close(method(f, images), expected, rtol=1e-11, atol=1e-14)


def test_hires_and_xgrad_cam_add_up_to_the_value_where_the_head_is_affine(images, classes):
    model = made(nn.Sequential(nn.Flatten(), nn.Linear(96, 9), nn.ReLU(), nn.Linear(9, 4)))
    with torch.no_grad():
        model[1][1].bias.zero_()
    f = scalar(model, images, logit(classes))
    expected = (f(images) - model[1][3].bias[classes]).detach()
    for method in (HiResCAM(**RAW), XGradCAM(**RAW)):
        total = attribute(method, f, images).total
        torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-12)
    plain = attribute(GradCAM(**RAW), f, images).total
    assert not torch.allclose(plain, expected, rtol=0.05)


def test_layer_cam_is_not_negative_where_activations_are_not(dense, images):
    maps = LayerCAM(**RAW)(scalar(dense, images, logit(0)), images)
    assert (maps >= 0).all()
    assert (maps > 0).any()


def seen_through(f, image, activation, fill, *, softmax=False):
    """Return Score-CAM of one image, map by map."""
    scores = []
    for a in activation:
        mask = functional.interpolate(a[None, None], size=(8, 8), mode="bilinear")
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        scores.append(f(image * mask + fill * (1 - mask)) - f(fill))
    weights = torch.stack(scores)
    weights = weights.softmax(dim=0) if softmax else weights
    return (weights[:, :, None] * activation).sum(dim=0).detach()


@pytest.mark.parametrize("softmax", [True, False])
def test_score_cam_weighs_by_the_image_seen_through_each_map(softmax, dense, images, classes):
    f = scalar(dense, images, logit(classes))
    method = ScoreCAM(fill=Mean(), softmax=softmax, batch_size=4, **RAW)
    maps = method(f, images)
    for i in range(2):
        image = images[i : i + 1]
        own = f.at(torch.tensor([i]))
        expected = seen_through(own, image, dense[0](image)[0], Mean()(image), softmax=softmax)
        torch.testing.assert_close(maps[i, 0], expected, rtol=1e-10, atol=1e-12)


def test_score_cam_gives_a_constant_map_no_weight(dense, images):
    with torch.no_grad():
        dense[0][0].weight[2] = 0.0
        dense[0][0].bias[2] = 5.0
    f = scalar(dense, images, logit(1))
    activation = dense[0](images[:1])[0]
    assert (activation[2] == 5).all()
    kept = activation[[0, 1, 3, 4, 5]]
    expected = seen_through(f, images[:1], kept, torch.zeros_like(images[:1]))
    torch.testing.assert_close(ScoreCAM(**RAW)(f, images)[0, 0], expected)


def test_the_cost_of_score_cam_is_a_forward_for_each_channel(dense, images):
    result = attribute(ScoreCAM(), scalar(dense, images, logit(1)), images)
    assert result.cost == 0.5 * (6 + 2) + 0.5
    assert attribute(LayerCAM(), scalar(dense, images, logit(1)), images).cost == 0.5


@each_method
def test_the_layer_can_be_named_and_the_map_fits_the_image(method, pooled, images):
    f = scalar(pooled, images, logit(1))
    assert method(f, images).shape == (5, 1, 8, 8)
    before = replace(method, node="0.0", **RAW)(f, images)
    after = replace(method, **RAW)(f, images)
    assert before.shape == after.shape == (5, 1, 4, 4)
    # A ReLU passes on what it kept, and its gradient: activation times gradient is the same.
    local = isinstance(method, (HiResCAM, LayerCAM))
    assert torch.allclose(before, after) is local


@each_method
def test_tokens_are_maps(method, images):
    torch.manual_seed(4)
    model = Tokens().double().eval()
    result = attribute(replace(method, **RAW), scalar(model, images, logit(1)), images)
    assert result.values.shape == (5, 1, 4, 4)
    assert not result.blank.any()


@pytest.mark.parametrize("method", METHODS[:4], ids=lambda m: type(m).__name__)
def test_with_nothing_in_favour_a_map_is_zero_and_reported(method, pooled, images):
    with torch.no_grad():
        pooled[1][2].weight[0] = -1.0
    result = attribute(replace(method, relu=True), scalar(pooled, images, logit(0)), images)
    assert (result.values == 0).all()
    assert result.blank.all()


@each_method
def test_a_batch_gives_what_its_images_give_alone(method, dense, images, classes, untouched):
    f = scalar(dense, images, logit(classes))
    with untouched(dense), torch.inference_mode():
        whole = replace(method, batch_size=2)(f, images.clone()).clone()
    for i in (0, 4):
        alone = method(f.at(torch.tensor([i])), images[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-10, atol=1e-13)


@each_method
def test_a_function_without_a_network_is_refused(method, pooled, images):
    with pytest.raises(SettingError, match=r"needs its graph; got Sequential"):
        method(ModelScalar(pooled, logit(1)), images)
