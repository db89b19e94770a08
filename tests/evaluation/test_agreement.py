import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from whence.errors import SettingError, ShapeError
from whence.evaluation import Gini, Spearman, TopOverlap


@given(st.integers(0, 10_000), st.sampled_from([2, 5, 1000]))
def test_spearman_is_scipys_with_and_without_ties(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(levels, (2, 3, 1, 4, 5), generator=generator).double()
    found = Spearman()(maps[0], maps[1])
    for row in range(3):
        one, two = maps[0, row].flatten().numpy(), maps[1, row].flatten().numpy()
        if one.std() and two.std():
            assert found[row].item() == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)


@given(st.integers(0, 10_000), st.booleans())
def test_property_50_a_map_agrees_with_itself_and_its_rescaling(seed, absolute):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-9, 9, (4, 2, 5, 6), generator=generator).double()
    metric = Spearman(absolute=absolute)
    ones = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(metric(values, values), ones)
    torch.testing.assert_close(metric(values, 2**-30 * values), ones)


def test_spearman_sees_signs_unless_told_otherwise():
    values = torch.arange(1.0, 10).view(1, 1, 3, 3)
    assert Spearman()(values, -values).item() == pytest.approx(-1)
    assert Spearman(absolute=True)(values, -values).item() == pytest.approx(1)


def test_spearman_compares_maps_with_and_without_channels(generator):
    values = torch.randn(2, 3, 4, 4, generator=generator)
    found = Spearman()(values, values.sum(dim=1, keepdim=True))
    torch.testing.assert_close(found, torch.ones(2))


def test_spearman_with_a_constant_map_is_undefined():
    values = torch.arange(9.0).view(1, 1, 3, 3)
    assert Spearman()(values, torch.ones(1, 1, 3, 3)).isnan().all()


def test_top_overlap_is_intersection_over_union_of_the_highest_pixels():
    one = torch.tensor([[9.0, 8, 7, 6, 0, 0, 0, 0]]).view(1, 1, 2, 4)
    two = torch.tensor([[9.0, 8, 0, 0, 7, 6, 0, 0]]).view(1, 1, 2, 4)
    assert TopOverlap(fraction=0.5)(one, two).item() == pytest.approx(2 / 6)


def test_top_overlap_of_random_maps_is_the_cards_chance_level(generator):
    one, two = torch.randn(2, 500, 1, 10, 10, generator=generator)
    found = TopOverlap(fraction=0.2)(one, two).mean().item()
    assert found == pytest.approx(0.2 / 1.8, abs=0.01)


def test_top_overlap_does_not_reward_ties_for_their_order():
    flat = torch.ones(1, 1, 2, 5)
    peak = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]).view(1, 1, 2, 5)
    last = peak.flip((2, 3))
    overlap = TopOverlap(fraction=0.1)
    assert overlap(flat, peak).item() == pytest.approx(overlap(flat, last).item())


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [([1, 0, 0, 0], 0.75), ([1, 1, 1, 1], 0), ([1, 2, 3, 4], 0.25), ([0, 0, 1, 1], 0.5)],
)
def test_gini_has_its_textbook_values(amounts, expected):
    values = torch.tensor(amounts, dtype=torch.float64).view(1, 1, 2, 2)
    assert Gini()(values).item() == pytest.approx(expected, abs=1e-15)
    assert Gini()(-1e6 * values).item() == pytest.approx(expected, abs=1e-15)


def test_gini_is_the_mean_difference_over_twice_the_mean(generator):
    values = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    found = Gini()(values)
    for row, v in enumerate(values.sum(dim=1).abs().flatten(1)):
        naive = (v[:, None] - v[None]).abs().mean() / (2 * v.mean())
        assert found[row].item() == pytest.approx(naive.item(), rel=1e-12)


def test_gini_of_noise_is_the_cards_chance_level(generator):
    values = torch.randn(1, 1, 300, 300, generator=generator)
    assert Gini()(values).item() == pytest.approx(0.41, abs=0.01)


def test_gini_of_a_map_of_zeros_is_undefined():
    assert Gini()(torch.zeros(1, 1, 2, 2)).isnan().all()


@pytest.mark.parametrize("metric", [Spearman(), TopOverlap()])
def test_maps_of_different_sizes_are_refused(metric):
    with pytest.raises(ShapeError, match=r"\(2, 8\) and 3 of \(4, 4\)"):
        metric(torch.ones(3, 1, 2, 8), torch.ones(3, 1, 4, 4))


@pytest.mark.parametrize("fraction", [0, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(SettingError, match="over 0 and at most 1"):
        TopOverlap(fraction=fraction)
