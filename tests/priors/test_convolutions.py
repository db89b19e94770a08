"""The convolutions that stand in while a prior is on: the same function, to any order."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from whence.network import Network
from whence.priors.convolutions import Convolution, FastConvolutions

SETTINGS = [
    {},
    {"stride": 2, "padding": 1},
    {"padding": (2, 0), "dilation": (1, 2)},
    {"groups": 2},
    {"stride": (2, 1), "groups": 4},
]
each_setting = pytest.mark.parametrize("settings", SETTINGS, ids=[str(k) for k in range(5)])


@pytest.fixture
def drawn(generator):
    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    return draw


def standing_in(*arguments, **settings):
    with FastConvolutions():
        found = functional.conv2d(*arguments, **settings)
    assert "Convolution" in type(found.grad_fn).__name__
    assert type(found.grad_fn).__name__ != "ConvolutionBackward0"
    return found


@each_setting
@pytest.mark.parametrize("biased", [True, False])
def test_first_and_second_derivatives_are_those_of_finite_differences(settings, biased, drawn):
    weight = drawn(4, 4 // settings.get("groups", 1), 3, 2)
    arguments = (drawn(2, 4, 5, 6), weight, drawn(4)) if biased else (drawn(2, 4, 5, 6), weight)

    def run(*given):
        return standing_in(*given, **settings)

    torch.testing.assert_close(run(*arguments), functional.conv2d(*arguments, **settings))
    torch.autograd.gradcheck(run, arguments)
    torch.autograd.gradgradcheck(run, arguments)


def test_third_derivatives_are_those_of_torch(drawn):
    x, w = drawn(1, 2, 4, 4), drawn(3, 2, 3, 3)

    def third(run):
        value = run(run(x, w).tanh(), w.transpose(0, 1), padding=1).sum()
        (first,) = torch.autograd.grad(value, x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), w, create_graph=True)
        return torch.autograd.grad(second.square().sum(), (x, w))

    for one, other in zip(third(standing_in), third(functional.conv2d), strict=True):
        torch.testing.assert_close(one, other)


def test_modules_take_part_and_parameters_keep_accumulating(drawn):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 2)).double()
    x = drawn(2, 2, 6, 6)

    def gradients(*modes):
        model.zero_grad()
        for _ in range(2):
            with FastConvolutions() if modes else torch.enable_grad():
                value = model(x).square().sum()
                (slope,) = torch.autograd.grad(value, x, create_graph=True)
            (value + slope.square().sum()).backward()
        return [p.grad.clone() for p in model.parameters()]

    for one, other in zip(gradients("fast"), gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_layer_that_is_used_twice_gets_the_gradients_of_both_uses(drawn):
    layer = nn.Conv2d(2, 2, 3, padding=1).double()
    x = drawn(1, 2, 4, 4)
    with FastConvolutions():
        fast = torch.autograd.grad(layer(layer(x).tanh()).sum(), tuple(layer.parameters()))
    plain = torch.autograd.grad(layer(layer(x).tanh()).sum(), tuple(layer.parameters()))
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_a_gradient_at_the_image_alone_computes_none_at_the_weight(drawn):
    x, w = drawn(2, 3, 8, 8), drawn(5, 3, 3, 3)
    value = standing_in(x, w).sum()
    with FlopCounterMode(display=False) as one:
        torch.autograd.grad(value, x, create_graph=True)
    with FlopCounterMode(display=False) as both:
        value.backward()
    assert both.get_total_flops() == 2 * one.get_total_flops() > 0


@pytest.mark.parametrize(
    "kind", ["a padding in words", "no gradient", "frozen weight", "unbatched"]
)
def test_what_has_nothing_to_gain_stays_with_torch(kind, drawn, monkeypatch):
    x, w = drawn(1, 2, 4, 4), drawn(3, 2, 3, 3)
    settings = {"padding": "same"} if kind == "a padding in words" else {}
    w = w.detach() if kind == "frozen weight" else w
    x = x[0] if kind == "unbatched" else x
    monkeypatch.setattr(Convolution, "apply", None)
    with FastConvolutions(), torch.set_grad_enabled(kind != "no gradient"):
        found = functional.conv2d(x, w, **settings)
    torch.testing.assert_close(found, functional.conv2d(x, w, **settings))


def test_the_graph_of_a_network_takes_part(generator):
    images = torch.randn(2, 2, 6, 6, generator=generator)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()
    network = Network.read(model, images)
    source = images.clone().requires_grad_()
    names = set()
    with FastConvolutions():
        pending = [network(source).grad_fn]
    while pending:
        node = pending.pop()
        names.add(type(node).__name__)
        pending += [one for one, _ in node.next_functions if one is not None]
    assert "ConvolutionBackward" in names
    assert "ConvolutionBackward0" not in names


def test_autocast_and_function_transforms_stay_with_torch(monkeypatch):
    monkeypatch.setattr(Convolution, "apply", None)
    x, w = torch.randn(1, 2, 4, 4), nn.Parameter(torch.randn(3, 2, 3, 3))
    x.requires_grad_()
    with FastConvolutions(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.conv2d(x, w).dtype == torch.bfloat16
    with FastConvolutions():
        mapped = torch.func.vmap(lambda one: functional.conv2d(one[None], w)[0])(x)
    torch.testing.assert_close(mapped, functional.conv2d(x, w))
