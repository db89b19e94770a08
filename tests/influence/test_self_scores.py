import pytest
import torch

from whence.core import Margin, TensorData
from whence.errors import DataError, NumericsError
from whence.influence import (
    SCORERS,
    Checkpoint,
    GradDot,
    TracIn,
    influence,
    self_influence,
)

SLOW = ("lissa", "explicit", "influence", "arnoldi")
SOME = [s for s in SCORERS if s.name not in SLOW]


def assert_equal(found, expected, rtol=1e-9):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


@pytest.mark.parametrize("scorer", SOME, ids=[s.name for s in SOME])
def test_self_influence_is_the_diagonal_of_all_scores(setting, scorer):
    case = setting()
    target = Margin(case.train.labels)
    whole = influence(case.network, case.train, case.train.images, target, scorer=scorer)
    found = self_influence(case.network, case.train, scorer=scorer, batch_size=4)
    assert_equal(found.scores, whole.scores.diag())
    assert torch.equal(found.indices, whole.indices)
    assert torch.equal(found.labels, whole.labels)


def test_it_is_the_squared_norm_of_the_loss_gradient_and_adds_up_over_checkpoints(setting):
    case = setting()
    training, _ = case.gradients()
    squared = training.square().sum(dim=1)
    assert_equal(self_influence(case.network, case.train).scores, squared)
    state = case.model.state_dict()
    twice = self_influence(
        case.network,
        case.train,
        scorer=TracIn(),
        checkpoints=[Checkpoint(weights=state, learning_rate=rate) for rate in (0.5, 0.25)],
    )
    assert_equal(twice.scores, 0.75 * squared)
    assert twice.highest(2).tolist() == squared.topk(2).indices.tolist()
    assert len(twice.highest(99)) == 9


def test_a_flipped_label_stands_out(setting):
    case = setting("softmax regression", count=30)
    labels = case.model(case.train.images).argmax(dim=1)
    labels[7] = (labels[7] + 1) % 4
    train = TensorData(images=case.train.images, labels=labels, classes=tuple("abcd"))
    assert self_influence(case.network, train, scorer=GradDot()).highest(1).tolist() == [7]


def test_bad_data_are_refused(setting, holed):
    case = setting()
    with pytest.raises(DataError, match="no usable training image"):
        self_influence(case.network, holed(case.train, tuple(range(9))))
    images = case.train.images.clone()
    images[3, 0, 0, 0] = torch.nan
    train = TensorData(images=images, labels=case.train.labels, classes=tuple("abcd"))
    with pytest.raises(NumericsError, match=r"training images \[3\]"):
        self_influence(case.network, train)
    found = self_influence(case.network, holed(case.train, (0, 4)), batch_size=2)
    assert found.indices.tolist() == [1, 2, 3, 5, 6, 7, 8]
