"""Rules on operations beside Captum's, and the networks on which Captum says another thing."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import (
    LRP,
    Assignment,
    Composite,
    Deconvnet,
    DeepLift,
    GradCAM,
    GuidedBackpropagation,
    GuidedGradCAM,
    InputXGradient,
    attribute,
    captum_method,
)
from whence.attribution.relevance import Epsilon, Gamma
from whence.core import ModelScalar, logit
from whence.network import Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning"),
]


class Residual(nn.Module):
    """A residual block; every ReLU is a module of its own."""

    def __init__(self, *, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.one, self.two = nn.ReLU(), nn.ReLU()
        self.inside = nn.Conv2d(6, 6, 3, padding=1, bias=bias)
        self.head = nn.Linear(6, 4, bias=bias)

    def forward(self, images):
        x = self.one(self.stem(images))
        x = self.two(x + self.inside(x))
        return self.head(x.mean(dim=(2, 3)))


class Functional(Residual):
    """The same function with functional ReLUs."""

    def forward(self, images):
        x = functional.relu(self.stem(images))
        x = functional.relu(x + self.inside(x))
        return self.head(x.mean(dim=(2, 3)))


class Reused(Residual):
    """The same function with one ReLU module used twice."""

    def forward(self, images):
        x = self.one(self.stem(images))
        x = self.one(x + self.inside(x))
        return self.head(x.mean(dim=(2, 3)))


class Gated(nn.Module):
    """A product of two signals, one of them behind a sigmoid."""

    def __init__(self):
        super().__init__()
        self.value, self.gate = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head((self.value(images) * self.gate(images).sigmoid()).mean(dim=(2, 3)))


@pytest.fixture
def made():
    """Make a network with the same weights whatever its class is."""

    def make(kind, **options):
        torch.manual_seed(3)
        return kind(**options).double().eval()

    return make


def read(model, images, classes):
    return ModelScalar(Network.read(model, images), logit(classes))


def constant(images):
    return torch.full_like(images, 0.1)


def gap(values, f, images, start):
    change = (f(images) - f(start)).detach()
    return ((values.flatten(1).sum(1) - change).abs() / change.abs()).max()


# ------------------------------------------------------- guided back-propagation, deconvnet, CAM


@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_guided_rules_are_captums_on_modules_of_a_residual_network(
    name, captum, made, images, classes
):
    ours = {"GuidedBackprop": GuidedBackpropagation(), "Deconvolution": Deconvnet()}[name]
    values = ours(read(made(Functional), images, classes), images)
    expected = captum_method(getattr(captum, name))(
        ModelScalar(made(Residual), logit(classes)), images
    )
    torch.testing.assert_close(values, expected)


def test_grad_cam_is_captums_with_the_relu(captum, rectifier, images, classes):
    model = rectifier()
    values = GradCAM(upsample=False)(read(model, images, classes), images)
    expected = captum.LayerGradCam(model, model[4]).attribute(
        images, target=classes, relu_attributions=True
    )
    torch.testing.assert_close(values, expected.detach(), rtol=1e-10, atol=1e-12)


def test_guided_grad_cam_is_captums_where_it_enlarges_bilinearly(
    captum, rectifier, images, classes
):
    """Captum enlarges to the nearest pixel unless it is told; the paper says bilinearly."""
    model = rectifier()
    values = GuidedGradCAM()(read(model, images, classes), images)

    def theirs(mode):
        guided = captum.GuidedGradCam(model, model[4])
        inputs = images.clone().requires_grad_()
        return guided.attribute(inputs, target=classes, interpolate_mode=mode).detach()

    torch.testing.assert_close(values, theirs("bilinear"))
    assert (values - theirs("nearest")).norm() > 0.05 * values.norm()


# ------------------------------------------------------------------------------------- DeepLIFT


def test_deeplift_is_captums_on_modules_of_a_residual_network(captum, made, images, classes):
    model = made(Residual)
    expected = captum.DeepLift(made(Residual)).attribute(
        images.clone().requires_grad_(), constant(images), target=classes
    )
    values = DeepLift(baseline=constant)(read(model, images, classes), images)
    torch.testing.assert_close(values, expected.detach(), rtol=1e-6, atol=1e-9)


def test_deeplift_with_functional_relus_is_complete_here_and_silently_something_else_there(
    captum, made, images, classes
):
    """Definition: the values add up to f(x) - f(x'), however the ReLU is written."""
    f = ModelScalar(made(Functional), logit(classes))
    values = DeepLift(baseline=constant)(read(made(Functional), images, classes), images)
    theirs = captum.DeepLift(made(Functional)).attribute(
        images.clone().requires_grad_(), constant(images), target=classes
    )
    assert gap(values, f, images, constant(images)) < 1e-10
    assert gap(theirs.detach(), f, images, constant(images)) > 1e-2
    clean = DeepLift(baseline=constant)(read(made(Residual), images, classes), images)
    torch.testing.assert_close(values, clean)


def test_deeplift_of_a_relu_used_twice_is_that_of_its_clean_twin_and_an_error_there(
    captum, made, images, classes
):
    values = DeepLift(baseline=constant)(read(made(Reused), images, classes), images)
    clean = DeepLift(baseline=constant)(read(made(Residual), images, classes), images)
    torch.testing.assert_close(values, clean)
    with pytest.raises(RuntimeError, match="used more than once"):
        captum.DeepLift(made(Reused)).attribute(
            images.clone().requires_grad_(), constant(images), target=classes
        )


def test_deeplift_of_a_product_is_complete_here_and_not_there(captum, made, images, classes):
    f = ModelScalar(made(Gated), logit(classes))
    values = DeepLift(baseline=constant)(read(made(Gated), images, classes), images)
    theirs = captum.DeepLift(made(Gated)).attribute(
        images.clone().requires_grad_(), constant(images), target=classes
    )
    assert gap(values, f, images, constant(images)) < 1e-10
    assert gap(theirs.detach(), f, images, constant(images)) > 1e-3


# ------------------------------------------------------------------------------------------ LRP


def ruled(captum, model, convolution, head):
    """Captum's LRP with one rule for convolutions and one for linear layers."""
    rules = importlib.import_module("captum.attr._utils.lrp_rules")
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.rule = getattr(rules, convolution)()
        if isinstance(module, nn.Linear):
            module.rule = getattr(rules, head)()
    return captum.LRP(model)


COMPOSITES = {
    "epsilon": ("EpsilonRule", LRP(composite="epsilon", epsilon=1e-9)),
    "z+": ("Alpha1_Beta0_Rule", LRP(composite="epsilon-plus", epsilon=1e-9)),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_relevance_is_captums_on_plain_layers_of_what_is_not_negative(
    name, captum, rectifier, images, classes
):
    """Captum's rules of positive weights are those of the papers where no input is negative."""
    theirs, ours = COMPOSITES[name]
    model, positive = rectifier(bias=False), images.abs()
    expected = ruled(captum, model, theirs, "EpsilonRule").attribute(positive, target=classes)
    assert_alike(ours(read(model, positive, classes), positive), expected.detach())


def test_the_gamma_rule_is_captums_on_what_is_not_negative(captum, rectifier, images, classes):
    model, positive = rectifier(bias=False), images.abs()
    expected = ruled(captum, model, "GammaRule", "EpsilonRule").attribute(positive, target=classes)
    composite = gamma_in_convolutions()
    assert_alike(
        LRP(composite=composite)(read(model, positive, classes), positive), expected.detach()
    )


def assert_alike(values, expected):
    """Captum adds 1e-9 to the sums of ReLUs and maxima too, which is not small beside some."""
    assert (values - expected).norm() < 1e-5 * expected.norm()


def gamma_in_convolutions():
    convolutions = Assignment(rule=Gamma(gamma=0.25), operations=frozenset({"conv2d"}))
    return Composite(assignments=(convolutions,), otherwise=Epsilon(epsilon=1e-9))


def test_of_negative_inputs_z_plus_is_conserved_here_and_lost_there(
    captum, rectifier, images, classes
):
    """Definition: what speaks for an output is x+ w+ and x- w-; Captum counts x w+ only."""
    model = rectifier(bias=False)
    f = read(model, images, classes)
    value = f(images).detach()
    ours = attribute(LRP(composite="epsilon-plus"), f, images)
    theirs = ruled(captum, model, "Alpha1_Beta0_Rule", "EpsilonRule").attribute(
        images, target=classes
    )
    torch.testing.assert_close(ours.total, value, rtol=1e-4, atol=1e-6)
    assert (ours.values - theirs.detach()).norm() > 0.1 * ours.values.norm()


def test_a_residual_sum_is_shared_out_here_and_counted_twice_there(captum, made, images, classes):
    """Definition: epsilon to zero is input times gradient on a network of ReLUs without biases."""
    model = made(Residual, bias=False)
    f = read(model, images, classes)
    ours = attribute(LRP(composite="epsilon", epsilon=1e-12), f, images)
    torch.testing.assert_close(ours.values, InputXGradient()(f, images), rtol=1e-6, atol=1e-9)
    theirs = captum.LRP(copy.deepcopy(model)).attribute(images, target=classes).detach()
    lost = (theirs.flatten(1).sum(1) - ours.explained).abs() / ours.explained.abs()
    assert ours.gap.max() < 1e-6
    assert lost.max() > 0.05


@pytest.mark.parametrize("layer", [nn.Flatten(), nn.GELU(), nn.Identity()], ids=repr)
def test_layers_that_captum_refuses_are_handed_through(layer, captum, images):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 8, bias=False), layer, nn.Flatten())
    model.append(nn.Linear(4, 4, bias=False))
    model = model.double().eval()
    f = ModelScalar(Network.read(model, images), logit(1))
    result = attribute(LRP(composite="epsilon"), f, images)
    assert result.gap.max() < 1e-4
    with pytest.raises(TypeError, match="has no rule defined"):
        captum.LRP(model).attribute(images, target=1)
