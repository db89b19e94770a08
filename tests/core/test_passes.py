"""Passes without gradients: the maximum over windows by slices."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import Width, forward_only
from whence.core.passes import GUESS, ROOM, QuickPools, pooled
from whence.network import Network

SETTINGS = (
    {"kernel_size": 2},
    {"kernel_size": (2, 3), "stride": (3, 1)},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "stride": 1, "padding": (1, 0)},
    {"kernel_size": [5], "stride": [2], "padding": [2]},
    {"kernel_size": (1, 4), "stride": None},
)


@pytest.mark.parametrize("settings", SETTINGS, ids=[str(i) for i in range(len(SETTINGS))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_maximum_over_windows_is_torchs_to_the_bit(settings, dtype, generator):
    images = torch.randn(3, 4, 11, 13, generator=generator, dtype=dtype)
    images[0, 0, :3, :3] = torch.nan
    images[1, 1, 4:6, 4:6] = -torch.inf
    found = pooled(images, **settings)
    assert torch.equal(found.nan_to_num(7), functional.max_pool2d(images, **settings).nan_to_num(7))
    assert bool(found.isnan().any())


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 2, "ceil_mode": True},
        {"kernel_size": 2, "return_indices": True},
        {"kernel_size": 3, "dilation": 2},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 12},
        {"kernel_size": 2, "padding": 2},
    ],
    ids=["ceil", "indices", "dilation", "one", "larger than the image", "too much padding"],
)
def test_what_slices_do_not_cover_is_left_to_torch(settings, generator):
    assert pooled(torch.randn(2, 3, 11, 11, generator=generator), **settings) is None


def test_other_layouts_types_and_gradients_are_left_to_torch(generator):
    images = torch.randn(2, 3, 8, 8, generator=generator)
    assert pooled(images.contiguous(memory_format=torch.channels_last), 2) is None
    assert pooled(images.long(), 2) is None
    assert pooled(images[0], 2) is None
    assert pooled(images.clone().requires_grad_(), 2) is None


class Functional(nn.Module):
    def forward(self, images):
        pooled = functional.max_pool2d(images, 2)
        return torch.max_pool2d(pooled, [2, 2]).flatten(1)


@pytest.mark.parametrize(
    "model",
    [Functional(), nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.Flatten())],
    ids=["functions", "modules"],
)
def test_models_and_their_graphs_answer_the_same_and_search_no_places(model, generator):
    model = model.eval()
    images = torch.randn(4, 3, 12, 12, generator=generator)
    expected = model(images)
    network = Network.read(model, images)
    for callee in (model, network):
        with torch.profiler.profile() as seen, forward_only():
            assert torch.equal(callee(images), expected)
            assert not torch.is_grad_enabled()
        assert "aten::max_pool2d_with_indices" not in {event.key for event in seen.events()}
    assert torch.is_grad_enabled()


def test_gradients_inside_are_still_those_of_torch(generator):
    images = torch.randn(2, 3, 8, 8, generator=generator)
    images[:, :, :2, :2] = 1.0  # a tie, of which the first takes the gradient

    def gradient():
        leaf = images.clone().requires_grad_()
        (found,) = torch.autograd.grad(functional.max_pool2d(leaf, 2).sum(), leaf)
        return found

    expected = gradient()
    with QuickPools():
        assert torch.equal(gradient(), expected)


def test_a_model_that_fails_leaves_nothing_behind(generator):
    images = torch.randn(2, 3, 8, 8, generator=generator)
    with pytest.raises(RuntimeError), forward_only():
        functional.max_pool2d(images, 9)
    with torch.profiler.profile() as seen:
        functional.max_pool2d(images, 2)
    assert "aten::max_pool2d_with_indices" in {event.key for event in seen.events()}


def test_a_batch_is_as_wide_as_the_largest_feature_map_allows(generator):
    images = torch.randn(4, 1, 64, 64, generator=generator)
    width = Width(images, most=10**6)
    assert width.rows == ROOM // (GUESS * 64 * 64 * 4)
    model = nn.Sequential(nn.Conv2d(1, 10, 1), nn.Flatten(), nn.Linear(64 * 64 * 10, 3))
    found = width(lambda some: model(some)[:, 0], images)
    assert torch.equal(found, model(images)[:, 0].detach())
    assert not found.requires_grad
    assert width.rows == ROOM // (10 * 64 * 64 * 4)
    assert Width(images, most=3).rows == 3
    narrow = Width(torch.randn(1, 3, 600, 600, generator=generator), most=64)
    assert narrow.rows == 1


def test_what_holds_weights_alone_makes_no_batch_narrower(generator):
    images = torch.randn(3, 1, 2, 2, generator=generator)
    weight = torch.randn(2_000_000, 4, generator=generator)  # 32 MB, more than there is room for
    width = Width(images, most=1000)
    width(lambda some: some.flatten(1) @ weight.exp().sum(dim=0), images)
    assert width.rows == 1000
