"""Maps as colours over pictures."""

import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from whence.display import (
    diverging,
    heat_png,
    heat_rgba,
    overlay,
    scale_png,
    symmetric_limit,
)
from whence.errors import NumericsError, SettingError

maps = npst.arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-9, 9, width=32)
)


def test_the_limit_is_shared_by_all_maps_and_ignores_signs():
    one, other = np.array([[1.0, -5.0]]), np.array([[2.0, 0.5], [0.1, 0.2]])
    assert symmetric_limit([one, other], 100) == 5.0
    every = np.abs([1.0, -5.0, 2.0, 0.5, 0.1, 0.2])
    assert symmetric_limit([one, other], 60) == np.percentile(every, 60)


def test_a_single_extreme_pixel_does_not_set_the_limit():
    values = np.ones((40, 40))
    values[0, 0] = 1e9
    assert symmetric_limit([values], 99) == 1.0


def test_few_pixels_among_zeros_still_have_a_limit():
    values = np.zeros((100, 100))
    values[3, 3] = -2.0
    assert symmetric_limit([values]) == 2.0


def test_nothing_at_all_has_the_limit_zero():
    assert symmetric_limit([]) == 0.0
    assert symmetric_limit([np.zeros((3, 3))]) == 0.0


@pytest.mark.parametrize("percentile", [0, -1, 100.5])
def test_a_percentile_outside_its_range_is_refused(percentile):
    with pytest.raises(SettingError, match="percentile"):
        symmetric_limit([np.ones((2, 2))], percentile)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_map_that_is_not_finite_is_refused(value):
    with pytest.raises(NumericsError, match="NaN or infinity"):
        symmetric_limit([np.array([[1.0, value]])])


@given(values=maps)
def test_opacity_grows_with_the_absolute_value_and_zero_is_clear(values):
    heat = heat_rgba(values, 9.0)
    order = np.argsort(np.abs(values).ravel())
    opacity = heat[..., 3].ravel()[order].astype(int)
    assert (np.diff(opacity) >= 0).all()
    assert (heat[..., 3][values == 0] == 0).all()


@given(values=maps)
def test_the_opposite_map_is_as_opaque(values):
    assert (heat_rgba(values, 4.0)[..., 3] == heat_rgba(-values, 4.0)[..., 3]).all()


def test_the_colours_are_those_of_the_diverging_scale():
    values = np.array([[-2.0, -1.0, 1.0, 2.0]])
    found = heat_rgba(values, 2.0)[..., :3].astype(int)
    exact = diverging(values / 2.0).astype(int)
    assert np.abs(found - exact).max() <= 2  # a byte per pixel holds 127 shades a side


def test_a_limit_of_zero_shows_nothing():
    assert (heat_rgba(np.zeros((2, 2)), 0.0)[..., 3] == 0).all()


@given(values=maps, limit=st.floats(0, 10))
@example(values=np.ones((1, 1), dtype=np.float32), limit=5e-324)
def test_the_png_holds_exactly_the_same_colours(values, limit):
    image = Image.open(io.BytesIO(heat_png(values, limit)))
    assert (np.asarray(image.convert("RGBA")) == heat_rgba(values, limit)).all()


def test_the_scale_runs_from_blue_through_nothing_to_orange():
    row = np.asarray(Image.open(io.BytesIO(scale_png())).convert("RGBA"))[0].astype(int)
    assert row[0, 2] > row[0, 0]
    assert row[-1, 0] > row[-1, 2]
    assert row[len(row) // 2, 3] == 0
    assert (row[:, 3] == row[::-1, 3]).all()


def test_an_overlay_is_the_picture_where_the_map_is_zero():
    picture = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert (overlay(picture, np.zeros((2, 3)), 1.0) == picture).all()
    assert (overlay(picture, np.ones((2, 3)), 1.0, opacity=0.0) == picture).all()


def test_an_overlay_mixes_as_a_browser_does():
    picture = np.full((1, 1, 3), 200, np.uint8)
    heat = heat_rgba(np.ones((1, 1)), 2.0)[0, 0].astype(float)
    share = 0.5 * heat[3] / 255
    expected = np.round(share * heat[:3] + (1 - share) * 200)
    assert (overlay(picture, np.ones((1, 1)), 2.0, opacity=0.5)[0, 0] == expected).all()


def test_a_coarse_map_covers_the_whole_picture():
    picture = np.zeros((4, 4, 3), np.uint8)
    mixed = overlay(picture, np.array([[1.0, 0.0]]), 1.0)
    assert (mixed[:, :2] > 0).any(axis=-1).all()
    assert (mixed[:, 2:] == 0).all()


@pytest.mark.parametrize("opacity", [-0.1, 1.1])
def test_an_opacity_outside_its_range_is_refused(opacity):
    with pytest.raises(SettingError, match="opacity"):
        overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1)), 1.0, opacity=opacity)
