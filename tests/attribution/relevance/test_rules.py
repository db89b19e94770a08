"""Each layer rule against its formula restated with the full matrix of the layer, in float64."""

import pytest
import torch
from torch import nn

from whence.attribution.relevance import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    GeneralisedGamma,
    Pass,
    Square,
    ZBox,
)
from whence.attribution.relevance.layers import LinearMap, layer_function
from whence.errors import SettingError
from whence.network import Place

LAYERS = {
    "linear": (nn.Linear(12, 7), (4, 12)),
    "tokens": (nn.Linear(6, 5), (2, 3, 6)),
    "convolution": (nn.Conv2d(2, 3, 3, padding=1, stride=2), (2, 2, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), (2, 4, 5, 5)),
    "same": (nn.Conv2d(2, 3, 3, padding="same", bias=False), (2, 2, 5, 5)),
    "one axis": (nn.Conv1d(2, 3, 3, padding=1), (2, 2, 7)),
}
LOW, HIGH = -4.0, 5.0
PLACE = Place(name="conv2d", path="layer", first=True)


def operation_of(layer):
    aten = torch.ops.aten
    if isinstance(layer, nn.Linear):
        return aten.linear.default, ()
    settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer.padding, str):
        return aten.conv2d.padding, settings
    return (aten.conv1d if isinstance(layer, nn.Conv1d) else aten.conv2d).default, settings


def matrix_of(layer, shape, weight):
    """Return the layer as a matrix (outputs, inputs), column by column."""
    operation, settings = operation_of(layer)
    size = torch.Size(shape[1:]).numel()
    unit = torch.eye(size, dtype=torch.float64).view(size, *shape[1:])
    return operation(unit, weight, None, *settings).flatten(1).T


def shares(rule, x, w, b):
    """Return R_ij / R_j for inputs x (n,), matrix w (m, n) and bias b (m,), as the formulas say."""
    z = w * x
    up, down = w.clamp(min=0), w.clamp(max=0)
    e = getattr(rule, "epsilon", 0.0)

    def over(parts, extra):
        total = parts.sum(1) + extra
        return parts / torch.where(total < 0, total - e, total + e)[:, None]

    match rule:
        case Epsilon():
            return over(z, b)
        case Gamma(gamma=g):
            return over(x * (w + g * up), b + g * b.clamp(min=0))
        case GeneralisedGamma(gamma=g):
            high, low = x.clamp(min=0), x.clamp(max=0)
            positive = over(high * (w + g * up) + low * (w + g * down), b + g * b.clamp(min=0))
            negative = over(high * (w + g * down) + low * (w + g * up), b + g * b.clamp(max=0))
            return torch.where((z.sum(1) + b > 0)[:, None], positive, negative)
        case AlphaBeta(alpha=alpha, beta=beta):
            positive = over(z.clamp(min=0), b.clamp(min=0))
            return alpha * positive - beta * over(z.clamp(max=0), b.clamp(max=0))
        case ZBox():
            return over(z - LOW * up - HIGH * down, 0)
        case Flat() | Square():
            size = w**2 if isinstance(rule, Square) else (w != 0).double()
            return size / size.sum(1, keepdim=True)


RULES = [
    Epsilon(),
    Epsilon(epsilon=0),
    Epsilon(epsilon=0.3),
    Gamma(),
    Gamma(gamma=0),
    Gamma(gamma=2, epsilon=0.01),
    GeneralisedGamma(),
    GeneralisedGamma(gamma=0),
    GeneralisedGamma(gamma=2, epsilon=0.01),
    AlphaBeta(),
    AlphaBeta(alpha=2, beta=1),
    AlphaBeta(alpha=1.5, beta=0.5, epsilon=0.1),
    ZBox(low=LOW, high=HIGH),
    Flat(),
    Square(),
]


def relevance_through(rule, layer, inputs, relevance, *, bias=True):
    """Return what the inputs receive, by the rule as it runs."""
    operation, settings = operation_of(layer)
    leaf = inputs.clone().requires_grad_()
    function = layer_function(rule, PLACE, bias=bias)
    values = function(operation, leaf, layer.weight, layer.bias, *settings)
    torch.testing.assert_close(values, layer(inputs))
    (multiplier,) = torch.autograd.grad(values, leaf, relevance / values.detach())
    return inputs * multiplier


def case(name, sign):
    layer, shape = LAYERS[name]
    generator = torch.Generator().manual_seed(3)
    layer = layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    inputs = inputs.abs() if sign == "positive" else inputs
    relevance = torch.randn(layer(inputs).shape, generator=generator, dtype=torch.float64)
    return layer, inputs, relevance.detach()


def expected_relevance(rule, layer, inputs, relevance, bias):
    rows = inputs.flatten(0, -2) if isinstance(layer, nn.Linear) else inputs
    outs = relevance.flatten(0, -2) if isinstance(layer, nn.Linear) else relevance
    matrix = matrix_of(layer, rows.shape, layer.weight.detach())
    if isinstance(rule, Flat):
        matrix = matrix_of(layer, rows.shape, torch.ones_like(layer.weight))
    offset = torch.zeros(len(matrix), dtype=torch.float64)
    if bias and layer.bias is not None:
        per = len(matrix) // len(layer.bias)
        offset = layer.bias.detach().repeat_interleave(per)
    found = [
        outs[i].flatten() @ shares(rule, rows[i].flatten(), matrix, offset)
        for i in range(len(rows))
    ]
    return torch.stack(found).view_as(inputs)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sign", ["positive", "both"])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_is_its_formula(rule, name, sign, bias):
    layer, inputs, relevance = case(name, sign)
    actual = relevance_through(rule, layer, inputs, relevance, bias=bias)
    expected = expected_relevance(rule, layer, inputs, relevance, bias)
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_that_says_so_conserves_without_biases(rule):
    layer, inputs, relevance = case("convolution", "positive")
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight[0].abs_()  # nothing speaks against the first output
    given = relevance_through(rule, layer, inputs, relevance.abs()).sum()
    kept = torch.allclose(given, relevance.abs().sum(), rtol=1e-4)
    assert kept == (rule.conserves and getattr(rule, "epsilon", 0) < 1e-3)


def test_infinite_epsilon_takes_all_and_infinite_gamma_is_the_z_plus_rule():
    layer, inputs, relevance = case("convolution", "positive")
    assert relevance_through(Epsilon(epsilon=1e12), layer, inputs, relevance).abs().max() < 1e-9
    with torch.no_grad():
        layer.bias.zero_()
    relevance = relevance * (layer(inputs) > 0)
    steep = relevance_through(Gamma(gamma=1e9), layer, inputs, relevance.detach(), bias=False)
    plus = relevance_through(AlphaBeta(), layer, inputs, relevance.detach(), bias=False)
    torch.testing.assert_close(steep, plus, rtol=1e-5, atol=1e-5)


def test_z_box_without_a_box_is_the_epsilon_rule():
    layer, inputs, relevance = case("grouped", "both")
    empty = relevance_through(ZBox(low=0, high=0), layer, inputs, relevance)
    expected = relevance_through(Epsilon(), layer, inputs, relevance, bias=False)
    torch.testing.assert_close(empty, expected)


def test_the_box_of_an_image_is_its_own_range_unless_given():
    layer, inputs, relevance = case("convolution", "both")
    own = relevance_through(ZBox(), layer, inputs, relevance)
    for i in range(2):
        low, high = (tuple(e.tolist()) for e in inputs[i].flatten(1).aminmax(dim=1))
        one = relevance_through(
            ZBox(low=low, high=high), layer, inputs[i : i + 1], relevance[i : i + 1]
        )
        torch.testing.assert_close(own[i : i + 1], one)
    with pytest.raises(SettingError, match="one for each of 2; got 3"):
        relevance_through(ZBox(low=(0, 0, 0), high=1), layer, inputs, relevance)


@pytest.mark.parametrize("rule", [Flat(), Square(), AlphaBeta()], ids=str)
def test_these_rules_hand_positive_relevance_down_as_positive(rule):
    layer, inputs, relevance = case("convolution", "positive")
    assert relevance_through(rule, layer, inputs, relevance.abs()).min() >= 0


def test_permuted_input_channels_give_permuted_relevance():
    layer, inputs, relevance = case("convolution", "both")
    expected = relevance_through(Gamma(), layer, inputs, relevance).flip(1)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.flip(1))
    torch.testing.assert_close(
        relevance_through(Gamma(), layer, inputs.flip(1), relevance), expected
    )


def test_relevance_that_a_rule_gives_to_zeros_is_not_lost():
    layer, inputs, relevance = case("linear", "positive")
    inputs[:, ::2] = 0
    leaf = inputs.clone().requires_grad_()
    values = layer_function(Flat(), PLACE, bias=True)(
        torch.ops.aten.linear.default, leaf, layer.weight, layer.bias
    )
    (multiplier,) = torch.autograd.grad(values, leaf, relevance / values.detach())
    given = torch.where(inputs == 0, 1e-30, inputs) * multiplier
    torch.testing.assert_close(given, (relevance.sum(1, keepdim=True) / 12).expand_as(given))


def test_pass_hands_relevance_down_in_place_and_refuses_another_shape():
    layer = nn.Conv2d(2, 2, 3, padding=1).double()
    inputs = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    relevance = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(relevance_through(Pass(), layer, inputs, relevance), relevance)
    layer, inputs, relevance = case("convolution", "both")
    with pytest.raises(SettingError, match="hands relevance down in place"):
        relevance_through(Pass(), layer, inputs, relevance)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Epsilon(epsilon=-1), "epsilon must be 0 or more"),
        (lambda: Gamma(gamma=-0.1), "gamma must be 0 or more"),
        (lambda: AlphaBeta(alpha=2, beta=0), "alpha - beta must be 1"),
    ],
)
def test_settings_that_are_no_rule_are_refused(make, says):
    with pytest.raises(SettingError, match=says):
        make()


@pytest.mark.parametrize("name", LAYERS)
def test_the_transposed_layer_is_the_transposed_matrix(name):
    layer, inputs, relevance = case(name, "both")
    operation, settings = operation_of(layer)
    at = LinearMap(operation=operation, settings=settings, shape=inputs.shape)
    back = at.transposed(relevance, layer.weight.detach())
    torch.testing.assert_close((back * inputs).sum(), (at(inputs, layer.weight) * relevance).sum())
