"""The NHANES experiment: its attributions, penalty and score beside ours and others'."""

import pytest
import torch
from sklearn.metrics import roc_auc_score

from reproductions.xdnn import nhanes
from reproductions.xdnn.nhanes import Cell, attributions, auc, fresh, logits, loss, splits, table
from whence.attribution import Gradient, InputXGradient
from whence.core import ModelScalar, logit
from whence.priors import GiniSparsity, MeanMap, all_log_probabilities


@pytest.fixture
def task(generator):
    x = torch.randn(6, 5, generator=generator)
    return x, (torch.rand(6, generator=generator) > 0.5).float()


@pytest.fixture
def nets(monkeypatch):
    monkeypatch.setattr(nhanes, "WIDTHS", (4, 3, 1))
    return lambda biased: {name: value[0] for name, value in fresh(1, 5, biased=biased).items()}


def as_images(parameters):
    """The network as a model of images of one row, with a second logit of zero."""

    def model(images):
        z = logits(parameters, images.flatten(1))
        return torch.stack([z, torch.zeros_like(z)], dim=1)

    return model


@pytest.mark.parametrize("method", ["X-Gradient", "Grad", "RRR"])
def test_its_attributions_are_those_of_the_methods(method, task, nets):
    x, _ = task
    parameters = nets(biased=method != "X-Gradient")
    found = attributions(Cell("", method, 1.0), parameters, x, x[None], x[None])
    ours = InputXGradient() if method == "X-Gradient" else Gradient()
    target = all_log_probabilities(torch.zeros(6).long()) if method == "RRR" else None
    f = ModelScalar(as_images(parameters), target or logit(0))
    torch.testing.assert_close(found, ours(f, x[:, None, None])[:, 0, 0])


def test_expected_gradients_are_the_mean_over_their_draws(task, nets, generator):
    x, _ = task
    parameters = nets(biased=True)
    starts = torch.randn(3, 6, 5, generator=generator)
    places = torch.rand(3, 6, 1, generator=generator)
    found = attributions(Cell("", "EG", 1.0, 3), parameters, x, starts, places)
    naive = torch.zeros_like(x)
    for start, place in zip(starts, places, strict=True):
        point = (start + place * (x - start)).requires_grad_()
        (slope,) = torch.autograd.grad(logits(parameters, point).sum(), point)
        naive += (x - start) * slope / 3
    torch.testing.assert_close(found, naive)


def test_its_loss_is_the_task_and_the_penalty_of_the_mean_map(task, nets):
    x, y = task
    parameters = nets(biased=False)
    cell = Cell("", "X-Gradient", 0.7)
    found = loss(cell, parameters, x, y, x[None], x[None])
    f = ModelScalar(as_images(parameters), logit(0))
    penalty = MeanMap(penalty=GiniSparsity())(InputXGradient()(f, x[:, None, None]))
    plain = loss(Cell("", "none", 0.0), parameters, x, y, x[None], x[None])
    torch.testing.assert_close(found, plain + 0.7 * (penalty - 1))


def test_its_score_is_scikit_learns(generator):
    scores = torch.randn(2, 40, generator=generator).round(decimals=1)
    labels = (torch.rand(2, 40, generator=generator) > 0.3).float()
    naive = [roc_auc_score(y, s) for s, y in zip(scores, labels, strict=True)]
    assert auc(scores, labels).tolist() == pytest.approx(naive)


def test_the_table_is_the_one_that_was_described(shared_data):
    values, labels = table()
    assert values.shape == (9278, 18)
    assert labels.mean().item() == pytest.approx(0.732, abs=5e-4)
    split = splits(values, labels, 100, 2)
    x, y = split.train
    assert x.shape == (2, 100, 118)
    assert split.test[0].shape == (2, 3000, 118)
    assert y.shape == (2, 100)
    torch.testing.assert_close(x.mean(dim=1), torch.zeros(2, 118), atol=1e-5, rtol=0)
    assert x.isfinite().all()
