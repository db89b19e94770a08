"""Refitted layers do what the original's did, as far as a linear map can."""

import pytest
import torch
from torch import nn

from whence.convert import ROUTES, RefitLayers, converted, x_dnn
from whence.errors import SettingError


@pytest.fixture
def images(generator):
    return torch.rand(40, 3, 8, 8, generator=generator, dtype=torch.float64)


def drawn(model):
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return model.double().eval()


def ridge(rows, outputs, own, strength):
    """Return the ridge regression's weight, naively: more rows pull it to its own."""
    pull = strength * (rows.T @ rows).diagonal().mean()
    extra = pull.sqrt() * torch.eye(rows.shape[1], dtype=rows.dtype)
    stacked = torch.cat([rows, extra]), torch.cat([outputs, pull.sqrt() * own.T])
    return torch.linalg.lstsq(*stacked).solution.T


def test_a_linear_layer_gets_the_weight_of_the_ridge_regression(images):
    model = drawn(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    made = x_dnn(model, images, routes=(*ROUTES, RefitLayers(ridge=0.02)))
    wanted = ridge(images.flatten(1), model(images), model[1].weight, 0.02)
    torch.testing.assert_close(made.model[1].weight, wanted, rtol=1e-8, atol=1e-10)
    assert made.report.changes[-1].what == "linear's weight was fitted to the original's output"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_convolution_is_fitted_behind_its_norm_group_by_group(images, groups):
    layer = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups)
    model = drawn(
        nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), layer, nn.BatchNorm2d(8), nn.Flatten())
    )
    made = x_dnn(model, images, routes=(*ROUTES, RefitLayers(ridge=0.01))).model
    hidden = made[0](images)
    goal = model[:3](images) / made[2].scale[:, None, None]
    each, inside = 8 // groups, 4 // groups
    for group in range(groups):
        part = hidden[:, group * inside : (group + 1) * inside]
        rows = nn.functional.unfold(part, 3, padding=1, stride=2).transpose(1, 2).flatten(0, 1)
        mine = slice(group * each, (group + 1) * each)
        outputs = goal[:, mine].flatten(2).transpose(1, 2).flatten(0, 1)
        wanted = ridge(rows, outputs, layer.weight[mine].flatten(1), 0.01)
        torch.testing.assert_close(made[1].weight[mine].flatten(1), wanted, rtol=1e-7, atol=1e-9)


def deep():
    return drawn(
        nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3),
            nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
        )
    )  # fmt: skip


def test_the_converted_network_comes_closer_to_the_original_also_on_other_images(images, untouched):
    model = deep()
    fresh = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with untouched(model):
        plain, fitted = (
            converted(model, images),
            converted(model, images, routes=(*ROUTES, RefitLayers())),
        )
    miss = [(c.model(fresh) - model(fresh)).square().mean() for c in (plain, fitted)]
    assert miss[1] < 0.2 * miss[0]
    assert fitted.report.kept >= plain.report.kept
    assert fitted.report.holds


def test_what_is_an_x_dnn_already_is_left_where_it_is(images):
    model = drawn(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten()))
    made = x_dnn(model, images, routes=(*ROUTES, RefitLayers())).model
    torch.testing.assert_close(made(images), model(images), rtol=1e-8, atol=1e-10)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.same = nn.Linear(4, 4)

    def forward(self, images):
        return self.same(self.same(images.mean((2, 3)) @ torch.ones(3, 4).to(images)).relu())


def test_a_weight_that_two_layers_share_is_fitted_once(images):
    made = x_dnn(drawn(Tied()), images, routes=(*ROUTES, RefitLayers()))
    assert sum("fitted" in change.what for change in made.report.changes) == 1


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan")])
def test_a_ridge_that_is_none_is_refused(wrong):
    with pytest.raises(SettingError, match="above 0"):
        RefitLayers(ridge=wrong)
