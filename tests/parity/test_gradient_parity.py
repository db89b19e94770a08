"""Gradients, and their mean, square and variance over noise, beside Captum's."""

import pytest
import torch

from whence.attribution import (
    Gradient,
    InputXGradient,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from whence.core import ModelScalar, logit

TUNNELS = {
    "smoothgrad": SmoothGrad(samples=4, sigma=0.2, seed=7),
    "smoothgrad_sq": SmoothGradSquared(samples=4, sigma=0.2, seed=7),
    "vargrad": VarGrad(samples=4, sigma=0.2, seed=7),
}


def test_the_gradient_is_captums_saliency_without_its_absolute_value(
    captum, rectifier, images, classes
):
    model = rectifier()
    inputs = images.clone().requires_grad_()
    expected = captum.Saliency(model).attribute(inputs, target=classes, abs=False)
    torch.testing.assert_close(Gradient()(ModelScalar(model, logit(classes)), images), expected)


def test_input_times_gradient_is_captums(captum, rectifier, images, classes):
    model = rectifier()
    inputs = images.clone().requires_grad_()
    expected = captum.InputXGradient(model).attribute(inputs, target=classes).detach()
    ours = InputXGradient()(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("kind", TUNNELS)
def test_over_noise_they_are_captums_noise_tunnel_with_our_draws(
    kind, captum, smooth, images, classes, monkeypatch
):
    """Captum's noise has one size for all images; ours is a fraction of each image's range."""
    generator = torch.Generator().manual_seed(7)
    draws = torch.stack([torch.randn(3, 8, 8, generator=generator) for _ in range(4)]).double()
    spread = 0.2 * (images.amax((1, 2, 3)) - images.amin((1, 2, 3))).view(-1, 1, 1, 1, 1)
    monkeypatch.setattr(torch, "normal", lambda *_: (spread * draws).flatten(0, 1))
    expected = captum.NoiseTunnel(captum.Saliency(smooth)).attribute(
        images, nt_type=kind, nt_samples=4, stdevs=0.2, target=classes, abs=False
    )
    ours = TUNNELS[kind](ModelScalar(smooth, logit(classes)), images)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


def test_captums_noise_depends_on_how_the_work_is_cut_and_ours_does_not(
    captum, smooth, images, classes
):
    def theirs(size):
        torch.manual_seed(0)
        tunnel = captum.NoiseTunnel(captum.Saliency(smooth))
        return tunnel.attribute(
            images,
            nt_samples=4,
            nt_samples_batch_size=size,
            stdevs=0.5,
            target=classes,
            abs=False,
        )

    f = ModelScalar(smooth, logit(classes))
    assert (theirs(4) - theirs(2)).norm() > 0.05 * theirs(4).norm()
    ours = [SmoothGrad(samples=4, sigma=0.2, batch_size=size)(f, images) for size in (None, 2)]
    torch.testing.assert_close(*ours)
