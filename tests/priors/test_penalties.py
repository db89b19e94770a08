import pytest
import torch

from whence.errors import DataError, ShapeError
from whence.priors import GiniSparsity, OutsideMask, Penalty, TotalVariation

MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()[None, None]
PENALTIES = [GiniSparsity(), OutsideMask(masks=MASK), TotalVariation()]
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=lambda p: type(p).__name__)


@pytest.fixture
def values(generator):
    return torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)


def grid(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def test_gini_sparsity_is_one_minus_the_mean_difference_over_twice_the_mean(values):
    naive = 0.0
    for v in values.flatten(1).abs():
        naive += 1 - ((v[:, None] - v[None]).abs().mean() / (2 * v.mean())).item()
    assert GiniSparsity()(values).item() == pytest.approx(naive / 4, rel=1e-12)


def test_one_pixel_alone_is_as_sparse_as_can_be():
    assert GiniSparsity()(grid([[0, 0], [-3, 0]])).item() == pytest.approx(1 / 4)
    assert GiniSparsity()(grid([[2, 2], [-2, 2]])).item() == pytest.approx(1)


def test_outside_mask_is_the_share_of_the_squares_outside():
    values = grid([[3, 1, -2], [0, 0, 1], [0, 0, 0]])
    assert OutsideMask(masks=MASK)(values).item() == pytest.approx(5 / 15)


def test_outside_mask_is_zero_inside_and_one_outside():
    inside = OutsideMask(masks=MASK)
    assert inside(5 * MASK.double()).item() == 0
    assert inside(5 * (~MASK).double()).item() == 1


def test_every_image_of_a_dataset_has_its_own_mask():
    masks = torch.cat([MASK, ~MASK, MASK.transpose(2, 3)])
    penalty = OutsideMask(masks=masks)
    assert penalty.at(torch.tensor([1, 0]))(masks[[1, 0]].double()).item() == 0
    assert penalty.at(torch.tensor([0, 1]))(masks[[1, 0]].double()).item() == 1
    with pytest.raises(ShapeError, match="as many masks"):
        penalty(masks[:2].double())


def test_total_variation_is_the_sum_of_the_differences_over_the_sum():
    values = grid([[1, 3, 0], [0, -1, 0]])
    down, right = 1 + 4 + 0, 2 + 3 + 1 + 1
    assert TotalVariation()(values).item() == pytest.approx((down + right) / 5)
    assert TotalVariation()(grid([[2, 2], [2, 2]])).item() == 0


@each_penalty
def test_a_penalty_is_unchanged_by_the_scale_of_each_map(penalty, values):
    scales = torch.tensor([1e-9, 0.5, 3.0, 1e9], dtype=torch.float64).view(4, 1, 1, 1)
    torch.testing.assert_close(penalty(values * scales), penalty(values), rtol=1e-9, atol=0)


@each_penalty
def test_the_gradient_is_that_of_finite_differences(penalty, values):
    source = values.clone().requires_grad_()
    torch.autograd.gradcheck(penalty, (source,))


@each_penalty
def test_a_map_of_zeros_costs_nothing_and_has_a_finite_gradient(penalty, values):
    with_zeros = values.clone()
    with_zeros[1] = 0
    with_zeros.requires_grad_()
    penalty(with_zeros).backward()
    assert with_zeros.grad.isfinite().all()
    rest = penalty.at(torch.tensor([0, 2, 3]))(values[[0, 2, 3]])
    torch.testing.assert_close(penalty(with_zeros.detach()), rest * 3 / 4)


@each_penalty
def test_it_keeps_the_protocol(penalty):
    assert isinstance(penalty, Penalty)
    assert isinstance(penalty.at(torch.tensor([0])), Penalty)


def test_masks_that_are_none_are_refused():
    with pytest.raises(ShapeError, match=r"\(n, 1, h, w\); got \(3, 3\)"):
        OutsideMask(masks=MASK[0, 0])
    with pytest.raises(DataError, match="Threshold"):
        OutsideMask(masks=MASK * 0.5)
