"""Perturbation methods beside Captum's."""

import pytest
import torch

from whence.attribution import LIME, Grid, KernelSHAP, Occlusion
from whence.core import ModelScalar, logit


def grey(images):
    return torch.full_like(images, 0.25)


def cells(side):
    """Return Captum's mask of a grid of cells."""
    place = torch.arange(8) * side // 8
    return (place[:, None] * side + place).view(1, 1, 8, 8)


def spread(values, side):
    """Return a cell's value, shared out evenly over its pixels."""
    return values[:, :1] / (8 // side) ** 2


@pytest.mark.parametrize(("window", "stride"), [(4, 3), (4, 4), (3, 2), (1, 1)])
def test_occlusion_is_captums(window, stride, captum, rectifier, images, classes):
    model = rectifier()
    expected = captum.Occlusion(model).attribute(
        images,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        target=classes,
        baselines=0.25,
    )
    ours = Occlusion(window=window, stride=stride, fill=grey)
    values = ours(ModelScalar(model, logit(classes)), images)
    # Captum gives the channels of a window the same value each, in single precision.
    torch.testing.assert_close(
        values.expand(3, 3, 8, 8), expected.detach().double(), rtol=1e-5, atol=1e-7
    )


def test_occlusion_by_windows_side_by_side_is_captums_ablation_of_cells(
    captum, rectifier, images, classes
):
    model = rectifier()
    expected = captum.FeatureAblation(model).attribute(
        images, target=classes, baselines=0.25, feature_mask=cells(2)
    )
    values = Occlusion(window=4, stride=4, fill=grey)(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(
        values.expand(3, 3, 8, 8), expected.detach().double(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.filterwarnings("ignore:You are using ShapleyValues:UserWarning")
def test_kernel_shap_of_all_coalitions_is_captums_shapley_values(
    captum, rectifier, images, classes
):
    """With every coalition in it, the weighted fit is exact: no draws are left to differ."""
    model = rectifier()
    expected = captum.ShapleyValues(model).attribute(
        images, target=classes, baselines=0.25, feature_mask=cells(2)
    )
    method = KernelSHAP(superpixels=Grid(cells=2), samples=14, fill=grey)
    values = method(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(values, spread(expected.detach().double(), 2), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime:UserWarning")
def test_captums_kernel_shap_approaches_the_values_that_ours_has(
    captum, rectifier, images, classes
):
    """Captum draws coalitions with their weights and gives the two ends a weight of a million."""
    model = rectifier()
    torch.manual_seed(0)
    expected = captum.KernelShap(model).attribute(
        images, target=classes, baselines=0.25, feature_mask=cells(2), n_samples=200
    )
    method = KernelSHAP(superpixels=Grid(cells=2), samples=14, fill=grey)
    values = method(ModelScalar(model, logit(classes)), images)
    error = (values - spread(expected.double(), 2)).norm()
    assert error < 0.15 * values.norm()


def test_lime_is_captums_with_our_coalitions_our_kernel_and_a_ridge(captum, rectifier, images):
    linear = pytest.importorskip("captum._utils.models.linear_model")
    model, method = rectifier(), LIME(superpixels=Grid(cells=2), samples=40, fill=grey, ridge=0.5)
    drawn = iter(method.coalitions(4).long())

    def kernel(original, perturbed, coalition, **_):
        distance = 1 - coalition.double().mean().sqrt()
        return torch.exp(-((distance / method.width) ** 2))

    lime = captum.Lime(
        model,
        interpretable_model=linear.SkLearnRidge(alpha=method.ridge),
        similarity_func=kernel,
        perturb_func=lambda original, **_: next(drawn)[None],
    )
    expected = lime.attribute(
        images[:1], target=2, baselines=0.25, feature_mask=cells(2), n_samples=40
    )
    values = method(ModelScalar(model, logit(2)), images[:1])
    # Captum's regression is in single precision.
    torch.testing.assert_close(values, spread(expected.double(), 2), rtol=1e-4, atol=1e-6)
