"""Attention, layer norm and products, restated on relevances instead of multipliers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import InputXGradient
from whence.attribution.relevance import LRP, Composite, Gamma
from whence.core import ModelScalar, logit
from whence.network import Network

EPSILON = 1e-6


def through_linear(x, layer, r):
    z = layer(x)
    return x * ((r / torch.where(z < 0, z - EPSILON, z + EPSILON)) @ layer.weight)


def through_patches(x, layer, r):
    z = layer(x)
    s = r / torch.where(z < 0, z - EPSILON, z + EPSILON)
    return x * functional.conv_transpose2d(s, layer.weight, stride=layer.stride)


def through_sum(a, b, r):
    return a * r / (a + b), b * r / (a + b)


def through_norm(x, layer, r):
    centred = x - x.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight
    at_normal = normal * r / (normal + layer.bias)
    s = at_normal / centred
    return x * (s - s.mean(-1, keepdim=True))


def through_product(a, b, r, half=0.5):
    s = r / (a @ b)
    return half * a * (s @ b.mT), half * b * (a.mT @ s)


def through_softmax(z, r):
    return z * (r - z.softmax(-1) * r.sum(-1, keepdim=True))


def naive(vit, images, classes, *, weights):
    """Return AttnLRP (or CP-LRP) of the small transformer, relevance by relevance."""
    steps = []
    patches = vit.embed(images)
    first = torch.cat(
        [vit.token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1
    )
    tokens = first + vit.place
    for i in range(2):
        a = vit.norms[2 * i](tokens)
        q, k, v = vit.mix[i](a).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        z = (q / math.sqrt(4)) @ k.mT
        o = (z.softmax(-1) @ v).transpose(1, 2).flatten(2)
        after = tokens + vit.out[i](o)
        b = vit.norms[2 * i + 1](after)
        hidden = vit.think[i][0](b)
        steps.append((tokens, a, q, k, v, z, o, after, b, hidden))
        tokens = after + vit.think[i][2](functional.gelu(hidden))
    last = vit.norms[4](tokens)[:, 0]
    logits = vit.head(last)
    r = functional.one_hot(classes, 4) * logits
    at_last = torch.zeros_like(tokens)
    at_last[:, 0] = through_linear(last, vit.head, r)
    r = through_norm(tokens, vit.norms[4], at_last)
    for i in (1, 0):
        tokens, a, q, k, v, z, o, after, b, hidden = steps[i]
        think = vit.think[i]
        r, branch = through_sum(after, think[2](functional.gelu(hidden)), r)
        branch = through_linear(functional.gelu(hidden), think[2], branch)
        branch = through_linear(b, think[0], branch)
        r = r + through_norm(after, vit.norms[2 * i + 1], branch)
        r, branch = through_sum(tokens, vit.out[i](o), r)
        branch = through_linear(o, vit.out[i], branch).unflatten(-1, (2, 4)).transpose(1, 2)
        half = 0.5 if weights else 1.0
        at_weights, at_v = through_product(z.softmax(-1), v, branch, half)
        at_q, at_k = through_product(q, k.mT, through_softmax(z, at_weights))
        if not weights:
            at_q, at_k = torch.zeros_like(at_q), torch.zeros_like(at_k)
        at_all = torch.stack([at_q, at_k.mT, at_v]).permute(1, 3, 0, 2, 4).flatten(2)
        r = r + through_norm(tokens, vit.norms[2 * i], through_linear(a, vit.mix[i], at_all))
    r = through_sum(first, vit.place, r)[0][:, 1:]
    return through_patches(images, vit.embed, r.transpose(1, 2).view_as(patches))


@pytest.mark.parametrize("kind", ["vit", "vit-plain"])
@pytest.mark.parametrize("attention", ["attnlrp", "cp-lrp"])
def test_a_transformer_gets_what_the_formulas_say(attention, kind, models, scalar, images, classes):
    model = models[kind]()
    method = LRP(composite="epsilon", attention=attention)
    with torch.no_grad():
        expected = naive(model, images, classes, weights=attention == "attnlrp")
    actual = method(scalar(model), images)
    size = expected.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(actual / size, expected / size, rtol=0, atol=1e-3)


def test_both_treatments_of_attention_differ_and_neither_is_the_gradient(models, scalar, images):
    f = scalar(models["vit"]())
    maps = [LRP(composite="epsilon", attention=a)(f, images) for a in ("attnlrp", "cp-lrp")]
    maps.append(InputXGradient()(f, images))
    assert not any(torch.allclose(maps[i], maps[i - 1], rtol=0.1) for i in range(3))


class Values(nn.Module):
    """Attention over pixels without any bias; all relevance flows along its values."""

    def forward(self, images):
        tokens = images.flatten(2).mT
        mixed = functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return mixed.mean(1)


def test_cp_lrp_conserves_along_the_values_where_nothing_has_a_bias(images):
    network = Network.read(Values().eval(), images)
    for k in range(3):
        account = LRP(attention="cp-lrp").account(ModelScalar(network, logit(k)), images)
        torch.testing.assert_close(account.values.flatten(1).sum(1), account.explained)


class Softmax(nn.Module):
    def forward(self, images):
        scores = images.flatten(1)[:, :3]
        return scores.softmax(1) @ torch.eye(3).to(scores)


def test_the_softmax_of_three_numbers_is_the_published_example_of_its_formula():
    z = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    r = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    expected = torch.tensor([0.24, -1.01, -0.26], dtype=torch.float64)
    torch.testing.assert_close(through_softmax(z, r), expected, rtol=0, atol=5e-3)
    images = z.view(1, 3, 1, 1).repeat(2, 1, 1, 1)
    network = Network.read(Softmax().eval(), images)
    shares = z.softmax(0)
    for k in range(3):
        at = torch.zeros(3, dtype=torch.float64)
        at[k] = shares[k]
        actual = LRP(composite="epsilon")(ModelScalar(network, logit(k)), images)[0].flatten()
        torch.testing.assert_close(actual, through_softmax(z, at))


class Three(nn.Module):
    def __init__(self, *, left):
        super().__init__()
        self.left = left

    def forward(self, images):
        a, b, c = images.flatten(1)[:, :3].split(1, 1)
        value = (a * b) * c if self.left else a * (b * c)
        return torch.cat([value, value], 1)


@pytest.mark.parametrize(("left", "expected"), [(True, [6, 6, 12]), (False, [12, 6, 6])])
def test_of_three_factors_the_shares_depend_on_the_brackets(left, expected):
    images = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1).repeat(2, 1, 1, 1)
    f = ModelScalar(Network.read(Three(left=left).eval(), images), logit(0))
    assert LRP()(f, images)[0].flatten().tolist() == expected


class Norms(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm.double()
        self.head = nn.Linear(8, 4, bias=False).double()

    def forward(self, images):
        maps = functional.pixel_shuffle(functional.pixel_unshuffle(images, 2)[:, :8], 1)
        if isinstance(self.norm, nn.GroupNorm):
            return self.head(self.norm(maps).mean((2, 3)))
        return self.head(self.norm(maps.permute(0, 2, 3, 1)).mean((1, 2)))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8)], ids=str)
def test_a_norm_is_its_jacobian_with_a_constant_deviation(norm, images, monkeypatch):
    model = Norms(norm).eval()
    with torch.no_grad():
        for p in norm.parameters():
            p.copy_(torch.linspace(-1, 2, 8))
    actual = LRP(composite="epsilon", epsilon=0)(
        ModelScalar(Network.read(model, images), logit(1)), images
    )

    def fixed(values, axes, eps, centre):
        centred = values - values.mean(axes, keepdim=True) if centre else values
        scale = (centred.detach().square().mean(axes, keepdim=True) + eps).rsqrt()
        return centred * scale

    def forward(values):
        if isinstance(norm, nn.GroupNorm):
            normal = fixed(values.reshape(len(values), 2, -1), (2,), norm.eps, True)
            normal = normal.view_as(values).movedim(1, -1) * norm.weight + norm.bias
            return normal.movedim(-1, 1)
        if isinstance(norm, nn.LayerNorm):
            return fixed(values, (-1,), norm.eps, True) * norm.weight + norm.bias
        return fixed(values, (-1,), torch.finfo(torch.float64).eps, False) * norm.weight

    monkeypatch.setattr(norm, "forward", forward)
    torch.testing.assert_close(actual, InputXGradient()(ModelScalar(model, logit(1)), images))


class Gates(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        if self.kind == "pooled":
            gate = (images.mean((2, 3), keepdim=True) * 3 + 1).sigmoid()
            return (images * gate).mean((2, 3))
        if self.kind == "swish by hand":
            return (images.sigmoid() * images).mean((2, 3))
        if self.kind == "unbounded":
            return (images * images.norm(p=2, dim=(2, 3), keepdim=True)).mean((2, 3))
        return (images / images.square().mean((2, 3), keepdim=True).sqrt()).mean((2, 3))


@pytest.mark.parametrize("kind", ["pooled", "swish by hand", "unbounded", "divided"])
def test_a_gate_is_a_constant_and_all_relevance_goes_to_the_signal(kind, images):
    network = Network.read(Gates(kind).eval(), images)
    actual = LRP()(ModelScalar(network, logit(2)), images)
    gate = {
        "pooled": (images.mean((2, 3), keepdim=True) * 3 + 1).sigmoid(),
        "swish by hand": images.sigmoid(),
        "unbounded": images.norm(p=2, dim=(2, 3), keepdim=True),
        "divided": 1 / images.square().mean((2, 3), keepdim=True).sqrt(),
    }[kind]
    expected = torch.zeros_like(images)
    expected[:, 2] = (images * gate)[:, 2] / 64
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["gelu", "silu", "hardswish", "tanh", "elu", "mish"])
def test_relevance_passes_an_activation_unchanged(name, images):
    class Activated(nn.Module):
        def forward(self, images):
            return getattr(functional, name)(images).mean((2, 3))

    images[0, 0, 0, 0] = 0
    f = ModelScalar(Network.read(Activated().eval(), images), logit(0))
    expected = torch.zeros_like(images)
    expected[:, 0] = getattr(functional, name)(images)[:, 0] / 64
    torch.testing.assert_close(LRP()(f, images), expected, atol=1e-12, rtol=1e-7)


def test_gamma_works_on_the_layers_of_a_transformer(models, scalar, images):
    f = scalar(models["vit"]())
    steep = LRP(composite=Composite(otherwise=Gamma(gamma=0)))(f, images)
    plain = LRP(composite="epsilon")(f, images)
    size = plain.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(steep / size, plain / size, rtol=0, atol=1e-3)
    assert not torch.allclose(LRP(composite="gamma")(f, images), plain, rtol=0.1)
