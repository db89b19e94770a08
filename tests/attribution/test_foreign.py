"""Explainers of other libraries as methods: what they are given, and what is made of it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from whence.attribution import (
    Gradient,
    InputXGradient,
    SmoothGrad,
    as_quantus,
    attribute,
    captum_method,
    function_method,
    zennit_method,
)
from whence.core import Blur, ModelScalar, contrast, log_probability, logit
from whence.errors import ModeError, SettingError, ShapeError, TargetError
from whence.evaluation import ParameterRandomisation
from whence.network import Network
from whence.recipes import explain


class Slopes:
    """As Captum writes an attribution: a gradient, with what it lacks to completeness."""

    def __init__(self, forward_func):
        self.forward_func = forward_func
        self.seen = []

    def has_convergence_delta(self):
        return True

    def attribute(self, inputs, target, scale=1.0, baselines=0.0, return_convergence_delta=False):
        self.seen.append((len(inputs), target, baselines))
        values = self.forward_func(inputs).gather(1, target[:, None])[:, 0]
        (slope,) = torch.autograd.grad(values.sum(), inputs)
        share = scale * inputs * slope
        delta = share.flatten(1).sum(dim=1) - values
        return (share, delta.detach()) if return_convergence_delta else share


class LayerSum:
    """As Captum writes an attribution of a layer: its output, under a hook."""

    def __init__(self, model, layer):
        self.forward_func, self.layer = model, layer

    def attribute(self, inputs, target):
        del target
        kept = []
        handle = self.layer.register_forward_hook(lambda _, __, output: kept.append(output))
        try:
            self.forward_func(inputs)
        finally:
            handle.remove()
        return kept[0]


class LRP(Slopes):
    """A class that Captum builds on hooks, by its name."""


class Tunnel(Slopes):
    """A wrapper of another attribution."""

    def __init__(self, attribution_method):
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method


class Attributor:
    """As zennit writes an attributor."""

    def __init__(self, model):
        self.model, self.attr_output_fn = model, None

    def __call__(self, images, attr_output):
        output = self.model(images)
        (gradient,) = torch.autograd.grad(output, images, attr_output(output))
        return output, gradient


class Sum:
    """A scalar function without a model."""

    def __call__(self, images):
        return images.flatten(1).sum(dim=1)

    def at(self, rows):
        del rows
        return self


def share(model, images, classes):
    """Input times gradient."""
    f = ModelScalar(model, logit(classes))
    return images * Gradient()(f, images)


def test_a_class_of_captum_is_made_for_the_model_and_given_class_by_class(
    rectifier, images, classes, untouched
):
    model = rectifier()
    with untouched(model):
        method = captum_method(Slopes, settings={"scale": 2.0})
        values = method(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(values, 2 * share(model, images, classes))
    one = method(ModelScalar(model, logit(1)), images)
    torch.testing.assert_close(one, 2 * share(model, images, torch.ones(5, dtype=torch.long)))


def test_what_captum_lacks_to_completeness_is_the_gap(rectifier, images, classes):
    model, f = rectifier(), ModelScalar(rectifier(), logit(classes))
    result = attribute(captum_method(Slopes), f, images)
    value = model(images)[range(5), classes].detach()
    expected = (share(model, images, classes).flatten(1).sum(dim=1) - value).abs() / value.abs()
    torch.testing.assert_close(result.gap, expected)
    torch.testing.assert_close(result.explained, value)
    assert math.isnan(result.cost)
    exact = attribute(
        captum_method(Slopes), ModelScalar(rectifier(bias=False), logit(classes)), images
    )
    assert exact.gap.max() < 1e-12


def test_draws_that_captum_repeats_are_averaged_and_squares_have_no_gap(rectifier, images):
    class Repeating(Slopes):
        def attribute(self, inputs, target, nt_type="smoothgrad", return_convergence_delta=False):
            share = super().attribute(inputs, target)
            lacks = share.detach().flatten(1).sum(dim=1, keepdim=True) - torch.tensor([1.0, 3.0])
            return (share, lacks.reshape(-1)) if return_convergence_delta else share

    f = ModelScalar(rectifier(), logit(1))
    result = attribute(captum_method(Repeating), f, images)
    torch.testing.assert_close(result.gap, (result.total - 2).abs() / 2)
    squares = captum_method(Repeating, settings={"nt_type": "smoothgrad_sq"})
    assert attribute(squares, f, images).gap is None


def test_a_baseline_of_whence_becomes_captums(rectifier, images):
    made = []
    method = captum_method(
        lambda model: made.append(Slopes(model)) or made[-1], settings={"baselines": Blur()}
    )
    method(ModelScalar(rectifier(), logit(1)), images)
    torch.testing.assert_close(made[0].seen[0][2], Blur()(images))


def test_images_can_be_given_in_parts(rectifier, images, classes):
    f, made = ModelScalar(rectifier(), logit(classes)), []
    parts = captum_method(lambda model: made.append(Slopes(model)) or made[-1], batch_size=2)
    torch.testing.assert_close(parts(f, images), captum_method(Slopes)(f, images))
    assert [m.seen[0][0] for m in made] == [2, 2, 1]
    assert parts.batch_size == 2


def test_an_object_that_holds_the_model_is_used_and_another_is_refused(rectifier, images, classes):
    model = rectifier()
    f = ModelScalar(model, logit(classes))
    bound = captum_method(Slopes(model))
    torch.testing.assert_close(bound(f, images), share(model, images, classes))
    for same in (ModelScalar(Network.read(model, images), logit(classes)), f):
        torch.testing.assert_close(bound(same, images), share(model, images, classes))
    torch.testing.assert_close(
        captum_method(Slopes(model.forward))(f, images), share(model, images, classes)
    )
    others = [rectifier(bias=False), nn.Sequential(model, nn.Softmax(dim=1)).eval(), None]
    for other in (*others, lambda x: model(x)[:, 0]):
        with pytest.raises(SettingError, match="does not compute the logits that are explained"):
            captum_method(Slopes(other))(f, images)
    with pytest.raises(ModeError, match=r"model\.eval"):
        captum_method(Slopes(rectifier().train()))(f, images)


def test_maps_of_a_layer_are_added_up_and_enlarged(rectifier, images, untouched):
    model = rectifier()
    method = captum_method(lambda model: LayerSum(model, model[4]))
    with untouched(model):
        values = method(ModelScalar(model, logit(0)), images)
    expected = model[:5](images).sum(dim=1, keepdim=True)
    expected = nn.functional.interpolate(expected, size=(8, 8), mode="bilinear")
    torch.testing.assert_close(values, expected.detach())


def test_a_layer_of_another_model_is_refused_before_its_hook_is_lost(rectifier, images):
    model = rectifier()
    method = captum_method(lambda _: LayerSum(_, model[4]))
    with pytest.raises(SettingError, match=r"Take it from the function's argument.*model\.layer4"):
        method(ModelScalar(model, logit(0)), images)


@pytest.mark.parametrize(
    "make",
    [LRP, lambda model: Tunnel(LRP(model)), lambda model: LayerSum(model, model[4])],
    ids=["hooks", "hooks inside", "layer"],
)
def test_hooks_on_modules_need_modules(make, rectifier, images):
    f = ModelScalar(Network.read(rectifier(), images), logit(1))
    with pytest.raises(SettingError, match="explain the model itself"):
        captum_method(make)(f, images)


def test_a_graph_is_as_good_as_a_model_without_hooks(rectifier, images, classes):
    model = rectifier()
    f = ModelScalar(Network.read(model, images), logit(classes))
    torch.testing.assert_close(captum_method(Slopes)(f, images), share(model, images, classes))


@pytest.mark.parametrize("start", ["one", "value"])
def test_an_attributor_of_zennit_is_handed_one_or_the_logit(start, rectifier, images, classes):
    model = rectifier()
    f = ModelScalar(model, logit(classes))
    gradient = Gradient()(f, images)
    value = f(images).detach()
    expected = gradient if start == "one" else gradient * value.view(-1, 1, 1, 1)
    for attributor in (Attributor, Attributor(model)):
        result = attribute(zennit_method(attributor, start=start), f, images)
        torch.testing.assert_close(result.values, expected)
        lost = (result.total - value).abs() / value.abs()
        assert result.gap is None if start == "one" else torch.allclose(result.gap, lost)
    with pytest.raises(SettingError, match="The attributor holds a model of its own"):
        zennit_method(Attributor(rectifier(bias=False)))(f, images)
    with pytest.raises(SettingError, match="explain the model itself"):
        zennit_method(Attributor)(ModelScalar(Network.read(model, images), logit(1)), images)


@pytest.mark.parametrize("form", ["tensor", "array", "plane", "tuple"])
def test_a_function_is_a_method_whatever_holds_its_maps(form, rectifier, images, classes):
    model = rectifier()

    def function(model, images, classes):
        values = share(model, images.detach(), classes).sum(dim=1)
        forms = {
            "plane": values,
            "tensor": values[:, None],
            "array": values.numpy(),
            "tuple": (values[:, None],),
        }
        return forms[form]

    method = function_method(function)
    expected = share(model, images, classes).sum(dim=1, keepdim=True)
    torch.testing.assert_close(method(ModelScalar(model, logit(classes)), images), expected)
    assert str(method).startswith("Foreign(name='function'")


def test_a_foreign_method_works_wherever_a_method_does(rectifier, images, classes):
    model = rectifier()
    f = ModelScalar(model, logit(classes))
    method = captum_method(Slopes)
    smooth = SmoothGrad(samples=3, method=method)(f, images)
    ours = SmoothGrad(samples=3, method=InputXGradient())(f, images)
    torch.testing.assert_close(smooth, ours)
    cascade = ParameterRandomisation()(model, images, logit(classes), method)
    again = ParameterRandomisation()(model, images, logit(classes), InputXGradient())
    torch.testing.assert_close(cascade.correlations, again.correlations)
    assert cascade.correlations.abs().max() < 0.9
    result = explain(model, images, target=classes, method=method, batch_size=2)
    torch.testing.assert_close(result.values, share(model, images, classes))
    arrays = as_quantus(method, sum_channels=False)(model, images.numpy(), classes.numpy())
    np.testing.assert_allclose(arrays, share(model, images, classes).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    "target", [contrast(0, 1), log_probability(1), "scalar"], ids=["contrast", "log p", "function"]
)
@pytest.mark.parametrize(
    "method", [captum_method(Slopes), zennit_method(Attributor)], ids=["captum", "zennit"]
)
def test_what_is_no_logit_is_refused(method, target, rectifier, images):
    model = rectifier()
    f = Sum() if target == "scalar" else ModelScalar(model, target)
    with pytest.raises(SettingError, match=r"takes the logit of a class.*use a method of whence"):
        method(f, images)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: captum_method(3), "an object of Captum's, or a class"),
        (lambda: zennit_method("Gradient"), "an object of zennit's, or a class"),
        (lambda: captum_method(Slopes, settings={"target": 1}), "target is given by the method"),
        (lambda: zennit_method(Attributor, start="all"), "start is one or value; got 'all'"),
        (lambda: captum_method(Slopes, batch_size=0), "batch_size must be at least 1"),
    ],
)
def test_what_is_no_explainer_is_refused(make, says):
    with pytest.raises(SettingError, match=says):
        make()


def test_answers_that_are_no_maps_are_refused(rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    with pytest.raises(SettingError, match="must return an attribution object of Captum"):
        captum_method(lambda model: model)(f, images)
    tokens = function_method(lambda _, images, __: images.flatten(2).mean(dim=1, keepdim=True))
    with pytest.raises(ShapeError, match=r"returned \(5, 1, 64\).*GradCAM\(\)"):
        tokens(f, images)
    with pytest.raises(ShapeError, match="it returned NoneType"):
        function_method(lambda *_: None)(f, images)
    with pytest.raises(TargetError, match="classes run from 0 to 3"):
        captum_method(Slopes)(ModelScalar(rectifier(), logit(4)), images)
