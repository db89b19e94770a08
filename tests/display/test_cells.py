"""Large maps summed over cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whence.display import cell_size, pool_map, stretch_map


def noise(height, width):
    return np.random.default_rng(height * 1000 + width).standard_normal((height, width))


@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (3, 64)])
def test_a_small_map_is_drawn_pixel_by_pixel(shape):
    values = noise(*shape)
    assert pool_map(values) is values
    assert cell_size(values) == (1, 1)


def test_a_photograph_is_summed_over_whole_blocks():
    values = noise(224, 224).astype(np.float32)
    blocks = values.astype(np.float64).reshape(32, 7, 32, 7).sum(axis=(1, 3))
    np.testing.assert_allclose(pool_map(values), blocks, atol=1e-9)
    assert cell_size(values) == (7, 7)


def naive(row, cells):
    """The same along one axis, pixel by pixel: each is shared out among the cells it touches."""
    found, side = np.zeros(cells), len(row) / cells
    for pixel, value in enumerate(row):
        for cell in range(cells):
            shared = min(pixel + 1, (cell + 1) * side) - max(pixel, cell * side)
            found[cell] += value * max(shared, 0.0)
    return found


def test_cells_that_cut_through_pixels_share_them_out():
    values = noise(100, 70)
    rows, columns = pool_map(values).shape
    along = np.stack([naive(column, rows) for column in values.T], axis=1)
    expected = np.stack([naive(row, columns) for row in along])
    np.testing.assert_allclose(pool_map(values), expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(65, 300))
def test_cells_keep_the_total_and_are_few_and_nearly_square(height, width):
    values = noise(height, width)
    cells = pool_map(values)
    assert cells.sum() == pytest.approx(values.sum(), abs=1e-8)
    assert max(cells.shape) <= 33
    tall, wide = cell_size(values)
    if min(cells.shape) > 4:
        assert 0.8 < tall / wide < 1.25


def test_pooling_changes_no_value_that_it_is_given():
    values = noise(80, 80)
    before = values.copy()
    pool_map(values)
    assert (values == before).all()


def test_opposite_neighbours_cancel_and_equal_ones_add_up():
    checks = np.indices((224, 224)).sum(axis=0) % 2 * 2.0 - 1
    assert np.abs(pool_map(checks)).max() <= 1 + 1e-9
    np.testing.assert_allclose(pool_map(np.ones((224, 224))), 49.0)


def test_stretching_stays_between_its_neighbours_and_keeps_their_order():
    cells = np.array([[0.0, 1.0], [2.0, 5.0]])
    found = stretch_map(cells, 10, 20)
    assert found.shape == (10, 20)
    assert found.min() == 0.0
    assert found.max() == 5.0
    assert (np.diff(found, axis=0) >= 0).all()
    assert (np.diff(found, axis=1) >= 0).all()
