import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from whence.core import Statistic
from whence.errors import DataError, NumericsError, SettingError, ShapeError
from whence.evaluation import (
    Cardinality,
    IdenticalClass,
    IdenticalSubclass,
    MixedDataset,
    ShortcutDetection,
    TopCardinality,
)


@pytest.fixture
def scores(generator):
    return torch.randn(30, 6, generator=generator)


@pytest.mark.parametrize("metric", [IdenticalClass, IdenticalSubclass])
@pytest.mark.parametrize("k", [1, 4, 100])
def test_it_is_the_share_of_the_highest_images_that_have_the_querys_class(scores, metric, k):
    labels, query_labels = torch.arange(30) % 3, torch.tensor([0, 1, 2, 0, 1, 5])
    found = metric(k=k)(scores, labels, query_labels)
    for q in range(6):
        top = sorted(range(30), key=lambda i: -scores[i, q].item())[:k]
        same = [labels[i] == query_labels[q] for i in top]
        assert found[q].item() == pytest.approx(sum(same) / len(same))


def test_images_that_tie_for_the_last_place_share_it():
    labels = torch.tensor([0, 1, 1, 1])
    found = IdenticalClass()(torch.ones(4, 2), labels, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([0.25, 0.75])


def test_random_scores_get_the_classs_share(generator):
    scores = torch.randn(40, 2000, generator=generator)
    labels = (torch.arange(40) < 10).long()
    found = IdenticalClass(k=3)(scores, labels, torch.ones(2000).long())
    assert found.mean().item() == pytest.approx(0.25, abs=0.02)


def test_a_shortcut_is_asked_of_the_queries_that_took_it(scores):
    carriers = torch.arange(30) < 7
    query_carries = torch.tensor([True, True, True, True, False, True])
    query_labels = torch.tensor([1, 2, 0, 1, 1, 2])
    predictions = torch.tensor([0, 0, 0, 1, 0, 0])
    found = ShortcutDetection(shortcut_class=0)(
        scores, carriers, query_carries, query_labels, predictions
    )
    assert found.isnan().tolist() == [False, False, True, True, True, False]
    for q in (0, 1, 5):
        expected = average_precision_score(carriers, scores[:, q])
        assert found[q].item() == pytest.approx(expected)


def test_foreign_images_are_asked_of_foreign_queries_that_got_their_class(scores):
    foreign = torch.arange(30) >= 25
    query_foreign = torch.tensor([True, True, False, True, False, True])
    predictions = torch.tensor([2, 1, 2, 2, 2, 2])
    found = MixedDataset(given_class=2)(scores, foreign, query_foreign, predictions)
    assert found.isnan().tolist() == [False, True, True, False, True, False]
    for q in (0, 3, 5):
        expected = average_precision_score(foreign, scores[:, q])
        assert found[q].item() == pytest.approx(expected)


def test_cardinality_counts_different_images_among_all_rankings():
    scores = torch.tensor([[9.0, 9, 1], [8, 1, 9], [1, 8, 8], [0, 0, 0]])
    statistic = TopCardinality(k=2)
    statistic.update(torch.arange(3), scores)
    assert statistic.result() == Cardinality(share=0.5, distinct=3, queries=3, k=2)
    assert isinstance(statistic, Statistic)


def test_random_rankings_have_the_cards_cardinality(generator):
    statistic = TopCardinality(k=5)
    statistic.update(torch.arange(40), torch.randn(100, 40, generator=generator))
    expected = 100 / (5 * 40) * (1 - (1 - 5 / 100) ** 40)
    assert statistic.result().share == pytest.approx(expected, abs=0.03)


@given(st.data())
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(data):
    scores = torch.randn(9, 6, generator=torch.Generator().manual_seed(2))
    order = torch.tensor(data.draw(st.permutations(range(6))))
    cut = data.draw(st.integers(1, 5))
    whole, left, right = (TopCardinality(k=2) for _ in range(3))
    whole.update(torch.arange(6), scores)
    left.update(order[:cut], scores[:, order[:cut]])
    right.update(order[cut:], scores[:, order[cut:]])
    assert left.merge(right) == whole == right.merge(left)


def test_queries_that_come_twice_and_other_settings_are_refused(scores):
    statistic = TopCardinality()
    with pytest.raises(DataError, match="needs a query"):
        statistic.result()
    statistic.update(torch.arange(6), scores)
    with pytest.raises(DataError, match="Query 3 came twice"):
        statistic.update(torch.tensor([3]), scores[:, :1])
    with pytest.raises(DataError, match="came twice"):
        TopCardinality().update(torch.tensor([4, 4]), scores[:, :2])
    with pytest.raises(DataError, match="Query 0 came twice"):
        statistic.merge(statistic)
    with pytest.raises(SettingError, match="same k"):
        statistic.merge(TopCardinality(k=2))


def test_what_does_not_fit_is_refused(scores):
    labels, queries = torch.zeros(30).long(), torch.zeros(6).long()
    for own, query in ((labels[1:], queries), (labels, queries[1:])):
        with pytest.raises(ShapeError, match="30 training images and 6 queries"):
            IdenticalClass()(scores, own, query)
    with pytest.raises(NumericsError, match="query 0"):
        IdenticalClass()(scores * torch.nan, labels, queries)
    with pytest.raises(DataError, match="relevant training image"):
        MixedDataset(given_class=0)(scores, labels.bool(), queries == 0, queries)
    for metric in (IdenticalClass, IdenticalSubclass, TopCardinality):
        with pytest.raises(SettingError, match="1 or more; got 0"):
            metric(k=0)
