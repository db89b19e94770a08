"""Influence functions beside dattri's: explicit inverse and DataInf."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from whence.core import Loss, TensorData
from whence.curvature import TrainingImages
from whence.gradients import Recorder
from whence.influence.fisher import datainf
from whence.influence.solving import explicit
from whence.network import Network

DAMPING = 0.05


@pytest.fixture(scope="session")
def attributors():
    """dattri's influence functions."""
    return pytest.importorskip("dattri.algorithm.influence_function", reason="needs whence[parity]")


@pytest.fixture(scope="module")
def subject():
    """A small network, training images and queries, with labels."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=generator))
    images = torch.randn(16, 1, 3, 3, generator=generator)
    labels = torch.randint(3, (16,), generator=generator)
    return model, images, labels


def theirs(attributors, subject, kind, **settings):
    """dattri's scores, ``(n, q)``."""
    from dattri.task import AttributionTask

    model, images, labels = subject

    def loss(parameters, batch):
        image, label = batch
        return functional.cross_entropy(functional_call(model, parameters, (image,)), label)

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    one_by_one = DataLoader(TensorDataset(images[:12], labels[:12]), batch_size=1, shuffle=False)
    train = DataLoader(TensorDataset(images[:12], labels[:12]), batch_size=12, shuffle=False)
    test = DataLoader(TensorDataset(images[12:], labels[12:]), batch_size=4, shuffle=False)
    attributor = getattr(attributors, kind)(task=task, **settings)
    attributor.cache(one_by_one if kind == "IFAttributorDataInf" else train)
    return attributor.attribute(train, test).detach()


def ours(subject, fit):
    """Inner products of loss gradients under an inverse, ``(n, q)``."""
    model, images, labels = subject
    recorder = Recorder(Network.read(model, images[:2]))
    train = TensorData(images=images[:12], labels=labels[:12])
    inverse = fit(TrainingImages(recorder=recorder, data=train))
    queries = recorder.record(images[12:], Loss(labels[12:])).materialise()
    return recorder.record(images[:12], Loss(labels[:12])).dot(inverse(queries))


@pytest.mark.filterwarnings("ignore")
def test_datainf_is_dattri_s(attributors, subject):
    found = ours(subject, lambda chosen: datainf(chosen, damping=DAMPING))
    expected = theirs(attributors, subject, "IFAttributorDataInf", regularization=DAMPING)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_explicit_influence_function_is_dattri_s(attributors, subject):
    """Both with the Hessian, damped enough to be positive."""
    found = ours(subject, lambda chosen: explicit(chosen, damping=1.0, curvature="hessian"))
    expected = theirs(attributors, subject, "IFAttributorExplicit", regularization=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
