import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence.gradients import blocks as rooms
from whence.gradients.blocks import DirectBlock, FactoredBlock, products, stacked

small = st.integers(1, 4)
seeds = st.integers(0, 99)


def factored(seed, count, groups, wide, deep, positions):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return FactoredBlock(
        output=normal(count, groups, wide, positions),
        input=normal(count, groups, deep, positions),
        shape=(groups * wide, deep),
    )


def full(block):
    """Return the gradients by a sum over positions, as they are defined."""
    total = torch.zeros(len(block), block.size, dtype=torch.float64)
    for t in range(block.output.shape[3]):
        outer = block.output[..., t][..., :, None] * block.input[..., t][..., None, :]
        total += outer.flatten(1)
    return total


def assert_equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@given(seeds, small, small, small, small, st.integers(1, 9))
def test_a_factored_block_is_a_sum_over_positions(seed, count, groups, wide, deep, positions):
    block = factored(seed, count, groups, wide, deep, positions)
    assert block.size == groups * wide * deep
    assert_equal(block.materialise(), full(block))
    assert_equal(block.squared_norm(), full(block).square().sum(dim=1))


@given(seeds, small, small, small, small, st.integers(1, 9), st.integers(1, 5))
def test_products_are_those_of_full_gradients(seed, count, groups, wide, deep, positions, queries):
    block = factored(seed, count, groups, wide, deep, positions)
    other = factored(seed + 1, queries, groups, wide, deep, 1 + seed % 3)
    dense = DirectBlock(values=full(other), shape=other.shape)
    direct = DirectBlock(values=full(block), shape=block.shape)
    expected = full(block) @ full(other).T
    for mine in (block, direct):
        for theirs in (other, dense):
            assert_equal(products(mine, theirs), expected)
    assert_equal(block.ghost(other), expected)
    assert_equal(block.dot(full(other)), expected)


@given(seeds, small, small, small, small, st.integers(1, 9))
def test_rows_scaling_and_stacking_commute_with_forming_gradients(
    seed, count, groups, wide, deep, positions
):
    block = factored(seed, count + 1, groups, wide, deep, positions)
    direct = DirectBlock(values=full(block), shape=block.shape)
    factors = torch.linspace(-1, 2, count + 1, dtype=torch.float64)
    for each in (block, direct):
        assert_equal(each.scaled(factors).materialise(), full(block) * factors[:, None])
        assert_equal(each.rows(1, count + 1).materialise(), full(block)[1:])
        parts = [each.rows(0, 1), each.rows(1, count + 1)]
        assert type(stacked(parts)) is type(each)
        assert_equal(stacked(parts).materialise(), full(block))
    mixed = stacked([block.rows(0, 1), direct.rows(1, count + 1)])
    assert_equal(mixed.materialise(), full(block))


def test_long_layers_measure_norms_without_forming_gradients():
    block = factored(0, 2, 1, 40, 50, 2)
    expected = full(block).square().sum(dim=1)
    hidden = FactoredBlock(output=block.output, input=block.input, shape=block.shape)
    original = FactoredBlock.materialise
    try:
        FactoredBlock.materialise = None
        assert_equal(hidden.squared_norm(), expected)
    finally:
        FactoredBlock.materialise = original


@pytest.mark.parametrize("room", [1, 300, 10**6])
def test_gradients_are_formed_a_few_images_at_a_time(monkeypatch, room):
    monkeypatch.setattr(rooms, "CHUNK_BYTES", room)
    block = factored(0, 5, 2, 3, 2, 7)
    queries = torch.randn(4, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_equal(block.dot(queries), full(block) @ queries.T)


@pytest.mark.parametrize("positions", [1, 7])
@pytest.mark.parametrize("count", [1, 4])
def test_products_and_norms_keep_the_graph(positions, count):
    block = factored(0, 3, 2, 3, 2, positions)
    output, inputs = (v.requires_grad_() for v in (block.output, block.input))
    queries = torch.randn(count, 12, generator=torch.Generator().manual_seed(1)).double()

    def products_of(output, inputs):
        made = FactoredBlock(output=output, input=inputs, shape=(6, 2))
        return made.dot(queries), made.squared_norm()

    assert torch.autograd.gradcheck(products_of, (output, inputs))


def test_ghost_products_are_preferred_exactly_where_they_cost_less():
    short, long = factored(0, 1, 1, 64, 64, 1), factored(0, 1, 1, 4, 4, 32)
    assert short.favours_ghost(20)
    assert not long.favours_ghost(1)
    assert not factored(0, 1, 1, 64, 64, 40).favours_ghost(20)
