import pytest
import torch
from torch.nn import functional

from whence.errors import DataError, SettingError, ShapeError
from whence.priors import (
    MaskCrossEntropy,
    MaskEnergy,
    MaskL1,
    OutsideMask,
    RightReasons,
    all_log_probabilities,
    box_masks,
)

MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()[None, None]
MASKED = [OutsideMask, RightReasons, MaskEnergy, MaskL1, MaskCrossEntropy]
each_masked = pytest.mark.parametrize("make", MASKED)


def grid(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


VALUES = grid([[3, 1, -2], [0, 0, 1], [0, 0, 0]])


def test_outside_mask_is_the_share_of_the_squares_outside():
    assert OutsideMask(masks=MASK)(VALUES).item() == pytest.approx(5 / 15)


def test_right_reasons_is_the_sum_of_the_squares_outside():
    assert RightReasons(masks=MASK)(VALUES).item() == pytest.approx(5)
    assert RightReasons(masks=MASK)(VALUES.repeat(3, 2, 1, 1)).item() == pytest.approx(10)


def test_mask_energy_is_the_share_of_the_positive_evidence_outside():
    assert MaskEnergy(masks=MASK)(VALUES).item() == pytest.approx(1 / 5)


def test_mask_l1_is_the_distance_of_the_map_from_the_mask():
    far = (1 - 1) + (1 - 1 / 3) + 0 + 1 / 3
    assert MaskL1(masks=MASK)(VALUES).item() == pytest.approx(far / 9)
    assert MaskL1(masks=MASK)(7 * MASK.double()).item() == 0


def test_mask_cross_entropy_is_that_of_the_pixels_inside_with_one():
    found = MaskCrossEntropy(masks=MASK)(VALUES)
    naive = functional.binary_cross_entropy(torch.tensor([1, 1 / 3]), torch.ones(2))
    assert found.item() == pytest.approx(naive.item())
    assert MaskCrossEntropy(masks=MASK)(5 * MASK.double() + grid([[0, 0, 4]] * 3)).item() == 0


def test_a_share_below_the_floor_counts_as_the_floor():
    values = grid([[1, -1, 0], [0, 0, 0], [0, 0, 0]])
    found = MaskCrossEntropy(masks=MASK, floor=0.01)(values)
    assert found.item() == pytest.approx(-torch.tensor(0.01).log().item() / 2)
    for floor in (0, 1, -1):
        with pytest.raises(SettingError, match="over 0 and below 1"):
            MaskCrossEntropy(masks=MASK, floor=floor)


@pytest.mark.parametrize("make", [MaskEnergy, MaskL1, MaskCrossEntropy])
def test_evidence_is_the_sum_over_the_channels_before_its_sign_is_taken(make, generator):
    values = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
    summed = values.sum(dim=1, keepdim=True)
    torch.testing.assert_close(make(masks=MASK)(values), make(masks=MASK)(summed))


@pytest.mark.parametrize("make", [OutsideMask, MaskEnergy])
def test_all_inside_is_zero_and_all_outside_is_one(make):
    inside = make(masks=MASK)
    assert inside(5 * MASK.double()).item() == 0
    assert inside(5 * (~MASK).double()).item() == 1


@each_masked
def test_every_image_of_a_dataset_has_its_own_mask(make):
    masks = torch.cat([MASK, ~MASK, MASK.transpose(2, 3)])
    penalty = make(masks=masks)
    maps = masks[[1, 0]].double()
    assert penalty.at(torch.tensor([1, 0]))(maps).item() == 0
    assert penalty.at(torch.tensor([0, 1]))(maps).item() > 0
    with pytest.raises(ShapeError, match="as many masks"):
        penalty(maps)


@each_masked
def test_one_mask_is_for_all_images(make, generator):
    values = torch.randn(3, 2, 3, 3, generator=generator, dtype=torch.float64)
    one, three = make(masks=MASK), make(masks=MASK.repeat(3, 1, 1, 1))
    torch.testing.assert_close(one(values), three(values))
    assert one.at(torch.tensor([7])).masks is MASK


@each_masked
def test_a_mask_of_another_size_is_refused_with_both_sizes(make):
    with pytest.raises(ShapeError, match=r"of \(8, 8\) need as many masks.*got 1 of \(3, 3\)"):
        make(masks=MASK)(torch.ones(2, 1, 8, 8))


@each_masked
def test_an_image_that_has_no_mask_is_named(make):
    penalty = make(masks=torch.cat([MASK, ~MASK]))
    with pytest.raises(ShapeError, match="There are 2 masks, and image 5 was asked for"):
        penalty.at(torch.tensor([1, 5]))


@each_masked
def test_masks_that_are_none_are_refused(make):
    with pytest.raises(ShapeError, match=r"\(n, 1, h, w\); got \(3, 3\)"):
        make(masks=MASK[0, 0])
    with pytest.raises(DataError, match="Threshold"):
        make(masks=MASK * 0.5)


def test_an_empty_mask_asks_nothing_of_the_pixels_inside():
    assert MaskCrossEntropy(masks=torch.zeros(1, 1, 3, 3))(VALUES).item() == 0


def test_a_box_becomes_a_mask():
    masks = box_masks(torch.tensor([[1, 0, 3, 1], [0, 1, 1, 3]]), (3, 4))
    assert masks.shape == (2, 1, 3, 4)
    assert masks[0, 0].int().tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert masks[1, 0].int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]


def test_a_pixel_that_a_box_covers_in_part_is_inside():
    assert box_masks([(0.9, 0.0, 2.1, 0.5)], (2, 4))[0, 0, 0].int().tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "box", [(2, 0, 1, 1), (0, 0, 5, 1), (-1, 0, 1, 1), (0, 2, 1, 2), (0, 0, float("nan"), 1)]
)
def test_a_box_that_is_empty_or_outside_is_refused(box):
    with pytest.raises(DataError, match=r"Box 1 is .* a box within 3 rows and 4 columns"):
        box_masks([(0, 0, 1, 1), box], (3, 4))


def test_boxes_of_another_form_are_refused():
    with pytest.raises(ShapeError, match=r"shape \(n, 4\); got shape \(1, 3\)"):
        box_masks([(0, 1, 2)], (3, 4))


def test_the_target_of_right_reasons_is_the_sum_of_all_log_probabilities(generator):
    logits = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    target = all_log_probabilities(torch.tensor([0, 1, 2, 0]))
    naive = sum(functional.log_softmax(logits, dim=1)[:, k] for k in range(3))
    torch.testing.assert_close(target(logits), naive)
