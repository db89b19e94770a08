from dataclasses import replace

import pytest
import torch
from torch import nn

from whence.core import Margin, TensorData
from whence.errors import DataError, SettingError, ShapeError
from whence.influence import GradDot, influence
from whence.network import Network
from whence.recipes import Retrain, group_influence, removal_curve, retrain_each

IMAGES, QUERIES = 12, 3
LABELS = torch.tensor([0, 1, 1])


@pytest.fixture
def model(generator):
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net.eval()


@pytest.fixture
def found(model, generator):
    """Scores of a real model, replaced by known effects."""
    images = torch.randn(IMAGES, 1, 4, 4, generator=generator)
    train = TensorData(images=images, labels=torch.arange(IMAGES) % 2)
    queries = torch.randn(QUERIES, 1, 4, 4, generator=generator)
    real = influence(Network.read(model, images[:2]), train, queries, Margin(LABELS))
    return replace(real, scores=torch.randn(IMAGES, QUERIES, generator=generator))


def retrain_with(effects):
    """Trains models whose margins are the sums of the effects of the images that are kept."""

    def retrain(keep):
        margins = keep.double() @ effects.double()
        own = torch.where(LABELS == 0, margins, -margins)
        return torch.stack([own, torch.zeros_like(own)], dim=-1)

    return retrain


def test_a_curve_removes_each_querys_highest_images(found):
    effects = found.scores
    curve = removal_curve(found, retrain_with(effects), LABELS, counts=(1, 4), at_once=5)
    torch.testing.assert_close(curve.before, effects.sum(dim=0).double())
    falling = effects.double().sort(dim=0, descending=True).values
    torch.testing.assert_close(curve.change[0], -falling[0])
    torch.testing.assert_close(curve.change[1], -falling[:4].sum(dim=0))
    flipped = (curve.before > 0) != (curve.before + curve.change[1] > 0)
    assert curve.flips[1].tolist() == flipped.double().tolist()
    assert (curve.excess > 0).all()
    torch.testing.assert_close(curve.area, curve.excess.mean(dim=0))


def test_places_are_those_of_the_training_set_whatever_the_order_of_the_scores(found, generator):
    mixed = torch.randperm(IMAGES, generator=generator)
    shuffled = replace(found, scores=found.scores[mixed], indices=found.indices[mixed])
    retrain = retrain_with(found.scores)
    one = removal_curve(found, retrain, LABELS, counts=(2,))
    two = removal_curve(shuffled, retrain, LABELS, counts=(2,))
    torch.testing.assert_close(one.change, two.change)


def test_together_all_queries_lose_the_same_images(found):
    effects = found.scores
    asked = []

    def retrain(keep):
        asked.append(keep)
        return retrain_with(effects)(keep)

    curve = removal_curve(found, retrain, LABELS, counts=(3,), together=True, draws=2)
    highest = effects.mean(dim=1).argsort(descending=True)[:3]
    torch.testing.assert_close(curve.change[0], -effects[highest].double().sum(dim=0))
    assert sum(len(keep) for keep in asked) == 1 + 1 * (1 + 2)
    assert set((~asked[0][1]).nonzero().flatten().tolist()) == set(highest.tolist())


def test_the_control_removes_as_many_random_images(found):
    effects = found.scores
    curve = removal_curve(found, retrain_with(effects), LABELS, counts=(4,), draws=400)
    expected = -effects.double().mean(dim=0) * 4
    torch.testing.assert_close(curve.control_change[0], expected, atol=0.25, rtol=0)
    again = removal_curve(found, retrain_with(effects), LABELS, counts=(4,), draws=400)
    assert torch.equal(curve.control_change, again.control_change)


def test_one_model_at_a_time_is_trained_on_the_images_that_are_kept(model, generator):
    queries = torch.randn(QUERIES, 1, 4, 4, generator=generator)
    seen = []

    def train(places):
        seen.append(places.tolist())
        return model

    retrain = retrain_each(train, queries)
    assert isinstance(retrain, Retrain)
    keep = torch.tensor([[True, False, True], [False, True, True]])
    logits = retrain(keep)
    assert seen == [[0, 2], [1, 2]]
    torch.testing.assert_close(logits[1], model(queries).detach())


def test_without_its_proponents_a_trained_model_loses_margin(generator):
    images = torch.randn(40, 1, 4, 4, generator=generator)
    labels = (images.flatten(1)[:, 0] > 0).long()
    queries = torch.randn(QUERIES, 1, 4, 4, generator=generator)
    target = (queries.flatten(1)[:, 0] > 0).long()

    def train(places):
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        nn.init.zeros_(net[1].weight)
        nn.init.zeros_(net[1].bias)
        optimiser = torch.optim.LBFGS(net.parameters(), max_iter=50)

        def loss():
            optimiser.zero_grad()
            value = nn.functional.cross_entropy(net(images[places]), labels[places])
            value = value + 0.05 * sum(p.square().sum() for p in net.parameters())
            value.backward()
            return value

        optimiser.step(loss)
        return net.eval()

    network = Network.read(train(torch.arange(40)), images[:2])
    data = TensorData(images=images, labels=labels)
    scores = influence(network, data, queries, Margin(target), scorer=GradDot())
    curve = removal_curve(scores, retrain_each(train, queries), target, counts=(8,))
    assert (curve.change < 0).all()
    assert (curve.excess > 0).all()


def test_the_influence_of_a_group_is_the_sum_of_its_images(found):
    groups = torch.zeros(3, IMAGES, dtype=torch.bool)
    groups[0, :5], groups[1, 3:9] = True, True
    result = group_influence(found, groups, names=["first", "middle", "empty"])
    assert result.sizes.tolist() == [5, 6, 0]
    scores = found.scores.double()
    torch.testing.assert_close(result.scores[0], scores[:5].sum(dim=0))
    torch.testing.assert_close(result.means[1], scores[3:9].mean(dim=0))
    torch.testing.assert_close(result.others[0], scores[5:].mean(dim=0))
    assert result.means[2].isnan().all()
    better = "first" if result.means[0, 1] > result.means[1, 1] else "middle"
    assert result.strongest(1)[0] == better
    assert result.strongest(1)[-1] == "empty"


def test_what_cannot_be_removed_is_refused(found):
    retrain = retrain_with(found.scores)
    with pytest.raises(DataError, match="none would be left"):
        removal_curve(found, retrain, LABELS, counts=(IMAGES,))
    for counts in ((), (0, 1), (3, 2), (2, 2)):
        with pytest.raises(SettingError, match="ascending from 1"):
            removal_curve(found, retrain, LABELS, counts=counts)
    with pytest.raises(SettingError, match="draws must be at least 1"):
        removal_curve(found, retrain, LABELS, counts=(1,), draws=0)
    with pytest.raises(ShapeError, match="3 queries need 3 labels"):
        removal_curve(found, retrain, LABELS[1:], counts=(1,))
    part = replace(found, scores=found.scores[1:], indices=found.indices[1:])
    with pytest.raises(DataError, match="must have a score"):
        removal_curve(part, retrain, LABELS, counts=(1,))
    with pytest.raises(ShapeError, match=r"must return logits of shape \(13, 3, classes\)"):
        removal_curve(found, lambda keep: keep.float(), LABELS, counts=(1, 2))


def test_groups_that_do_not_fit_are_refused(found):
    with pytest.raises(ShapeError, match="got 5 columns"):
        group_influence(found, torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ShapeError, match="need 2 names; got 1"):
        group_influence(found, torch.ones(2, IMAGES, dtype=torch.bool), names=["one"])
