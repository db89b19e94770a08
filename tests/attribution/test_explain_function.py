"""A method as a function of model, inputs and targets: arrays in, arrays out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from whence.attribution import (
    LRP,
    ClassContrast,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    as_quantus,
    needs_network,
)
from whence.core import ModelScalar, log_probability, logit
from whence.errors import NumericsError, SettingError, ShapeError, TargetError
from whence.network import Network

METHODS = [InputXGradient(), LRP(), GradCAM(), SmoothGrad(samples=3, method=LRP())]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@pytest.fixture
def model(rectifier):
    return rectifier().float()


@pytest.fixture
def inputs(images):
    return images.float().numpy()


@pytest.fixture
def targets(classes):
    return classes.numpy()


def by_hand(method, model, inputs, targets):
    images = torch.from_numpy(inputs)
    read = Network.read(model, images) if needs_network(method) else model
    return method(ModelScalar(read, logit(torch.from_numpy(targets))), images).numpy()


@each_method
@pytest.mark.parametrize("sum_channels", [True, False])
def test_it_returns_the_methods_values_as_arrays(
    method, sum_channels, model, inputs, targets, untouched
):
    given, classes = inputs.copy(), targets.copy()
    with untouched(model):
        values = as_quantus(method, sum_channels=sum_channels)(
            model=model, inputs=inputs, targets=targets, device="cpu"
        )
    expected = by_hand(method, model, inputs, targets)
    expected = expected.sum(axis=1, keepdims=True) if sum_channels else expected
    assert type(values) is np.ndarray
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(inputs, given)
    assert np.array_equal(targets, classes)


@each_method
def test_a_model_that_is_randomised_bit_by_bit_is_explained_as_it_is(
    method, model, inputs, targets
):
    function, seen = as_quantus(method, sum_channels=False), []
    for layer in (None, 6, 3, 0):
        if layer is not None:
            model[layer].reset_parameters()
        seen.append(function(model, inputs, targets))
        assert np.array_equal(seen[-1], by_hand(method, model, inputs, targets))
    assert all(not np.allclose(a, b) for a, b in pairwise(seen))


def test_what_is_explained_of_the_classes_can_be_chosen(model, inputs, targets):
    values = as_quantus(Gradient(), sum_channels=False, target=log_probability)(
        model, inputs, targets
    )
    images, classes = torch.from_numpy(inputs), torch.from_numpy(targets)
    expected = Gradient()(ModelScalar(model, log_probability(classes)), images)
    np.testing.assert_array_equal(values, expected.numpy())


def test_a_name_of_the_catalogue_is_its_default_method(model, inputs, targets):
    named = as_quantus("integrated-gradients")(model, inputs, targets)
    assert np.array_equal(named, as_quantus(IntegratedGradients())(model, inputs, targets))


def test_inputs_come_in_any_form_and_in_the_models_type(rectifier, model, inputs, targets):
    function = as_quantus("gradient")
    expected = function(model, inputs, targets)
    backwards = inputs[::-1].copy()[::-1]
    backwards.flags.writeable = False
    for form in (torch.from_numpy(inputs), backwards, inputs.tolist()):
        assert np.array_equal(function(model, form, targets), expected)
    for classes in (targets.astype(np.int32), torch.from_numpy(targets), targets.tolist()):
        assert np.array_equal(function(model, inputs, classes), expected)
    assert np.array_equal(function(model, inputs, 1), function(model, inputs, np.full(5, 1)))
    assert function(rectifier(), inputs, targets).dtype == np.float64
    half = function(model.bfloat16(), inputs, targets)
    assert half.dtype == np.float32
    assert np.corrcoef(half.ravel(), expected.ravel())[0, 1] > 0.99


def test_without_weights_the_device_that_was_asked_for_counts(inputs, targets):
    model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten()).eval()
    assert as_quantus("gradient")(model, inputs, targets % 3, device="cpu").shape == (5, 1, 8, 8)


class Wrapper:
    """As Quantus wraps a model."""

    def __init__(self, model):
        self.model = model

    def get_model(self):
        return self.model


def test_the_wrapper_of_quantus_is_taken_off(model, inputs, targets):
    function = as_quantus("gradient")
    expected = function(model, inputs, targets)
    assert np.array_equal(function(Wrapper(model), inputs, targets), expected)


def test_it_answers_where_gradients_are_off(model, inputs, targets):
    function = as_quantus(LRP())
    expected = function(model, inputs, targets)
    with torch.inference_mode():
        assert np.array_equal(as_quantus(LRP())(model, inputs, targets), expected)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"n_steps": 9}, SettingError, r"explain_func_kwargs holds n_steps.*IntegratedGradients"),
        ({"model": lambda x: x}, SettingError, "must be an nn.Module; got function"),
        ({"inputs": np.zeros((3, 8, 8))}, ShapeError, r"images\[None\]"),
        ({"inputs": np.zeros((5, 3, 8, 8), np.uint8)}, ShapeError, "floating point"),
        ({"inputs": np.array([["a"]])}, ShapeError, "array of numbers"),
        ({"targets": np.eye(5)}, TargetError, r"5 integers.*argmax"),
        ({"targets": np.zeros(4, int)}, TargetError, "5 integers, one class per image"),
        ({"targets": np.array([0, 1, 2, 3, 4])}, TargetError, "classes run from 0 to 3"),
        ({"targets": None}, TargetError, "5 integers"),
    ],
)
def test_what_cannot_be_explained_is_refused(given, error, says, model, inputs, targets):
    call = {"model": model, "inputs": inputs, "targets": targets} | given
    with pytest.raises(error, match=says):
        as_quantus(Gradient())(**call)


def test_maps_that_do_not_fit_or_are_not_finite_are_refused(model, inputs, targets):
    with pytest.raises(ShapeError, match="upsample=True"):
        as_quantus(GradCAM(upsample=False))(model, inputs, targets)
    inputs[1, 0, 0, 0] = np.nan
    with pytest.raises(NumericsError, match="in the images already, in 1 of 5 images"):
        as_quantus(Gradient())(model, inputs, targets)


def test_a_method_that_needs_the_graph_is_known_by_its_card_or_told():
    assert [needs_network(m) for m in (*METHODS, Gradient())] == [False, True, True, True, False]
    assert needs_network(ClassContrast(method=GradCAM()))
    assert not as_quantus(Gradient()).graph
    assert as_quantus(Gradient(), graph=True).graph
    with pytest.raises(SettingError, match="Did you mean gradient"):
        as_quantus("gradeint")


def test_a_method_of_ones_own_gets_the_network_on_request(model, inputs, targets):
    def method(f, images):
        assert isinstance(f.model, Network)
        return Gradient()(f, images)

    expected = as_quantus("gradient")(model, inputs, targets)
    values = as_quantus(method, graph=True)(model, inputs, targets)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
