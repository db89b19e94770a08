"""Curvature matrices beside curvlinops'."""

import warnings
from types import ModuleType

import pytest
import torch
from torch import nn

from whence.core import TensorData
from whence.curvature import CurvatureProduct, EveryClass, TrainingImages
from whence.gradients import Recorder
from whence.influence.fitting import kronecker
from whence.network import Network


@pytest.fixture(scope="session")
def curvlinops() -> ModuleType:
    """Linear operators of curvature."""
    return pytest.importorskip("curvlinops", reason="needs whence[parity]")


def networks(name):
    return {
        "mlp": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(16, 7), nn.Sigmoid(), nn.Linear(7, 3, bias=False)
        ),
        "cnn": lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, stride=2),
            nn.Tanh(),
            nn.Conv2d(3, 4, 2, bias=False),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
    }[name]()


class Subject:
    """A network in double precision with eight images."""

    def __init__(self, name):
        generator = torch.Generator().manual_seed(0)
        self.model = networks(name).double().eval()
        with torch.no_grad():
            for p in self.model.parameters():
                p.copy_(0.6 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
        self.images = torch.randn(8, 1, 4, 4, generator=generator, dtype=torch.float64)
        self.labels = torch.randint(3, (8,), generator=generator)
        self.recorder = Recorder(Network.read(self.model, self.images))
        self.chosen = TrainingImages(
            recorder=self.recorder,
            data=TensorData(images=self.images, labels=self.labels),
            batch_size=3,
        )

    def matrix(self, operator):
        """An operator of ours as a matrix, parameters in the model's order."""
        shapes = {name: p.shape for name, p in self.model.named_parameters()}
        sizes = [shape.numel() for shape in shapes.values()]
        parts = torch.split(torch.eye(sum(sizes), dtype=torch.float64), sizes, dim=1)
        vectors = {n: p.reshape(-1, *s) for (n, s), p in zip(shapes.items(), parts, strict=True)}
        found = operator(vectors)
        return torch.cat([found[name].flatten(1) for name in shapes], dim=1).T

    def theirs(self, kind, **settings):
        """An operator of theirs as a matrix."""
        data = [(self.images[:5], self.labels[:5]), (self.images[5:], self.labels[5:])]
        parameters = list(self.model.parameters())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operator = kind(self.model, nn.CrossEntropyLoss(), parameters, data, **settings)
            return operator @ torch.eye(sum(p.numel() for p in parameters), dtype=torch.float64)


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def subject(request):
    return Subject(request.param)


def test_exact_products_are_curvlinops_s(curvlinops, subject):
    for kind, theirs in (
        ("gauss-newton", curvlinops.GGNLinearOperator),
        ("hessian", curvlinops.HessianLinearOperator),
    ):
        found = subject.matrix(CurvatureProduct(data=subject.chosen, kind=kind))
        torch.testing.assert_close(found, subject.theirs(theirs), rtol=1e-8, atol=1e-11)


def test_k_fac_and_ek_fac_are_curvlinops_s(curvlinops, subject):
    """With every class weighed by its probability, and the bias joined to its weight."""
    for form, theirs in (
        ("product", curvlinops.KFACLinearOperator),
        ("corrected", curvlinops.EKFACLinearOperator),
    ):
        found = subject.matrix(kronecker(subject.chosen, draws=EveryClass(), eigenvalues=form))
        expected = subject.theirs(theirs, fisher_type="type-2", separate_weight_and_bias=False)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
