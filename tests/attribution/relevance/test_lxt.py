"""AttnLRP on a transformer, beside LXT's own functions, where it is installed.

LXT 2.1 cannot be imported with transformers 5, but the file that holds its rules needs torch
alone: it is loaded by its path.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from whence.attribution.relevance import LRP

EPSILON = 1e-12


@pytest.fixture(scope="module")
def lxt():
    """The functions of LXT's explicit engine, whose gradients are relevance."""
    try:
        found = importlib.util.find_spec("lxt")
    except ImportError:
        found = None
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs lxt 2.1: pip install --no-deps lxt")
    path = Path(found.submodule_search_locations[0]) / "explicit" / "functional.py"
    spec = importlib.util.spec_from_file_location("lxt_functional", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Identity(torch.autograd.Function):
    """GELU whose input receives the relevance of its output, Eq. 9 of AttnLRP."""

    @staticmethod
    def forward(ctx, values):
        del ctx
        return functional.gelu(values)

    @staticmethod
    def backward(ctx, relevance):
        del ctx
        return relevance


def theirs(lxt, vit, images, classes):
    """Return the relevance of the small transformer, made of LXT's functions."""

    def linear(values, layer):
        return lxt.linear_epsilon(values, layer.weight, layer.bias, EPSILON)

    def norm(values, layer):
        return lxt.layer_norm(values, layer.weight, layer.bias, layer.eps)

    def add(one, other):
        return lxt.add2(one, other, False, EPSILON)

    leaf = images.clone().requires_grad_()
    patches = functional.unfold(leaf, 2, stride=2).mT
    weight = vit.embed.weight.flatten(1)
    tokens = lxt.linear_epsilon(patches, weight, vit.embed.bias, EPSILON)
    tokens = torch.cat([vit.token.expand(len(images), -1, -1), tokens], 1)
    tokens = add(tokens, vit.place.expand_as(tokens))
    for i in range(2):
        mixed = linear(norm(tokens, vit.norms[2 * i]), vit.mix[i]).unflatten(-1, (3, 2, 4))
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        scores = lxt.matmul(lxt.mul2(query, 0.5), key.transpose(-2, -1), False, EPSILON)
        mixed = lxt.matmul(lxt.softmax(scores, -1), value, False, EPSILON)
        tokens = add(tokens, linear(mixed.transpose(1, 2).flatten(2), vit.out[i]))
        first, _, last = vit.think[i]
        branch = linear(Identity.apply(linear(norm(tokens, vit.norms[2 * i + 1]), first)), last)
        tokens = add(tokens, branch)
    logits = linear(norm(tokens, vit.norms[4])[:, 0], vit.head)
    start = functional.one_hot(classes, 4) * logits.detach()
    (relevance,) = torch.autograd.grad(logits, leaf, start)
    return logits, relevance


@pytest.mark.parametrize("kind", ["vit", "vit-plain"])
def test_a_transformer_gets_what_lxt_gives_it(kind, lxt, models, scalar, images, classes):
    """To 1e-4 of the largest value: its layer norm keeps a stabiliser of 1e-6 of its own."""
    model = models[kind]()
    logits, expected = theirs(lxt, model, images, classes)
    torch.testing.assert_close(logits, model(images))
    actual = LRP(composite="epsilon", epsilon=EPSILON)(scalar(model), images)
    size = expected.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(actual / size, expected / size, rtol=0, atol=1e-4)


def test_their_epsilon_has_no_sign_so_that_a_sum_of_minus_epsilon_explodes(lxt, scalar):
    """Ours moves a small sum away from zero to its own side."""
    epsilon = 1e-3
    weight = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, 1.0]]).double()
    leaf = torch.tensor([[1.0, 1.0 + epsilon * (1 - 1e-9), 0.0]]).double().requires_grad_()
    values = lxt.linear_epsilon(leaf, weight, None, epsilon)
    (theirs,) = torch.autograd.grad(values, leaf, torch.tensor([[1.0, 0.0]]).double())
    assert theirs.abs().max() > 1e6
    images = leaf.detach().view(1, 3, 1, 1).repeat(2, 1, 1, 1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(weight)
    f = scalar(model.eval(), at=0, like=images)
    ours = LRP(composite="epsilon", epsilon=epsilon)(f, images)
    assert ours.abs().max() < 1
