"""Path methods beside Captum's and PAIR's, and beside the papers' integrals done densely."""

import importlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage

from whence.attribution import (
    BlurIG,
    ExpectedGradients,
    GradientSHAP,
    GuidedIG,
    IntegratedGradients,
    References,
    attribute,
)
from whence.core import Blur, ModelScalar, logit

RULES = {"gauss-legendre": "gausslegendre", "right": "riemann_right", "midpoint": "riemann_middle"}


def constant(images):
    return torch.full_like(images, 0.2)


def slope(f, images):
    leaf = images.detach().clone().requires_grad_()
    return torch.autograd.grad(f(leaf).sum(), leaf)[0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [2, 9])
def test_integrated_gradients_are_captums(rule, steps, captum, rectifier, images, classes):
    model = rectifier()
    expected = captum.IntegratedGradients(model).attribute(
        images, constant(images), target=classes, n_steps=steps, method=RULES[rule]
    )
    method = IntegratedGradients(steps=steps, rule=rule, baseline=constant)
    ours = method(ModelScalar(model, logit(classes)), images)
    # Captum rounds the points and weights of its path to single precision.
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("steps", [4, 10])
def test_captums_trapezoid_weights_add_up_to_less_than_one_and_ours_to_one(
    steps, captum, images, classes
):
    """Definition: the weights of a quadrature add up to the length of the path, which is one."""
    weights = torch.randn(4, 192, generator=torch.Generator().manual_seed(2)).double()

    def model(x):
        return x.flatten(1) @ weights.T

    f = ModelScalar(model, logit(classes))
    share = (images - constant(images)) * weights[classes].view_as(images)
    ours = IntegratedGradients(steps=steps, rule="trapezoid", baseline=constant)(f, images)
    torch.testing.assert_close(ours, share)
    theirs = captum.IntegratedGradients(model).attribute(
        images, constant(images), target=classes, n_steps=steps, method="riemann_trapezoid"
    )
    torch.testing.assert_close(theirs.detach(), (steps - 1) / steps * share, rtol=1e-6, atol=1e-8)


def test_both_reach_the_integral_and_our_gap_is_captums_delta(captum, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    dense = sum(slope(f, (k + 0.5) / 2000 * images) for k in range(2000)) / 2000 * images
    ours = attribute(IntegratedGradients(steps=40, rule="midpoint"), f, images)
    theirs, delta = captum.IntegratedGradients(smooth).attribute(
        images, target=classes, n_steps=40, method="riemann_middle", return_convergence_delta=True
    )
    assert (ours.values - dense).norm() < 1e-3 * dense.norm()
    assert (theirs.detach() - dense).norm() < 1e-3 * dense.norm()
    change = (f(images) - f(torch.zeros_like(images))).detach()
    torch.testing.assert_close(ours.gap, (delta / change).abs(), rtol=1e-2, atol=1e-7)


@pytest.mark.parametrize("kind", [GradientSHAP, ExpectedGradients], ids=lambda k: k.__name__)
def test_expected_gradients_are_captums_gradient_shap_when_both_take_our_draws(
    kind, captum, smooth, images, classes, monkeypatch, generator
):
    bank = torch.randn(4, 3, 8, 8, generator=generator).double()
    settings = {"sigma": 0.0} if kind is GradientSHAP else {"stratified": False}
    method = kind(references=References(images=bank), samples=6, **settings)
    which, alphas = method.drawn().places()
    # Captum draws for every copy of every image; each image's copies lie together.
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.tile(alphas.numpy(), 3))
    monkeypatch.setattr(np.random, "choice", lambda *_: np.tile(which.numpy(), 3))
    expected = captum.GradientShap(smooth).attribute(
        images, baselines=bank, n_samples=6, stdevs=0.0, target=classes
    )
    ours = method(ModelScalar(smooth, logit(classes)), images)
    # Captum rounds its draws to single precision.
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-8)


def blurred(image, sigma):
    """SciPy's blur of one image: three sigmas of it, a pixel at least, and the border repeated."""
    if not sigma:
        return image.numpy()
    reach = max(1, round(3 * sigma))
    return ndimage.gaussian_filter(image.numpy(), sigma, mode="nearest", radius=reach, axes=(1, 2))


def test_our_blur_is_scipys(images):
    expected = np.stack([blurred(image, 2.4) for image in images])
    np.testing.assert_allclose(Blur(sigma=2.4 / 8)(images).numpy(), expected, rtol=1e-12)


def test_blur_ig_is_the_integral_along_scipys_blur(smooth, images):
    """Xu et al., Eq. 4: the gradient at each scale, times the change of the blur with the scale."""
    f, steps, widest = ModelScalar(smooth, logit(2)), 300, 2.0
    sigmas = np.linspace(0, widest, steps + 1)
    total = np.zeros(images.shape)
    for low, high in pairwise(sigmas):
        edges = [np.stack([blurred(image, s) for image in images]) for s in (low, high)]
        middle = np.stack([blurred(image, (low + high) / 2) for image in images])
        total += slope(f, torch.from_numpy(middle)).numpy() * (edges[0] - edges[1])
    ours = BlurIG(steps=steps, sigma=widest / 8)(f, images).numpy()
    np.testing.assert_allclose(ours, total, rtol=1e-9, atol=1e-12)
    coarse = BlurIG(steps=30, sigma=widest / 8)(f, images).numpy()
    assert np.linalg.norm(coarse - total) < 0.01 * np.linalg.norm(total)


# ------------------------------------------------------------------------------------- PAIR


@pytest.fixture(scope="module")
def pair():
    return pytest.importorskip("saliency.core", reason="needs PAIR's saliency")


def answering(pair, f):
    """Return what PAIR asks of a model: gradients, channels last."""

    def answer(points, call_model_args=None, expected_keys=None):
        del call_model_args, expected_keys
        gradients = slope(f, torch.from_numpy(np.moveaxis(np.asarray(points), 3, 1)))
        return {pair.INPUT_OUTPUT_GRADIENTS: np.moveaxis(gradients.numpy(), 1, 3)}

    return answer


@pytest.mark.parametrize(("fraction", "corridor"), [(0.25, 0.02), (0.1, 0.3), (0.5, 1.0)])
def test_guided_ig_is_pairs(fraction, corridor, pair, smooth, images, monkeypatch):
    """PAIR names an argument of NumPy's quantile as NumPy did before 2.4; it is translated."""
    quantile = np.quantile

    def renamed(values, share, *, interpolation):
        return quantile(values, share, method=interpolation)

    f = ModelScalar(smooth, logit(1))
    ours = GuidedIG(steps=12, fraction=fraction, corridor=corridor)(f, images)
    monkeypatch.setattr(np, "quantile", renamed)
    for image, values in zip(images, ours, strict=True):
        expected = pair.GuidedIG().GetMask(
            np.moveaxis(image.numpy(), 0, 2),
            answering(pair, f),
            x_steps=12,
            fraction=fraction,
            max_dist=corridor,
        )
        np.testing.assert_allclose(
            np.moveaxis(values.numpy(), 0, 2), expected, rtol=1e-6, atol=1e-9
        )


def test_blur_ig_is_pairs_but_for_its_dark_border(pair, smooth, images, monkeypatch):
    """PAIR's blur sees black beyond the border, which is in no image: its maps differ there.

    With the border repeated in both, they agree as steps grow; PAIR's rule is of the first order.
    """
    f = ModelScalar(smooth, logit(1))
    image = np.moveaxis(images[0].numpy(), 0, 2)
    ours = BlurIG(steps=400, sigma=2 / 8)(f, images[:1])[0].permute(1, 2, 0).numpy()

    def theirs():
        return pair.BlurIG().GetMask(
            image, answering(pair, f), max_sigma=2, steps=400, grad_step=1e-3
        )

    dark = theirs()
    module = importlib.import_module("saliency.core.blur_ig")

    def repeated(image, sigma):
        return np.moveaxis(blurred(torch.from_numpy(np.moveaxis(image, 2, 0)), sigma), 0, 2)

    monkeypatch.setattr(module, "gaussian_blur", repeated)
    fair = theirs()
    size = np.linalg.norm(ours)
    assert np.linalg.norm(dark - ours) > 0.05 * size
    assert np.linalg.norm(fair - ours) < 0.02 * size
