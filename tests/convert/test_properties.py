"""What an X-DNN must satisfy, numbered; the tolerances are those of measured rounding.

Numbers 17 to 22 and 24 belong to priors, evaluation and training, and are tested there.
"""

import pytest
import torch
from torch import nn

from whence.attribution import InputXGradient, IntegratedGradients, XGradient
from whence.convert import (
    HomogeneousCoordinate,
    NormWrapper,
    bias_mass,
    converted,
    energy_share,
    with_coordinate,
    x_dnn,
)
from whence.core import Custom, Logit, ModelScalar
from whence.network import Network

FACTORS = (1e-3, 0.1, 0.5, 2.0, 3.7, 1000.0)
CLASSES = torch.tensor([0, 3, 1, 2])


def drawn(model, seed=7):
    """Draw weights, biases and statistics from a seed, so that nothing is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 9
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.double().eval()


def plain():
    """Return a network with biases and batch norm, of nothing but piecewise linear parts."""
    return drawn(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 5),
        )
    )  # fmt: skip


class Transformer(nn.Module):
    """Patches, a class token, positions, and one block of attention and GELU."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.token, self.place = (nn.Parameter(torch.zeros(1, n, 8)) for n in (1, 17))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5))

    def forward(self, images):
        patches = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), patches], 1) + self.place
        return self.head(self.block(tokens)[:, 0])


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)


MADE = {}


@pytest.fixture(params=["convolutions", "transformer"])
def x_net(request, images):
    """An X-DNN, converted, in float64."""
    if request.param not in MADE:
        model = plain() if request.param == "convolutions" else drawn(Transformer())
        MADE[request.param] = x_dnn(model, images)
    return MADE[request.param]


def single(conversion, images):
    """Return an X-DNN in float32, read anew."""
    import copy

    model = copy.deepcopy(conversion.model).float()
    return model, Network.read(model, images.float())


def x_gradient(network, images, classes=CLASSES):
    return XGradient()(ModelScalar(network, Logit(classes[: len(images)])), images)


def relative(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def mard(found, wanted):
    """Return the mean absolute relative difference of two attributions."""
    return ((found - wanted).abs().mean() / wanted.abs().mean()).item()


def path(network, images, rule, steps, classes=CLASSES):
    method = IntegratedGradients(steps=steps, rule=rule, tolerance=None)
    return method(ModelScalar(network, Logit(classes)), images)


@pytest.mark.parametrize("factor", FACTORS)
def test_01_scaling_the_images_scales_the_logits(x_net, images, factor):
    network = x_net.network
    assert relative(network(factor * images), factor * network(images)) <= 1e-12
    model, _ = single(x_net, images)
    low = images.float()
    assert relative(model(factor * low), factor * model(low)) <= 1e-5


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 64.0])
def test_01_a_power_of_two_scales_them_to_the_bit(factor, images):
    made = x_dnn(plain(), images).model
    assert torch.equal(made(factor * images), factor * made(images))
    low = made.float()
    assert torch.equal(low(factor * images.float()), factor * low(images.float()))


def test_02_zero_gives_zero_and_a_uniform_softmax(x_net, images):
    logits = x_net.network(torch.zeros_like(images))
    assert not logits.any()
    assert torch.equal(logits.softmax(1), torch.full_like(logits, 0.2))


def test_03_nothing_is_asked_of_negative_factors(x_net, images):
    network = x_net.network
    assert relative(network(-images), -network(images)) > 0.1


def test_04_x_gradient_adds_up_to_the_logit(x_net, images):
    for values, network, tolerance in (
        (images, x_net.network, 1e-12),
        (images.float(), single(x_net, images)[1], 1e-5),
    ):
        found = x_gradient(network, values)
        logits = network(values).gather(1, CLASSES[:, None])[:, 0]
        gap = (found.sum((1, 2, 3)) - logits).abs() / found.abs().sum((1, 2, 3))
        assert gap.max() <= tolerance


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
@pytest.mark.parametrize("rule", ["gauss-legendre", "midpoint", "right"])
def test_05_integrated_gradients_equal_it_for_every_number_of_steps(x_net, images, rule, steps):
    assert (
        mard(path(x_net.network, images, rule, steps), x_gradient(x_net.network, images)) <= 1e-12
    )
    network, low = single(x_net, images)[1], images.float()
    assert mard(path(network, low, rule, steps), x_gradient(network, low)) <= 5e-3


@pytest.mark.parametrize("steps", [2, 5, 8])
def test_06_rules_that_visit_zero_lose_exactly_their_share(images, steps):
    network = x_dnn(plain(), images).network
    exact = x_gradient(network, images)
    left = torch.zeros_like(exact)
    for k in range(steps):  # the left-endpoint rule, spelled out
        moved = (k / steps * images).requires_grad_()
        values = network(moved).gather(1, CLASSES[:, None]).sum()
        left += images * torch.autograd.grad(values, moved)[0] / steps
    assert mard(left, (steps - 1) / steps * exact) <= 1e-12
    ends = path(network, images, "trapezoid", steps)
    assert mard(ends, (1 - 1 / (2 * (steps - 1))) * exact) <= 1e-12


def test_07_on_a_plain_network_they_differ(images):
    network = Network.read(plain(), images)
    f = ModelScalar(network, Logit(CLASSES))
    assert mard(InputXGradient()(f, images), path(network, images, "gauss-legendre", 64)) > 0.05


@pytest.mark.parametrize("factor", FACTORS)
def test_08_maps_scale_and_predictions_do_not_change_with_contrast(x_net, images, factor):
    network = x_net.network
    wanted = factor * x_gradient(network, images)
    assert relative(x_gradient(network, factor * images), wanted) <= 1e-10
    assert torch.equal(network(factor * images).argmax(1), network(images).argmax(1))


def test_09_the_gap_of_a_plain_network_is_what_its_biases_and_shifts_add(images):
    model = plain()
    verdict = Network.read(model, images).homogeneity(images)
    layers = [m for m in model if hasattr(m, "bias")]
    for image, values in enumerate(images):
        shifts, hidden = {}, values[None].clone().requires_grad_()
        source = hidden
        for name, layer in model.named_children():  # every bias and shift as a leaf of its own
            if isinstance(layer, nn.BatchNorm2d):
                scale = layer.weight / (layer.running_var + layer.eps).sqrt()
                shift = (layer.bias - scale * layer.running_mean).detach().requires_grad_()
                shifts[name] = shift
                hidden = scale[:, None, None] * hidden + shift[:, None, None]
            else:
                hidden = layer(hidden)
                if layer in layers:
                    shifts[name] = layer.bias
        logit = hidden.max()
        slopes = torch.autograd.grad(logit, [source, *shifts.values()])
        parts = {
            n: (b * g).sum().item() for (n, b), g in zip(shifts.items(), slopes[1:], strict=True)
        }
        residual = logit - (source * slopes[0]).sum() - sum(parts.values())
        assert abs(residual.item()) <= 1e-12
        found = {row.path: row.gaps[image] for row in verdict.offenders}
        assert found == pytest.approx(parts, rel=1e-9, abs=1e-13)


def test_10_the_homogeneous_coordinate_changes_nothing_and_takes_the_bias_mass(images):
    model = plain()
    made = converted(model, images, routes=[HomogeneousCoordinate()])
    both = with_coordinate(images)
    assert relative(made.network(both), model(images)) <= 1e-12
    for factor in FACTORS:
        assert relative(made.network(factor * both), factor * made.network(both)) <= 1e-12
    found = x_gradient(made.network, both)
    logits = model(images).gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2, 3)), logits, rtol=1e-11, atol=1e-12)
    plain_map = InputXGradient()(ModelScalar(model, Logit(CLASSES)), images)
    torch.testing.assert_close(found[:, :3], plain_map, rtol=1e-11, atol=1e-12)
    mass = logits - plain_map.sum((1, 2, 3))
    torch.testing.assert_close(bias_mass(found), mass, rtol=1e-10, atol=1e-12)
    assert made.report.bias_mass is not None
    assert made.report.kept == 1


@pytest.mark.parametrize("capped", [nn.ReLU6(), nn.Hardtanh(-1, 2)], ids=["relu6", "hardtanh"])
def test_10_caps_take_the_coordinate_too(images, capped):
    model = drawn(nn.Sequential(nn.Conv2d(3, 4, 3), capped, nn.Flatten(), nn.Linear(144, 5)))
    made = converted(model, 4 * images, routes=[HomogeneousCoordinate()])
    assert made.report.holds
    assert relative(made.network(with_coordinate(4 * images)), model(4 * images)) <= 1e-12


@pytest.mark.parametrize("radius", [1.0, 9.0])
def test_11_the_norm_wrapper_has_degree_one_and_its_closed_form(images, radius):
    model = drawn(Transformer())
    made = converted(model, images, routes=[NormWrapper(radius=radius)])
    for factor in FACTORS:
        assert relative(made.network(factor * images), factor * made.network(images)) <= 1e-12
    length = images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    inside = (radius * images / length).requires_grad_()
    values = model(inside).gather(1, CLASSES[:, None])[:, 0]
    (slope,) = torch.autograd.grad(values.sum(), inside)
    rest = values - (inside * slope).sum((1, 2, 3))
    direct, energy = inside * slope, (inside / radius) ** 2 * rest.view(-1, 1, 1, 1)
    closed = (length / radius * (direct + energy)).detach()
    torch.testing.assert_close(x_gradient(made.network, images), closed, rtol=1e-10, atol=1e-12)
    share = energy.abs().sum((1, 2, 3)) / (direct.abs() + energy.abs()).sum((1, 2, 3))
    found = energy_share(model, images, Logit(CLASSES), radius=radius)
    torch.testing.assert_close(found, share.detach(), rtol=1e-10, atol=1e-12)
    assert 0.2 < made.report.energy_share < 1


def test_11_a_network_of_degree_zero_is_all_energy_and_an_x_dnn_has_none(images):
    class Direction(nn.Module):
        def forward(self, images):
            return nn.functional.normalize(images.flatten(1), dim=1)[:, :5]

    f = ModelScalar(Direction().eval(), Logit(CLASSES))
    assert InputXGradient()(f, images).sum((1, 2, 3)).abs().max() <= 1e-12
    x_net = x_dnn(plain(), images).model
    assert energy_share(x_net, images, Logit(CLASSES), radius=5.0).max() <= 1e-12


def test_12_a_power_of_an_x_dnn_has_its_degree(images):
    class Power(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = x_dnn(plain(), images).model

        def forward(self, images):
            return self.inner(images) ** 2

    network = Network.read(Power().eval(), images)
    verdict = network.homogeneity()
    assert (verdict.degree, verdict.holds, verdict.certificate.passes) == (2, False, True)
    exact = path(network, images, "gauss-legendre", 4)
    half = InputXGradient()(ModelScalar(network, Logit(CLASSES)), images) / 2
    assert mard(half, exact) <= 1e-11
    values = network(images).gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(half.sum((1, 2, 3)), values, rtol=1e-11, atol=1e-12)


def flat(seed):
    layers = [nn.Flatten(), nn.Linear(12, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False)]
    return drawn(nn.Sequential(*layers), seed)


def test_13_the_axioms(images):
    small, model, other = images[:, :, :2, :2], flat(1), flat(2)
    with torch.no_grad():
        model[1].weight[:, 4] = 0
        model[1].weight[:, 7] = model[1].weight[:, 2]
    network, second = Network.read(model, small), Network.read(other, small)
    found = x_gradient(network, small).flatten(1)
    assert not found[:, 4].any()  # dummy
    alone = torch.zeros_like(small)
    alone.view(4, -1)[:, 3] = 1.7
    logits = network(alone).gather(1, CLASSES[:, None])[:, 0]
    torch.testing.assert_close(x_gradient(network, alone).flatten(1)[:, 3], logits)
    equal = small.clone()
    equal.view(4, -1)[:, 7] = equal.view(4, -1)[:, 2]
    both = x_gradient(network, equal).flatten(1)
    assert torch.equal(both[:, 2], both[:, 7])  # symmetry

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = model, other

        def forward(self, images):
            return 2 * self.one(images) - 3 * self.two(images)

    mixed = x_gradient(Network.read(Sum().eval(), small), small).flatten(1)
    parts = 2 * found - 3 * x_gradient(second, small).flatten(1)
    torch.testing.assert_close(mixed, parts, rtol=1e-12, atol=1e-13)  # linearity


def test_14_how_a_function_is_written_does_not_matter(images):
    wide = drawn(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 9, bias=False), nn.Linear(9, 5, bias=False))
    )
    joined = nn.Sequential(nn.Flatten(), nn.Linear(192, 5, bias=False)).double().eval()
    with torch.no_grad():
        joined[1].weight.copy_(wide[2].weight @ wide[1].weight)
    maps = [x_gradient(Network.read(m, images), images) for m in (wide, joined)]
    assert relative(*maps) <= 1e-12
    made = plain()
    with torch.no_grad():
        for layer in made:
            if getattr(layer, "bias", None) is not None:
                layer.bias.zero_()
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.zero_()
    network = Network.read(made, images)
    assert relative(x_gradient(network.folded(), images), x_gradient(network, images)) <= 1e-12


def test_15_images_of_a_batch_do_not_see_each_other(x_net, images):
    whole = x_gradient(x_net.network, images)
    for k in range(len(images)):
        alone = x_gradient(x_net.network, images[k : k + 1], CLASSES[k : k + 1])
        torch.testing.assert_close(alone[0], whole[k], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("capped", [nn.ReLU6(), nn.Hardtanh()], ids=["relu6", "hardtanh"])
def test_16_caps_are_flagged_where_a_local_test_passes(images, capped):
    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.cap = nn.Conv2d(3, 5, 3, bias=False), capped

        def forward(self, images):
            return self.cap(self.first(images)).mean((2, 3))

    verdict = Network.read(drawn(Capped()), images).homogeneity(1e-2 * images)
    assert verdict.certificate.euler_error <= 1e-12
    assert [row.path for row in verdict.offenders] == ["cap"]
    assert not verdict.certificate.passes


def test_23_deleting_a_cell_of_a_linear_network_costs_what_its_map_says(images):
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.AvgPool2d(2), nn.Flatten()]
    body = drawn(nn.Sequential(*layers, nn.Linear(36, 5, bias=False)))
    network = Network.read(body, images)
    found = x_gradient(network, images)
    before = network(images).gather(1, CLASSES[:, None])[:, 0]
    for row in range(4):
        for column in range(4):
            cell = (..., slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            deleted = images.clone()
            deleted[cell] = 0
            drop = before - network(deleted).gather(1, CLASSES[:, None])[:, 0]
            torch.testing.assert_close(found[cell].sum((1, 2, 3)), drop, rtol=1e-9, atol=1e-12)


def test_a_scalar_of_several_logits_is_explained_too(x_net, images):
    f = ModelScalar(x_net.network, Custom(lambda z: z[:, 0] - z[:, 1:].mean(1)))
    torch.testing.assert_close(XGradient()(f, images).sum((1, 2, 3)), f(images))
