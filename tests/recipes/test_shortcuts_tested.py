"""What is behind proposals: reliability, splits, ranks, chance; each against an oracle."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from whence.recipes.shortcut_cells import clusters, nearest
from whence.recipes.shortcut_tests import (
    Reading,
    chance_of_drops,
    leaning,
    reliability,
    smoothed,
    split,
    told_by,
)


def drawn(seed):
    return torch.Generator().manual_seed(seed)


def test_reliability_is_the_share_of_evidence_that_points_to_the_label():
    assigned = torch.tensor([[[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]])
    evidence = torch.tensor([[3.0, 1, -2, 1], [-1, 5, 5, 0], [2, 0, -1, -4]])
    reading = reliability(assigned, evidence, 2)
    towards, away = np.array([4 + 1, 10]), np.array([1, 1 + 4])
    usual, whole = 15 / 21, 21
    prior = 0.02 * whole / 2
    expected = (towards + prior * usual) / (towards + away + prior)
    assert reading.usual == pytest.approx(usual)
    np.testing.assert_allclose(reading.reliability[0].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(reading.mass[0].numpy(), (towards + away) / whole, rtol=1e-6)


def test_a_cluster_without_evidence_is_as_reliable_as_the_rest():
    reading = reliability(torch.zeros(1, 2, 3, dtype=torch.int64), torch.ones(2, 3), 4)
    assert reading.reliability[0].tolist() == pytest.approx([1.0] * 4)


def test_the_split_parts_two_kinds_of_clusters_by_their_mass():
    values = torch.tensor([[0.1, 0.15, 0.2, 0.8, 0.85, 0.9]])
    mass = torch.full_like(values, 1 / 6)
    found = split(Reading(reliability=values, usual=0.5, mass=mass))
    assert found == pytest.approx(0.5)
    brute = max(
        (0.15, 0.2, 0.5, 0.81, 0.86),
        key=lambda t: between(values[0].numpy(), mass[0].numpy(), t),
    )
    assert brute == pytest.approx(found)
    heavy = torch.tensor([[1e-6, 1e-6, 1e-6, 0.5, 0.3, 0.2]])
    assert split(Reading(reliability=values, usual=0.5, mass=heavy)) > 0.8


def between(values, weights, threshold):
    low = values < threshold
    one, two = weights[low].sum(), weights[~low].sum()
    means = [np.average(values[part], weights=weights[part]) for part in (low, ~low)]
    return one * two * (means[0] - means[1]) ** 2


def test_areas_under_roc_curves_are_those_of_scikit_learn_with_ties():
    generator = drawn(0)
    for _ in range(5):
        amounts = torch.randint(0, 6, (60,), generator=generator).double()
        own = torch.rand(60, generator=generator) < 0.3
        expected = roc_auc_score(own.numpy(), amounts.numpy())
        assert told_by(amounts, own) == pytest.approx(expected, abs=1e-12)
    assert told_by(amounts, torch.zeros(60, dtype=torch.bool)) == 0.5


def test_a_cluster_leans_to_the_class_whose_images_it_fills():
    labels = torch.tensor([0, 0, 0, 1])
    assigned = torch.tensor([[[0, 0], [0, 1], [0, 0], [1, 0]]])
    leans = leaning(assigned, labels, 3, 2)[0]
    np.testing.assert_allclose(leans[0], [(5 / 6) / (5 / 6 + 1 / 2), (1 / 2) / (5 / 6 + 1 / 2)])
    np.testing.assert_allclose(leans[1], [(1 / 6) / (1 / 6 + 1 / 2), (1 / 2) / (1 / 6 + 1 / 2)])
    assert leans[2].tolist() == [0, 0]


def test_smoothing_keeps_constants_and_weighs_as_it_says():
    assert smoothed(torch.full((2, 12), 3.0), (3, 4)).tolist() == [[3.0] * 12] * 2
    one = torch.zeros(1, 25)
    one[0, 12] = 1
    found = smoothed(one, (5, 5)).view(5, 5)
    expected = np.outer([1, 2, 1], [1, 2, 1]) / 16
    np.testing.assert_allclose(found[1:4, 1:4].numpy(), expected, rtol=1e-6)
    assert float(found.sum()) == pytest.approx(1)


def test_clusters_are_the_middles_of_heaps_and_the_same_for_a_seed():
    middles = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 10]])
    points = (middles[:, None] + 0.1 * torch.randn(4, 50, 2, generator=drawn(1))).flatten(0, 1)
    found = clusters(points, 4, 3)
    assert torch.equal(found, clusters(points, 4, 3))
    near = torch.cdist(middles, found).min(dim=1)
    assert near.values.max() < 0.1
    assert sorted(near.indices.tolist()) == [0, 1, 2, 3]
    expected = near.indices.repeat_interleave(50)
    assert torch.equal(nearest(points, found, chunk=7), expected)
    assert len(clusters(torch.ones(5, 2), 3, 0)) == 1


def sets(seed, told_in_training, told_in_audit):
    """Amounts and labels of training and audited images, where they tell the class or not."""
    generator = drawn(seed)
    found = []
    for count, told in ((120, told_in_training), (60, told_in_audit)):
        labels = torch.randint(0, 2, (count,), generator=generator)
        amounts = torch.rand(count, 2, generator=generator, dtype=torch.float64)
        amounts[torch.arange(count), labels] += told
        found += [amounts, labels]
    return found


def test_a_drop_is_seen_and_has_the_least_p_value():
    before, after, p = chance_of_drops(*sets(0, 1.0, 0.0), shuffles=99)
    assert (before > 0.95).all()
    assert (after < 0.65).all()
    assert p.tolist() == [0.01, 0.01]


def test_what_tells_the_class_in_both_or_in_neither_is_chance():
    for told in (0.0, 0.5):
        _, _, p = chance_of_drops(*sets(1, told, told), shuffles=99)
        assert (p > 0.05).all()


def test_of_cases_without_a_drop_no_more_than_the_level_are_called_one():
    found = [
        chance_of_drops(*sets(100 + k, 0.5, 0.5), shuffles=39)[2].min().item() for k in range(60)
    ]
    called = sum(p <= 0.1 for p in found)
    assert called <= 12  # 6 are expected; more than 12 has a chance of 1 in 100
    assert called > 0


def test_telling_the_class_better_in_the_audit_is_no_finding():
    _, _, p = chance_of_drops(*sets(2, 0.0, 1.0), shuffles=39)
    assert (p > 0.5).all()
