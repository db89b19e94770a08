"""Retrieval: candidates of an index, scored exactly, and the recall that is measured."""

import pytest
import torch
from torch import nn

from whence.core import Margin, TensorData
from whence.errors import MismatchError, SettingError
from whence.gradients import Projection, SparseProjection
from whence.influence import (
    GradCos,
    GradDot,
    TracIn,
    index_gradients,
    influence,
    retrieve,
    search_gradients,
)
from whence.network import Network


def made(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 3)
        )
    return Network.read(model.double().eval(), torch.zeros(2, 1, 6, 6, dtype=torch.float64))


@pytest.fixture
def setting(tmp_path):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(44, 1, 6, 6, generator=generator, dtype=torch.float64)
    train = TensorData(images=images[:40], labels=torch.arange(40) % 3)
    network, folder = made(), tmp_path / "index"
    index_gradients(network, train, folder, projection=Projection(dimension=64), shard_size=16)
    return network, train, folder, images[40:], Margin(torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("side", ["proponents", "opponents"])
def test_scores_are_those_of_the_exact_ranking(setting, side):
    network, train, _, images, target = setting
    exact = influence(network, train, images, target, scorer=GradCos())
    found = retrieve(*setting, k=5, candidates=12, side=side, sample=0)
    assert torch.allclose(
        found.scores, exact.scores.T.gather(1, found.indices), rtol=1e-10, atol=1e-12
    )
    assert torch.equal(found.labels, train.labels[found.indices])
    assert found.recall is None
    order = found.scores.diff(dim=1)
    assert (order <= 0).all() if side == "proponents" else (order >= 0).all()
    everything = retrieve(*setting, k=5, candidates=40, side=side)
    assert torch.equal(everything.indices, getattr(exact, side)(5).indices)
    assert torch.equal(everything.recall, torch.ones(4, dtype=torch.float64))


def test_the_recall_of_a_sample_of_everything_is_the_recall_itself(setting):
    network, train, _, images, target = setting
    found = retrieve(*setting, k=5, candidates=5, sample=40)
    exact = influence(network, train, images, target, scorer=GradCos()).proponents(5).indices
    assert torch.equal(found.indices, exact)
    assert found.scored == found.sampled == 40
    near = retrieve(*setting, k=5, candidates=5, sample=0)
    assert near.scored < 40
    assert ((found.recall > 0.2) & (found.recall <= 1)).all()
    assert (found.recall * 5).round().equal(found.recall * 5)


def test_more_candidates_never_lower_the_recall(setting):
    few, many = (retrieve(*setting, k=5, candidates=n, sample=40).recall for n in (5, 15))
    assert (many >= few).all()
    assert few.mean() < 1


def test_too_many_images_and_other_networks_and_data_are_refused(setting):
    network, train, folder, images, target = setting
    for settings in ({"k": 41, "candidates": 50}, {"k": 0}, {"k": 5, "candidates": 4}):
        with pytest.raises(SettingError, match="40 images of the index"):
            retrieve(*setting, **settings)
    with pytest.raises(MismatchError, match="another model"):
        retrieve(made(1), train, folder, images, target)
    with pytest.raises(MismatchError, match="differs in data"):
        retrieve(
            network,
            TensorData(images=train.images + 1, labels=train.labels),
            folder,
            images,
            target,
        )


def test_a_sparse_index_is_asked_as_it_was_made(setting, tmp_path):
    network, train, _, images, target = setting
    folder = tmp_path / "sparse"
    index_gradients(network, train, folder, projection=SparseProjection(dimension=64, spread=2))
    exact = influence(network, train, images, target, scorer=GradCos())
    found = retrieve(network, train, folder, images, target, k=5, candidates=15, sample=40)
    assert torch.equal(found.indices, exact.proponents(5).indices)
    assert found.recall.mean() > 0.6


@pytest.mark.parametrize("side", ["proponents", "opponents"])
@pytest.mark.parametrize("score", ["grad-dot", GradDot(output="margin")], ids=["loss", "margin"])
def test_inner_products_are_those_of_the_exact_ranking(setting, score, side):
    network, train, _, images, target = setting
    scorer = GradDot() if isinstance(score, str) else score
    exact = getattr(influence(network, train, images, target, scorer=scorer), side)(5)
    found = retrieve(*setting, k=5, candidates=40, side=side, score=score, sample=0)
    assert torch.equal(found.indices, exact.indices)
    assert torch.allclose(found.scores, exact.scores, rtol=1e-10)


def test_an_index_that_keeps_everything_gives_the_inner_products(setting, tmp_path):
    network, train, _, images, target = setting
    folder = tmp_path / "whole"
    index_gradients(network, train, folder, projection=Projection(dimension=10_000))
    exact = influence(network, train, images, target, scorer=GradDot()).scores.T
    near = search_gradients(network, folder, images, target, count=40, score="loss")
    found = torch.zeros(4, 40).scatter(1, near.indices, near.scores)
    assert torch.allclose(found.double(), exact, rtol=1e-2, atol=float(1e-3 * exact.abs().max()))


def test_scores_that_an_index_has_no_candidates_for_are_refused(setting):
    for score, name in (("ekfac", "ekfac"), (TracIn(), "tracin")):
        with pytest.raises(SettingError, match=rf"grad-cos and grad-dot; got .?{name}"):
            retrieve(*setting, score=score)
