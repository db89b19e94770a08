from dataclasses import dataclass

import pytest
import torch

from whence.errors import SettingError
from whence.gradients.operator import Damped, Identity, Operator, Scaled


@dataclass(frozen=True)
class Dense(Operator):
    """A matrix on the block ``w``."""

    matrix: torch.Tensor

    def __call__(self, vectors):
        return {"w": vectors["w"] @ self.matrix.T}


@pytest.fixture
def one(generator):
    return torch.randn(4, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def two(generator):
    return torch.randn(4, 4, generator=generator, dtype=torch.float64)


@pytest.fixture
def vectors(generator):
    return {"w": torch.randn(3, 4, generator=generator, dtype=torch.float64)}


def assert_maps(operator, matrix, vectors):
    torch.testing.assert_close(operator(vectors)["w"], vectors["w"] @ matrix.T)


def test_composition_applies_the_right_one_first(one, two, vectors):
    assert_maps(Dense(one) @ Dense(two), one @ two, vectors)
    assert_maps(Dense(one) @ Dense(two) @ Dense(two), one @ two @ two, vectors)


def test_scaling_and_damping_are_those_of_matrices(one, vectors):
    assert_maps(Scaled(factor=-2.0, operator=Dense(one)), -2 * one, vectors)
    damped = Damped(operator=Dense(one), damping=0.3)
    assert_maps(damped, one + 0.3 * torch.eye(4), vectors)
    assert_maps(
        Scaled(factor=2.0, operator=damped) @ Dense(one),
        2 * (one + 0.3 * torch.eye(4)) @ one,
        vectors,
    )


def test_the_identity_changes_nothing(vectors):
    assert torch.equal(Identity()(vectors)["w"], vectors["w"])
    assert Identity()(vectors) is not vectors


@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_refused(damping):
    with pytest.raises(SettingError, match="0 or more, and finite"):
        Damped(operator=Identity(), damping=damping)
