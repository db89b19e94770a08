"""The family of Grad-CAM beside pytorch-grad-cam and Captum, on a CNN and on transformers."""

import copy
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


def theirs(grad_cam, monkeypatch, name, model, layer, images, classes, reshape=None):
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    # Its Score-CAM enlarges masks with the corners aligned, unlike everything else it enlarges.
    smooth = partial(nn.Upsample, mode="bilinear", align_corners=False)
    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", smooth)
    # Its Grad-CAM++ adds 1e-6 to the denominator, which is large beside a squared gradient.
    with getattr(grad_cam, name)(model, [layer], reshape_transform=reshape) as cam:
        picked = [targets.ClassifierOutputTarget(int(k)) for k in classes]
        return torch.from_numpy(cam(images, picked))[:, None]


def similar(ours, expected):
    """Their enlargement is OpenCV's, ours PyTorch's: both bilinear, equal up to its rounding."""
    torch.testing.assert_close(rescaled(ours), expected, rtol=0, atol=2e-3)


@each_pair
def test_on_a_convolutional_network_the_maps_are_theirs(name, grad_cam, monkeypatch, generator):
    model, classes = convolutional(), torch.tensor([0, 3, 1])
    images = torch.randn(3, 3, 16, 16, generator=generator)
    with torch.no_grad():
        model[5].weight.mul_(30)  # gradients well above the 1e-3 that their Grad-CAM++ needs
    f = ModelScalar(Network.read(model, images), logit(classes))
    ours = replace(PAIRS[name], relu=True)(f, images)
    assert (ours.amax(dim=(1, 2, 3)) > 0).all()
    similar(ours, theirs(grad_cam, monkeypatch, name, model, model[3], images, classes))


@each_pair
def test_on_tokens_the_maps_are_theirs_with_the_layer_and_layout_found_by_hand(
    name, grad_cam, monkeypatch, generator
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
    similar(ours, theirs(grad_cam, monkeypatch, name, model, model.norm, images, classes, grid))


@pytest.fixture(scope="module")
def vision_transformer(timm):
    """A small one of timm's, and images for it."""
    torch.manual_seed(1)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=4
    ).eval()
    with torch.no_grad():
        model.head.weight.mul_(300)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    return model, images, Network.read(model, images)


RECOMMENDED = [(name, "blocks.2.norm1", "blocks.2.norm1") for name in PAIRS]
FOUND = [(name, "blocks.1", None) for name in PAIRS if name != "HiResCAM"]
FOUND.append(("HiResCAM", "blocks.2.norm1", None))
"""The layer that they recommend, and the one that is found here; of HiResCAM see below."""


@pytest.mark.parametrize(
    ("name", "path", "node"),
    RECOMMENDED + FOUND,
    ids=[f"{name} {node or 'found'}" for name, _, node in RECOMMENDED + FOUND],
)
def test_on_a_vit_of_timm_the_maps_are_theirs(
    name, path, node, grad_cam, monkeypatch, vision_transformer
):
    """Their user writes how tokens become a grid; here the class token and the grid are found."""
    (model, images, network), classes = vision_transformer, torch.tensor([1, 3])

    def grid(tokens):
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4))

    layer = model.get_submodule(path)
    expected = theirs(grad_cam, monkeypatch, name, model, layer, images, classes, grid)
    ours = replace(PAIRS[name], relu=True, node=node)(ModelScalar(network, logit(classes)), images)
    similar(ours, expected)


def test_hires_cam_of_tokens_that_go_into_a_layer_norm_only_is_zero_by_its_formula(
    vision_transformer,
):
    """A norm does not see the length of a token, so its gradient is orthogonal to the token."""
    (model, images, _), target = vision_transformer, logit(1)
    model, images = copy.deepcopy(model).double(), images.double()
    f = ModelScalar(Network.read(model, images), target)
    size = GradCAM(relu=False, node="blocks.1")(f, images).abs().max()
    inside = HiResCAM(relu=False)(f, images)  # behind the norm, by default
    before = HiResCAM(relu=False, node="blocks.1")(f, images)
    assert inside.abs().max() > 0.1 * size
    assert before.abs().max() < 1e-5 * size  # what is left is the norm's own epsilon


def test_on_tokens_captum_weighs_each_token_by_itself_and_gives_no_grid(captum, generator):
    """Definition: a channel's weight is the mean of its gradient over the patches."""
    torch.manual_seed(5)
    model = Tokens().double().eval()
    images = torch.randn(2, 3, 16, 16, generator=generator).double()
    flat = captum.LayerGradCam(model, model.norm).attribute(images, target=2)
    assert flat.shape == (2, 1, 8)  # tokens are added up, and features are left
    kept = []
    handle = model.norm.register_forward_hook(lambda _, __, output: kept.append(output))
    logits = model(images)
    handle.remove()
    (slope,) = torch.autograd.grad(logits[:, 2].sum(), kept[0])
    weights = slope[:, 1:].mean(dim=1, keepdim=True)
    expected = (weights * kept[0][:, 1:]).sum(dim=2).view(2, 1, 4, 4)
    f = ModelScalar(Network.read(model, images), logit(2))
    maps = GradCAM(node="norm", relu=False, upsample=False)(f, images)
    torch.testing.assert_close(maps, expected.detach())


def test_size_and_sign_are_kept_here_and_rescaled_away_there(grad_cam, monkeypatch, generator):
    model, images = convolutional(), torch.randn(2, 3, 16, 16, generator=generator)
    f = ModelScalar(Network.read(model, images), logit(1))
    before = theirs(grad_cam, monkeypatch, "GradCAM", model, model[3], images, [1, 1])
    ours = GradCAM(relu=False)(f, images)
    with torch.no_grad():
        model[5].weight.mul_(7)
    after = theirs(grad_cam, monkeypatch, "GradCAM", model, model[3], images, [1, 1])
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    torch.testing.assert_close(GradCAM(relu=False)(f, images), 7 * ours, rtol=1e-4, atol=1e-5)
