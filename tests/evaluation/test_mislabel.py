import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from whence.core import Statistic
from whence.errors import DataError, NumericsError, ShapeError
from whence.evaluation import Mislabel


def seen(scores, wrong, indices=None):
    statistic = Mislabel()
    places = torch.arange(len(scores)) if indices is None else torch.tensor(indices)
    statistic.update(places, torch.tensor(scores), torch.tensor(wrong))
    return statistic


@pytest.fixture
def drawn(generator):
    wrong = torch.rand(200, generator=generator) < 0.1
    return torch.randn(200, generator=generator) + 1.5 * wrong, wrong


def test_its_areas_are_scikit_learns(drawn):
    scores, wrong = drawn
    statistic = Mislabel()
    statistic.update(torch.arange(200), scores, wrong)
    found = statistic.result()
    assert found.auroc == pytest.approx(roc_auc_score(wrong, scores))
    assert found.auprc == pytest.approx(average_precision_score(wrong, scores))
    share = wrong.double().mean().item()
    assert found.area == pytest.approx(share / 2 + (1 - share) * found.auroc)
    assert (found.count, found.wrong) == (200, int(wrong.sum()))


def test_the_curve_says_what_share_the_first_images_hold():
    found = seen([5.0, 4, 3, 2, 1], [True, False, True, False, False]).result()
    assert found.found.tolist() == [0, 0.5, 0.5, 1, 1, 1]
    assert found.fractions.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert [found.found_at(f) for f in (0, 0.2, 0.5, 1)] == pytest.approx([0, 0.5, 0.75, 1])
    assert "of 2 wrong labels in the first tenth of 5" in str(found)


def test_scores_that_are_all_alike_get_the_chance_levels():
    found = seen([1.0] * 10, [True] * 3 + [False] * 7).result()
    assert (found.auroc, found.auprc, found.area) == pytest.approx((0.5, 0.3, 0.5))
    torch.testing.assert_close(found.found, found.fractions)


@given(st.data())
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(data):
    scores = data.draw(st.lists(st.floats(-9, 9, width=16), min_size=4, max_size=9))
    wrong = [i % 3 == 0 for i in range(len(scores))]
    order = data.draw(st.permutations(range(len(scores))))
    cut = data.draw(st.integers(1, len(scores) - 1))
    parts = [
        seen([scores[i] for i in part], [wrong[i] for i in part], list(part))
        for part in (order[:cut], order[cut:])
    ]
    whole = seen(scores, wrong)
    assert parts[0].merge(parts[1]) == whole == parts[1].merge(parts[0])
    assert str(parts[0].merge(parts[1]).result()) == str(whole.result())


def test_it_is_a_statistic():
    assert isinstance(Mislabel(), Statistic)


def test_what_would_count_twice_or_cannot_be_ranked_is_refused():
    statistic = seen([1.0, 2.0], [True, False])
    with pytest.raises(DataError, match="image 1 came twice"):
        statistic.merge(seen([1.0], [True], [1]))
    with pytest.raises(DataError, match="one batch"):
        seen([1.0, 2.0], [True, False], [4, 4])
    with pytest.raises(NumericsError, match="image 1 is NaN"):
        seen([1.0, torch.nan], [True, False])
    with pytest.raises(ShapeError, match="3 numbers"):
        seen([1.0, 2.0], [True, False], [1, 2, 3])
    with pytest.raises(DataError, match="Both kinds"):
        seen([1.0, 2.0], [True, True]).result()
