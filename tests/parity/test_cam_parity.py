"""The family of Grad-CAM beside pytorch-grad-cam, on a CNN and on tokens, where it is installed."""

import importlib
from dataclasses import replace
from functools import partial

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
)
from whence.core import ModelScalar, logit
from whence.network import Network

PAIRS = {
    "GradCAM": GradCAM(),
    "HiResCAM": HiResCAM(),
    "LayerCAM": LayerCAM(),
    "XGradCAM": XGradCAM(),
    "GradCAMPlusPlus": GradCAMPlusPlus(),
    "ScoreCAM": ScoreCAM(softmax=True),
}
each_pair = pytest.mark.parametrize("name", PAIRS)


@pytest.fixture(scope="module")
def peer():
    """The library; it needs OpenCV and torchvision, either of which may not load."""
    try:
        importlib.import_module("whence.adapters.torchvision").open_torchvision()
        return importlib.import_module("pytorch_grad_cam")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs whence[parity]: {error}")


class Tokens(nn.Module):
    """A transformer block over 4 x 4 patches with a class token, which the head reads."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        query, key, value = self.mix(self.norm(tokens)).chunk(3, dim=-1)
        tokens = tokens + functional.scaled_dot_product_attention(query, key, value)
        return self.head(tokens[:, 0])


def convolutional():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    ).eval()


def rescaled(maps):
    """The display's scale, which the other library always applies."""
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low) / (high - low)


def theirs(peer, monkeypatch, name, model, layer, images, classes, reshape=None):
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    # Its Score-CAM enlarges masks with the corners aligned, unlike everything else it enlarges.
    smooth = partial(nn.Upsample, mode="bilinear", align_corners=False)
    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", smooth)
    # Its Grad-CAM++ adds 1e-6 to the denominator, which is large beside a squared gradient.
    with getattr(peer, name)(model, [layer], reshape_transform=reshape) as cam:
        picked = [targets.ClassifierOutputTarget(int(k)) for k in classes]
        return torch.from_numpy(cam(images, picked))[:, None]


def similar(ours, expected):
    """Their enlargement is OpenCV's, ours PyTorch's: both bilinear, equal up to its rounding."""
    torch.testing.assert_close(rescaled(ours), expected, rtol=0, atol=2e-3)


@each_pair
def test_on_a_convolutional_network_the_maps_are_theirs(name, peer, monkeypatch, generator):
    model, classes = convolutional(), torch.tensor([0, 3, 1])
    images = torch.randn(3, 3, 16, 16, generator=generator)
    with torch.no_grad():
        model[5].weight.mul_(30)  # gradients well above the 1e-3 that their Grad-CAM++ needs
    f = ModelScalar(Network.read(model, images), logit(classes))
    ours = replace(PAIRS[name], relu=True)(f, images)
    assert (ours.amax(dim=(1, 2, 3)) > 0).all()
    similar(ours, theirs(peer, monkeypatch, name, model, model[3], images, classes))


@each_pair
def test_on_tokens_the_maps_are_theirs_with_the_layer_and_layout_found_by_hand(
    name, peer, monkeypatch, generator
):
    torch.manual_seed(5)
    model, classes = Tokens().eval(), torch.tensor([2, 0])
    with torch.no_grad():
        model.head.weight.mul_(30)
    images = torch.randn(2, 3, 16, 16, generator=generator)

    def grid(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    f = ModelScalar(Network.read(model, images), logit(classes))
    ours = replace(PAIRS[name], relu=True, node="norm")(f, images)
    similar(ours, theirs(peer, monkeypatch, name, model, model.norm, images, classes, grid))
