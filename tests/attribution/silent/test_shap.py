"""What SHAP 0.51's DeepExplainer does with the same networks; it is in the extra ``bench``."""

import pytest
import torch


@pytest.fixture(scope="module")
def shap(behind):
    """The library; it imports torchvision."""
    return behind("shap")


pytestmark = pytest.mark.filterwarnings("ignore")


def values_of(shap, model, images, *, check):
    explainer = shap.DeepExplainer(model, torch.zeros(1, 3, 8, 8))
    return torch.from_numpy(explainer.shap_values(images, check_additivity=check))


def gap_of(values, model, images):
    change = (model(images) - model(torch.zeros(1, 3, 8, 8))).detach()
    return (values.flatten(1, 3).sum(1) - change).abs().max() / change.abs().max()


def test_shap_is_right_for_modules_and_checks_where_a_relu_is_a_function(shap, make, images):
    images = images.float()
    clean, other = make("clean").float(), make("functional").float()
    assert gap_of(values_of(shap, clean, images, check=True), clean, images) < 1e-4
    with pytest.raises(AssertionError, match="do not sum up"):
        values_of(shap, other, images, check=True)
    assert gap_of(values_of(shap, other, images, check=False), other, images) > 0.5


@pytest.mark.parametrize("way", ["reused", "in-place"])
def test_shap_raises_where_a_relu_is_reused_or_in_place_and_leaves_hooks(way, shap, make, images):
    model = make(way).float()
    with pytest.raises(RuntimeError):
        values_of(shap, model, images.float(), check=True)
    assert sum(len(module._forward_hooks) for module in model.modules()) > 0
