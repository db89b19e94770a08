"""Grad-CAM and its family: on tokens, with sign and size, for every image."""

import pytest
import torch

from whence.attribution import (
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
    attribute,
)
from whence.core import ModelScalar, logit
from whence.errors import SettingError
from whence.network import Network

FAMILY = [GradCAM(), GradCAMPlusPlus(), HiResCAM(), LayerCAM(), XGradCAM(), ScoreCAM()]
by_name = pytest.mark.parametrize("method", FAMILY, ids=lambda m: type(m).__name__)


@by_name
def test_on_tokens_a_map_is_a_grid_of_patches_enlarged_to_the_image(method, explained):
    assert explained("transformer", method).shape == (5, 1, 8, 8)


def test_on_tokens_channels_are_weighted_and_the_class_token_is_left_out(
    read, explained, images, classes
):
    """By its definition: the mean gradient over patches weighs each channel of the tokens."""
    model, network = read("transformer")
    cut = network.cut()
    tokens = cut.head(images)[0].detach().requires_grad_()
    others = [v.detach() for v in cut.head(images)[1:]]
    logits = cut.tail(tokens, *others)
    (slope,) = torch.autograd.grad(logits[torch.arange(5), classes].sum(), tokens)
    assert tokens.shape == (5, 17, 8)
    weights = slope[:, 1:].mean(dim=1)
    expected = torch.einsum("bk,btk->bt", weights, tokens.detach()[:, 1:]).view(5, 1, 4, 4)
    actual = explained("transformer", GradCAM(relu=False, upsample=False))
    torch.testing.assert_close(actual, expected)
    assert model.head.weight.grad is None


def test_a_layer_without_an_image_plane_is_refused(read, images):
    with pytest.raises(SettingError, match="holds no image plane"):
        GradCAM(node="head")(ModelScalar(read("transformer")[1], logit(0)), images)


@pytest.mark.parametrize(
    "method", [m for m in FAMILY if type(m) is not GradCAMPlusPlus], ids=lambda m: type(m).__name__
)
def test_size_and_sign_are_those_of_the_logit(method, make, images):
    model = make("clean")
    f = ModelScalar(Network.read(model, images), logit(1))
    before = attribute(method, f, images).values
    with torch.no_grad():
        model.head.weight.mul_(3)
        model.head.bias.mul_(3)
    torch.testing.assert_close(attribute(method, f, images).values, 3 * before)
    assert before.amax() != 1


def test_what_speaks_against_the_class_is_kept_without_relu_and_zero_with_it(make, images):
    model = make("clean")
    with torch.no_grad():
        model.five.weight.abs_()
        model.head.weight.abs_().neg_()
    f = ModelScalar(Network.read(model, images), logit(1))
    assert GradCAM(relu=False)(f, images).max() <= 0
    result = attribute(GradCAM(), f, images)
    assert (result.values == 0).all()
    assert result.blank.all()
