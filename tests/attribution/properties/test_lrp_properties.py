"""Properties 1 to 11: layer-wise relevance propagation, each against its closed form."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import InputXGradient
from whence.attribution.relevance import (
    LRP,
    AlphaBeta,
    Assignment,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    GeneralisedGamma,
)
from whence.core import ModelScalar, logit
from whence.network import Network

CONSERVING = {
    "epsilon": LRP(composite="epsilon", epsilon=1e-6),
    "z+": LRP(composite="epsilon-plus"),
    "gamma": LRP(composite="gamma"),
    "generalised": LRP(composite=Composite(otherwise=GeneralisedGamma())),
    "flat": LRP(composite="epsilon-plus-flat"),
    "z-box": LRP(composite="epsilon-gamma-box", low=-4.0, high=4.0),
}
ALIKE = {"rtol": 1e-7, "atol": 1e-10}


def vector(values, batch=2):
    """A batch of equal images whose channels are these values."""
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1).repeat(batch, 1, 1, 1)


def one_layer(weight, bias=None):
    """A network of one linear layer behind one pixel."""
    weight = torch.as_tensor(weight, dtype=torch.float64)
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None).double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(torch.as_tensor(bias))
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize("rule", CONSERVING)
def test_property_01_without_biases_relevance_adds_up_to_the_logit(
    rule, four_layers, images, classes, ask, total
):
    account = ask(CONSERVING[rule], four_layers(bias=False), images, classes)
    ratio = total(account.values) / account.explained
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-4)
    assert account.absorbed.abs().max() == 0


def test_property_02_alpha2_beta1_conserves_only_where_every_neuron_has_both_signs(ask, total):
    method = LRP(composite=Composite(otherwise=AlphaBeta(alpha=2, beta=1)))
    images = vector([1.0, 2.0, 3.0])
    both = one_layer([[1.0, -2.0, 1.5], [-1.0, 2.0, 0.5]])
    account = ask(method, both, images, 1)
    torch.testing.assert_close(total(account.values), account.explained, rtol=1e-5, atol=0)
    nothing_against = one_layer([[1.0, 2.0, 1.5], [1.0, 2.0, 0.5]])
    account = ask(method, nothing_against, images, 1)
    torch.testing.assert_close(total(account.values), 2 * account.explained, rtol=1e-5, atol=0)
    assert not method.conserves(Network.read(both, images))


@pytest.mark.parametrize("rule", CONSERVING)
def test_property_03_with_biases_equality_holds_once_the_rules_ignore_them(
    rule, four_layers, images, classes, total, ask
):
    model = four_layers()
    with torch.no_grad():
        for parameter in model.parameters():  # no output that only its bias makes
            if parameter.ndim == 1:
                parameter.mul_(0.1)
    method = LRP(**{**vars(CONSERVING[rule]), "bias": "ignore"})
    account = ask(method, model, images, classes)
    shared = total(account.values) + account.absorbed
    torch.testing.assert_close(shared, account.explained, rtol=2e-3, atol=1e-4)


def test_property_03_what_a_layer_loses_is_its_biases_share(images, classes, fill, total, ask):
    model = fill(nn.Sequential(nn.Flatten(), nn.Linear(192, 9), nn.ReLU(), nn.Linear(9, 4)))
    account = ask(LRP(composite="epsilon", epsilon=0), model, images, classes)
    first, last = model[1], model[3]
    z = first(images.flatten(1))
    top = last.bias[classes]  # b R / z, where R is z
    relevance = last.weight[classes] * z.relu()
    lower = (first.bias * relevance / z).sum(dim=1)
    torch.testing.assert_close(account.absorbed, (top + lower).detach())
    torch.testing.assert_close(total(account.values) + account.absorbed, account.explained)


@pytest.mark.parametrize("bias", [True, False], ids=["biases", "no biases"])
def test_property_04_lrp_zero_is_gradient_times_input(bias, four_layers, images, classes, ask):
    model = four_layers(bias=bias)
    actual = ask(LRP(composite="epsilon", epsilon=0), model, images, classes).values
    expected = InputXGradient()(ModelScalar(model, logit(classes)), images)
    assert (actual - expected).abs().max() <= 1e-7 * expected.abs().max()


def test_property_05_merging_batch_norms_leaves_logits_as_they_are(four_layers, images):
    network = Network.read(four_layers(norm=True), images)
    torch.testing.assert_close(network.folded()(images), network(images), rtol=1e-5, atol=0)


def merged_and_apart(ask, rule, model, images, classes, bias):
    """Maps with batch norms merged into convolutions, and with batch norms left where they are."""
    settings = {**vars(CONSERVING[rule]), "epsilon": 1e-9, "bias": bias}
    return tuple(
        ask(LRP(**{**settings, "fold": fold}), model, images, classes).values
        for fold in (True, False)
    )


def with_positive_scales(model, *, shift):
    """The model with batch norms that scale by positive factors, and shift or not."""
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.BatchNorm2d):
                module.weight.abs_()
                module.bias.mul_(shift)
                module.running_mean.mul_(shift)
    return model


@pytest.mark.parametrize("rule", ["epsilon", "z+", "generalised", "z-box"])
def test_property_05_merging_batch_norms_that_only_scale_leaves_the_map(
    rule, four_layers, images, classes, ask
):
    """In the composite of the z-box all but the first convolution follow gamma."""
    model = with_positive_scales(four_layers(bias=False, norm=True), shift=0)
    merged, apart = merged_and_apart(ask, rule, model, images, classes, "absorb")
    assert (merged - apart).abs().max() <= 1e-4 * merged.abs().max()


@pytest.mark.parametrize("rule", ["epsilon", "z+", "generalised", "z-box"])
def test_property_05_with_biases_ignored_merging_leaves_the_map(
    rule, four_layers, images, classes, ask
):
    """Without its bias an output may be next to nothing; there stabilisers show, below 2 %."""
    model = with_positive_scales(four_layers(bias=False, norm=True), shift=1)
    merged, apart = merged_and_apart(ask, rule, model, images, classes, "ignore")
    assert (merged - apart).abs().max() <= 0.02 * merged.abs().max()
    ranks = torch.stack([merged.flatten(), apart.flatten()]).argsort(dim=1).argsort(dim=1)
    assert torch.corrcoef(ranks.double())[0, 1] > 0.99999


@pytest.mark.parametrize("rule", [AlphaBeta(), Flat()], ids=["z+", "flat"])
def test_property_06_a_start_that_is_not_negative_stays_so(rule, four_layers, images, ask):
    model = four_layers(bias=False)
    best = model(images).argmax(dim=1)
    assert (model(images).amax(dim=1) > 0).all()
    values = ask(LRP(composite=Composite(otherwise=rule)), model, images, best).values
    assert values.min() >= 0
    assert values.max() > 0


def test_property_07_infinite_epsilon_takes_everything(four_layers, images, classes, ask):
    account = ask(LRP(composite="epsilon", epsilon=1e12), four_layers(), images, classes)
    assert account.values.abs().max() < 1e-9 * account.explained.abs().min()


@pytest.mark.parametrize("gamma", [Gamma, GeneralisedGamma])
def test_property_07_infinite_gamma_is_z_plus_for_positive_inputs_and_outputs(
    gamma, four_layers, images, ask
):
    model, images = four_layers(bias=False), images.abs()
    best = model(images).argmax(dim=1)
    assert (model(images).amax(dim=1) > 0).all()
    steep, plus = (
        ask(LRP(composite=Composite(otherwise=rule)), model, images, best).values
        for rule in (gamma(gamma=1e7), AlphaBeta())
    )
    torch.testing.assert_close(steep, plus, rtol=1e-3, atol=1e-5)


def test_property_08_flat_spreads_evenly_over_a_constant_fan_in(ask):
    model = one_layer([[1.0, -2.0, 1.5, 0.0], [-1.0, 2.0, 0.5, 9.0]])
    values = ask(LRP(composite=Composite(otherwise=Flat())), model, vector([1, -2, 3, 0]), 0).values
    # the logit is 1 + 4 + 4.5
    torch.testing.assert_close(values, torch.full_like(values, 9.5 / 4), rtol=1e-12, atol=0)


def test_property_08_flat_at_a_border_is_a_convolution_of_ones(images, fill, ask):
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    model = fill(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    values = ask(LRP(composite=Composite(otherwise=Flat())), model, images, 2).values
    relevance = conv(images).detach()[:, 2:3] / 64
    ones = torch.ones(1, 3, 3, 3, dtype=torch.float64)
    inside = functional.conv2d(torch.ones_like(images), ones, padding=1)
    assert inside[0, 0, 0, 0] == 12
    assert inside[0, 0, 4, 4] == 27
    expected = functional.conv_transpose2d(relevance / inside, ones, padding=1)
    torch.testing.assert_close(values, expected, **ALIKE)


def test_property_09_a_box_of_nothing_is_lrp_zero(four_layers, images, classes, ask):
    model = four_layers(bias=False)
    box = ask(
        LRP(composite="epsilon-gamma-box", low=0.0, high=0.0, gamma=0.0, epsilon=1e-9),
        model,
        images,
        classes,
    ).values
    expected = InputXGradient()(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(
        box / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("rule", CONSERVING)
def test_property_10_permuted_channels_give_permuted_relevance(
    rule, four_layers, images, classes, ask
):
    method, model, order = CONSERVING[rule], four_layers(), [2, 0, 1]
    expected = ask(method, model, images, classes).values[:, order]
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight[:, order])
    actual = ask(method, model, images[:, order], classes).values
    torch.testing.assert_close(actual, expected, **ALIKE)


class Normed(nn.Module):
    """A layer norm over the colours of one pixel, and a linear layer."""

    def __init__(self, *, detached=False):
        super().__init__()
        self.detached = detached
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4, bias=False)

    def forward(self, images):
        values = images.flatten(1)
        if not self.detached:
            return self.head(self.norm(values))
        centred = values - values.mean(dim=1, keepdim=True)
        deviation = (centred.square().mean(dim=1, keepdim=True) + self.norm.eps).sqrt().detach()
        return self.head(centred / deviation * self.norm.weight + self.norm.bias)


def test_property_11_a_layer_norm_is_its_jacobian_with_the_deviation_held_fixed(
    fill, generator, ask
):
    images = torch.randn(3, 8, 1, 1, generator=generator, dtype=torch.float64)
    model = fill(Normed())
    actual = ask(LRP(composite="epsilon", epsilon=0), model, images, 1).values
    expected = InputXGradient()(ModelScalar(fill(Normed(detached=True)), logit(1)), images)
    torch.testing.assert_close(actual, expected, **ALIKE)


class Three(nn.Module):
    """The product of three values, in one order or the other."""

    def __init__(self, *, left):
        super().__init__()
        self.left = left

    def forward(self, images):
        a, b, c = images.flatten(1).split(1, 1)
        value = (a * b) * c if self.left else a * (b * c)
        return torch.cat([value, value], 1)


@pytest.mark.parametrize(("left", "expected"), [(True, [6, 6, 12]), (False, [12, 6, 6])])
def test_property_11_of_three_factors_the_inner_two_get_a_quarter_each(left, expected, ask):
    values = ask(LRP(), Three(left=left).eval(), vector([2.0, 3.0, 4.0]), 0).values
    assert values[0].flatten().tolist() == expected


class Shares(nn.Module):
    """A softmax, read by a layer through which (0.5, 0.2, 0.3) of relevance arrive."""

    def __init__(self, scores):
        super().__init__()
        arriving = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
        self.head = nn.Linear(3, 2, bias=False).double()
        with torch.no_grad():
            self.head.weight.copy_(arriving / scores.softmax(0))

    def forward(self, images):
        return self.head(images.flatten(1).softmax(1))


@pytest.mark.parametrize(
    ("shift", "expected"), [(0.0, [0.24, -1.01, -0.26]), (10.0, [2.65, -6.06, 2.38])]
)
def test_property_11_the_softmax_of_three_scores_is_the_known_vector(shift, expected, ask):
    """The sum stays at -1.035 when all scores grow by ten, the parts do not."""
    scores = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64) + shift
    model = Shares(scores).eval()
    method = LRP(composite="epsilon", epsilon=0)
    values = ask(method, model, vector(scores.tolist()), 0).values[0].flatten()
    torch.testing.assert_close(values, torch.tensor(expected).double(), rtol=0, atol=5e-3)
    assert values.sum().item() == pytest.approx(-1.035, abs=1e-3)


class Attending(nn.Module):
    """Attention over pixels without any bias; relevance flows along its values."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(3, 24, bias=False)
        self.head = nn.Linear(8, 4, bias=False)

    def forward(self, images):
        query, key, value = self.mix(images.flatten(2).mT).chunk(3, dim=-1)
        return self.head(functional.scaled_dot_product_attention(query, key, value).mean(1))


@pytest.mark.parametrize("attention", ["cp-lrp", "attnlrp"])
def test_property_11_without_biases_the_path_of_the_values_conserves(
    attention, images, classes, fill, ask, total
):
    """CP-LRP sends everything that way; AttnLRP half, and the softmax keeps nothing like a sum."""
    method = LRP(composite="epsilon", attention=attention)
    account = ask(method, fill(Attending()), images, classes)
    if attention == "cp-lrp":
        torch.testing.assert_close(total(account.values), account.explained, rtol=1e-4, atol=0)
    else:
        assert not torch.allclose(total(account.values), account.explained, rtol=0.1)


def test_property_01_also_holds_for_a_rule_at_every_layer(four_layers, images, ask, total):
    """Flat everywhere conserves even through units that are silent."""
    composite = Composite(
        assignments=(Assignment(rule=Epsilon(), height=(0, 0)),), otherwise=Flat()
    )
    account = ask(LRP(composite=composite), four_layers(bias=False), images, 1)
    torch.testing.assert_close(total(account.values), account.explained, rtol=1e-4, atol=0)
