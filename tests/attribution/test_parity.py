"""The same numbers as Captum, where it is installed."""

import pytest
import torch

from whence.attribution import GradCAM, Gradient, InputXGradient, IntegratedGradients, SmoothGrad
from whence.core import ModelScalar, logit
from whence.network import Network

captum = pytest.importorskip("captum.attr", reason="needs whence[parity]")

RULES = {"gauss-legendre": "gausslegendre", "right": "riemann_right", "midpoint": "riemann_middle"}


def theirs(explainer, images, classes, **settings):
    return explainer.attribute(images.clone().requires_grad_(), target=classes, **settings).detach()


def test_the_gradient_is_captums_saliency(rectifier, images, classes):
    model = rectifier()
    expected = theirs(captum.Saliency(model), images, classes, abs=False)
    torch.testing.assert_close(Gradient()(ModelScalar(model, logit(classes)), images), expected)


def test_input_times_gradient_is_captums(rectifier, images, classes):
    model = rectifier()
    expected = theirs(captum.InputXGradient(model), images, classes)
    torch.testing.assert_close(
        InputXGradient()(ModelScalar(model, logit(classes)), images), expected
    )


@pytest.mark.parametrize("rule", RULES)
def test_integrated_gradients_are_captums(rule, rectifier, images, classes):
    model = rectifier()
    expected = theirs(
        captum.IntegratedGradients(model),
        images,
        classes,
        baselines=torch.full_like(images, 0.2),
        n_steps=9,
        method=RULES[rule],
    )
    method = IntegratedGradients(steps=9, rule=rule, baseline=lambda x: torch.full_like(x, 0.2))
    values = method(ModelScalar(model, logit(classes)), images)
    # Captum rounds the points and weights of its path to single precision.
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-8)


def test_our_trapezoid_is_complete_for_a_linear_model_where_captums_is_not(linear, images):
    f = ModelScalar(linear, logit(1))
    change = (f(images) - f(torch.zeros_like(images))).detach()
    ours = IntegratedGradients(steps=10, rule="trapezoid")(f, images).sum(dim=(1, 2, 3))
    expected = theirs(
        captum.IntegratedGradients(linear), images, 1, n_steps=10, method="riemann_trapezoid"
    ).sum(dim=(1, 2, 3))
    torch.testing.assert_close(ours, change)
    torch.testing.assert_close(expected, 0.9 * change)


def test_smoothgrad_agrees_with_captums_noise_tunnel_within_the_noise(smooth, images, classes):
    torch.manual_seed(0)
    image, own = images[:1], classes[:1]
    spread = 0.15 * float(image.max() - image.min())
    tunnel = captum.NoiseTunnel(captum.Saliency(smooth))
    expected = theirs(tunnel, image, own, nt_samples=400, stdevs=spread, abs=False)
    values = SmoothGrad(samples=400)(ModelScalar(smooth, logit(own)), image)
    plain = Gradient()(ModelScalar(smooth, logit(own)), image)
    assert (values - expected).norm() < 0.15 * expected.norm()
    assert (plain - expected).norm() > (values - expected).norm()


def test_grad_cam_is_captums_with_the_relu(rectifier, images, classes):
    model = rectifier()
    network = Network.read(model, images)
    method = GradCAM(upsample=False)
    maps = method(ModelScalar(network, logit(classes)), images)
    expected = captum.LayerGradCam(model, model[4]).attribute(
        images, target=classes, relu_attributions=True
    )
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-10, atol=1e-12)
