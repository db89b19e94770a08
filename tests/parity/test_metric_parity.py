"""Perturbation metrics beside Quantus' and pytorch-grad-cam's, where the definitions agree."""

import numpy as np
import pytest
import torch

from whence.core import ModelScalar, Zero, logit
from whence.evaluation import (
    ROAD,
    AddedNoise,
    FaithfulnessCorrelation,
    FaithfulnessEstimate,
    Hit,
    Infidelity,
    MonotonicityCorrelation,
    NoisyLinear,
    PixelFlipping,
    RegionPerturbation,
    Squares,
)
from whence.evaluation.correlation import Draws

pytestmark = pytest.mark.filterwarnings("ignore")  # Quantus warns of its own settings

CLASSES = torch.tensor([0, 4, 2])


@pytest.fixture(scope="module")
def task():
    """A network of one channel, as Quantus counts channels as features, and images from 0 up."""
    generator = torch.Generator().manual_seed(2)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(256, 5),
    )  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    images = torch.rand(3, 1, 8, 8, generator=generator)
    images -= images.amin(dim=(1, 2, 3), keepdim=True)  # its "black" is each image's least value
    values = torch.randn(images.shape, generator=generator)
    return net.eval(), images, values


SETTINGS = {"normalise": False, "disable_warnings": True}


def judged(metric, task):
    """Return what a metric of Quantus says."""
    net, images, values = task
    return np.array(
        metric(net, images.numpy(), CLASSES.numpy(), a_batch=values.numpy(), softmax=False)
    )


def test_pixel_flipping_is_quantus_but_for_the_whole_image_that_it_leaves_out(quantus, task):
    net, images, values = task
    theirs = judged(quantus.PixelFlipping(features_in_step=8, **SETTINGS), task)
    curve = PixelFlipping(steps=8).curve(ModelScalar(net, logit(CLASSES)), images, values)
    torch.testing.assert_close(curve.values[:, 1:], torch.from_numpy(theirs).float())


@pytest.mark.parametrize(("order", "theirs"), [("most", "morf"), ("least", "lerf")])
def test_aopc_is_the_mean_of_quantus_falls_with_the_whole_image_as_the_first(
    order, theirs, quantus, task
):
    net, images, values = task
    metric = quantus.RegionPerturbation(
        patch_size=2, regions_evaluation=10, order=theirs, **SETTINGS
    )
    falls = judged(metric, task)
    ours = RegionPerturbation(order=order, segments=Squares(size=2), steps=10, fill=Zero())
    found = ours(ModelScalar(net, logit(CLASSES)), images, values)
    torch.testing.assert_close(found, torch.from_numpy(falls.sum(1) / 11).float())


def test_an_imputation_without_noise_is_that_of_pytorch_grad_cam(grad_cam):
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    generator = torch.Generator().manual_seed(3)
    image = torch.randn(3, 12, 9, generator=generator)
    kept = torch.rand(12, 9, generator=generator) < 0.4
    theirs = NoisyLinearImputer(noise=0.0)(image, kept.float())
    ours = NoisyLinear(noise=0.0).impute(image[None], ~kept[None, None])[0]
    torch.testing.assert_close(ours, theirs.to(ours), rtol=1e-4, atol=1e-4)


def test_road_of_hits_is_quantus_accuracy_at_each_share(quantus, task):
    net, images, values = task
    shares = (0.25, 0.5, 0.75)
    metric = quantus.ROAD(percentages=[25, 50, 75], noise=1e-9, **SETTINGS)
    theirs = metric(net, images.numpy(), CLASSES.numpy(), a_batch=values.numpy(), softmax=False)
    ours = ROAD(shares=shares, fill=NoisyLinear(noise=0.0))
    hits = ours.values_of(ModelScalar(net, Hit(CLASSES)), images, values)
    told = theirs if isinstance(theirs, dict) else theirs[0]
    accuracies = [told[key] for key in sorted(told)]
    assert hits.mean(0).tolist() == pytest.approx(accuracies)


def test_a_faithfulness_estimate_of_pixels_is_quantus(quantus, task):
    net, images, values = task
    metric = quantus.FaithfulnessEstimate(features_in_step=1, perturb_baseline=0.0, **SETTINGS)
    ours = FaithfulnessEstimate(segments=Squares())(
        ModelScalar(net, logit(CLASSES)), images, values
    )
    assert ours.tolist() == pytest.approx(judged(metric, task).tolist(), abs=1e-4)


def test_a_monotonicity_correlation_of_absolute_pixels_is_quantus(quantus, task):
    net, images, values = task
    metric = quantus.MonotonicityCorrelation(
        features_in_step=1, nr_samples=1, perturb_baseline=0.0, abs=True, **SETTINGS
    )
    ours = MonotonicityCorrelation(segments=Squares(), fill=Zero())
    found = ours(ModelScalar(net, logit(CLASSES)), images, values)
    assert found.tolist() == pytest.approx(judged(metric, task).tolist(), abs=1e-3)


def test_a_faithfulness_correlation_is_quantus_of_the_same_subsets(quantus, task, monkeypatch):
    net, images, values = task
    ours = FaithfulnessCorrelation(share=0.25, subsets=30, fill=Zero())
    draws = Draws(count=30, segments=Squares(), fill=Zero(), seed=0).orders(64)
    subsets = (row[:16].numpy() for row in draws for _ in range(3))  # the same for each image
    monkeypatch.setattr(np.random, "choice", lambda *_, **__: next(subsets))
    metric = quantus.FaithfulnessCorrelation(
        subset_size=16,
        nr_runs=30,
        perturb_baseline=0.0,
        return_aggregate=False,
        **SETTINGS,
    )
    found = ours(ModelScalar(net, logit(CLASSES)), images, values)
    assert found.tolist() == pytest.approx(judged(metric, task).tolist(), abs=1e-4)


def test_the_infidelity_of_noise_is_captums(captum, task):
    from captum.metrics import infidelity

    net, images, values = task
    perturbation = AddedNoise(sigma=0.1)
    change = perturbation.on(images, values)(torch.arange(20))
    for scaled in (True, False):
        metric = Infidelity(perturbation=perturbation, samples=20, scaled=scaled)
        ours = metric(ModelScalar(net, logit(CLASSES)), images, values)
        for row in range(3):

            def perturb(inputs, row=row):
                made, _ = change(slice(row, row + 1))
                assert len(inputs) == 20
                return images[row : row + 1] - made, made

            theirs = infidelity(
                net,
                perturb,
                images[row : row + 1],
                values[row : row + 1],
                target=int(CLASSES[row]),
                n_perturb_samples=20,
                normalize=scaled,
            )
            assert ours[row].item() == pytest.approx(theirs.item(), rel=1e-4)
