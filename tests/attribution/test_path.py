"""Integrated gradients against closed forms, and the rules of quadrature."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence.attribution import (
    InputXGradient,
    IntegratedGradients,
    attribute,
    quadrature,
    refined,
    relative_gap,
)
from whence.core import Custom, ModelScalar, logit
from whence.errors import SettingError, ShapeError

RULES = ("midpoint", "right", "trapezoid", "gauss-legendre", "fejer")
each_rule = pytest.mark.parametrize("rule", RULES)


def of_pixels(function):
    """A scalar function of the flattened pixels."""
    return ModelScalar(lambda x: x.flatten(1), Custom(function))


def pair(first, second):
    """One image of two pixels."""
    return torch.tensor([first, second], dtype=torch.float64).view(1, 1, 1, 2)


def other(images):
    """A baseline that is not zero."""
    return 0.3 * images.flip(-1) - 0.2


class Counted:
    """A scalar function that counts the rows it is evaluated on, with and without a gradient."""

    def __init__(self, f, seen):
        self.f, self.seen = f, seen

    def __call__(self, images):
        self.seen["pass" if images.requires_grad else "forward"] += len(images)
        return self.f(images)

    def at(self, rows):
        return Counted(self.f.at(rows), self.seen)


@each_rule
@given(steps=st.integers(2, 40), degree=st.integers(0, 1))
def test_every_rule_integrates_constants_and_lines_as_it_should(rule, steps, degree):
    made = quadrature(rule, steps)
    integral = sum(w * p**degree for w, p in zip(made.weights, made.points, strict=True))
    bias = 1 / (2 * steps) if rule == "right" and degree else 0
    assert integral == pytest.approx(1 / (degree + 1) + bias, abs=1e-13)
    assert len(made.points) == len(made.weights) == made.total == steps


def test_the_trapezoid_has_half_weights_at_both_ends():
    made = quadrature("trapezoid", 5)
    assert made.points == (0, 0.25, 0.5, 0.75, 1)
    assert made.weights == (0.125, 0.25, 0.25, 0.25, 0.125)


def test_gauss_and_legendre_are_exact_up_to_degree_2n_minus_1():
    made = quadrature("gauss-legendre", 4)
    for degree in range(8):
        integral = sum(w * p**degree for w, p in zip(made.weights, made.points, strict=True))
        assert integral == pytest.approx(1 / (degree + 1), abs=1e-14)


def sums_of(made):
    rows = [made.weights, *made.ahead]
    return [sum(w * p**3 for w, p in zip(row, made.points, strict=True)) for row in rows]


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 23])
def test_fejers_weights_are_those_that_integrate_every_polynomial_of_a_lower_degree(steps):
    made = quadrature("fejer", steps)
    assert min(made.weights) > 0
    for degree in range(steps):
        integral = sum(w * p**degree for w, p in zip(made.weights, made.points, strict=True))
        assert integral == pytest.approx(1 / (degree + 1), abs=1e-14)


@each_rule
@given(steps=st.integers(2, 12), rounds=st.integers(1, 3))
def test_refining_gives_the_finer_rule_without_visiting_a_point_twice(rule, steps, rounds):
    made = quadrature(rule, steps, most=200)
    visited = list(made.points)
    sums = sums_of(made)
    for _ in range(rounds):
        ahead = bool(made.ahead)
        made = refined(rule, made.total, most=200)
        before = sums[1:] if ahead else sums
        sums = [made.keep * old + new for old, new in zip(before, sums_of(made), strict=True)]
        visited = [*visited, *made.points] if made.keep else list(made.points)
    integral = sums[0]
    finer = quadrature(rule, made.total)
    expected = sum(w * p**3 for w, p in zip(finer.weights, finer.points, strict=True))
    assert integral == pytest.approx(expected, abs=1e-13)
    assert sorted(visited) == pytest.approx(sorted(finer.points), abs=1e-13)


@each_rule
@pytest.mark.parametrize("steps", [2, 3, 17])
def test_of_a_linear_model_every_rule_is_exact(rule, steps, linear, images):
    f, weights = ModelScalar(linear, logit(2)), linear[1].weight[2].view(3, 8, 8)
    method = IntegratedGradients(steps=steps, rule=rule, baseline=other)
    expected = weights * (images - other(images))
    torch.testing.assert_close(method(f, images), expected, rtol=1e-12, atol=1e-14)
    gap = attribute(method, f, images).gap
    assert gap is not None
    assert gap.max() < 1e-11


@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        # The integral of the squared path parameter by the rule with n = 4, times 3.
        ("midpoint", 1 - 1 / (4 * 4**2)),
        ("right", (1 + 1 / 4) * (1 + 1 / (2 * 4))),
        ("trapezoid", 1 + 1 / (2 * 3**2)),
        ("gauss-legendre", 1),
        ("fejer", 1),
    ],
)
def test_of_a_cube_every_rule_gives_its_closed_form(rule, factor):
    image = pair(1.5, -0.7)
    values = IntegratedGradients(steps=4, rule=rule)(of_pixels(lambda z: (z**3).sum(dim=1)), image)
    torch.testing.assert_close(values, factor * image**3, rtol=1e-13, atol=0)


@each_rule
def test_of_a_square_only_the_right_rule_is_off(rule):
    image = pair(1.5, -0.7)
    values = IntegratedGradients(steps=5, rule=rule)(of_pixels(lambda z: (z**2).sum(dim=1)), image)
    factor = 1.2 if rule == "right" else 1
    torch.testing.assert_close(values, factor * image**2, rtol=1e-13, atol=0)


def test_of_a_product_both_factors_get_half():
    image = pair(1.5, -0.7)
    values = IntegratedGradients(steps=1)(of_pixels(lambda z: z[:, 0] * z[:, 1]), image)
    torch.testing.assert_close(values, pair(-0.525, -0.525), rtol=1e-13, atol=0)


def test_a_pixel_that_is_not_used_gets_nothing():
    values = IntegratedGradients(steps=3)(of_pixels(lambda z: z[:, 0].exp()), pair(1.5, 4.0))
    assert values[0, 0, 0, 1] == 0
    assert values[0, 0, 0, 0] != 0


@pytest.mark.parametrize("steps", [1, 2, 5, 32])
@pytest.mark.parametrize("rule", ["midpoint", "right", "gauss-legendre"])
def test_without_biases_any_number_of_steps_is_input_times_gradient(
    rule, steps, rectifier, images, classes
):
    f = ModelScalar(rectifier(bias=False), logit(classes))
    result = attribute(IntegratedGradients(steps=steps, rule=rule), f, images)
    torch.testing.assert_close(result.values, InputXGradient()(f, images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result.total, result.explained, rtol=1e-12, atol=1e-12)


def test_without_biases_the_trapezoid_loses_what_the_dead_baseline_weighs(rectifier, images):
    f = ModelScalar(rectifier(bias=False), logit(1))
    result = attribute(IntegratedGradients(steps=5, rule="trapezoid"), f, images)
    assert result.gap is not None
    torch.testing.assert_close(result.gap, torch.full_like(result.gap, 1 / 8))


@each_rule
def test_completeness_improves_at_the_order_of_the_rule(rule, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    gaps = [
        attribute(IntegratedGradients(steps=n, rule=rule, baseline=other), f, images).gap
        for n in (8, 16, 32)
    ]
    errors = [float(gap.max()) for gap in gaps if gap is not None]
    ratio = {"right": 2, "midpoint": 4, "trapezoid": 4}
    if rule in ratio:
        assert errors[1] / errors[2] == pytest.approx(ratio[rule], rel=0.2)
    else:
        assert errors[2] < 1e-9


def test_a_tolerance_is_reached_by_every_image_with_no_more_passes_than_it_needs(
    smooth, images, classes
):
    seen = {"pass": 0, "forward": 0}
    inner = ModelScalar(smooth, logit(classes))
    f = Counted(inner, seen)
    method = IntegratedGradients(steps=2, tolerance=1e-3, baseline=other)
    result = attribute(method, f, images)
    assert result.gap is not None
    assert (result.gap <= 1e-3).all()
    needed = 0
    for i in range(len(images)):
        own, image, steps = inner.at(torch.tensor([i])), images[i : i + 1], 2
        while True:
            fixed = attribute(IntegratedGradients(steps=steps, baseline=other), own, image)
            if fixed.gap is not None and fixed.gap <= 1e-3:
                break
            steps = 2 * steps + 1
        needed += steps
        torch.testing.assert_close(result.values[i : i + 1], fixed.values, rtol=1e-10, atol=1e-13)
    assert needed > 2 * len(images), "every image was finished at once, so nothing was tested"
    assert seen == {"pass": needed, "forward": 2 * len(images)}
    assert result.cost == pytest.approx(needed / len(images) + 1)


@each_rule
def test_every_rule_can_be_refined_to_a_tolerance(rule, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    method = IntegratedGradients(steps=None, rule=rule, tolerance=0.02, baseline=other)
    gap = attribute(method, f, images).gap
    assert gap is not None
    assert (gap <= 0.02).all()


def test_where_a_tolerance_is_out_of_reach_the_gap_says_so(smooth, images):
    f = ModelScalar(smooth, logit(1))
    method = IntegratedGradients(steps=2, tolerance=1e-15, max_steps=20, baseline=other)
    result = attribute(method, f, images)
    assert result.gap is not None
    assert (result.gap > 1e-15).any()
    assert result.cost <= 18 + 1


def test_n_steps_cost_n_passes_and_no_forward_more(smooth, images):
    seen = {"pass": 0, "forward": 0}
    IntegratedGradients(steps=7)(Counted(ModelScalar(smooth, logit(1)), seen), images)
    assert seen == {"pass": 7 * len(images), "forward": 0}


def test_the_gap_is_relative_to_what_should_come_out():
    values = torch.ones(3, 1, 2, 2)
    gap = relative_gap(values, torch.tensor([4.0, 5.0, -2.0]))
    torch.testing.assert_close(gap, torch.tensor([0, 0.2, 3]).double(), rtol=1e-6, atol=1e-7)
    assert relative_gap(values, torch.zeros(3)).isinf().all()
    assert (relative_gap(torch.zeros(3, 1, 2, 2), torch.zeros(3)) == 0).all()


def test_an_image_that_is_its_baseline_gets_zeros_and_no_gap(smooth):
    result = attribute(
        IntegratedGradients(tolerance=0.1),
        ModelScalar(smooth, logit(1)),
        torch.zeros(2, 3, 8, 8).double(),
    )
    assert result.gap is not None
    assert (result.values == 0).all()
    assert (result.gap == 0).all()
    assert result.blank.all()


def test_a_baseline_of_another_shape_is_refused(linear, images):
    method = IntegratedGradients(baseline=lambda images: images[:, :1])
    with pytest.raises(ShapeError, match="baseline must be shaped like the images"):
        method(ModelScalar(linear, logit(0)), images)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "at least 1 for the fejer rule"),
        ({"steps": 1, "rule": "trapezoid"}, "at least 2 for the trapezoid"),
        ({"steps": None}, "give tolerance"),
        ({"tolerance": 0.0}, "tolerance is a relative gap above 0"),
        ({"tolerance": float("nan")}, "tolerance is a relative gap above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(SettingError, match=says):
        IntegratedGradients(**settings)
