"""The cube as a statistic: intervals by other formulas, merging, pairs of cells, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from whence.core import Normalisation
from whence.errors import DataError, ModeError, SettingError, ShapeError, TargetError
from whence.evaluation import Mean
from whence.evaluation.transfer import Judgement, Transfer, TransferCell, wilson

ORIGINAL = TransferCell(evaluator="b", shown="original")
FEATURES = TransferCell(
    evaluator="b", shown="features", generator="a", method="gc", mask="soft", fill="zero"
)
SHUFFLED = replace(FEATURES, shown="shuffled")
ITSELF = replace(FEATURES, evaluator="a")


def columns(count, seed):
    generator = torch.Generator().manual_seed(seed)
    hits = (torch.rand(count, 2, generator=generator) < 0.6).double()
    chances = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.cat([hits[:, :1], chances, hits[:, 1:]], dim=1)


def whole(count=40):
    cube = Transfer(draws=200)
    cells = (ORIGINAL, FEATURES, SHUFFLED, ITSELF, replace(ORIGINAL, evaluator="a"))
    for seed, cell in enumerate(cells):
        cube.update(cell, torch.arange(count), columns(count, seed))
    return cube


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (3, 10), (10, 10), (1, 1), (211, 500)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_ends_of_wilsons_interval_solve_its_equation(hits, count, confidence):
    statistics = pytest.importorskip("scipy.stats")
    z = statistics.norm.ppf(0.5 + confidence / 2)
    share = hits / count
    # |p - share| = z sqrt(p (1 - p) / n), squared: a quadratic in p.
    ends = sorted(np.roots([1 + z**2 / count, -2 * share - z**2 / count, share**2]).real.clip(0, 1))
    found = wilson(hits, count, confidence=confidence)
    assert found.value == share
    np.testing.assert_allclose([found.low, found.high], ends, atol=1e-9)
    other = statistics.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose([found.low, found.high], [other.low, other.high], atol=1e-9)


def test_the_share_of_none_is_undefined():
    found = wilson(0, 0)
    assert np.isnan([found.value, found.low, found.high]).all()


def test_means_and_intervals_are_those_of_the_mean_over_images():
    cube = whole()
    values = cube.columns[FEATURES].values
    mean = Mean(draws=200)
    mean.update(torch.arange(40), values[:, 1])
    expected = mean.result()
    found = cube.result()[FEATURES].probability
    np.testing.assert_allclose(
        [found.value, found.low, found.high], [expected.mean, expected.low, expected.high]
    )


def test_the_gain_over_shuffled_masks_is_paired_by_image():
    cube = whole()
    paired = cube.columns[FEATURES].values[:, 0] - cube.columns[SHUFFLED].values[:, 0]
    mean = Mean(draws=200)
    mean.update(torch.arange(40), paired)
    expected = mean.result()
    found = cube.result()[FEATURES].advantage
    np.testing.assert_allclose(
        [found.value, found.low, found.high], [expected.mean, expected.low, expected.high]
    )
    assert cube.result()[SHUFFLED].advantage is None


def test_a_cell_against_itself_gains_exactly_nothing():
    cube = Transfer(draws=50)
    same = columns(30, 0)
    for cell in (ORIGINAL, FEATURES, SHUFFLED):
        cube.update(cell, torch.arange(30), same)
    found = cube.result()[FEATURES]
    assert (found.advantage.value, found.advantage.low, found.advantage.high) == (0, 0, 0)
    assert (found.of_original.value, found.of_original.low, found.of_original.high) == (1, 1, 1)


def test_shares_ratios_and_what_is_kept_are_those_counted_by_hand():
    cube = Transfer(draws=50)
    original = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    shown = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0])
    itself = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0])
    for cell, hits in ((ORIGINAL, original), (FEATURES, shown), (ITSELF, itself)):
        cube.update(cell, torch.arange(5), torch.stack([hits, hits / 2, 1 - hits], dim=1))
    plain = replace(ORIGINAL, evaluator="a")
    cube.update(plain, torch.arange(5), torch.ones(5, 3))
    found = cube.result()[FEATURES]
    assert found.count == 5
    assert found.accuracy.value == 0.8
    assert found.probability.value == pytest.approx(0.4)
    assert found.agreement.value == pytest.approx(0.2)
    assert found.kept == wilson(3, 4)
    assert found.of_original.value == pytest.approx(1.0)
    assert found.of_self.value == pytest.approx(0.8)


def test_ratios_to_a_network_that_gets_nothing_right_are_undefined():
    cube = Transfer(draws=20)
    cube.update(ORIGINAL, torch.arange(3), torch.zeros(3, 3))
    cube.update(FEATURES, torch.arange(3), torch.ones(3, 3))
    found = cube.result()[FEATURES]
    assert np.isnan([found.of_original.value, found.kept.value]).all()


def same(left, right):
    assert set(left.columns) == set(right.columns)
    for cell, column in left.columns.items():
        assert torch.equal(column.indices, right.columns[cell].indices)
        assert torch.equal(column.values, right.columns[cell].values)
    ours, theirs = left.result(), right.result()
    assert all(ours[cell] == theirs[cell] for cell in ours)


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.booleans(), min_size=20, max_size=20),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.randoms(use_true_random=False),
)
def test_the_whole_is_the_merge_of_its_parts_however_it_is_cut(sides, alone, random):
    cells = (ORIGINAL, FEATURES, SHUFFLED, ITSELF)
    full, left, right = (Transfer(draws=5) for _ in range(3))
    for seed, (cell, one_side) in enumerate(zip(cells, alone, strict=True)):
        values = columns(20, seed)
        full.update(cell, torch.arange(20), values)
        for part, side in ((left, True), (right, False)):
            taken = [at for at in range(20) if one_side or sides[at] == side]
            if one_side and side:
                continue  # the whole cell is on the right
            random.shuffle(taken)
            if taken:
                part.update(cell, torch.tensor(taken), values[taken])
    plain = replace(ORIGINAL, evaluator="a")
    full.update(plain, torch.arange(20), columns(20, 9))
    left.update(plain, torch.arange(20), columns(20, 9))
    before = {cell: column.values.clone() for cell, column in left.columns.items()}
    same(full, left.merge(right))
    same(full, right.merge(left))
    assert all(torch.equal(left.columns[cell].values, values) for cell, values in before.items())


def test_an_image_that_comes_twice_is_refused():
    cube = whole(5)
    with pytest.raises(DataError, match=r"Image 3 came twice in TransferCell\(evaluator='b'"):
        cube.update(FEATURES, torch.tensor([3]), torch.ones(1, 3))
    with pytest.raises(DataError, match="Image 0 came twice"):
        cube.merge(whole(1))


def test_parts_with_other_settings_do_not_merge():
    with pytest.raises(
        SettingError, match=r"one confidence, draws and seed; got \(0.95, 1000, 0\)"
    ):
        Transfer().merge(Transfer(seed=1))
    with pytest.raises(SettingError, match="between 0 and 1 and at least one draw"):
        Transfer(confidence=1.0)


def test_features_without_originals_or_of_other_images_are_refused():
    cube = Transfer(draws=5)
    cube.update(FEATURES, torch.arange(3), torch.ones(3, 3))
    with pytest.raises(DataError, match=r"needs TransferCell.*original.*Judge the originals too"):
        cube.result()
    cube.update(ORIGINAL, torch.arange(4), torch.ones(4, 3))
    with pytest.raises(DataError, match="must be of the same images"):
        cube.result()
    with pytest.raises(ShapeError, match="One number per row is needed; got 2 for 3 rows"):
        cube.update(ITSELF, torch.arange(2), torch.ones(3, 3))


def test_a_judgement_says_class_probability_and_agreement():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]])
    found = Judgement.of(
        lambda _: logits,
        Normalisation(),
        torch.zeros(2, 1, 1, 1),
        torch.tensor([0, 1]),
        torch.tensor([1, 2]),
    )
    assert found.predictions.tolist() == [0, 2]
    assert found.correct.tolist() == [True, False]
    assert found.agrees.tolist() == [False, True]
    expected = np.exp([2.0, 1.0]) / np.exp(logits.double().numpy()).sum(axis=1)
    np.testing.assert_allclose(found.probability, expected)
    assert found.columns().shape == (2, 3)


def test_labels_that_do_not_exist_and_networks_in_train_mode_are_refused():
    pixels = torch.zeros(1, 1, 2, 2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(ModeError, match="eval mode"):
        Judgement.of(network, Normalisation(), pixels, torch.tensor([0]))
    for label in (-1, 2):
        with pytest.raises(TargetError, match=f"A label is {label}, but the network has 2 classes"):
            Judgement.of(network.eval(), Normalisation(), pixels, torch.tensor([label]))
