"""Metrics of maps and masks beside Quantus', on maps of which both definitions hold."""

import numpy as np
import pytest
import torch

from whence.attribution import Gradient, as_quantus
from whence.core import ModelScalar, logit
from whence.evaluation import (
    AverageSensitivity,
    EnergyPointing,
    Entropy,
    Gini,
    MapAUC,
    MaxSensitivity,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    mask_share,
)
from whence.evaluation.robustness import drawn_boxes

pytestmark = pytest.mark.filterwarnings("ignore")  # Quantus warns of its own settings

PLAIN = {"normalise": False, "disable_warnings": True}
SAME = {
    "Complexity": Entropy(),
    "Sparseness": Gini(),
    "PointingGame": PointingGame(),
    "RelevanceMassAccuracy": RelevanceMass(),
    "RelevanceRankAccuracy": RelevanceRank(),
    "AttributionLocalisation": RelevanceMass(),
    "AUC": MapAUC(),
}


@pytest.fixture(scope="module")
def task():
    generator = torch.Generator().manual_seed(2)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Tanh(), torch.nn.Flatten(),
        torch.nn.Linear(256, 5),
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    images = torch.rand(4, 1, 8, 8, generator=generator)
    values = torch.rand(images.shape, generator=generator)  # positive, without ties
    masks = torch.zeros(4, 1, 8, 8)
    for row in range(4):
        masks[row, :, row : row + 3, 1 : 3 + row] = 1
    return net.eval(), images, values, masks


@pytest.mark.parametrize("name", SAME)
def test_a_metric_of_positive_maps_without_ties_is_that_of_quantus(name, quantus, task):
    net, images, values, masks = task
    call = {"x_batch": images.numpy(), "y_batch": np.array([0, 4, 2, 1])}
    call["a_batch"] = values.numpy()
    if name not in ("Complexity", "Sparseness"):
        call["s_batch"] = masks.numpy().astype(bool)
    theirs = getattr(quantus, name)(abs=False, **PLAIN)(model=net, **call)
    ours = SAME[name](values, masks) if "s_batch" in call else SAME[name](values)
    assert ours.tolist() == pytest.approx([float(x) for x in theirs], abs=1e-5)
    if name == "AttributionLocalisation":
        corrected = EnergyPointing()(values, masks) * mask_share(masks)
        assert corrected.tolist() == pytest.approx([float(x) for x in theirs], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "metric"), [("MaxSensitivity", MaxSensitivity), ("AvgSensitivity", AverageSensitivity)]
)
def test_a_sensitivity_to_the_same_noise_is_that_of_quantus(name, metric, quantus, task):
    net, images, _, _ = task
    labels = torch.tensor([0, 4, 2, 1])
    span = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    boxes = drawn_boxes(0, torch.arange(6), images)
    draws = iter([0.1 * span.view(-1, 1, 1, 1) * box for box in boxes])

    def noise(arr, **settings):
        assert "indices" in settings
        return arr + next(draws).numpy().reshape(arr.shape)

    theirs = getattr(quantus, name)(nr_samples=6, perturb_func=noise, abs=False, **PLAIN)(
        model=net,
        x_batch=images.numpy(),
        y_batch=labels.numpy(),
        explain_func=as_quantus("gradient"),
    )
    f = ModelScalar(net, logit(labels))
    values = Gradient()(f, images)
    ours = metric(radius=0.1, samples=6)(f, images, values, Gradient())
    assert ours.tolist() == pytest.approx(list(map(float, theirs)), rel=1e-3)
