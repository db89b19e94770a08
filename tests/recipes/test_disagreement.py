"""What speaks against labels and for errors, against naive float64 restatements."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import Margin, TensorData
from whence.errors import DataError, SettingError, UnsupportedOperation
from whence.influence import GradCos, GradDot, influence
from whence.network import Network
from whence.recipes import read_group
from whence.recipes.findings import harmful_images
from whence.recipes.groups import group_records, places_of
from whence.recipes.harm import harm_of, rather_than
from whence.recipes.neighbours import neighbours_of

CLASSES, COUNT = 3, 24


@pytest.fixture
def model(generator):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return net.eval()


@pytest.fixture
def train(generator):
    images = torch.randn(COUNT, 1, 4, 4, generator=generator)
    labels = torch.arange(COUNT) % CLASSES
    names = tuple(f"{k:02}.png" for k in range(COUNT))
    return TensorData(images=images, labels=labels, names=names)


@pytest.fixture
def queries(generator):
    return torch.randn(2, 1, 4, 4, generator=generator)


def scored(model, train, queries, scorer=None, labels=(0, 1)):
    network = Network.read(model, train.images[:2])
    target = Margin(torch.tensor(labels))
    return network, influence(network, train, queries, target, scorer=scorer)


def gradient(model, image, label, output):
    double = nn.Sequential(*model).double()
    logits = double(image[None].double())
    value = output(logits, torch.tensor([label]))
    parts = torch.autograd.grad(value, list(double.parameters()))
    model.float()
    return torch.cat([part.flatten() for part in parts])


def loss(logits, labels):
    return -functional.cross_entropy(logits, labels)


def margin(logits, labels):
    return Margin(labels)(logits).sum()


@pytest.mark.parametrize("scorer", [GradCos(), GradDot(output="margin")], ids=lambda s: s.name)
def test_harm_is_the_loss_gradient_along_the_difference_of_two_queries(
    model, train, queries, scorer
):
    pair = queries[[0, 0]]
    _, scores = scored(model, train, pair, scorer, labels=(2, 1))
    found = harm_of(rather_than(scores, 0, 1))
    sides = [gradient(model, queries[0], label, margin) for label in (2, 1)]
    if scorer.name == "grad-cos":
        sides = [side / side.norm() for side in sides]
    own = [gradient(model, train.images[i], int(train.labels[i]), loss) for i in range(COUNT)]
    expected = torch.stack([g @ (sides[0] - sides[1]) for g in own])
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_neighbours_and_influences_are_those_of_the_formula(model, train, queries):
    network, scores = scored(model, train, queries)
    found = neighbours_of(network, train, scores, count=5)
    with torch.no_grad():
        features = model[:3](train.images).double()
        logits = model(train.images).double()
    labels = train.labels
    last = [gradient_of_last(model, train.images[i], int(labels[i])) for i in range(COUNT)]
    for i in range(COUNT):
        others = [j for j in range(COUNT) if j != i]
        cosines = functional.cosine_similarity(features[i][None], features[others])
        top = cosines.topk(5)
        weights = top.values.clamp(min=0) + 1e-12
        apart = torch.tensor([labels[others[j]] != labels[i] for j in top.indices.tolist()])
        assert float(found.disagreement[i]) == pytest.approx(
            float((weights * apart).sum() / weights.sum()), abs=1e-5
        )
        along = functional.cosine_similarity(last[i][None], torch.stack([last[j] for j in others]))
        against = along[along.abs().topk(5).indices] < 0
        assert float(found.opposition[i]) == pytest.approx(float(against.double().mean()))
        chance = logits[i].softmax(0)[found.labels[i]]
        assert float(found.probabilities[i]) == pytest.approx(float(chance), rel=1e-4)


def gradient_of_last(model, image, label):
    logits = model(image[None])
    parts = torch.autograd.grad(
        functional.cross_entropy(logits, torch.tensor([label])), list(model[3].parameters())
    )
    return torch.cat([part.flatten() for part in parts]).double()


def test_only_as_many_images_are_looked_up_as_were_asked_for(model, train, queries):
    network, scores = scored(model, train, queries)
    whole = neighbours_of(network, train, scores)
    part = neighbours_of(network, train, scores, most=6)
    known = ~part.disagreement.isnan()
    assert int(known.sum()) == 6
    assert scores.self_influence[known].min() >= scores.self_influence[~known].max()
    torch.testing.assert_close(part.disagreement[known], whole.disagreement[known])
    little = neighbours_of(network, train, scores, most=2, memory=4 * 16 * 12)
    assert int((~little.disagreement.isnan()).sum()) == 2


def test_without_a_last_layer_nothing_is_compared(train, queries):
    net = nn.Sequential(nn.Conv2d(1, CLASSES, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network, scores = scored(net, train, queries)
    with pytest.raises(UnsupportedOperation):
        neighbours_of(network, train, scores)


def test_the_images_that_harm_the_most_predictions_come_first(model, train, queries):
    _, scores = scored(model, train, queries)
    harm = torch.full((3, COUNT), -1.0)
    harm[0, [4, 9]] = torch.tensor([1.0, 3.0])
    harm[1, [4, 2]] = torch.tensor([2.0, 8.0])
    harm[2, 9] = 5.0
    found = harmful_images(dict(enumerate(harm)), scores, train, first=3)
    assert [(h.index, h.queries) for h in found] == [(9, (0, 2)), (4, (0, 1)), (2, (1,))]
    assert found[0].share == pytest.approx((0.75 + 0 + 1) / 3)
    assert found[2].name == "02.png"
    assert harmful_images({}, scores, train) == ()


def test_a_list_of_training_images_is_read_by_place_and_by_name(tmp_path, train):
    path = tmp_path / "odd.txt"
    path.write_text("# by hand\n03.png\n\n7\n")
    name, members = read_group(str(path))
    assert (name, places_of(name, members, train)) == ("odd", (3, 7))
    assert read_group(f"mine={path}")[0] == "mine"
    assert places_of("some", [5, 2, 5], train) == (2, 5)
    with pytest.raises(SettingError, match="Did you mean 03"):
        places_of("some", ["03.pngg"], train)
    with pytest.raises(SettingError, match="place from 0 to 23"):
        places_of("some", [24], train)
    with pytest.raises(SettingError, match="no training image"):
        places_of("some", [], train)
    with pytest.raises(DataError, match="cannot be read"):
        read_group(str(tmp_path / "nothing.txt"))
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="lists no training image"):
        read_group(str(path))


def test_groups_are_sums_of_scores(model, train, queries):
    _, scores = scored(model, train, queries)
    lists = {"odd": (1, 3, 5)}
    none = {"regions": (), "suspects": (), "harmful": ()}
    found = group_records(scores, train, ("a", "b", "c"), lists=lists, **none)
    assert [(g.name, g.kind, g.size) for g in found] == [
        ("odd", "list", 3),
        ("class a", "class", 8),
        ("class b", "class", 8),
        ("class c", "class", 8),
    ]
    own = scores.scores[[1, 3, 5]].double()
    rest = [i for i in range(COUNT) if i not in (1, 3, 5)]
    assert found[0].scores == pytest.approx(own.sum(0).tolist(), rel=1e-5)
    assert found[0].means == pytest.approx(own.mean(0).tolist(), rel=1e-5)
    assert found[0].others == pytest.approx(scores.scores[rest].mean(0).tolist(), rel=1e-4)
    assert (found[0].images, found[1].images) == ((1, 3, 5), ())
