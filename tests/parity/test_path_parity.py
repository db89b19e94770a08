"""Path methods beside Captum's, where it is installed."""

import numpy as np
import pytest
import torch
from torch import nn

from whence.attribution import GradientSHAP, References
from whence.core import ModelScalar, logit

captum = pytest.importorskip("captum.attr", reason="needs whence[parity]")


def made():
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.Flatten(), nn.Linear(180, 4))
        .double()
        .eval()
    )


def test_gradient_shap_is_captums_when_both_take_our_draws(monkeypatch, generator):
    model = made()
    images = torch.randn(2, 3, 8, 8, generator=generator).double()
    bank = torch.randn(3, 3, 8, 8, generator=generator).double()
    classes = torch.tensor([1, 3])
    method = GradientSHAP(references=References(images=bank), samples=6, sigma=0.0)
    which, alphas = method.drawn().places()
    # Captum draws for every copy of every image; each image's copies lie together.
    monkeypatch.setattr(np.random, "uniform", lambda *_: np.tile(alphas.numpy(), 2))
    monkeypatch.setattr(np.random, "choice", lambda *_: np.tile(which.numpy(), 2))
    expected = captum.GradientShap(model).attribute(
        images, baselines=bank, n_samples=6, stdevs=0.0, target=classes
    )
    ours = method(ModelScalar(model, logit(classes)), images)
    # Captum rounds its draws to single precision.
    torch.testing.assert_close(ours, expected.detach(), rtol=1e-5, atol=1e-8)
