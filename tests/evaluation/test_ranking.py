import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from whence.errors import DataError, NumericsError, ShapeError
from whence.evaluation.ranking import (
    area_under_roc,
    average_precision,
    check_scores,
    gains,
    rank_correlation,
)


def drawn(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (25,), generator=generator).double()
    relevant = torch.rand(25, generator=generator) < 0.3
    relevant[0], relevant[1] = True, False
    return scores, relevant


some = given(st.integers(0, 10_000), st.sampled_from([2, 6, 1000]))


@some
def test_average_precision_and_roc_are_scikit_learns_with_and_without_ties(seed, levels):
    scores, relevant = drawn(seed, levels)
    assert average_precision(scores, relevant) == pytest.approx(
        average_precision_score(relevant, scores), abs=1e-12
    )
    assert area_under_roc(scores, relevant) == pytest.approx(
        roc_auc_score(relevant, scores), abs=1e-12
    )


@some
def test_rank_correlation_is_scipys_column_by_column(seed, levels):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randint(levels, (2, 9, 3), generator=generator).double()
    found = rank_correlation(first, second)
    for column in range(3):
        one, two = first[:, column].numpy(), second[:, column].numpy()
        if one.std() and two.std():
            assert found[column].item() == pytest.approx(spearmanr(one, two).statistic, abs=1e-12)
        else:
            assert found[column].isnan()


@some
def test_gains_are_the_mean_over_every_order_of_ties_and_enclose_the_area_of_the_roc(seed, levels):
    scores, relevant = drawn(seed, levels)
    found = gains(scores, relevant)
    share = relevant.double().mean().item()
    area = torch.trapezoid(found, torch.linspace(0, 1, 26, dtype=torch.float64)).item()
    assert (found[0].item(), found[-1].item()) == (0, pytest.approx(1))
    assert area == pytest.approx(share / 2 + (1 - share) * area_under_roc(scores, relevant))


def test_gains_without_ties_count_what_was_found():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.7])
    relevant = torch.tensor([True, True, False, False])
    assert gains(scores, relevant).tolist() == [0, 0.5, 0.5, 0.5, 1]


def test_nothing_relevant_is_refused():
    none = torch.zeros(3, dtype=torch.bool)
    with pytest.raises(DataError, match="needs a relevant"):
        average_precision(torch.rand(3), none)
    for kind in (none, ~none):
        with pytest.raises(DataError, match="Both kinds"):
            area_under_roc(torch.rand(3), kind)


def test_scores_that_cannot_be_ranked_are_refused():
    scores = torch.zeros(3, 2)
    scores[1, 1] = torch.nan
    with pytest.raises(NumericsError, match="query 1"):
        check_scores(scores)
    for wrong in (torch.zeros(3), torch.zeros(0, 2), torch.zeros(3, 2).long()):
        with pytest.raises(ShapeError, match=r"\(n, q\)"):
            check_scores(wrong)
