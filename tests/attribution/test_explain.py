"""attribute(): the figures around the values, and where NaN began."""

import math

import pytest
import torch
from torch import nn

from whence.attribution import (
    Gradient,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    attribute,
)
from whence.core import Custom, ModelScalar, logit
from whence.errors import NumericsError, SettingError, ShapeError


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        (Gradient(), 1),
        (InputXGradient(), 1),
        (IntegratedGradients(steps=6), 7),
        (SmoothGrad(samples=4), 4.5),
        (SmoothGrad(samples=4, method=IntegratedGradients(steps=3)), 16.5),
    ],
)
def test_the_result_holds_value_sum_and_cost(method, cost, rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    result = attribute(method, f, images)
    assert torch.equal(result.values, method(f, images))
    torch.testing.assert_close(result.explained, f(images).detach())
    torch.testing.assert_close(result.total, result.values.sum(dim=(1, 2, 3)))
    assert (result.cost, result.method) == (cost, method)
    assert not result.blank.any()


def test_only_methods_with_a_law_have_a_gap(smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    assert attribute(Gradient(), f, images).gap is None
    assert attribute(InputXGradient(), f, images).gap is None
    result = attribute(IntegratedGradients(steps=2), f, images)
    change = (f(images) - f(torch.zeros_like(images))).detach()
    assert result.gap is not None
    torch.testing.assert_close(result.gap, (result.total - change).abs() / change.abs())
    assert (result.gap > 0).all()


def test_a_method_from_elsewhere_is_run_at_an_unknown_cost(linear, images):
    def ones(f, images):
        return torch.ones_like(images[:, :1])

    result = attribute(ones, ModelScalar(linear, logit(1)), images)
    assert math.isnan(result.cost)
    assert result.gap is None
    torch.testing.assert_close(result.total, torch.full((5,), 64.0).double())


def test_a_map_of_zeros_is_blank(images):
    f = ModelScalar(lambda x: x.flatten(1).clamp(min=100), Custom(lambda z: z.sum(dim=1)))
    assert attribute(Gradient(), f, images).blank.all()


def test_nan_in_the_images_is_named(linear, images):
    images[3, 1, 2, 2] = torch.nan
    with pytest.raises(NumericsError, match="images already, in 1 of 5 images, first in image 3"):
        attribute(InputXGradient(), ModelScalar(linear, logit(1)), images)


def test_infinity_in_a_weight_is_named(rectifier, images):
    model = rectifier()
    with torch.no_grad():
        model[3].weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(NumericsError, match=r"weight '3\.weight'; the images are finite"):
        attribute(IntegratedGradients(steps=2), ModelScalar(model, logit(1)), images)


def test_an_overflow_in_the_network_is_named(images):
    class Overflows(nn.Module):
        def forward(self, images):
            return (images * 1e4).flatten(1).exp()

    with pytest.raises(NumericsError, match="explained value is NaN or infinite"):
        attribute(Gradient(), ModelScalar(Overflows().eval(), Custom(lambda z: z.sum(1))), images)


def test_a_gradient_that_is_not_finite_is_named(images):
    images[2] = 0
    f = ModelScalar(lambda x: x.flatten(1), Custom(lambda z: z.square().sum(1).sqrt()))
    with pytest.raises(NumericsError, match=r"first in image 2; .* began in the gradient"):
        attribute(Gradient(), f, images)


def test_something_that_is_no_scalar_function_is_refused(linear, images):
    with pytest.raises(SettingError, match=r"ModelScalar\(model, logit\(3\)\)"):
        attribute.__wrapped__(Gradient(), linear, images)


def test_values_of_another_shape_are_refused(linear, images):
    with pytest.raises(ShapeError, match="must return values of shape"):
        attribute(lambda f, x: x[:2], ModelScalar(linear, logit(1)), images)


def test_one_image_without_a_batch_axis_is_refused(linear, images):
    with pytest.raises(ShapeError, match=r"images\[None\]"):
        attribute.__wrapped__(Gradient(), ModelScalar(linear, logit(1)), images[0])
