"""Perturbation methods beside Captum's, where it is installed."""

import pytest
import torch
from torch import nn

from whence.attribution import LIME, Grid, KernelSHAP, Occlusion
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


@pytest.fixture
def images(generator):
    """Two images of 3 x 8 x 8."""
    return torch.randn(2, 3, 8, 8, generator=generator).double()


def features(cells):
    """Superpixels as Captum takes them, and ours."""
    grid = Grid(cells=cells)
    return grid, grid(torch.zeros(1, 3, 8, 8))[:, None].repeat(1, 3, 1, 1)


def test_with_all_coalitions_kernel_shap_is_captums_shapley_values(images):
    model, classes = made(), torch.tensor([1, 3])
    grid, labels = features(2)
    expected = captum.ShapleyValues(model).attribute(
        images, target=classes, feature_mask=labels, baselines=0.5
    )
    method = KernelSHAP(superpixels=grid, fill=lambda x: torch.full_like(x, 0.5))
    ours = method(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(
        ours.expand(2, 3, 8, 8), expected.detach().double() / 16, rtol=1e-5, atol=1e-7
    )


@pytest.mark.filterwarnings("ignore:.*You are providing multiple inputs.*")
@pytest.mark.filterwarnings("ignore:.*sklearn.*")
def test_kernel_shap_is_captums_when_both_take_our_coalitions(monkeypatch, images):
    model = made()
    grid, labels = features(3)
    method = KernelSHAP(superpixels=grid, samples=60)
    coalitions, weights = method.coalitions(9)
    assert (weights == 1).all()

    def ours_too(self, *_, **__):
        del self
        yield torch.ones(1, 9)
        yield torch.zeros(1, 9)
        for coalition in coalitions:
            yield coalition[None].float()

    monkeypatch.setattr(captum.KernelShap, "kernel_shap_perturb_generator", ours_too)
    for image, k in zip(images, (1, 3), strict=True):
        explainer = captum.KernelShap(model)
        expected = explainer.attribute(
            image[None], target=k, feature_mask=labels, n_samples=len(coalitions) + 2
        )
        ours = method(ModelScalar(model, logit(k)), image[None])
        area = labels[0, 0].flatten().bincount()[labels[0, 0]]
        # Captum asks for the sum by two heavy weights instead of a constraint.
        torch.testing.assert_close(
            (ours * area).expand(1, 3, 8, 8), expected.detach().double(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.filterwarnings("ignore:.*sklearn.*")
def test_lime_is_captums_when_both_take_our_coalitions_kernel_and_ridge(images):
    from captum._utils.models.linear_model import SkLearnRidge

    model = made()
    grid, labels = features(3)
    method = LIME(superpixels=grid, samples=40, width=0.4, ridge=0.7)
    coalitions = method.coalitions(9)

    def drawn(*_, **__):
        for coalition in coalitions:
            yield coalition[None].float()

    def near(original, perturbed, coalition, **_):
        del original, perturbed
        return torch.exp(-(((1 - coalition.double().mean().sqrt()) / 0.4) ** 2))

    explainer = captum.Lime(
        model, interpretable_model=SkLearnRidge(alpha=0.7), similarity_func=near, perturb_func=drawn
    )
    expected = explainer.attribute(
        images[:1], target=1, feature_mask=labels, n_samples=len(coalitions)
    )
    ours = method(ModelScalar(model, logit(1)), images[:1])
    area = labels[0, 0].flatten().bincount()[labels[0, 0]]
    torch.testing.assert_close(
        (ours * area).expand(1, 3, 8, 8), expected.detach().double(), rtol=1e-4, atol=1e-6
    )
