"""Attention rollout and gradient-weighted attention against transformers written out by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import AttentionRollout, TransformerAttribution, attribute
from whence.core import ModelScalar, logit
from whence.errors import SettingError
from whence.network import Network

METHODS = [AttentionRollout(upsample=False), TransformerAttribution(upsample=False)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


class Transformer(nn.Module):
    """Three attention layers over 2 x 2 patches; fused or spelled out, with or without a token."""

    def __init__(self, *, token, fused=True, window=0):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if token else None
        self.layers = nn.ModuleList([nn.Linear(8, 24) for _ in range(3)])
        self.thoughts = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.head = nn.Linear(8, 4)
        self.fused, self.window = fused, window

    def forward(self, images, seen=None):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for layer, think in zip(self.layers, self.thoughts, strict=True):
            tokens = tokens + self.attended(layer, tokens, seen)
            tokens = tokens + functional.gelu(think(tokens))
        return self.head(tokens.mean(dim=1) if self.token is None else tokens[:, 0])

    def attended(self, layer, tokens, seen):
        count = tokens.shape[1]
        if self.window:
            tokens = tokens.reshape(-1, self.window, 8)
        heads = layer(tokens).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        if self.fused and seen is None:
            out = functional.scaled_dot_product_attention(query, key, value)
        else:
            attention = (query @ key.transpose(-2, -1) * 0.5).softmax(dim=-1)
            if seen is not None:
                attention.retain_grad()
                seen.append(attention)
            out = attention @ value
        return out.transpose(1, 2).flatten(2).reshape(-1, count, 8)


def made(**settings):
    torch.manual_seed(7)
    model = Transformer(**settings).double().eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(4)
    return model


def scalar(model, images, target):
    return ModelScalar(Network.read(model, images), target)


def attention_of(model, images, classes):
    """Return attention and its gradients, layer by layer."""
    seen = []
    model(images, seen).gather(1, classes[:, None]).sum().backward()
    return [a.detach() for a in seen], [a.grad for a in seen]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("token", [True, False])
def test_rollout_is_the_product_of_the_layers(token, fused, images, classes):
    model = made(token=token, fused=fused)
    maps = AttentionRollout(residual=0.3, upsample=False)(
        scalar(model, images, logit(classes)), images
    )
    attention, _ = attention_of(made(token=token), images, classes)
    count = attention[0].shape[-1]
    product = torch.eye(count).double()
    for layer in attention:
        product = (0.7 * layer.mean(dim=1) + 0.3 * torch.eye(count).double()) @ product
    rows = product[:, 0, 1:] if token else product.mean(dim=1)
    torch.testing.assert_close(maps, rows.reshape(5, 1, 4, 4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("token", [True, False])
def test_transformer_attribution_is_its_recursion(token, fused, images, classes):
    model = made(token=token, fused=fused)
    maps = TransformerAttribution(upsample=False)(scalar(model, images, logit(classes)), images)
    relevance = torch.eye(16 + token).double()
    for layer, slope in zip(*attention_of(made(token=token), images, classes), strict=True):
        weighed = (layer * slope).clamp(min=0).mean(dim=1)
        relevance = relevance + weighed @ relevance
    relevance = relevance - torch.eye(16 + token)
    rows = relevance[:, 0, 1:] if token else relevance.mean(dim=1)
    torch.testing.assert_close(maps, rows.reshape(5, 1, 4, 4), rtol=1e-9, atol=1e-12)


class Distilled(nn.Module):
    """As DeiT with distillation: two tokens, pre-norm blocks, and the mean of two heads."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, 2, stride=2)
        self.tokens = nn.Parameter(torch.randn(1, 2, 12))
        self.place = nn.Parameter(torch.randn(1, 18, 12))
        self.norms = nn.ModuleList([nn.LayerNorm(12) for _ in range(5)])
        self.mix = nn.ModuleList([nn.Linear(12, 36) for _ in range(2)])
        self.out = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.think = nn.ModuleList([nn.Linear(12, 12) for _ in range(2)])
        self.heads = nn.ModuleList([nn.Linear(12, 4) for _ in range(2)])

    def forward(self, images, seen=None):
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = (
            torch.cat([self.tokens.expand(images.shape[0], -1, -1), patches], dim=1) + self.place
        )
        for i in range(2):
            mixed = self.mix[i](self.norms[2 * i](tokens)).unflatten(2, (3, 3, 4))
            query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
            if seen is None:
                out = functional.scaled_dot_product_attention(query, key, value)
            else:
                attention = (query @ key.transpose(-2, -1) * 0.5).softmax(dim=-1)
                attention.retain_grad()
                seen.append(attention)
                out = attention @ value
            tokens = tokens + self.out[i](out.transpose(1, 2).flatten(2))
            tokens = tokens + functional.gelu(self.think[i](self.norms[2 * i + 1](tokens)))
        tokens = self.norms[4](tokens)
        return (self.heads[0](tokens[:, 0]) + self.heads[1](tokens[:, 1])) / 2


def test_with_a_distillation_token_both_tokens_are_read(images, classes):
    torch.manual_seed(3)
    model = Distilled().double().eval()
    f = scalar(model, images, logit(classes))
    layers, slopes = attention_of(model, images, classes)
    one = torch.eye(18).double()
    rollout, relevance = one, one
    for layer, slope in zip(layers, slopes, strict=True):
        rollout = (layer.mean(dim=1) + one) / 2 @ rollout
        relevance = relevance + (layer * slope).clamp(min=0).mean(dim=1) @ relevance
    for method, whole in zip(METHODS, (rollout, relevance - one), strict=True):
        rows = (whole[:, 0, 2:] + whole[:, 1, 2:]) / 2
        maps = method(f, images)
        torch.testing.assert_close(maps, rows.reshape(5, 1, 4, 4), rtol=1e-9, atol=1e-12)


class Shifted(nn.Module):
    """As Swin: attention in windows of 2 x 2 that are shifted, and a coarser second stage."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 4, 1)
        self.mix = nn.ModuleList([nn.Linear(4, 12), nn.Linear(4, 12), nn.Linear(8, 24)])
        self.bias = nn.Parameter(torch.randn(2, 4, 4))
        self.merge = nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def attended(self, maps, mix, shift):
        batch, height, width, channels = maps.shape
        maps = maps.roll((-shift, -shift), (1, 2))
        windows = maps.reshape(batch, height // 2, 2, width // 2, 2, channels)
        windows = windows.transpose(2, 3).reshape(-1, 4, channels)
        parts = mix(windows).unflatten(2, (3, 2, channels // 2))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        out = (query @ key.transpose(-2, -1) + self.bias).softmax(dim=-1) @ value
        out = out.transpose(1, 2).reshape(batch, height // 2, width // 2, 2, 2, channels)
        return out.transpose(2, 3).reshape(maps.shape).roll((shift, shift), (1, 2))

    def forward(self, images):
        maps = self.embed(images).movedim(1, 3)
        for i in range(2):
            maps = maps + self.attended(maps, self.mix[i], i)
        corners = [maps[:, i::2, j::2] for i in range(2) for j in range(2)]
        maps = self.merge(torch.cat(corners, dim=3))
        maps = maps + self.attended(maps, self.mix[2], 0)
        return self.head(maps.mean(dim=(1, 2)))


@each_method
def test_attention_in_windows_is_refused_with_what_it_has_and_what_to_take(method, images):
    torch.manual_seed(0)
    f = scalar(Shifted().double().eval(), images, logit(0))
    with pytest.raises(SettingError, match=r"between all patches of one grid.* network has \("):
        method(f, images)
    with pytest.raises(SettingError, match=r"\(8, 2, 4, 4\), \(32, 2, 4, 4\).*take grad-cam"):
        method(f, images)


def test_shares_of_rollout_add_up_to_one_and_do_not_know_the_class(images):
    f = scalar(made(token=False), images, logit(0))
    result = attribute(AttentionRollout(upsample=False), f, images)
    torch.testing.assert_close(result.total, torch.ones(5).double())
    other = AttentionRollout(upsample=False)(ModelScalar(f.model, logit(2)), images)
    torch.testing.assert_close(other, result.values)
    weighed = TransformerAttribution()(f, images)
    assert not torch.allclose(
        weighed, TransformerAttribution()(ModelScalar(f.model, logit(2)), images)
    )


@each_method
def test_the_map_fits_the_image_and_costs_what_it_says(method, images, untouched):
    model = made(token=True)
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=False)
    with untouched(model), torch.inference_mode():
        f = scalar(model, images, logit(1))
        result = attribute(replace(method, upsample=True), f, images.clone())
    assert result.values.shape == (5, 1, 8, 8)
    assert (
        result.cost
        == {"AttentionRollout": 0.5, "TransformerAttribution": 1.0}[type(method).__name__]
    )
    torch.testing.assert_close(result.explained.clone(), f(images).detach())


@each_method
def test_a_batch_gives_what_its_images_give_alone(method, images, classes):
    f = scalar(made(token=True), images, logit(classes))
    whole = replace(method, batch_size=2)(f, images)
    for i in (0, 4):
        alone = method(f.at(torch.tensor([i])), images[i : i + 1])
        torch.testing.assert_close(whole[i : i + 1], alone)


@each_method
def test_networks_without_attention_over_one_grid_are_refused(method, rectifier, images):
    with pytest.raises(SettingError, match=r"the network has no attention\. Use it on plain"):
        method(scalar(rectifier(), images, logit(1)), images)
    with pytest.raises(SettingError, match=r"the network has \(8, 2, 4, 4\)"):
        method(scalar(made(token=False, window=4), images, logit(1)), images)


def test_a_share_must_be_one():
    with pytest.raises(SettingError, match="residual is a share"):
        AttentionRollout(residual=1.5)
