"""Properties 12 to 17: the family of Grad-CAM."""

import numpy as np
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
from whence.core import ModelScalar, logit
from whence.display import heat_png, heat_rgba, symmetric_limit
from whence.network import Network

FAMILY = [GradCAM(), GradCAMPlusPlus(), HiResCAM(relu=True), LayerCAM(), XGradCAM(), ScoreCAM()]
RAW = {"relu": False, "upsample": False}


def maps_of(pooled, images):
    """The last feature maps of the network, computed by its own layers."""
    return pooled[:4](images).detach()


def test_property_12_behind_an_average_grad_cam_adds_up_to_the_logit_less_its_bias(
    pooled, images, classes, ask, total
):
    account = ask(GradCAM(**RAW), pooled, images, classes)
    expected = account.explained - pooled[6].bias.detach()[classes]
    torch.testing.assert_close(total(account.values), expected, rtol=0, atol=1e-8)


def test_property_12_behind_an_average_grad_cam_is_cam_over_the_positions(
    pooled, images, classes, ask
):
    maps = maps_of(pooled, images)
    cam = torch.einsum("bk,bkij->bij", pooled[6].weight.detach()[classes], maps)
    actual = ask(GradCAM(**RAW), pooled, images, classes).values[:, 0]
    torch.testing.assert_close(actual, cam / 16, rtol=0, atol=1e-12)


def test_property_13_behind_an_average_hires_cam_is_grad_cam(pooled, images, classes, ask):
    one, other = (ask(kind(**RAW), pooled, images, classes).values for kind in (HiResCAM, GradCAM))
    torch.testing.assert_close(one, other, rtol=0, atol=5e-10)


def test_property_14_behind_an_average_grad_cam_plus_plus_has_a_closed_form(
    pooled, images, classes, ask
):
    maps = maps_of(pooled, images)
    slope = pooled[6].weight.detach()[classes] / 16
    weights = 16 * slope.relu() / (2 + slope * maps.sum(dim=(2, 3)))
    expected = torch.einsum("bk,bkij->bij", weights, maps)
    actual = ask(GradCAMPlusPlus(**RAW), pooled, images, classes).values[:, 0]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


class Block(nn.Module):
    """A block of a vision transformer."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.mix, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.think = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, tokens):
        query, key, value = self.mix(self.norm1(tokens)).chunk(3, dim=-1)
        tokens = tokens + self.out(functional.scaled_dot_product_attention(query, key, value))
        return tokens + self.think(self.norm2(tokens))


class Classified(nn.Module):
    """A vision transformer of two blocks over 4 x 4 patches, whose head reads a class token."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], 1)
        return self.head(self.blocks(tokens)[:, 0])


def test_property_15_behind_the_last_block_patches_have_no_gradient_before_its_norm_they_have(
    images, classes, fill, ask
):
    model = fill(Classified())
    for kind in (GradCAM, HiResCAM):
        last = ask(kind(node="blocks.1", **RAW), model, images, classes).values
        assert last.shape == (5, 1, 4, 4)
        assert (last == 0).all()
        normed = ask(kind(node="blocks.1.norm1", **RAW), model, images, classes).values
        assert (normed != 0).all()


def test_property_15_the_place_that_is_found_is_one_with_a_gradient(images, classes, fill, ask):
    values = ask(GradCAM(**RAW), fill(Classified()), images, classes).values
    assert (values != 0).all()


def unit_range(maps):
    """A map between 0 and 1, as others show it."""
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), 0.0)


@pytest.mark.parametrize(
    "method",
    [GradCAM(), HiResCAM(relu=True), LayerCAM(), XGradCAM(), ScoreCAM()],
    ids=lambda m: type(m).__name__,
)
def test_property_16_a_scaled_logit_leaves_the_shape_of_the_map(method, pooled, images, ask):
    """Not of Grad-CAM++, whose third order counts the logit as an exponent."""
    best = pooled(images).argmax(dim=1)
    before = ask(method, pooled, images, best).values
    with torch.no_grad():
        for parameter in pooled[6].parameters():
            parameter.mul_(7)
    after = ask(method, pooled, images, best).values
    torch.testing.assert_close(after, 7 * before, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(unit_range(after), unit_range(before), rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", FAMILY, ids=lambda m: type(m).__name__)
def test_property_17_a_map_of_nothing_but_objections_is_zero_and_says_so(method, pooled, images):
    with torch.no_grad():
        pooled[6].weight.abs_().neg_()
    result = attribute(method, ModelScalar(Network.read(pooled, images), logit(1)), images)
    assert (result.values == 0).all()
    assert result.blank.all()


def test_property_17_a_map_of_zeros_is_drawn_without_dividing_by_its_range():
    flat = np.zeros((8, 8), dtype=np.float32)
    limit = symmetric_limit([flat])
    assert np.isfinite(limit)
    assert len(np.unique(heat_rgba(flat, limit).reshape(-1, 4), axis=0)) == 1
    assert heat_png(flat, limit).startswith(b"\x89PNG")
