"""Perturbation methods beside Captum's, where it is installed."""

import pytest
import torch
from torch import nn

from whence.attribution import Occlusion
from whence.core import ModelScalar, logit

captum = pytest.importorskip("captum.attr", reason="needs whence[parity]")


def made():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)]
    return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize(("window", "stride"), [(4, 3), (4, 4), (3, 2), (1, 1)])
def test_occlusion_is_captums(window, stride, generator):
    model, classes = made(), torch.tensor([1, 3])
    images = torch.randn(2, 3, 8, 8, generator=generator).double()
    expected = captum.Occlusion(model).attribute(
        images,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        target=classes,
        baselines=0.25,
    )
    method = Occlusion(window=window, stride=stride, fill=lambda x: torch.full_like(x, 0.25))
    ours = method(ModelScalar(model, logit(classes)), images)
    # Captum gives the channels of a window the same value each, in single precision.
    torch.testing.assert_close(
        ours.expand(2, 3, 8, 8), expected.detach().double(), rtol=1e-5, atol=1e-7
    )
