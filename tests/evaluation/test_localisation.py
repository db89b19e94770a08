import pytest
import torch

from whence.errors import DataError, NumericsError, ShapeError
from whence.evaluation import PointingGame, RelevanceMass, RelevanceRank, mask_share

METRICS = [RelevanceMass(), RelevanceRank(), PointingGame()]


def picture(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


MASK = picture([[1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()


def test_relevance_mass_is_the_positive_share_inside():
    values = picture([[3, 1, 2], [-9, 2, 0], [0, 0, 0]])
    assert RelevanceMass()(values, MASK).item() == pytest.approx(4 / 8)


def test_relevance_mass_sums_the_channels_before_it_takes_the_positive_part():
    values = torch.cat([picture([[3, -1, 0]] * 3), picture([[-1, 4, 1]] * 3)], dim=1)
    assert RelevanceMass()(values, MASK).item() == pytest.approx(5 / 18)


def test_relevance_mass_of_a_map_without_positive_values_is_undefined():
    assert RelevanceMass()(-MASK.double(), MASK).isnan().all()


def test_relevance_rank_counts_the_highest_pixels_inside():
    values = picture([[5, 1, 4], [3, 0, 0], [0, 0, 0]])
    assert RelevanceRank()(values, MASK).item() == pytest.approx(1 / 2)


def test_relevance_rank_shares_the_last_places_among_tied_pixels():
    values = picture([[5, 1, 1], [1, 1, 0], [0, 0, 0]])  # one place left, four tie, one inside
    assert RelevanceRank()(values, MASK).item() == pytest.approx((1 + 1 / 4) / 2)


def test_the_pointing_game_is_hit_inside_and_missed_outside():
    hit = picture([[0, 9, 0], [0, 8, 0], [0, 0, 0]])
    miss = picture([[0, 0, 0], [0, 8, 0], [0, 0, 0]])
    assert PointingGame()(torch.cat([hit, miss]), MASK.repeat(2, 1, 1, 1)).tolist() == [1, 0]


def test_the_pointing_game_s_tolerance_widens_the_mask():
    near = picture([[0, 0, 0], [0, 0, 8], [0, 0, 0]])
    far = picture([[0, 0, 0], [0, 0, 0], [0, 0, 8]])
    values, masks = torch.cat([near, far]), MASK.repeat(2, 1, 1, 1)
    assert PointingGame(tolerance=1)(values, masks).tolist() == [1, 0]


@pytest.mark.parametrize("metric", METRICS)
def test_a_constant_map_gets_the_chance_level_of_the_card(metric, generator):
    masks = torch.rand(6, 1, 7, 5, generator=generator) < 0.3
    found = metric(torch.ones(6, 1, 7, 5), masks)
    torch.testing.assert_close(found, mask_share(masks))


@pytest.mark.parametrize("metric", METRICS)
def test_random_maps_get_the_chance_level_of_the_card(metric, generator):
    mask = torch.zeros(2000, 1, 5, 4)
    mask[:, :, 1:3, 1:] = 1
    values = torch.rand(2000, 1, 5, 4, generator=generator)
    assert metric(values, mask).mean().item() == pytest.approx(6 / 20, abs=0.04)


@pytest.mark.parametrize("metric", METRICS)
def test_a_map_that_is_the_mask_gets_the_best_value(metric):
    assert metric(MASK.double(), MASK).item() == metric.card.high


@pytest.mark.parametrize("metric", METRICS)
def test_masks_of_another_size_are_refused(metric):
    with pytest.raises(ShapeError, match=r"shape \(2, 1, 3, 3\).*got \(1, 1, 3, 3\)"):
        metric(torch.ones(2, 3, 3, 3), MASK)


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_mask_is_refused_by_its_place(metric):
    masks = torch.stack([MASK[0], MASK[0] & False])
    with pytest.raises(DataError, match="image 1 of the batch is empty"):
        metric(torch.ones(2, 1, 3, 3), masks)


def test_a_soft_mask_is_refused():
    with pytest.raises(DataError, match="Threshold soft masks"):
        RelevanceMass()(torch.ones(1, 1, 3, 3), MASK * 0.5)


def test_attributions_that_are_not_finite_are_refused():
    with pytest.raises(NumericsError, match="1 of 9"):
        RelevanceMass()(picture([[1, torch.nan, 1]] + [[0, 0, 0]] * 2), MASK)
