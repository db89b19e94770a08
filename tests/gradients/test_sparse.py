"""Projections of convolutions' patches, and the sparse projection of gradients as a whole."""

import math

import pytest
import torch

from whence.errors import SettingError
from whence.gradients import (
    DirectBlock,
    ExampleGradients,
    FactoredBlock,
    Patches,
    Projection,
    SparseProjection,
    flat,
)

LAYERS = {
    "plain": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    "strided": ((5, 5), (2, 2), (2, 2, 2, 2), (1, 1), 1),
    "uneven": ((2, 3), (1, 2), (1, 0, 0, 1), (1, 1), 1),
    "dilated": ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2), 1),
    "grouped": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 2),
    "depthwise": ((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 8),
    "pointwise": ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
}


def layer(name, generator):
    """Two images' gradients of a convolution, with much in common."""
    kernel, stride, padding, dilation, groups = LAYERS[name]
    source = torch.randn(2, 8, 7, 7, generator=generator, dtype=torch.float64)
    patches = Patches(
        source=source[:1] + 0.3 * source,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    _, _, deep, positions = patches.shape
    output = torch.randn(2, groups, 16 // groups, positions, generator=generator).double()
    block = FactoredBlock(
        output=output[:1] + 0.3 * output,
        input=patches,
        shape=(16, deep // (kernel[0] * kernel[1]), *kernel),
    )
    return ExampleGradients(logits=torch.zeros(2, 3).double(), blocks={"weight": (block,)})


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dimension", [16, 40])
def test_projecting_patches_is_projecting_the_formed_gradient(name, dimension, generator):
    gradients = layer(name, generator)
    projector = Projection(dimension=dimension).projector(gradients)
    expected = projector(gradients.materialise())["weight"]
    torch.testing.assert_close(projector.project(gradients)["weight"], expected)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("kind", ["two-sided", "sparse", "spread"])
def test_inner_products_are_unbiased_for_every_layer_and_projection(name, kind, generator):
    gradients = layer(name, generator)
    full = gradients.materialise()["weight"].flatten(1)
    found = []
    for seed in range(300):
        projection = {
            "two-sided": Projection(dimension=16, seed=seed),
            "sparse": SparseProjection(dimension=16, seed=seed),
            "spread": SparseProjection(dimension=16, seed=seed, spread=3),
        }[kind]
        rows = flat(projection.projector(gradients).project(gradients))
        found.append(rows[0] @ rows[1])
    values = torch.stack(found)
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - full[0] @ full[1]) < 4.5 * error + 1e-9
    assert values.std() < 1.5 * full.norm(dim=1).prod()


@pytest.mark.parametrize("spread", [1, 3, 5])
def test_a_sparse_projection_is_a_matrix_with_so_many_entries_in_a_column(spread, generator):
    values = torch.eye(30, dtype=torch.float64)
    gradients = ExampleGradients(
        logits=torch.zeros(30, 3).double(),
        blocks={"weight": (DirectBlock(values=values, shape=(30,)),)},
    )
    projector = SparseProjection(dimension=5, spread=spread).projector(gradients)
    matrix = projector.project(gradients)["weight"]
    assert matrix.shape == (30, 5)
    assert torch.equal((matrix != 0).sum(dim=1), torch.full((30,), spread))
    torch.testing.assert_close(matrix.square().sum(dim=1), torch.ones(30).double())
    some = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        projector.adjoint({"weight": some})["weight"].flatten(1), some @ matrix.T
    )


@pytest.mark.parametrize("settings", [{"spread": 0}, {"dimension": 4, "spread": 5}])
def test_a_spread_out_of_range_is_refused(settings):
    with pytest.raises(SettingError, match="spread from 1"):
        SparseProjection(**settings)
