import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from whence.core import Statistic
from whence.errors import DataError, MismatchError, NumericsError, SettingError, ShapeError
from whence.evaluation import Datamodeling, LinearDatamodelingScore, SeedCeiling


def world(generator, subsets=40, seeds=3, images=12, queries=5, noise=1.0):
    """Scores, subsets, and outputs that are the sums of the scores and noise."""
    scores = torch.randn(images, queries, generator=generator, dtype=torch.float64)
    keep = torch.rand(subsets, images, generator=generator) < 0.5
    sums = keep.double() @ scores
    drawn = torch.randn(subsets, seeds, queries, generator=generator, dtype=torch.float64)
    return scores, keep, sums[:, None] + noise * drawn


def test_it_is_the_rank_correlation_of_summed_scores_and_mean_outputs(generator):
    scores, keep, outputs = world(generator, noise=3.0)
    found = LinearDatamodelingScore()(scores, keep, outputs)
    for q in range(5):
        predicted = [sum(scores[i, q] for i in range(12) if row[i]).item() for row in keep]
        actual = [sum(by_seed[q] for by_seed in seeds).item() / 3 for seeds in outputs]
        assert found[q].item() == pytest.approx(spearmanr(predicted, actual).statistic)


def test_scores_that_are_the_effects_reach_one_and_losses_turn_the_sign(generator):
    scores, keep, outputs = world(generator, noise=0.0)
    assert LinearDatamodelingScore()(scores, keep, outputs).min().item() == pytest.approx(1)
    loss = LinearDatamodelingScore(outputs="loss")
    assert loss(scores, keep, outputs).max().item() == pytest.approx(-1)
    assert loss(scores, keep, -outputs).min().item() == pytest.approx(1)


def test_scores_without_information_have_none_on_average(generator):
    scores, keep, outputs = world(generator, subsets=200, queries=300)
    other = torch.randn(scores.shape, generator=generator)
    found = LinearDatamodelingScore()(other, keep, outputs).mean().item()
    assert found == pytest.approx(0, abs=0.06)


def test_one_seed_may_go_without_its_axis(generator):
    scores, keep, outputs = world(generator, seeds=1)
    found = LinearDatamodelingScore()(scores, keep, outputs[:, 0])
    torch.testing.assert_close(found, LinearDatamodelingScore()(scores, keep, outputs))


def test_scores_that_do_not_tell_subsets_apart_are_undefined(generator):
    _, keep, outputs = world(generator)
    assert LinearDatamodelingScore()(torch.zeros(12, 5), keep, outputs).isnan().all()


@pytest.mark.parametrize(("seeds", "noise"), [(2, 2.0), (5, 2.0), (8, 4.0)])
def test_the_ceiling_is_what_the_effects_themselves_reach(generator, seeds, noise):
    scores, keep, outputs = world(
        generator, subsets=300, seeds=seeds, images=50, queries=60, noise=noise
    )
    reached = LinearDatamodelingScore()(scores, keep, outputs).mean().item()
    found = SeedCeiling()(outputs).mean().item()
    spread = keep.double().matmul(scores).std(dim=0).square().mean().item()
    expected = math.sqrt(spread / (spread + noise**2 / seeds))
    assert reached < 0.99
    assert found == pytest.approx(reached, abs=0.02)
    assert found == pytest.approx(expected, abs=0.03)


def test_seeds_that_agree_or_have_nothing_in_common_set_the_ends_of_the_ceiling(generator):
    values = torch.randn(50, 1, 4, generator=generator)
    assert SeedCeiling()(values.expand(-1, 4, -1)).tolist() == pytest.approx([1] * 4)
    noise = torch.randn(2000, 4, 8, generator=generator)
    assert SeedCeiling()(noise).mean().item() < 0.25


@given(st.data())
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(data):
    scores, keep, outputs = world(torch.Generator().manual_seed(3), queries=7)
    order = torch.tensor(data.draw(st.permutations(range(7))))
    cut = data.draw(st.integers(0, 7))
    whole, left, right = Datamodeling(), Datamodeling(), Datamodeling()
    whole.update(torch.arange(7), scores, keep, outputs)
    for part, rows in ((left, order[:cut]), (right, order[cut:])):
        if len(rows):
            part.update(rows, scores[:, rows], keep, outputs[:, :, rows])
    assert left.merge(right) == whole == right.merge(left)
    assert len(left.scores.values) == cut


def test_its_result_says_what_it_rests_on(generator):
    scores, keep, outputs = world(generator)
    statistic = Datamodeling()
    assert isinstance(statistic, Statistic)
    statistic.update(torch.arange(5), scores, keep, outputs)
    found = statistic.result()
    expected = LinearDatamodelingScore()(scores, keep, outputs)
    assert found.score.mean == pytest.approx(expected.mean().item())
    assert found.score.low < found.score.mean < found.score.high
    assert found.ceiling is not None
    assert found.ceiling.mean == pytest.approx(SeedCeiling()(outputs).mean().item())
    assert "5 queries, 40 subsets x 3 seeds" in str(found)


def test_one_seed_has_no_ceiling(generator):
    scores, keep, outputs = world(generator, seeds=1)
    statistic = Datamodeling()
    statistic.update(torch.arange(5), scores, keep, outputs)
    assert statistic.result().ceiling is None
    with pytest.raises(DataError, match="two are needed"):
        SeedCeiling()(outputs)


def test_a_paired_difference_is_that_of_the_means_with_a_narrower_interval(generator):
    scores, keep, outputs = world(generator, queries=50, noise=3.0)
    near = scores + 0.1 * torch.randn(scores.shape, generator=generator)
    one, two = Datamodeling(), Datamodeling()
    one.update(torch.arange(50), scores, keep, outputs)
    two.update(torch.arange(50), near, keep, outputs)
    gap, first, second = one.difference(two), one.result().score, two.result().score
    assert gap.mean == pytest.approx(first.mean - second.mean)
    assert gap.high - gap.low < 0.7 * (first.high - first.low)


def test_a_difference_over_other_queries_or_retrainings_is_refused(generator):
    scores, keep, outputs = world(generator)
    one, two, three = Datamodeling(), Datamodeling(), Datamodeling()
    one.update(torch.arange(5), scores, keep, outputs)
    two.update(torch.arange(1, 6), scores, keep, outputs)
    three.update(torch.arange(5), scores, keep, outputs[:, :2])
    with pytest.raises(MismatchError, match="4 of them shared"):
        one.difference(two)
    with pytest.raises(MismatchError, match="same retrainings"):
        one.difference(three)


def test_parts_of_other_retrainings_or_settings_are_refused(generator):
    scores, keep, outputs = world(generator)
    one, two = Datamodeling(), Datamodeling()
    one.update(torch.arange(5), scores, keep, outputs)
    with pytest.raises(MismatchError, match="same retrainings"):
        one.update(torch.arange(5, 10), scores, keep, outputs[:, :2])
    two.update(torch.arange(5, 10), scores, keep, outputs[:, :2])
    with pytest.raises(MismatchError, match="same retrainings"):
        one.merge(two)
    with pytest.raises(SettingError, match="same settings"):
        one.merge(Datamodeling(metric=LinearDatamodelingScore(outputs="loss")))
    with pytest.raises(DataError, match="in both"):
        one.merge(one)


def test_what_does_not_fit_is_refused(generator):
    scores, keep, outputs = world(generator)
    score = LinearDatamodelingScore()
    for wrong in (keep.double(), keep[1:], keep[:, 1:]):
        with pytest.raises(ShapeError, match=r"\(40, 12\)"):
            score(scores, wrong, outputs)
    with pytest.raises(ShapeError, match="columns of scores"):
        score(scores[:, 1:], keep, outputs)
    with pytest.raises(ShapeError, match="subsets, seeds and queries"):
        score(scores, keep, outputs[0, 0])
    with pytest.raises(DataError, match="at least three"):
        score(scores, keep[:2], outputs[:2])
    with pytest.raises(NumericsError, match="query 0"):
        score(scores / 0, keep, outputs)
    outputs[7, 0, 0] = torch.inf
    with pytest.raises(DataError, match="subset 7"):
        score(scores, keep, outputs)


def test_impossible_settings_are_refused():
    with pytest.raises(SettingError, match="'margin' or 'loss'"):
        LinearDatamodelingScore(outputs="error")
    with pytest.raises(SettingError, match="at least one split"):
        SeedCeiling(splits=0)
