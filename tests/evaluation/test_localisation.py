import pytest
import torch
from sklearn.metrics import roc_auc_score

from whence.errors import DataError, NumericsError, SettingError, ShapeError
from whence.evaluation import (
    AreaIoU,
    EnergyPointing,
    MapAUC,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    ThresholdIoU,
    box_masks,
    mask_share,
)

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


def test_property_49_a_uniform_map_has_the_objects_area_as_its_mass_and_energy(generator):
    masks = torch.rand(6, 1, 7, 5, generator=generator) < 0.3
    areas = masks.double().mean(dim=(1, 2, 3))
    for level in (1.0, 1e-20, 3e6):
        uniform = torch.full((6, 1, 7, 5), level, dtype=torch.float64)
        torch.testing.assert_close(RelevanceMass()(uniform, masks), areas)
        corrected = EnergyPointing()(uniform, masks)  # the energy over the share of the mask
        torch.testing.assert_close(corrected * areas, areas)


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
    with pytest.raises(DataError, match="The mask of image 1 of the batch is empty"):
        metric(torch.ones(2, 1, 3, 3), masks)
    every = torch.stack([MASK[0] & False] * 12)
    with pytest.raises(DataError, match=r"masks of images 0, 1, .*, 9 and 2 more .* are empty"):
        metric(torch.ones(12, 1, 3, 3), every)


def test_a_soft_mask_is_refused():
    with pytest.raises(DataError, match="Threshold soft masks"):
        RelevanceMass()(torch.ones(1, 1, 3, 3), MASK * 0.5)


def test_attributions_that_are_not_finite_are_refused():
    with pytest.raises(NumericsError, match="1 of 9"):
        RelevanceMass()(picture([[1, torch.nan, 1]] + [[0, 0, 0]] * 2), MASK)


def test_energy_pointing_is_the_mass_over_the_share_of_the_mask():
    values = picture([[3, 1, 2], [-9, 2, 0], [0, 0, 0]])
    assert EnergyPointing()(values, MASK).item() == pytest.approx((4 / 8) / (2 / 9))
    assert EnergyPointing()(-MASK.double(), MASK).isnan().all()


def test_energy_pointing_of_random_maps_is_one_for_masks_of_any_size(generator):
    values = torch.rand(1000, 1, 6, 6, generator=generator)
    for side in (1, 3, 6):
        masks = torch.zeros(1000, 1, 6, 6)
        masks[:, :, :side, :side] = 1
        assert EnergyPointing()(values, masks).mean().item() == pytest.approx(1, abs=0.05)


def test_the_iou_is_that_of_as_many_pixels_as_the_mask_has():
    values = picture([[5, 1, 4], [3, 0, 0], [0, 0, 0]])  # the two highest: one in, one out
    assert AreaIoU()(values, MASK).item() == pytest.approx(1 / 3)
    assert AreaIoU()(MASK.double(), MASK).item() == 1


def test_the_iou_of_a_constant_map_is_the_cards_chance_level():
    share = 2 / 9
    assert AreaIoU()(torch.ones(1, 1, 3, 3), MASK).item() == pytest.approx(share / (2 - share))


def test_the_threshold_is_a_share_of_the_maximum():
    values = picture([[8, 3, 5], [4, 0, 0], [-9, 0, 0]])
    assert ThresholdIoU()(values, MASK).item() == pytest.approx(1 / 4)  # 8, 5 and 4, one inside
    assert ThresholdIoU(threshold=0.3)(values, MASK).item() == pytest.approx(2 / 4)
    assert ThresholdIoU(threshold=1.0)(values, MASK).item() == pytest.approx(1 / 2)
    assert ThresholdIoU()(-values.abs(), MASK).isnan().all()


def test_the_threshold_is_each_images_own():
    values = picture([[8, 3, 5], [4, 0, 0], [-9, 0, 0]])
    both = torch.cat([1e3 * values, values, 1e-3 * values])
    found = ThresholdIoU()(both, MASK.repeat(3, 1, 1, 1))
    torch.testing.assert_close(found, torch.full((3,), 0.25, dtype=torch.float64))


@pytest.mark.parametrize("threshold", [0, 1.5, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(SettingError, match="over 0 and at most 1"):
        ThresholdIoU(threshold=threshold)


@pytest.mark.parametrize("levels", [2, 4, 10_000])
def test_the_area_under_roc_is_scikit_learns_with_and_without_ties(generator, levels):
    values = torch.randint(-levels, levels, (6, 2, 5, 4), generator=generator).double()
    masks = torch.rand(6, 1, 5, 4, generator=generator) < 0.4
    found = MapAUC()(values, masks)
    for row in range(6):
        flat = values[row].sum(dim=0).flatten()
        expected = roc_auc_score(masks[row].flatten().numpy(), flat.numpy())
        assert found[row].item() == pytest.approx(expected, abs=1e-12)


def test_the_area_under_roc_of_a_mask_that_is_the_image_is_undefined():
    assert MapAUC()(torch.rand(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).isnan().all()


def test_boxes_become_masks_of_the_pixels_whose_middle_is_inside():
    boxes = torch.tensor([[1, 0, 3, 2], [0, 1, 1, 2]])
    expected = torch.tensor(
        [[[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]]
    ).bool()
    assert torch.equal(box_masks(boxes, (3, 4)), expected[:, None])
    assert torch.equal(box_masks(boxes + 0.4, (3, 4)), expected[:, None])
    assert not torch.equal(box_masks(boxes + 0.6, (3, 4)), expected[:, None])


def test_several_boxes_of_an_image_are_united_and_padding_is_left_out():
    boxes = torch.tensor([[[0, 0, 1, 1], [2, 2, 3, 3]], [[0, 0, 3, 1], [-1, -1, -1, -1]]])
    expected = torch.tensor(
        [[[1, 0, 0], [0, 0, 0], [0, 0, 1]], [[1, 1, 1], [0, 0, 0], [0, 0, 0]]]
    ).bool()
    assert torch.equal(box_masks(boxes, (3, 3)), expected[:, None])


def test_boxes_that_hold_no_pixel_are_refused_by_their_image():
    with pytest.raises(DataError, match=r"No pixel of image 1 of \(3, 3\)"):
        box_masks(torch.tensor([[0, 0, 1, 1], [5, 5, 9, 9]]), (3, 3))
    with pytest.raises(ShapeError, match="left, top, right, bottom"):
        box_masks(torch.zeros(2, 3), (3, 3))


@pytest.mark.parametrize("metric", [EnergyPointing(), AreaIoU(), ThresholdIoU(), MapAUC()])
def test_the_newer_metrics_refuse_what_the_others_refuse(metric):
    with pytest.raises(ShapeError, match="Masks must have shape"):
        metric(torch.ones(1, 1, 4, 4), MASK)
    with pytest.raises(DataError, match="image 0 of the batch is empty"):
        metric(torch.ones(1, 1, 3, 3), MASK & False)
    with pytest.raises(NumericsError, match="in image 0 of the batch"):
        metric(torch.full((1, 1, 3, 3), torch.inf), MASK)
