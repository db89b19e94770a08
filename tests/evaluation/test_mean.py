import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence.core import Statistic
from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation import Mean

numbers = st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=2, max_size=12)


def seen(values, indices, **settings):
    mean = Mean(draws=20, **settings)
    mean.update(torch.tensor(indices), torch.tensor(values, dtype=torch.float64))
    return mean


@given(numbers, st.data())
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(values, data):
    order = data.draw(st.permutations(range(len(values))))
    cut = data.draw(st.integers(1, len(values) - 1))
    if all(math.isnan(v) for v in values):
        values[0] = 1.0
    whole = seen(values, list(range(len(values))))
    left = seen([values[i] for i in order[:cut]], list(order[:cut]))
    right = seen([values[i] for i in order[cut:]], list(order[cut:]))
    assert whole.result() == left.merge(right).result() == right.merge(left).result()
    assert len(left.values) == cut


def test_undefined_values_are_counted_and_left_out():
    found = seen([1.0, math.nan, 4.0], [5, 6, 7]).result()
    assert (found.mean, found.count, found.undefined) == (2.5, 2, 1)
    assert "1 undefined" in str(found)


def test_the_interval_is_that_of_the_normal_approximation_for_many_images(generator):
    values = torch.randn(2000, generator=generator, dtype=torch.float64)
    mean = Mean(confidence=0.9)
    mean.update(torch.arange(2000), values)
    found = mean.result()
    half = 1.645 * values.std().item() / math.sqrt(2000)
    assert found.mean == pytest.approx(values.mean().item(), rel=1e-12)
    assert found.low == pytest.approx(found.mean - half, abs=0.15 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.15 * half)


def test_it_is_a_statistic():
    assert isinstance(Mean(), Statistic)


def test_an_image_that_comes_twice_is_refused():
    mean = seen([1.0], [3])
    with pytest.raises(DataError, match="Image 3 came twice"):
        mean.update(torch.tensor([3]), torch.tensor([2.0]))
    with pytest.raises(DataError, match="twice"):
        seen([1.0, 2.0], [4, 4])
    with pytest.raises(DataError, match="Image 3 is in both"):
        mean.merge(seen([1.0], [3]))


def test_parts_with_other_settings_are_refused():
    with pytest.raises(SettingError, match="one confidence"):
        seen([1.0], [0]).merge(seen([1.0], [1], seed=1))


def test_no_value_is_no_mean():
    with pytest.raises(DataError, match="0 values"):
        Mean().result()
    with pytest.raises(DataError, match="1 values, all NaN"):
        seen([math.nan], [0]).result()


def test_numbers_and_values_must_fit():
    with pytest.raises(ShapeError, match="got 2 for 3"):
        Mean().update(torch.arange(2), torch.zeros(3))


@pytest.mark.parametrize("settings", [{"confidence": 1}, {"confidence": 0}, {"draws": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(SettingError, match="between 0 and 1"):
        Mean(**settings)
