import hashlib
import math

import pytest
import torch
from torch import nn

from whence.core import Margin
from whence.errors import MismatchError, SettingError
from whence.gradients.blocks import DirectBlock, FactoredBlock
from whence.gradients.operator import Operator
from whence.gradients.project import Exact, Projection, Projector, Sketch, TwoSided, flat
from whence.gradients.record import ExampleGradients, Recorder
from whence.network import Network

SHAPES = [  # groups, rows, columns, positions
    (1, 64, 3, 5),
    (1, 3, 64, 5),
    (1, 40, 40, 1),
    (1, 5, 200, 3),
    (1, 200, 5, 3),
    (4, 16, 9, 4),
    (32, 1, 9, 4),
    (1, 4, 4, 2),
]
K = 16


def factored(shape, generator, count=2):
    groups, wide, deep, positions = shape
    return FactoredBlock(
        output=torch.randn(
            count, groups, wide, positions, generator=generator, dtype=torch.float64
        ),
        input=torch.randn(count, groups, deep, positions, generator=generator, dtype=torch.float64),
        shape=(groups * wide, deep),
    )


def gradients_of(**blocks):
    count = len(next(iter(blocks.values()))[0])
    return ExampleGradients(logits=torch.zeros(count, 2, dtype=torch.float64), blocks=blocks)


def draws(gradients, seeds, oversampling=1):
    """Return the inner product of the first two images' projections for each seed."""
    found = []
    for seed in range(seeds):
        projection = Projection(dimension=K, seed=seed, oversampling=oversampling)
        projected = flat(projection.projector(gradients).project(gradients))
        found.append(projected[0] @ projected[1])
    return torch.stack(found)


def assert_mean(found, expected):
    error = found.std() / math.sqrt(len(found))
    assert abs(found.mean() - expected) < 4.5 * error + 1e-9, (found.mean(), expected, error)


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inner_products_are_kept_on_average_for_every_shape_of_layer(
    shape, oversampling, generator
):
    block = factored(shape, generator)
    shared = torch.randn(shape[1], generator=generator, dtype=torch.float64)
    alike = FactoredBlock(  # two gradients with much in common, so that a wrong scale shows
        output=block.output[:1] + 0.3 * block.output + shared[:, None],
        input=block.input[:1] + 0.3 * block.input,
        shape=block.shape,
    )
    gradients = gradients_of(weight=(alike,))
    full = alike.materialise()
    found = draws(gradients, 400, oversampling)
    assert found.std() / full.norm(dim=1).prod() < 1.5
    assert_mean(found, full[0] @ full[1])


def test_inner_products_of_direct_blocks_are_kept_on_average(generator):
    values = torch.randn(1, 50, generator=generator, dtype=torch.float64) + torch.randn(
        2, 50, generator=generator, dtype=torch.float64
    )
    gradients = gradients_of(bias=(DirectBlock(values=values, shape=(50,)),))
    assert_mean(draws(gradients, 800), values[0] @ values[1])


def test_inner_products_of_a_shared_parameter_are_those_of_the_sum(generator):
    one, two = factored((1, 20, 30, 2), generator), factored((1, 20, 30, 3), generator)
    direct = DirectBlock(values=one.materialise() + 1, shape=one.shape)
    gradients = gradients_of(weight=(one, two, direct))
    full = one.materialise() + two.materialise() + direct.values
    assert_mean(draws(gradients, 800), full[0] @ full[1])


def test_the_error_falls_as_one_over_the_root_of_the_dimension(generator):
    block = factored((1, 80, 90, 6), generator)
    gradients = gradients_of(weight=(block,))
    exact = block.materialise()[0] @ block.materialise()[1]
    errors = []
    for dimension in (16, 400):
        found = []
        for seed in range(150):
            projector = Projection(dimension=dimension, seed=seed).projector(gradients)
            rows = projector.project(gradients)["weight"]
            assert rows.shape == (2, dimension)
            found.append(rows[0] @ rows[1] - exact)
        errors.append(torch.stack(found).square().mean().sqrt())
    assert 3 < errors[0] / errors[1] < 12


def test_oversampling_blurs_gradients_of_rank_one_less_in_as_many_numbers(generator):
    block = factored((1, 80, 90, 1), generator)
    alike = FactoredBlock(
        output=block.output[:1] + 0.2 * block.output,
        input=block.input[:1] + 0.2 * block.input,
        shape=block.shape,
    )
    gradients = gradients_of(weight=(alike,))
    plain, over = (draws(gradients, 300, oversampling).std() for oversampling in (1, 3))
    assert over < 0.8 * plain


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_projecting_the_factors_is_projecting_the_gradient(shape, oversampling, generator):
    block = factored(shape, generator, count=3)
    gradients = gradients_of(
        weight=(block,), bias=(DirectBlock(values=block.output.sum(dim=(1, 3)), shape=(shape[1],)),)
    )
    projector = Projection(dimension=K, oversampling=oversampling).projector(gradients)
    full = {
        n: v.unflatten(1, (-1, 1))
        for n, v in (("weight", block.materialise()), ("bias", gradients.blocks["bias"][0].values))
    }
    for name, value in projector.project(gradients).items():
        torch.testing.assert_close(value, projector(full)[name])
        assert value.shape == (3, projector.sizes[name])
        assert projector.sizes[name] <= K


def test_a_two_sided_projection_is_the_matrix_product_it_says(generator):
    block = factored((1, 40, 30, 4), generator)
    made = Projection(dimension=K).projector(gradients_of(weight=(block,))).maps["weight"]
    assert isinstance(made, TwoSided)
    for signs in (made.output, made.input):
        assert signs.shape[1] == 4
        torch.testing.assert_close(signs.abs(), torch.full_like(signs, 1 / 2))
    expected = torch.stack(
        [
            made.output[0] @ d[0] @ (made.input[0] @ a[0]).T
            for d, a in zip(block.output, block.input, strict=True)
        ]
    )
    torch.testing.assert_close(made.blocks((block,)), expected.flatten(1))


def test_a_sketch_adds_and_takes_every_element_once(generator):
    values = torch.randn(2, 100, generator=generator, dtype=torch.float64)
    block = DirectBlock(values=values, shape=(100,))
    made = Projection(dimension=K).projector(gradients_of(token=(block,))).maps["token"]
    assert isinstance(made, Sketch)
    expected = torch.zeros(2, K, dtype=torch.float64)
    for at in range(100):
        expected[:, made.places[at]] += made.signs[at] * values[:, at]
    torch.testing.assert_close(made.blocks((block,)), expected)
    assert set(made.places.tolist()) == set(range(K))
    assert set(made.signs.tolist()) == {-1, 1}


def test_a_small_parameter_is_kept_exactly(generator):
    block = factored((1, 4, 4, 3), generator)
    projector = Projection(dimension=K).projector(gradients_of(weight=(block,)))
    assert isinstance(projector.maps["weight"], Exact)
    found = projector.project(gradients_of(weight=(block,)))["weight"]
    torch.testing.assert_close(found, block.materialise())


def test_the_random_numbers_are_those_of_their_version():
    block = DirectBlock(values=torch.zeros(1, 20), shape=(20,))
    made = Projection(dimension=4, seed=7).projector(gradients_of(token=(block,))).maps["token"]
    digest = hashlib.shake_256(b"whence projection 1|7|token|sketch").digest(80)
    numbers = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 80, 4)]
    assert made.places.tolist() == [(n >> 1) % 4 for n in numbers]
    assert made.signs.tolist() == [1 - 2 * (n & 1) for n in numbers]


def test_seeds_and_names_draw_differently_and_the_same_ones_alike(generator):
    block = factored((1, 40, 30, 4), generator)
    gradients = gradients_of(one=(block,), two=(block,))
    first, again = (Projection(dimension=K).projector(gradients).project(gradients) for _ in "ab")
    other = Projection(dimension=K, seed=1).projector(gradients).project(gradients)
    assert torch.equal(first["one"], again["one"])
    assert not torch.allclose(first["one"], first["two"])
    assert not torch.allclose(first["one"], other["one"])


class Model(nn.Module):
    """A convolution, a depthwise one, a norm, a token, a weight used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.norm = nn.LayerNorm(8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        values = self.depthwise(self.first(images).tanh()).flatten(2).transpose(1, 2)
        values = torch.cat([self.token.expand(images.shape[0], -1, -1), values], dim=1)
        return self.head(self.twice(self.twice(self.norm(values)).tanh()).mean(dim=1))


def test_the_projection_of_a_network_is_that_of_its_materialised_gradients(generator):
    model = Model().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    images = torch.randn(3, 3, 6, 6, generator=generator, dtype=torch.float64)
    recorder = Recorder(Network.read(model, images))
    gradients = recorder.record(images, Margin(torch.tensor([0, 4, 2])))
    projector = Projection(dimension=12).projector(gradients)
    assert isinstance(projector, Operator)
    full = projector(gradients.materialise())
    projected = projector.project(gradients)
    assert set(projected) == set(dict(model.named_parameters()))
    for name, value in projected.items():
        torch.testing.assert_close(value, full[name], rtol=1e-10, atol=1e-10)
    alone = recorder.record(images[1:2], Margin(torch.tensor([4])))
    torch.testing.assert_close(flat(projector.project(alone))[0], flat(projected)[1])


def test_flat_goes_by_name():
    found = flat({"b": torch.ones(2, 3), "a": torch.zeros(2, 1, 2)})
    assert found.tolist() == [[0, 0, 1, 1, 1]] * 2


def test_gradients_of_other_parameters_are_refused(generator):
    block = factored((1, 4, 4, 3), generator)
    projector = Projection(dimension=4).projector(gradients_of(one=(block,)))
    assert isinstance(projector, Projector)
    with pytest.raises(MismatchError, match="'two' is only in one of them"):
        projector.project(gradients_of(one=(block,), two=(block,)))


def test_a_dimension_of_none_is_refused():
    with pytest.raises(SettingError, match="at least 1; got dimension=0"):
        Projection(dimension=0)
    with pytest.raises(SettingError, match="oversampling=0"):
        Projection(oversampling=0)


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("dimension", [1, K, 10**6])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_adjoint_is_the_transpose_of_the_projection(shape, dimension, oversampling, generator):
    gradients = gradients_of(weight=(factored(shape, generator),))
    projector = Projection(dimension=dimension, oversampling=oversampling).projector(gradients)
    size = gradients.blocks["weight"][0].size
    one = torch.eye(size, dtype=torch.float64)
    matrix = projector({"weight": one})["weight"]  # (size, k): its rows are P e_j
    back = projector.adjoint({"weight": torch.eye(matrix.shape[1], dtype=torch.float64)})["weight"]
    torch.testing.assert_close(back, matrix.T, rtol=1e-14, atol=1e-14)
