"""Metrics of training-feature maps, on functions whose answers are known."""

import math
from dataclasses import dataclass

import pytest
import torch

from whence.core import Mean, Zero
from whence.errors import SettingError, ShapeError
from whence.evaluation import RelevanceMass, Spearman, mask_share, random_order
from whence.evaluation.training_maps import (
    Concentration,
    KeptPixels,
    MapStability,
    QueryShift,
    RegionFidelity,
    precision_at,
)


@dataclass(frozen=True, eq=False)
class Weighted:
    """An inner product with one slope for each image of the batch."""

    slopes: torch.Tensor

    def __call__(self, images):
        return (images * self.slopes).sum(dim=(1, 2, 3))

    def at(self, rows):
        return Weighted(self.slopes[rows])


@pytest.fixture
def random():
    def make(*shape, seed=0):
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).double()

    return make


def mask(*places, size=4):
    found = torch.zeros(1, 1, size, size, dtype=torch.bool)
    for row, column in places:
        found[0, 0, row, column] = True
    return found


# -------------------------------------------------------------------- regions and queries


def test_concentration_is_the_share_of_positive_mass_over_the_share_of_the_area():
    values = torch.zeros(1, 2, 4, 4)
    values[0, 0, 1, 1], values[0, 1, 1, 1], values[0, 0, 2, 2] = 4.0, -1.0, 1.0
    values[0, 0, 0, 0] = -9.0
    found = Concentration()(values, mask((1, 1), (0, 0)))
    assert float(found[0]) == pytest.approx((3 / 4) / (2 / 16))


def test_a_constant_map_is_as_concentrated_as_chance(random):
    masks = random(3, 1, 4, 4) > 0.5
    assert torch.allclose(Concentration()(torch.ones(3, 1, 4, 4), masks), torch.ones(3))


def test_concentration_is_relevance_mass_over_area(random):
    values, masks = random(3, 1, 4, 4), random(3, 1, 4, 4, seed=1) > 0.5
    expected = RelevanceMass()(values, masks) / mask_share(masks)
    assert torch.equal(Concentration()(values, masks), expected)


def test_a_map_that_ignores_the_query_does_not_shift(random):
    values = random(2, 1, 4, 4)
    found = QueryShift()(values, values, mask((0, 0)).expand(2, -1, -1, -1))
    assert found.tolist() == [0.0, 0.0]


def test_the_shift_is_the_rise_of_concentration():
    values, others = torch.ones(2, 1, 1, 2, 2)
    values[0, 0, 0, 0], others[0, 0, 0, 0] = 5.0, 0.0
    found = QueryShift()(values, others, mask((0, 0), size=2))
    assert float(found[0]) == pytest.approx((5 / 8) / (1 / 4))


# -------------------------------------------------------------------- kept and gone pixels


def test_kept_pixels_of_a_linear_influence_are_the_highest_and_the_lowest_sums(random):
    images, slopes = 1 + random(3, 1, 4, 4), random(3, 1, 4, 4, seed=1)
    measure = KeptPixels(fractions=(0.25, 0.5), fills=(Zero(),), batch_size=5)
    values = images * slopes
    only, without = measure.curves(Weighted(slopes), images, values)
    order = values.flatten(1).sort(dim=1, descending=True).values
    total = order.sum(dim=1)
    for place, count in enumerate((4, 8)):
        high = order[:, :count].sum(dim=1)
        assert torch.allclose(only[:, 0, place], high / total)
        assert torch.allclose(without[:, 0, place], 1 - high / total)
    found = measure(Weighted(slopes), images, values)
    assert torch.allclose(found, (only - without).mean(dim=(1, 2)))


def test_no_map_keeps_more_than_the_true_one(random):
    images, slopes = random(4, 1, 8, 8), random(4, 1, 8, 8, seed=1) - 0.5
    f = Weighted(slopes)
    measure = KeptPixels(fills=(Zero(),))
    best = measure(f, images, images * slopes)
    assert (best > measure(f, images, random_order(images))).all()
    assert (best > measure(f, images, images)).all()


def test_fills_count_alike(random):
    images, slopes = random(2, 1, 6, 6), random(2, 1, 6, 6, seed=1)
    f, values = Weighted(slopes), images * slopes
    both, one, other = (
        KeptPixels(fills=fills)(f, images, values)
        for fills in ((Mean(), Zero()), (Mean(),), (Zero(),))
    )
    assert torch.allclose(both, (one + other) / 2)


@pytest.mark.parametrize(
    "wrong", [{"fractions": ()}, {"fractions": (1.0,)}, {"fills": ()}], ids=str
)
def test_kept_pixels_refuse_what_is_no_share(wrong):
    with pytest.raises(SettingError, match=r"fraction|fill"):
        KeptPixels(**wrong)


# -------------------------------------------------------------------- fidelity


def test_the_shares_of_a_linear_influence_are_faithful(random):
    images, slopes = random(3, 2, 10, 10), random(3, 2, 10, 10, seed=1) - 0.5
    found = RegionFidelity(fill=Zero())(Weighted(slopes), images, images * slopes)
    assert torch.allclose(found, torch.ones(3).double())


def test_their_negatives_are_not(random):
    images, slopes = random(2, 1, 10, 10), random(2, 1, 10, 10, seed=1)
    found = RegionFidelity(fill=Zero())(Weighted(slopes), images, -images * slopes)
    assert torch.allclose(found, -torch.ones(2).double())


def test_fidelity_is_the_correlation_over_the_rectangles(random):
    images, slopes = random(2, 1, 9, 9), random(2, 1, 9, 9, seed=1) - 0.5
    values = random(2, 1, 9, 9, seed=2)
    measure = RegionFidelity(regions=7, fill=Mean(), batch_size=3)
    found = measure(Weighted(slopes), images, values)
    means = images.mean(dim=(2, 3), keepdim=True)
    for row in range(2):
        said, fell = [], []
        for region in measure.hidden(images):
            said.append(float(values[row, 0][region].sum()))
            change = (images[row, 0] - means[row, 0]) * slopes[row, 0]
            fell.append(float(change[region].sum()))
        pair = torch.tensor([said, fell], dtype=torch.float64)
        assert float(found[row]) == pytest.approx(float(torch.corrcoef(pair)[0, 1]))
    falls = measure.falls(Weighted(slopes), images)
    assert torch.equal(measure.compared(values, falls), found)


def test_rectangles_have_the_sides_asked_for():
    hidden = RegionFidelity(regions=50, smallest=0.2, largest=0.5).hidden(torch.zeros(1, 1, 10, 20))
    rows, columns = (hidden.any(dim=d).sum(dim=1) for d in (2, 1))
    assert (int(rows.min()), int(rows.max())) == (2, 5)
    assert (int(columns.min()), int(columns.max())) == (4, 10)
    assert torch.equal(hidden.sum(dim=(1, 2)), rows * columns)


def test_an_influence_that_nothing_changes_has_no_fidelity(random):
    images = random(1, 1, 8, 8)
    found = RegionFidelity()(Weighted(torch.zeros(1, 1, 8, 8).double()), images, images)
    assert math.isnan(float(found[0]))


@pytest.mark.parametrize("wrong", [{"regions": 1}, {"smallest": 0.5}, {"largest": 2.0}], ids=str)
def test_fidelity_refuses_what_is_no_rectangle(wrong):
    with pytest.raises(SettingError, match=r"regions|smallest"):
        RegionFidelity(**wrong)


# -------------------------------------------------------------------- stability and precision


def test_stability_is_the_mean_over_all_pairs_of_maps(random):
    values = random(3, 2, 1, 5, 5)
    alike = Spearman()
    pairs = [alike(values[i], values[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert torch.allclose(MapStability()(values), torch.stack(pairs).mean(dim=0))
    assert MapStability()(values[:1].repeat(2, 1, 1, 1, 1)).tolist() == [1.0, 1.0]
    with pytest.raises(ShapeError, match="at least two"):
        MapStability()(values[:1])


def test_precision_is_the_share_of_relevant_images_among_the_first():
    relevant = torch.tensor([True, False, True, False])
    assert precision_at(torch.tensor([[0, 2], [1, 2], [1, 3]]), relevant).tolist() == [1, 0.5, 0]
