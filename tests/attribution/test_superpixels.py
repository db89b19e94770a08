"""Superpixels: a grid's cells, clusters that follow the image, and their names."""

import sys

import pytest
import torch

from whence.attribution import SLIC, Grid, KernelSHAP, method_named, superpixels_named
from whence.errors import MissingExtra, SettingError


def test_a_grid_cuts_images_into_even_cells():
    labels = Grid(cells=3)(torch.zeros(2, 1, 7, 9))
    assert labels.shape == (2, 7, 9)
    assert labels[0].unique().tolist() == list(range(9))
    assert torch.bincount(labels[0].flatten()).tolist() == [9, 9, 9, 6, 6, 6, 6, 6, 6]
    assert Grid(cells=50)(torch.zeros(1, 1, 2, 3))[0].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("channels", [1, 3])
def test_slic_follows_the_edges_of_the_image(channels):
    pytest.importorskip("skimage", reason="needs whence[superpixels]")
    images = torch.full((2, channels, 24, 24), -2.0)
    images[0, :, :, :10] = 3.0
    images[1, :, :7] = 3.0
    labels = SLIC(segments=8)(images)
    assert labels.shape == (2, 24, 24)
    for image, own in zip(images, labels, strict=True):
        count = int(own.max()) + 1
        assert own.unique().tolist() == list(range(count))
        assert count > 2
        for s in range(count):
            assert image[:, own == s].unique().numel() == 1, "none crosses the edge"


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtra, match=r"whence\[superpixels\]"):
        SLIC()(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("grid", Grid()),
        ("grid:9", Grid(cells=9)),
        ("slic", SLIC()),
        ("slic:80", SLIC(segments=80)),
    ],
)
def test_superpixels_have_names(name, expected):
    assert superpixels_named(name) == expected
    assert method_named("kernel-shap", {"superpixels": name}) == KernelSHAP(superpixels=expected)


@pytest.mark.parametrize("name", ["hexagons", "grid:many", "slic:-3", "slic:1.5"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(SettingError, match="Choose grid, grid:9, slic"):
        superpixels_named(name)


def test_settings_without_meaning_are_refused():
    with pytest.raises(SettingError, match="cells must be at least 1"):
        Grid(cells=0)
    with pytest.raises(SettingError, match="segments is at least 1"):
        SLIC(segments=0)
    with pytest.raises(SettingError, match="compactness above 0"):
        SLIC(compactness=0.0)
