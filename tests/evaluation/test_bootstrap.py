import pytest
import torch
from scipy import stats

from whence.errors import DataError, SettingError, ShapeError
from whence.evaluation import Bootstrap, Mean
from whence.evaluation.bootstrap import student


@pytest.fixture
def values(generator):
    return torch.randn(40, generator=generator, dtype=torch.float64)


def test_an_estimate_is_the_means_own(values):
    values[3] = torch.nan
    mean = Mean(draws=200, seed=4)
    mean.update(torch.arange(40), values)
    assert Bootstrap(draws=200, seed=4).estimate(values) == mean.result()


def test_resamples_do_not_depend_on_how_many_are_held(values, monkeypatch):
    whole = Bootstrap(draws=50).means(values[:, None])
    monkeypatch.setattr("whence.evaluation.bootstrap.HELD", 120)
    torch.testing.assert_close(Bootstrap(draws=50).means(values[:, None]), whole)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(generator):
    hits = 0
    for _ in range(200):
        drawn = torch.randn(60, generator=generator, dtype=torch.float64) + 2
        found = Bootstrap(confidence=0.9, draws=200).estimate(drawn)
        hits += found.low <= 2 <= found.high
    assert 164 <= hits <= 194  # 180 in expectation, within three deviations and the bias


def test_nothing_defined_is_no_estimate():
    assert Bootstrap().estimate(torch.full((3,), torch.nan)) is None


def test_a_band_is_the_estimate_at_each_point_and_leaves_out_broken_curves(generator):
    curves = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    broken = torch.cat([curves, torch.full((1, 5), torch.nan, dtype=torch.float64)])
    band = Bootstrap(draws=100).band(broken)
    for k in range(5):
        point = Bootstrap(draws=100).estimate(curves[:, k])
        found = (band.mean[k], band.low[k], band.high[k])
        torch.testing.assert_close(torch.stack(found).tolist(), [point.mean, point.low, point.high])
    assert band.count == 12
    with pytest.raises(DataError, match="all with a NaN"):
        Bootstrap().band(torch.full((2, 3), torch.nan))


@pytest.mark.parametrize(
    ("shift", "better", "verdict"),
    [
        (1.0, "higher", "better"),
        (-1.0, "higher", "worse"),
        (1.0, "lower", "worse"),
        (-1.0, "lower", "better"),
        (0.0, "higher", "no claim"),
        (1.0, "neither", "no claim"),
    ],
)
def test_a_claim_needs_an_interval_on_one_side_of_zero(values, shift, better, verdict):
    noise = values - values.mean()
    found = Bootstrap().compare(noise * 0.1 + shift, torch.zeros(40), better)
    assert found.verdict == verdict
    assert (found.reason == "") == (verdict != "no claim")


def test_differences_are_paired_by_image(values):
    """The images differ much more than the methods: only pairs show the difference."""
    found = Bootstrap().compare(100 * values + 0.01, 100 * values, "higher")
    assert found.verdict == "better"
    assert found.difference.low == pytest.approx(0.01)


@pytest.mark.parametrize(("confidence", "least"), [(0.95, 6), (0.5, 2), (0.75, 3), (0.99, 8)])
def test_too_few_images_allow_no_claim_however_clear(confidence, least):
    bootstrap = Bootstrap(confidence=confidence)
    assert bootstrap.least == least
    ones = torch.ones(least)
    assert bootstrap.compare(ones, 0 * ones, "higher").verdict == "better"
    few = bootstrap.compare(ones[1:], 0 * ones[1:], "higher")
    assert few.verdict == "no claim"
    assert f"a claim needs {least}" in few.reason


def test_images_on_which_one_is_undefined_do_not_count(values):
    control = torch.zeros(40, dtype=torch.float64)
    control[:30] = torch.nan
    found = Bootstrap().compare(values, control, "higher")
    assert (found.difference.count, found.difference.undefined) == (10, 30)
    nothing = Bootstrap().compare(values, control * torch.nan, "higher")
    assert (nothing.difference, nothing.verdict) == (None, "no claim")


def test_wrong_settings_and_unpaired_values_are_refused(values):
    with pytest.raises(SettingError, match="confidence between 0 and 1"):
        Bootstrap(confidence=1.0)
    with pytest.raises(ShapeError, match="one value of the control per image"):
        Bootstrap().compare(values, values[:3], "higher")


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_students_quantile_is_that_of_another_library(degrees, confidence):
    expected = stats.t.ppf((1 + confidence) / 2, degrees)
    assert student(confidence, degrees) == pytest.approx(expected, rel=1e-7)


def test_repetitions_widen_the_interval_by_students_t_in_squares(values):
    repeated = values + torch.tensor([0.0, 0.3, -0.6], dtype=torch.float64)[:, None]
    alone, found = Bootstrap().estimate(repeated.mean(dim=0)), Bootstrap().estimate(repeated)
    more = stats.t.ppf(0.975, 2) * repeated.mean(dim=1).std() / 3**0.5
    assert found.mean == pytest.approx(alone.mean)
    assert found.mean - found.low == pytest.approx(
        float(((alone.mean - alone.low) ** 2 + more**2) ** 0.5)
    )
    assert found.high - found.mean == pytest.approx(
        float(((alone.high - alone.mean) ** 2 + more**2) ** 0.5)
    )


def test_one_repetition_or_equal_ones_are_the_images_alone(values):
    alone = Bootstrap().estimate(values)
    assert Bootstrap().estimate(values[None]) == alone
    same = Bootstrap().estimate(values.repeat(3, 1))
    assert (same.low, same.high) == pytest.approx((alone.low, alone.high))


def test_a_difference_that_another_training_may_turn_round_is_no_claim(values):
    control = torch.zeros(3, 40, dtype=torch.float64)
    shifts = torch.tensor([0.2, 1.8, 1.0], dtype=torch.float64)[:, None]
    clear = Bootstrap().compare(values.mul(0.1) + 1 + 0 * shifts, control, "higher")
    varied = Bootstrap().compare(values.mul(0.1) + shifts, control, "higher")
    assert (clear.verdict, varied.verdict) == ("better", "no claim")
    assert varied.difference.mean == pytest.approx(clear.difference.mean)


def test_an_image_that_is_undefined_in_one_repetition_is_left_out(values):
    repeated = values.repeat(2, 1)
    repeated[1, 5] = torch.nan
    found = Bootstrap().estimate(repeated)
    assert (found.count, found.undefined) == (39, 1)


def test_the_interval_of_repetitions_covers_about_as_often_as_it_says(generator):
    hits = 0
    for _ in range(150):
        trainings = torch.randn(3, 1, generator=generator, dtype=torch.float64)
        images = torch.randn(40, generator=generator, dtype=torch.float64)
        noise = torch.randn(3, 40, generator=generator, dtype=torch.float64)
        found = Bootstrap(confidence=0.9, draws=100).estimate(trainings + images + noise)
        hits += found.low <= 0 <= found.high
    assert hits >= 130  # 135 in expectation; a plain bootstrap over images covers about 60
