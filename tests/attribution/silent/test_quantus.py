"""What Quantus 0.6 says of attributions that are exact, for the page in the manual."""

import numpy as np
import pytest
import torch
from torch import nn

from whence.attribution import InputXGradient, attribute, relative_gap
from whence.core import ModelScalar, logit


@pytest.fixture(scope="module")
def quantus(behind):
    """The library of metrics."""
    return behind("quantus")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantus_finds_exact_attributions_incomplete_where_ours_has_a_gap_of_rounding(
    quantus, generator
):
    images = torch.randn(4, 3, 8, 8, generator=generator)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(4, 192, generator=generator))
    f = ModelScalar(model, logit(1))
    result = attribute(InputXGradient(), f, images)
    assert relative_gap(result.values, f(images).detach()).max() < 1e-5
    metric = quantus.Completeness(normalise=False, abs=False, disable_warnings=True)
    verdicts = metric(
        model=model,
        x_batch=images.numpy(),
        y_batch=np.ones(4, dtype=int),
        a_batch=result.values.numpy(),
        device="cpu",
    )
    assert not all(verdicts)
