"""Features and their controls: masks from maps, equal areas, fills, and what is left untouched."""

import pytest
import torch
from torch import nn

from whence.core import Blur, Mean, Normalisation, Zero
from whence.errors import SettingError, ShapeError
from whence.evaluation.transfer import Judgement
from whence.evaluation.transfer_masks import (
    ALONE,
    COMPLEMENT,
    FEATURES,
    SHUFFLED,
    SMOOTH,
    Bank,
    Showing,
    features,
    hard_masks,
    random_smooth_masks,
    resampled_masks,
    soft_masks,
    strangers,
    zoom_between,
)


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_a_map_becomes_its_positive_part_over_its_own_maximum():
    values = torch.tensor([[[[-2.0, 0.0], [1.0, 4.0]]], [[[0.5, 0.25], [0.0, -9.0]]]])
    masks, blank = soft_masks(values)
    assert torch.equal(
        masks, torch.tensor([[[[0.0, 0.0], [0.25, 1.0]]], [[[1.0, 0.5], [0.0, 0.0]]]])
    )
    assert blank.tolist() == [False, False]


def test_channels_are_added_up_before_the_positive_part():
    values = torch.tensor([[[[3.0, -1.0]], [[-1.0, 2.0]]]])
    assert torch.equal(soft_masks(values)[0], torch.tensor([[[[1.0, 0.5]]]]))


def test_maps_without_a_positive_or_with_an_infinite_value_show_nothing_and_are_told():
    values = torch.stack(
        [
            torch.zeros(1, 2, 2),
            -torch.ones(1, 2, 2),
            torch.full((1, 2, 2), torch.nan),
            torch.tensor([[[1.0, torch.inf], [0.0, 0.0]]]),
            torch.ones(1, 2, 2),
        ]
    )
    masks, blank = soft_masks(values)
    assert blank.tolist() == [True, True, True, True, False]
    assert torch.equal(masks[:4], torch.zeros(4, 1, 2, 2))
    assert torch.equal(masks[4], torch.ones(1, 2, 2))


def test_a_mask_is_kept_as_it_is_and_must_be_one():
    mask = drawn(2, 1, 3, 3) * 0.4
    assert torch.equal(soft_masks(mask, "mask")[0], mask)
    with pytest.raises(SettingError, match=r"from 0 to 1; got .* to 1\.2.*scale='maximum'"):
        soft_masks(mask * 0 + 1.2, "mask")


@pytest.mark.parametrize("coverage", [0.1, 0.25, 0.5, 0.001])
def test_a_hard_mask_shows_the_highest_values_and_exactly_so_many(coverage):
    maps = drawn(3, 1, 10, 10)
    hard = hard_masks(maps, coverage)
    count = max(1, round(100 * coverage))
    for mask, values in zip(hard.flatten(1), maps.flatten(1), strict=True):
        assert int(mask.sum()) == count
        assert values[mask == 1].min() >= values[mask == 0].max()


def test_ties_are_broken_by_chance_and_not_towards_a_corner():
    hard = hard_masks(torch.full((1, 1, 40, 40), 0.5), 0.25, seed=0)[0, 0]
    assert int(hard.sum()) == 400
    for part in (hard[:20, :20], hard[:20, 20:], hard[20:, :20], hard[20:, 20:]):
        assert 70 < int(part.sum()) < 130
    assert not torch.equal(hard, hard_masks(torch.full((1, 1, 40, 40), 0.5), 0.25, seed=1)[0, 0])


def test_a_random_smooth_mask_has_exactly_the_values_of_the_mask_in_other_places():
    masks = drawn(4, 1, 12, 12)
    smooth = random_smooth_masks(masks, torch.arange(4))
    assert torch.equal(smooth.flatten(1).sort().values, masks.flatten(1).sort().values)
    steps = (smooth.diff(dim=3).abs().mean(), masks.diff(dim=3).abs().mean())
    assert steps[0] < 0.5 * steps[1]


def test_a_random_smooth_mask_depends_on_the_image_and_not_on_the_batch():
    masks = drawn(4, 1, 12, 12)
    whole = random_smooth_masks(masks, torch.arange(4), seed=3)
    alone = random_smooth_masks(masks[2:3], torch.tensor([2]), seed=3)
    assert torch.equal(whole[2:3], alone)
    same = random_smooth_masks(masks[:1].expand(2, -1, -1, -1), torch.tensor([0, 1]), seed=3)
    assert not torch.equal(same[0], same[1])


def test_every_image_gets_the_mask_of_another_one_and_each_is_used_once():
    for count in (2, 3, 50):
        others = strangers(count, seed=1)
        assert sorted(others.tolist()) == list(range(count))
        assert (others != torch.arange(count)).all()
    with pytest.raises(SettingError, match="two images or more; got 1"):
        strangers(1)


def test_a_mask_of_another_size_keeps_constants_and_its_range():
    masks = torch.full((1, 1, 8, 8), 0.3)
    for size in ((16, 16), (4, 4), (5, 7)):
        found = resampled_masks(masks, size)
        assert tuple(found.shape[2:]) == size
        torch.testing.assert_close(found, torch.full((1, 1, *size), 0.3))
    assert resampled_masks(masks, (8, 8)) is masks


def test_halving_a_mask_of_blocks_gives_the_blocks_back_away_from_their_edges():
    blocks = (drawn(1, 1, 3, 3) > 0.5).float()
    large = blocks.repeat_interleave(8, 2).repeat_interleave(8, 3)
    small = resampled_masks(large, (12, 12))
    assert torch.equal(small[:, :, 1::4, 1::4], blocks)


def test_a_network_that_sees_the_centre_gets_the_centre_of_the_mask():
    masks = torch.zeros(1, 1, 16, 16)
    masks[:, :, 4:12, 4:12] = drawn(1, 1, 8, 8)
    zoom = zoom_between(1.0, 0.5)
    torch.testing.assert_close(resampled_masks(masks, (8, 8), zoom), masks[:, :, 4:12, 4:12])


def test_where_a_network_sees_more_than_the_mask_knows_nothing_is_shown():
    found = resampled_masks(torch.ones(1, 1, 8, 8), (16, 16), zoom_between(0.5, 1.0))
    assert torch.equal(found[0, 0, 5:11, 5:11], torch.ones(6, 6))
    assert float(found[0, 0, :3].sum() + found[0, 0, -3:].sum()) == 0


def test_features_are_the_image_where_the_mask_is_one_and_the_fill_where_it_is_zero():
    pixels, fill = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    assert torch.equal(features(pixels, torch.ones(2, 1, 4, 4), fill), pixels)
    assert torch.equal(features(pixels, torch.zeros(2, 1, 4, 4), fill), fill)


def test_black_is_black_whatever_the_units_of_the_network():
    shown = []

    def network(images):
        shown.append(images)
        return images.flatten(1)

    pixels = drawn(1, 1, 2, 2)
    units = Normalisation(mean=(0.4,), std=(0.2,))
    black = features(pixels, torch.zeros(1, 1, 2, 2), Zero()(pixels))
    Judgement.of(network, units, black, torch.tensor([0]))
    torch.testing.assert_close(shown[0], torch.full((1, 1, 2, 2), -2.0))


def test_a_bank_fills_by_the_number_of_the_image():
    bank = Bank(images=drawn(3, 1, 2, 2))
    rows = bank.rows(torch.zeros(2, 1, 2, 2), torch.tensor([4, 2]))
    assert torch.equal(rows, bank.images[[1, 2]])
    with pytest.raises(ShapeError, match=r"shape \(1, 5, 5\); got \(1, 2, 2\)"):
        bank.rows(torch.zeros(2, 1, 5, 5), torch.tensor([0, 1]))


def some_masks():
    return drawn(4, 1, 6, 6), drawn(4, 1, 6, 6, seed=1), drawn(4, 1, 6, 6, seed=2)


def listed(showing, pixels, own, other):
    for shown, mask, fill, images in showing(pixels, torch.arange(len(pixels)), own, other):
        yield (shown, mask, fill), images


def test_everything_is_shown_on_the_first_fill_and_the_shuffled_masks_on_every_fill():
    showing = Showing(coverages=(0.25,), fills={"zero": Zero(), "mean": Mean()})
    pixels, own, other = some_masks()
    found = dict(listed(showing, pixels, own, other))
    assert set(found) == {
        (shown, mask, fill)
        for mask in ("soft", "25 %")
        for shown, fill in [
            (FEATURES, "zero"),
            (SHUFFLED, "zero"),
            (SMOOTH, "zero"),
            (COMPLEMENT, "zero"),
            (ALONE, ""),
            (FEATURES, "mean"),
            (SHUFFLED, "mean"),
        ]
    }
    mean = pixels.mean(dim=(2, 3), keepdim=True)
    hard = hard_masks(own, 0.25)
    expected = {
        (FEATURES, "soft", "zero"): own * pixels,
        (SHUFFLED, "soft", "mean"): other * pixels + (1 - other) * mean,
        (COMPLEMENT, "25 %", "zero"): torch.where(hard == 1, 0.0, pixels),
        (ALONE, "25 %", ""): hard,
    }
    for key, images in expected.items():
        torch.testing.assert_close(found[key], images)


def test_hard_controls_show_as_many_pixels_as_the_features():
    showing = Showing(coverages=(0.25,), fills={"zero": Zero()}, soft=False)
    ones = torch.ones(4, 1, 6, 6)
    own, other = drawn(4, 1, 6, 6, seed=1), drawn(4, 1, 6, 6, seed=2)
    found = {key[0]: images for key, images in listed(showing, ones, own, other)}
    for shown in (FEATURES, SHUFFLED, SMOOTH, ALONE):
        assert found[shown].flatten(1).sum(dim=1).tolist() == [9.0] * 4
    assert found[COMPLEMENT].flatten(1).sum(dim=1).tolist() == [27.0] * 4


def test_what_is_shown_does_not_depend_on_how_the_images_are_cut_into_batches():
    showing = Showing(coverages=(0.25,), fills={"bank": Bank(images=drawn(3, 1, 6, 6, seed=5))})
    pixels, own, other = some_masks()
    whole = dict(listed(showing, pixels, own, other))
    for row in range(4):
        some = slice(row, row + 1)
        part = showing(pixels[some], torch.tensor([row]), own[some], other[some])
        for shown, mask, fill, images in part:
            assert torch.equal(images, whole[shown, mask, fill][some])


@pytest.mark.parametrize("coverages", [(0.0,), (1.0,), (25.0,), (0.1, 0.1)])
def test_coverages_that_are_no_different_shares_are_refused(coverages):
    with pytest.raises(SettingError, match=r"different shares of the pixels above 0 and below 1"):
        Showing(coverages=coverages, fills={"zero": Zero()})


def test_nothing_to_show_is_refused():
    for settings in ({"fills": {}}, {"fills": {"zero": Blur()}, "soft": False, "coverages": ()}):
        with pytest.raises(SettingError, match="Nothing is shown"):
            Showing(**settings)


class Upper(nn.Module):
    """Two classes: is the mean of the upper half above a half? The lower half is not looked at."""

    def forward(self, x):
        mean = x[:, :, : x.shape[2] // 2].mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], dim=1)


def test_a_mask_of_the_region_that_counts_keeps_every_prediction_and_its_complement_none():
    pixels = drawn(40, 1, 8, 8)
    region = torch.zeros(40, 1, 8, 8)
    region[:, :, :4] = 1
    plain = Judgement.of(Upper().eval(), Normalisation(), pixels, torch.zeros(40, dtype=torch.long))
    labels = plain.predictions
    kept, hidden = (
        Judgement.of(
            Upper().eval(),
            Normalisation(),
            features(pixels, mask, Zero()(pixels)),
            labels,
            plain.predictions,
        )
        for mask in (region, 1 - region)
    )
    assert kept.correct.all()
    assert kept.agrees.all()
    assert set(hidden.predictions.tolist()) == {0}
    assert hidden.correct.double().mean() == (labels == 0).double().mean()
