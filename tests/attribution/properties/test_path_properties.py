"""Properties 18 to 25: integrated gradients and their relatives."""

import pytest
import torch
from torch import nn

from whence.attribution import (
    IDGI,
    BlurIG,
    DeepLift,
    ExpectedGradients,
    Gradient,
    GradientSHAP,
    GuidedIG,
    IntegratedGradients,
    quadrature,
)
from whence.core import Blur, ModelScalar, logit

RULES = ["midpoint", "right", "trapezoid", "gauss-legendre"]


def base(images):
    """A baseline that is not zero."""
    return 0.3 * images.flip(0) - 0.2


def change_of(f, images, start):
    return (f(images) - f(start)).detach()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_property_18_a_linear_function_is_exact_for_any_rule_and_number(
    rule, steps, linear, images, total
):
    f = ModelScalar(linear, logit(1))
    values = IntegratedGradients(steps=steps, rule=rule, baseline=base)(f, images)
    weight = linear[1].weight.detach()[1].view(3, 8, 8)
    torch.testing.assert_close(values, weight * (images - base(images)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(total(values), change_of(f, images, base(images)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 5, 10, 50, 200])
def test_property_19_the_weights_of_a_rule_add_up_to_one(rule, steps):
    """Those of Captum's trapezoid add up to (n - 1) / n: see the parity suite."""
    made = quadrature(rule, steps)
    assert sum(made.weights) == pytest.approx(1, abs=1e-12)
    assert len(made.points) == len(made.weights) == steps


def gaps(method, f, images, reference, total):
    """The median relative gap of one point, and of four times as many."""
    found = []
    for steps in (25, 100):
        miss = (total(method(steps)(f, images)) - reference).abs() / reference.abs()
        found.append(miss.median())
    return found


@pytest.mark.parametrize(
    ("method", "order"),
    [
        (lambda n: GuidedIG(steps=n, corridor=0.0), 1),
        (lambda n: IntegratedGradients(steps=n, rule="right"), 1),
        (lambda n: IntegratedGradients(steps=n, rule="midpoint"), 2),
        (lambda n: IntegratedGradients(steps=n, rule="trapezoid"), 2),
    ],
    ids=["left", "right", "midpoint", "trapezoid"],
)
def test_property_20_on_a_smooth_network_the_gap_falls_with_the_rules_order(
    method, order, smooth, images, classes, total
):
    """The left rule is that of guided integrated gradients without a corridor."""
    f = ModelScalar(smooth, logit(classes))
    coarse, fine = gaps(method, f, images, change_of(f, images, torch.zeros_like(images)), total)
    assert coarse / fine == pytest.approx(4**order, rel=0.25)


def test_property_20_gauss_legendre_is_exact_to_rounding_on_a_smooth_network(
    smooth, images, classes, total
):
    f = ModelScalar(smooth, logit(classes))
    values = IntegratedGradients(steps=50, rule="gauss-legendre")(f, images)
    expected = change_of(f, images, torch.zeros_like(images))
    torch.testing.assert_close(total(values), expected, rtol=1e-9, atol=1e-12)


class Power(nn.Module):
    """The product of two pixels, and the square of one."""

    def forward(self, images):
        values = images.flatten(1)
        return torch.stack([values[:, 0] * values[:, 1], values[:, 0] ** 2], dim=1)


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid", "gauss-legendre"])
@pytest.mark.parametrize("steps", [2, 10])
def test_property_21_a_product_is_halved_and_a_square_is_whole(rule, steps):
    images = torch.tensor([[3.0, 5.0], [-2.0, 4.0]], dtype=torch.float64).view(2, 1, 1, 2)
    method = IntegratedGradients(steps=steps, rule=rule)
    model = Power().eval()
    halves = method(ModelScalar(model, logit(0)), images).flatten(1)
    torch.testing.assert_close(halves, torch.tensor([[7.5, 7.5], [-4, -4]]).double())
    square = method(ModelScalar(model, logit(1)), images).flatten(1)
    torch.testing.assert_close(square, torch.tensor([[9.0, 0], [4, 0]]).double())


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_property_22_idgi_adds_up_for_any_number_of_steps(steps, rectifier, images, classes, total):
    f = ModelScalar(rectifier(), logit(classes))
    values = IDGI(steps=steps, baseline=base)(f, images)
    expected = change_of(f, images, base(images))
    torch.testing.assert_close(total(values), expected, rtol=3e-9, atol=1e-12)


def test_property_23_guided_ig_without_a_corridor_is_the_left_rule(rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    start = base(images)
    places = torch.arange(12) / 12
    slopes = [Gradient()(f, start + a * (images - start)) for a in places]
    expected = (images - start) * torch.stack(slopes).mean(0)
    actual = GuidedIG(steps=12, corridor=0.0, baseline=base)(f, images)
    torch.testing.assert_close(actual, expected)


def test_property_24_blur_ig_adds_up_to_the_change_from_the_blurred_image_as_steps_grow(
    smooth, images, classes, total
):
    f = ModelScalar(smooth, logit(classes))
    expected = change_of(f, images, Blur(sigma=0.22)(images))
    coarse, fine = ((total(BlurIG(steps=n)(f, images)) - expected).abs().max() for n in (8, 128))
    assert fine < coarse / 8
    assert fine < 1e-3 * expected.abs().max()


class Blind(nn.Module):
    """A network that never sees the last row of the image."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        mask = torch.ones(8, 1, dtype=images.dtype)
        mask[7] = 0
        return self.model(images * mask)


PATHS = [
    IntegratedGradients(steps=4, baseline=base),
    IntegratedGradients(steps=4, rule="trapezoid", baseline=base),
    ExpectedGradients(references=base, samples=4),
    GradientSHAP(references=base, samples=4),
    IDGI(steps=4, baseline=base),
    GuidedIG(steps=4, baseline=base),
    BlurIG(steps=4),
]


@pytest.mark.parametrize(
    "method", PATHS, ids=lambda m: f"{type(m).__name__}-{getattr(m, 'rule', '')}"
)
def test_property_25_a_pixel_that_is_not_used_gets_nothing(method, rectifier, images, classes):
    model = Blind(rectifier()).eval()
    values = method(ModelScalar(model, logit(classes)), images)
    assert (values[:, :, 7] == 0).all()
    assert (values[:, :, :7] != 0).any()


def test_property_25_also_holds_for_deeplift(rectifier, images, classes, ask):
    values = ask(DeepLift(baseline=base), Blind(rectifier()).eval(), images, classes).values
    assert (values[:, :, 7] == 0).all()
    assert (values[:, :, :7] != 0).any()
