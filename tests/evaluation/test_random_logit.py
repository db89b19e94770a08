from dataclasses import dataclass

import pytest
import torch
from torch import nn

from whence.core import Custom, ModelScalar, log_probability, logit, margin
from whence.errors import SettingError, TargetError
from whence.evaluation import EdgeMap, RandomLogit, Similarities, Spearman


@dataclass(frozen=True, kw_only=True)
class Gradient:
    def __call__(self, f, images):
        images = images.detach().clone().requires_grad_()
        return torch.autograd.grad(f(images).sum(), images)[0]


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.random.set_rng_state(torch.Generator().manual_seed(3).get_state())
        return nn.Sequential(nn.Flatten(), nn.Linear(144, 4)).eval()


@pytest.fixture
def images(generator):
    return torch.randn(3, 1, 12, 12, generator=generator)


def test_a_map_that_ignores_the_class_is_the_same_for_every_class(model, images):
    made = RandomLogit(draws=9)(model, images, logit(1), EdgeMap())
    assert len(made.stages) == 3
    torch.testing.assert_close(made.score, torch.ones(3))


def test_of_a_linear_network_the_weights_of_the_classes_are_compared(model, images):
    check = RandomLogit(draws=3, agreement=Spearman())
    classes = torch.tensor([0, 3, 2])
    made = check(model, images, logit(classes), Gradient())
    weights = model[1].weight.detach().view(4, 1, 1, 12, 12)
    for stage, name in enumerate(made.stages):
        step = int(name.split()[-1])
        for row, k in enumerate(classes.tolist()):
            expected = Spearman()(weights[k], weights[(k + step) % 4])
            assert made.values[stage, row].item() == pytest.approx(expected.item(), abs=1e-6)
    assert sorted(made.stages) == ["class + 1", "class + 2", "class + 3"]


def test_a_margin_and_a_log_probability_move_to_the_other_class_too(model, images):
    check = RandomLogit(draws=3, agreement=Spearman())
    classes = torch.tensor([0, 3, 2])
    for target in (margin, log_probability):
        made = check(model, images, target(classes), Gradient())
        first = Gradient()(ModelScalar(model, target(classes)), images)
        for stage, name in enumerate(made.stages):
            step = int(name.split()[-1])
            other = Gradient()(ModelScalar(model, target((classes + step) % 4)), images)
            torch.testing.assert_close(made.values[stage], Spearman()(first, other))


def test_the_score_is_the_mean_of_the_stages_that_are_defined_for_an_image():
    nan = torch.nan
    made = Similarities(
        stages=("a", "b", "c"), values=torch.tensor([[0.5, nan], [nan, nan], [-1.0, nan]])
    )
    assert made.score[0].item() == -0.25
    assert made.score[1].isnan()
    assert made.undefined.tolist() == [1, 3]


def test_the_seed_decides_the_classes_and_the_batch_does_not(model, images):
    whole = RandomLogit()(model, images, margin(1), Gradient()).score
    alone = RandomLogit()(model, images[1:2], margin(1), Gradient()).score
    torch.testing.assert_close(whole[1:2], alone)
    stages = {RandomLogit(seed=k)(model, images, logit(1), EdgeMap()).stages for k in range(8)}
    assert len(stages) > 1


def test_a_target_without_a_class_is_refused(model, images):
    with pytest.raises(TargetError, match="got Custom"):
        RandomLogit()(model, images, Custom(lambda z: z[:, 0]), Gradient())


def test_one_class_is_refused(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(144, 1)).eval()
    with pytest.raises(TargetError, match="the model has 1"):
        RandomLogit()(model, images, logit(0), EdgeMap())
    with pytest.raises(SettingError, match="1 or more"):
        RandomLogit(draws=0)
