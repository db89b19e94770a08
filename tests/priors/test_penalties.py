import pytest
import torch

from whence.core import gini
from whence.errors import SettingError
from whence.priors import (
    L1,
    L2,
    Entropy,
    GiniSparsity,
    GraphLaplacian,
    Magnitude,
    MaskCrossEntropy,
    MaskEnergy,
    MaskL1,
    MeanMap,
    OutsideMask,
    PairwiseSimilarity,
    Penalty,
    RightReasons,
    TotalVariation,
)

MASK = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 0]]).bool()[None, None]
CHAIN = torch.tensor([range(8), range(1, 9)])
RELATIVE = [
    GiniSparsity(),
    Entropy(),
    L1(),
    L2(),
    TotalVariation(),
    OutsideMask(masks=MASK),
    MaskEnergy(masks=MASK),
    MaskL1(masks=MASK),
    MaskCrossEntropy(masks=MASK),
    GraphLaplacian(edges=CHAIN),
    PairwiseSimilarity(groups=torch.tensor([0, 1, 0, 1])),
]
BARE = [Magnitude(), Magnitude(power=2), RightReasons(masks=MASK)]
TOGETHER = [MeanMap(penalty=GiniSparsity())]


OF_ONE = [p for p in RELATIVE + BARE if not isinstance(p, PairwiseSimilarity)]
"""Those that say something of each image alone."""


def title(penalty):
    return repr(penalty).split("(")[0] + ("2" if penalty == Magnitude(power=2) else "")


each_relative = pytest.mark.parametrize("penalty", RELATIVE, ids=title)
each_penalty = pytest.mark.parametrize("penalty", RELATIVE + BARE + TOGETHER, ids=title)


@pytest.fixture
def values(generator):
    return torch.randn(4, 2, 3, 3, generator=generator, dtype=torch.float64)


def grid(rows):
    return torch.tensor(rows, dtype=torch.float64)[None, None]


ONE_ALONE = grid([[0, 0], [-3, 0]])
ALL_ALIKE = grid([[2, 2], [-2, 2]])


def test_gini_sparsity_is_one_minus_the_mean_difference_over_twice_the_mean(values):
    naive = 0.0
    for v in values.flatten(1).abs():
        naive += 1 - ((v[:, None] - v[None]).abs().mean() / (2 * v.mean())).item()
    assert GiniSparsity()(values).item() == pytest.approx(naive / 4, rel=1e-12)


def test_one_pixel_alone_is_as_sparse_as_can_be():
    assert GiniSparsity()(ONE_ALONE).item() == pytest.approx(1 / 4)
    assert GiniSparsity()(ALL_ALIKE).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("penalty", "alone", "alike"), [(Entropy(), 0, 1), (L1(), 0, 1), (L2(), 1, 0)], ids=title
)
def test_one_pixel_alone_and_all_alike_are_the_two_ends(penalty, alone, alike):
    assert penalty(ONE_ALONE).item() == pytest.approx(alone, abs=1e-12)
    assert penalty(ALL_ALIKE).item() == pytest.approx(alike, abs=1e-12)


def test_entropy_is_that_of_the_shares_in_units_of_the_logarithm_of_their_number():
    bits = 1 / 2 * 1 + 1 / 4 * 2 + 1 / 8 * 3 + 1 / 8 * 3
    found = Entropy()(grid([[4, -2], [1, -1]]))
    assert found.item() == pytest.approx(bits / 2)


def test_l1_and_l2_are_the_norms_relative_to_each_other(values):
    l1 = values.flatten(1).norm(p=1, dim=1)
    l2 = values.flatten(1).norm(p=2, dim=1)
    root = 18**0.5
    torch.testing.assert_close(L1()(values), ((l1 / l2 - 1) / (root - 1)).mean())
    torch.testing.assert_close(L2()(values), ((root * l2 / l1 - 1) / (root - 1)).mean())


def test_a_single_pixel_is_neither_sparse_nor_spread():
    assert [p(grid([[3]])).item() for p in (L1(), L2(), Entropy())] == [0, 0, 0]


def test_magnitude_is_the_mean_absolute_value_or_the_mean_square():
    assert Magnitude()(grid([[1, -2], [3, 0]])).item() == pytest.approx(6 / 4)
    assert Magnitude(power=2)(grid([[1, -2], [3, 0]])).item() == pytest.approx(14 / 4)
    with pytest.raises(SettingError, match=r"power 1 .* or 2 .*; got 3"):
        Magnitude(power=3)


def test_total_variation_is_the_sum_of_the_differences_over_the_sum():
    values = grid([[1, 3, 0], [0, -1, 0]])
    down, right = 1 + 4 + 0, 2 + 3 + 1 + 1
    assert TotalVariation()(values).item() == pytest.approx((down + right) / 5)
    assert TotalVariation()(grid([[2, 2], [2, 2]])).item() == 0


def test_a_penalty_of_the_mean_map_is_not_the_mean_of_the_penalties():
    values = torch.cat([grid([[4, 0], [0, 0]]), grid([[0, -4], [0, 0]])])
    assert GiniSparsity()(values).item() == pytest.approx(1 / 4)
    mean = gini(torch.tensor([[2.0, 2.0, 0.0, 0.0]], dtype=torch.float64))
    assert MeanMap(penalty=GiniSparsity())(values).item() == pytest.approx(1 - mean.item())


@each_relative
def test_a_penalty_is_unchanged_by_the_scale_of_each_map(penalty, values):
    scales = torch.tensor([1e-9, 0.5, 3.0, 1e9], dtype=torch.float64).view(4, 1, 1, 1)
    torch.testing.assert_close(penalty(values * scales), penalty(values), rtol=1e-9, atol=0)


@pytest.mark.parametrize("penalty", BARE, ids=title)
def test_a_bare_penalty_falls_as_the_maps_shrink(penalty, values):
    power = 1 if penalty == Magnitude() else 2
    torch.testing.assert_close(penalty(values / 4), penalty(values) / 4**power)


@each_penalty
def test_the_gradient_is_that_of_finite_differences(penalty, values):
    source = values.clone().requires_grad_()
    torch.autograd.gradcheck(penalty, (source,))


@each_penalty
def test_a_map_of_zeros_has_a_finite_gradient(penalty, values):
    with_zeros = values.clone()
    with_zeros[1] = 0
    with_zeros.requires_grad_()
    penalty(with_zeros).backward()
    assert with_zeros.grad.isfinite().all()


ZERO = {
    "MaskEnergy": 1,
    "MaskL1": 2 / 9,
    "MaskCrossEntropy": -torch.tensor(1e-4).double().log().item(),
}
"""What a map without evidence costs, where that is not nothing."""


@pytest.mark.parametrize("penalty", OF_ONE, ids=title)
def test_a_map_of_zeros_has_a_defined_cost(penalty, values):
    with_zeros = values.clone()
    with_zeros[1] = 0
    rest = penalty.at(torch.tensor([0, 2, 3]))(values[[0, 2, 3]])
    cost = ZERO.get(title(penalty), 0)
    torch.testing.assert_close(penalty(with_zeros), (3 * rest + cost) / 4)
    assert penalty(torch.zeros(1, 2, 3, 3)).item() == pytest.approx(cost)


@pytest.mark.parametrize("penalty", OF_ONE, ids=title)
def test_a_mean_of_images_is_the_mean_of_each(penalty, values):
    single = [penalty.at(torch.tensor([k]))(values[k : k + 1]) for k in range(4)]
    torch.testing.assert_close(penalty(values), torch.stack(single).mean())


@each_penalty
def test_it_keeps_the_protocol(penalty):
    assert isinstance(penalty, Penalty)
    assert isinstance(penalty.at(torch.tensor([0])), Penalty)


@each_penalty
def test_a_penalty_of_single_precision_is_of_single_precision(penalty, values):
    found = penalty(values.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), penalty(values), rtol=1e-4, atol=1e-6)
