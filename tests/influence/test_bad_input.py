"""What influence does with data and models that do not fit it, whatever the scorer."""

import pytest
import torch
from torch import nn

from whence.attribution import Gradient
from whence.core import Margin, TensorData
from whence.errors import DataError, MismatchError, ModeError, NumericsError, TargetError
from whence.influence import (
    SCORERS,
    Checkpoint,
    GradCos,
    InfluenceFunction,
    TracIn,
    influence,
    self_influence,
)
from whence.network import Network
from whence.training_features import training_features

QUICK = {"influence": InfluenceFunction(iterations=5)}
SLOW = ("lissa", "explicit", "arnoldi")
SOME = [QUICK.get(s.name, s) for s in SCORERS if s.name not in SLOW]
EVERY = pytest.mark.parametrize("scorer", SOME, ids=[s.name for s in SOME])


def with_labels(case, change):
    labels = case.train.labels.clone()
    change(labels)
    names = tuple(f"picture-{i}.png" for i in range(9))
    return TensorData(
        images=case.train.images, labels=labels, classes=tuple("abcdefgh"), names=names
    )


@EVERY
def test_a_missing_label_is_named(setting, scorer):
    case = setting()
    train = with_labels(case, lambda labels: labels.index_fill_(0, torch.tensor([5]), -1))
    with pytest.raises(DataError, match=r"'picture-5\.png' has no label"):
        influence(case.network, train, case.images, case.target, scorer=scorer)


@EVERY
def test_a_label_that_the_model_does_not_have_is_named(setting, scorer):
    case = setting()
    train = with_labels(case, lambda labels: labels.index_fill_(0, torch.tensor([6]), 7))
    with pytest.raises((DataError, TargetError), match=r"'picture-6\.png' has the label 7"):
        influence(case.network, train, case.images, case.target, scorer=scorer)


def test_fewer_images_than_asked_for_are_all_of_them(setting):
    case = setting()
    found = influence(case.network, case.train, case.images, case.target)
    assert found.proponents(50).indices.shape == (3, 9)
    assert self_influence(case.network, case.train).highest(50).shape == (9,)


def test_one_training_image_is_enough(setting):
    case = setting()
    alone = TensorData(
        images=case.train.images[:1], labels=case.train.labels[:1], classes=tuple("abcd")
    )
    for scorer in SOME:
        found = influence(case.network, alone, case.images, case.target, scorer=scorer)
        assert found.scores.shape == (1, 3)
        assert found.scores.isfinite().all()


def test_a_model_in_train_mode_is_refused_where_it_is_read(setting):
    case = setting()
    case.model.train()
    with pytest.raises(ModeError, match="eval"):
        Network.read(case.model, case.images)
    case.model.eval()


class Idle(nn.Module):
    """A part of its parameters never moves the logits; another has weight zero behind it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 6)
        self.dead = nn.Linear(6, 5)
        self.behind = nn.Linear(5, 6, bias=False)
        self.last = nn.Linear(6, 3)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        h = torch.tanh(self.first(x.flatten(1)))
        return self.last(h + self.behind(self.dead(h)))


@EVERY
def test_parameters_that_receive_no_gradient_change_nothing(scorer, generator):
    images = torch.randn(8, 3, 2, 2, generator=generator).double()
    model = Idle().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator).double() / 2)
        model.behind.weight.zero_()
    network = Network.read(model, images)
    assert set(network.unread) == {"unused.weight", "unused.bias"}
    train = TensorData(images=images[:6], labels=torch.tensor([0, 1, 2, 0, 1, 2]))
    target = Margin(torch.tensor([0, 1]))
    found = influence(network, train, images[6:], target, scorer=scorer)
    assert found.scores.isfinite().all()
    assert (found.scores != 0).all()
    maps = training_features(found, 0, train, [0], Gradient()).attribution.values
    assert maps.isfinite().all()
    if scorer.name in ("grad-cos", "grad-dot", "kfac", "ekfac", "datainf"):
        names = [n for n in network.parameters if not n.startswith("dead.")]
        without = influence(network, train, images[6:], target, scorer=scorer, parameters=names)
        torch.testing.assert_close(found.scores, without.scores, rtol=1e-6, atol=1e-12)


def test_frozen_parameters_are_compared_like_the_others(setting):
    case = setting()
    whole = influence(case.network, case.train, case.images, case.target, scorer=GradCos())
    for p in case.model[0].parameters():
        p.requires_grad_(requires_grad=False)
    frozen = Network.read(case.model, case.images)
    found = influence(frozen, case.train, case.images, case.target, scorer=GradCos())
    torch.testing.assert_close(found.scores, whole.scores)
    assert not case.model[0].weight.requires_grad


def test_a_checkpoint_of_another_model_is_refused(setting):
    case = setting()
    other = setting("softmax regression")
    with pytest.raises(MismatchError, match="does not fit the network"):
        influence(
            case.network,
            case.train,
            case.images,
            case.target,
            scorer=TracIn(),
            checkpoints=[Checkpoint(weights=other.model.state_dict())],
        )


@EVERY
def test_images_that_are_not_finite_are_named(setting, scorer):
    case = setting()
    images = case.train.images.clone()
    images[7, 0, 0, 0] = torch.nan
    train = TensorData(images=images, labels=case.train.labels, classes=tuple("abcd"))
    with pytest.raises(NumericsError, match=r"\[7\]|\['7'\]"):
        influence(case.network, train, case.images, case.target, scorer=scorer)
