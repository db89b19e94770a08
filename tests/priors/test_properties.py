"""The checkable properties of X-DNNs and priors that concern priors and training, by number.

Tolerances are those of the list. Properties 9 to 16 and 21 to 23 concern conversion, the auditor
and metrics, and are tested there; 1 to 8 are tested here after training (property 24).
"""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import (
    ExpectedGradients,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    References,
)
from whence.convert import x_dnn
from whence.core import ModelScalar, TensorData, gini, logit
from whence.priors import (
    L1,
    L2,
    Entropy,
    GiniSparsity,
    GraphLaplacian,
    Magnitude,
    MaskCrossEntropy,
    MaskEnergy,
    MaskL1,
    MeanMap,
    OutsideMask,
    PairwiseSimilarity,
    Prior,
    RightReasons,
    TotalVariation,
    all_log_probabilities,
    box_masks,
    fit,
    penalty_named,
)
from whence.recipes.head import with_new_head

SIDE = 6
BOX = box_masks([(0, 0, 3, 3)], (SIDE, SIDE))
FACTORS = (1e-3, 0.1, 0.5, 2.0, 3.7, 1000.0)
CONTRASTS = (1.0, 0.9, 0.5, 0.1, 0.01)


def biased():
    drawn = torch.Generator().manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(32, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.4 * torch.randn(p.shape, generator=drawn, dtype=torch.float64))
    return net.eval()


@pytest.fixture(scope="module")
def data():
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(30, 1, SIDE, SIDE, generator=drawn, dtype=torch.float64)
    labels = torch.randint(3, (30,), generator=drawn)
    return TensorData(images=images, labels=labels)


@pytest.fixture(scope="module")
def bare(data):
    """The network as an X-DNN, not trained."""
    return x_dnn(biased(), data.images).model


def relative_difference(one, other):
    """The mean absolute relative difference: mean|a - b| / mean|a|."""
    return ((one - other).abs().mean() / (one.abs().mean() + 1e-7)).item()


# 17 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amounts", "value"),
    [([1, 0, 0, 0], 0.75), ([1, 1, 1, 1], 0), ([1, 2, 3, 4], 0.25), ([0, 0, 1, 1], 0.5)],
)
def test_17_gini_has_its_unit_values_and_no_scale(amounts, value):
    found = gini(torch.tensor([amounts], dtype=torch.float64))
    assert found.item() == pytest.approx(value, abs=1e-15)
    assert gini(7.3 * torch.tensor([amounts]).double()).item() == pytest.approx(value, abs=1e-15)


def test_17_the_gradient_of_gini_reaches_the_weights_and_is_that_of_finite_differences(bare, data):
    net = copy.deepcopy(bare)
    weight = net[0].weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).double()

    def value():
        f = ModelScalar(net, logit(data.labels))
        return MeanMap(penalty=GiniSparsity())(InputXGradient(create_graph=True)(f, data.images))

    (slope,) = torch.autograd.grad(value(), weight)
    assert slope.any()
    sides = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            weight += step * drawn
        sides.append(value().item())
        with torch.no_grad():
            weight -= step * drawn
    numeric = (sides[0] - sides[1]) / 2e-6
    assert (slope * drawn).sum().item() == pytest.approx(numeric, rel=1e-6)


# 18 ------------------------------------------------------------------------------------------


def test_18_expected_gradients_add_up_to_the_value_less_that_of_the_references(data):
    net = biased()
    bank = data.images[10:14]
    method = ExpectedGradients(references=References(images=bank), samples=4000)
    f = ModelScalar(net, logit(data.labels[:3]))
    sums = method(f, data.images[:3]).flatten(1).sum(dim=1)
    level = torch.stack([net(bank)[:, k].mean() for k in data.labels[:3]])
    expected = f(data.images[:3]) - level
    torch.testing.assert_close(sums, expected, rtol=0, atol=1e-2 * expected.abs().max().item())


def test_18_from_zero_on_an_x_dnn_they_are_x_gradient_for_every_draw(bare, data):
    f = ModelScalar(bare, logit(data.labels))
    exact = InputXGradient()(f, data.images)
    for seed in range(4):
        for shared in (True, False):
            method = ExpectedGradients(samples=2, stratified=False, shared=shared, seed=seed)
            torch.testing.assert_close(method(f, data.images), exact, rtol=1e-10, atol=1e-12)


# 19 ------------------------------------------------------------------------------------------


def test_19_right_reasons_takes_the_gradient_of_twice_the_log_sigmoid_less_the_logit(data):
    one = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def two(images):
        z = one(images)
        return torch.cat([torch.zeros_like(z), z], dim=1)

    found = Gradient()(ModelScalar(two, all_log_probabilities(data.labels)), data.images)
    source = data.images.clone().requires_grad_()
    z = one(source)[:, 0]
    (naive,) = torch.autograd.grad((2 * functional.logsigmoid(z) - z).sum(), source)
    torch.testing.assert_close(found, naive)


# 20 ------------------------------------------------------------------------------------------


def test_20_the_energy_is_zero_inside_one_outside_has_no_scale_and_a_value_at_nothing(generator):
    inside = torch.rand(4, 1, SIDE, SIDE, generator=generator) * BOX
    outside = torch.rand(4, 1, SIDE, SIDE, generator=generator) * ~BOX
    energy = MaskEnergy(masks=BOX)
    assert energy(inside - 5 * outside).item() == 0
    assert energy(outside - 5 * inside).item() == 1
    mixed = torch.randn(4, 1, SIDE, SIDE, generator=generator)
    torch.testing.assert_close(energy(1e6 * mixed), energy(mixed))
    assert energy(-inside).item() == 1
    assert energy(torch.zeros_like(mixed)).item() == 1


# 24 ------------------------------------------------------------------------------------------

PENALTIES = [
    GiniSparsity(),
    MeanMap(penalty=GiniSparsity()),
    Entropy(),
    L1(),
    L2(),
    Magnitude(),
    TotalVariation(),
    GraphLaplacian(edges=torch.tensor([range(35), range(1, 36)])),
    OutsideMask(masks=BOX),
    RightReasons(masks=BOX),
    MaskEnergy(masks=BOX),
    MaskL1(masks=BOX),
    MaskCrossEntropy(masks=BOX),
    PairwiseSimilarity(groups=torch.arange(30) % 3),
]


def trained(bare, data, penalty):
    """An X-DNN with a new head, fine-tuned with a prior."""
    net = with_new_head(bare, data.images[:2], 3, torch.Generator().manual_seed(1))
    return fit(
        net,
        data,
        epochs=2,
        batch_size=10,
        optimiser=partial(torch.optim.AdamW, lr=0.01),
        generator=torch.Generator().manual_seed(0),
        prior=Prior(method=InputXGradient(), penalty=penalty, weight=0.5),
    ).model


@pytest.fixture(scope="module", params=PENALTIES, ids=lambda p: type(p).__name__)
def net(request, bare, data):
    return trained(bare, data, request.param)


def test_24_no_bias_has_come_back(net, bare):
    assert [name for name, _ in net.named_parameters() if "bias" in name] == []
    pairs = zip(net.parameters(), bare.parameters(), strict=True)
    assert all(not torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("kind", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_24_property_1_to_3_it_scales_and_is_zero_at_zero(net, data, kind, most):
    net, images = net.to(kind), data.images.to(kind)
    with torch.no_grad():
        values = net(images)
        for k in FACTORS:
            wrong = (net(k * images) - k * values).abs().max() / (k * values).abs().max()
            assert wrong <= (0 if k in (0.5, 2.0) else most)
        assert not net(0 * images).any()
        assert (net(0 * images).softmax(dim=1) == net(0 * images).softmax(dim=1)[:, :1]).all()
        assert (net(-images) + values).abs().max() > 0.1 * values.abs().max()
    net.double()


@pytest.mark.parametrize(("kind", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_24_property_4_x_gradient_adds_up_to_the_logit(net, data, kind, most):
    net, images = net.to(kind), data.images.to(kind)
    f = ModelScalar(net, logit(data.labels))
    found = InputXGradient()(f, images).flatten(1)
    wrong = (found.sum(dim=1) - f(images)).abs()
    assert (wrong <= most * found.abs().sum(dim=1)).all()
    net.double()


@pytest.mark.parametrize("rule", ["gauss-legendre", "midpoint", "right"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_24_property_5_it_is_integrated_gradients_for_every_number_of_steps(net, data, rule, steps):
    f = ModelScalar(net, logit(data.labels))
    path = IntegratedGradients(steps=steps, rule=rule)
    assert relative_difference(path(f, data.images), InputXGradient()(f, data.images)) <= 1e-12
    f, images = ModelScalar(net.float(), logit(data.labels)), data.images.float()
    assert relative_difference(path(f, images), InputXGradient()(f, images)) <= 5e-3
    net.double()


@pytest.mark.parametrize("steps", [2, 8])
def test_24_property_6_left_ends_and_trapezoids_are_wrong_by_a_known_factor(net, data, steps):
    f = ModelScalar(net, logit(data.labels))
    exact = InputXGradient()(f, data.images)
    path = IntegratedGradients(steps=steps, rule="trapezoid")(f, data.images)
    torch.testing.assert_close(path, (1 - 1 / (2 * (steps - 1))) * exact)
    left = torch.zeros_like(exact)
    for k in range(steps):
        point = (k / steps * data.images).requires_grad_()
        (slope,) = torch.autograd.grad(f(point).sum(), point)
        left += data.images * slope / steps
    torch.testing.assert_close(left, (steps - 1) / steps * exact)


def test_24_property_7_a_network_with_biases_is_no_such_thing(data):
    f = ModelScalar(biased(), logit(data.labels))
    path = IntegratedGradients(steps=64)(f, data.images)
    assert relative_difference(path, InputXGradient()(f, data.images)) > 0.01


def test_24_property_8_the_maps_scale_and_decisions_do_not_depend_on_contrast(net, data):
    f = ModelScalar(net, logit(data.labels))
    exact = InputXGradient()(f, data.images)
    decided = net(data.images).argmax(dim=1)
    for k in CONTRASTS:
        torch.testing.assert_close(InputXGradient()(f, k * data.images), k * exact)
        assert torch.equal(net(k * data.images).argmax(dim=1), decided)


def test_every_penalty_that_has_a_name_is_among_those_trained():
    from whence.priors import PENALTIES as NAMES

    groups, kinds = torch.zeros(3).long(), {type(p) for p in PENALTIES}
    for name in NAMES:
        masks = BOX if "mask" in name or name == "right-reasons" else None
        assert type(penalty_named(name, masks=masks, groups=groups)) in kinds
