"""The HOG correlation against scikit-image's histograms, and its closed cases."""

import numpy as np
import pytest
import torch

from whence.errors import SettingError, ShapeError
from whence.evaluation import HOGCorrelation, between_images


@pytest.mark.parametrize(
    "settings",
    [{}, {"cell": 5, "block": 2}, {"orientations": 4, "block": 1}, {"cell": 1, "block": 2}],
    ids=str,
)
def test_it_is_the_correlation_of_scikit_images_histograms(settings, generator):
    feature = pytest.importorskip("skimage.feature", reason="the oracle is scikit-image")
    metric = HOGCorrelation(**settings)
    maps = torch.randn(2, 3, 2, 29, 37, generator=generator, dtype=torch.float64)
    found = metric(maps[0], maps[1])
    for row in range(3):
        theirs = []
        for some in maps[:, row].sum(dim=1).numpy():
            ranged = (some - some.min()) / (some.max() - some.min())
            theirs.append(
                feature.hog(
                    ranged,
                    orientations=metric.orientations,
                    pixels_per_cell=(metric.cell, metric.cell),
                    cells_per_block=(metric.block, metric.block),
                    block_norm="L2-Hys",
                )
            )
        assert found[row].item() == pytest.approx(np.corrcoef(*theirs)[0, 1], abs=1e-6)


def test_a_map_is_like_itself_and_its_opposite_whatever_their_scale(generator):
    values = torch.randn(3, 1, 24, 32, generator=generator, dtype=torch.float64)
    metric = HOGCorrelation()
    ones = torch.ones(3, dtype=torch.float64)
    for other in (values, 1e-12 * values + 5, -values):  # an edge has no sign
        torch.testing.assert_close(metric(values, other), ones, rtol=0, atol=1e-3)
    assert (HOGCorrelation(absolute=True)(values, values) > 0.999).all()
    assert (HOGCorrelation(absolute=True)(values, values + 3) < 0.9).all()


def test_stripes_that_cross_are_unlike_and_stripes_that_are_shifted_alike():
    wave = torch.sin(torch.arange(48, dtype=torch.float64) * 2 * torch.pi / 8)
    across = wave.expand(1, 1, 48, 48)
    metric = HOGCorrelation()
    assert metric(across, across.transpose(2, 3)).item() < 0
    assert metric(across, across.roll(1, 3)).item() > 0.95


def test_maps_of_different_images_are_its_floor_and_a_constant_map_has_no_value(generator):
    values = torch.randn(4, 1, 40, 40, generator=generator)
    assert between_images(HOGCorrelation(), values, values).mean().item() < 0.7
    values[1] = 2.0
    found = HOGCorrelation()(values, values)
    assert found.isnan().tolist() == [False, True, False, False]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match=r"needs maps of 24 x 24; got 23 x 40\. Give HOGCorr"):
        HOGCorrelation()(torch.rand(1, 1, 23, 40), torch.rand(1, 1, 23, 40))
    with pytest.raises(ShapeError, match="Two maps of each image are needed"):
        HOGCorrelation()(torch.rand(1, 1, 24, 24), torch.rand(1, 1, 24, 25))
    for settings in ({"cell": 0}, {"block": 0}, {"orientations": 1}):
        with pytest.raises(SettingError, match="orientations 2 or more; got"):
            HOGCorrelation(**settings)
