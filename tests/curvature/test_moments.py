import pytest
import torch

from whence.curvature import moments as module
from whence.curvature.moments import OverlapPlan, input_moment, moment, patch_moment
from whence.gradients import FactoredBlock
from whence.gradients.patches import Patches

CASES = {  # channels, height, width, kernel, stride, padding, dilation, groups
    "same": (8, 6, 5, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "valid": (8, 6, 7, (3, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "strided, uneven, grouped": (16, 7, 9, (5, 3), (2, 2), (2, 1, 1, 2), (1, 1), 2),
    "dilated": (8, 9, 9, (3, 3), (2, 1), (0, 0, 0, 0), (2, 2), 1),
    "all at once": (8, 9, 9, (2, 4), (3, 2), (1, 0, 0, 3), (1, 3), 1),
    "smaller than the kernel": (8, 2, 3, (3, 3), (1, 1), (2, 2, 2, 2), (1, 1), 1),
    "no overlap": (8, 8, 8, (4, 4), (4, 4), (0, 0, 0, 0), (1, 1), 1),
    "one position": (8, 3, 3, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "points": (8, 4, 4, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    "depthwise": (6, 5, 5, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 6),
}


def patches_of(case, images=3):
    channels, high, wide, kernel, stride, padding, dilation, groups = case
    return Patches(
        source=torch.randn(
            images,
            channels,
            high,
            wide,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        ),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@pytest.mark.parametrize("chunk", [1, 2**26])
@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_shifted_images_give_the_second_moment_of_patches(name, ones, chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    patches = patches_of(CASES[name])
    rows = patches.unfolded().permute(1, 2, 0, 3).flatten(2)
    if ones:
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    expected = rows @ rows.transpose(1, 2)
    found = patch_moment(patches, ones=ones)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(moment(patches.unfolded(), ones=ones), expected)


def test_a_large_symmetric_product_is_made_in_tiles(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 3)
    for channels in (3, 4, 5, 8, 13):
        rows = torch.randn(2, channels, 7, generator=torch.Generator().manual_seed(0)).double()
        torch.testing.assert_close(module.symmetric_product(rows), rows @ rows.transpose(1, 2))


def test_products_are_counted_and_the_plan_taken_only_where_it_pays():
    """A kernel of three by three on a large image: 13 of 81, and the border."""
    patches = patches_of((16, 32, 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1), images=1)
    plan = OverlapPlan.of(patches)
    assert 13 / 81 < plan.positions() / (81 * plan.places) < 0.27
    assert plan.worthwhile
    assert not OverlapPlan.of(patches_of(CASES["no overlap"])).worthwhile
    assert not OverlapPlan.of(patches_of(CASES["depthwise"])).worthwhile  # a channel per group


@pytest.mark.parametrize("name", ["same", "no overlap"])
def test_a_block_s_inputs_come_either_way(name):
    patches = patches_of(CASES[name])
    output = torch.zeros(3, 1, 2, patches.shape[3], dtype=torch.float64)
    block = FactoredBlock(output=output, input=patches, shape=(2, patches.shape[2]))
    torch.testing.assert_close(input_moment(block, ones=True), moment(block.input, ones=True))
