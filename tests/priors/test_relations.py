import math

import pytest
import torch
from torch.nn import functional

from whence.errors import DataError, ShapeError
from whence.priors import GraphLaplacian, MeanMap, PairwiseSimilarity

CHAIN = torch.tensor([range(5), range(1, 6)])
"""Six pixels in a row, each joined to the next."""


@pytest.fixture
def values(generator):
    return torch.randn(4, 2, 2, 3, generator=generator, dtype=torch.float64)


def test_the_graphs_penalty_is_the_quadratic_form_of_its_laplacian(values, generator):
    weights = torch.rand(5, generator=generator, dtype=torch.float64)
    laplacian = torch.zeros(6, 6, dtype=torch.float64)
    for (i, j), w in zip(CHAIN.T.tolist(), weights, strict=True):
        laplacian[i, i] += w
        laplacian[j, j] += w
        laplacian[i, j] -= w
        laplacian[j, i] -= w
    v = values.sum(dim=1).flatten(1)
    naive = torch.stack([(row @ laplacian @ row) / (row @ row) for row in v]).mean()
    torch.testing.assert_close(GraphLaplacian(edges=CHAIN, weights=weights)(values), naive)


@pytest.mark.parametrize("k", range(6))
def test_an_eigenvector_of_the_graph_costs_its_eigenvalue(k):
    wave = torch.cos(math.pi * k * (torch.arange(6, dtype=torch.float64) + 0.5) / 6)
    found = GraphLaplacian(edges=CHAIN)(wave.view(1, 1, 2, 3))
    assert found.item() == pytest.approx(2 - 2 * math.cos(math.pi * k / 6), abs=1e-12)


def test_the_graph_of_features_takes_the_mean_of_all_samples():
    table = torch.tensor([[2.0, 0.0, 0.0], [0.0, -2.0, 0.0]]).view(2, 1, 1, 3)
    edges = torch.tensor([[0, 1], [1, 2]])
    assert GraphLaplacian(edges=edges)(table).item() == pytest.approx(1.5)
    mean = MeanMap(penalty=GraphLaplacian(edges=edges))(table)
    assert mean.item() == pytest.approx((0 + 1) / 2)


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"edges": CHAIN.T}, ShapeError, r"shape \(2, m\)"),
        ({"edges": CHAIN.double()}, ShapeError, "integers"),
        ({"edges": CHAIN - 1}, DataError, "an edge to -1"),
        ({"edges": CHAIN, "weights": torch.ones(4)}, ShapeError, "5 edges need as many weights"),
        ({"edges": CHAIN, "weights": -torch.ones(5)}, DataError, "0 or more"),
        ({"edges": CHAIN, "weights": torch.ones(5) * torch.nan}, DataError, "finite"),
    ],
    ids=["transposed", "floating", "negative", "too few weights", "below zero", "nan"],
)
def test_a_graph_that_is_none_is_refused(given, error, match):
    with pytest.raises(error, match=match):
        GraphLaplacian(**given)


def test_a_graph_of_another_size_is_refused(values):
    with pytest.raises(ShapeError, match=r"edge to pixel 6.*2 x 3 = 6 pixels"):
        GraphLaplacian(edges=CHAIN + 1)(values)


def test_pairwise_similarity_is_half_of_one_minus_the_mean_cosine_of_the_pairs(values):
    flat = values.flatten(1)
    pairs = [(0, 1), (0, 3), (1, 3)]
    cosines = [functional.cosine_similarity(flat[i], flat[j], dim=0).item() for i, j in pairs]
    penalty = PairwiseSimilarity(groups=torch.tensor([7, 7, 2, 7]))
    assert penalty(values).item() == pytest.approx((1 - sum(cosines) / 3) / 2)


def test_maps_that_are_alike_cost_nothing_and_opposite_ones_cost_one(values):
    penalty = PairwiseSimilarity(groups=torch.tensor([0, 0]))
    one = values[:1]
    assert penalty(torch.cat([one, 3 * one])).item() == pytest.approx(0, abs=1e-12)
    assert penalty(torch.cat([one, -one])).item() == pytest.approx(1)


def test_images_of_no_group_and_groups_of_one_have_no_pair(values):
    assert PairwiseSimilarity(groups=torch.tensor([-1, -1, 0, 1]))(values).item() == 0


def test_a_map_of_zeros_is_in_no_pair(values):
    penalty = PairwiseSimilarity(groups=torch.tensor([0, 0, 0, 1]))
    with_zeros = values.clone()
    with_zeros[1] = 0
    rest = PairwiseSimilarity(groups=torch.tensor([0, 0]))(values[[0, 2]])
    torch.testing.assert_close(penalty(with_zeros), rest)


def test_a_batch_of_a_dataset_takes_its_groups(values):
    penalty = PairwiseSimilarity(groups=torch.tensor([5, 6, 6, 5, 8]))
    own = penalty.at(torch.tensor([3, 0, 2, 1]))
    assert own.groups.tolist() == [5, 5, 6, 6]
    with pytest.raises(ShapeError, match="4 attributions need as many groups; got 5"):
        penalty(values)
    with pytest.raises(ShapeError, match="There are 5 groups, and image 9 was asked for"):
        penalty.at(torch.tensor([9]))


@pytest.mark.parametrize("groups", [torch.zeros(2, 2).long(), torch.zeros(3)], ids=["2d", "float"])
def test_groups_that_are_none_are_refused(groups):
    with pytest.raises(ShapeError, match="one integer per image"):
        PairwiseSimilarity(groups=groups)
