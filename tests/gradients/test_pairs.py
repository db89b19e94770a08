"""Pairs: slopes worked out by hand, against autograd through gradients that are formed."""

import pytest
import torch

from whence.gradients import DirectBlock, FactoredBlock, Patches
from whence.gradients.pairs import Pair, paired

LAYERS = {
    "padded": (3, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    "strided": (4, 3, (5, 3), (2, 2), (2, 2, 2, 2), (1, 1)),
    "uneven": (2, 5, (3, 2), (2, 1), (0, 1, 1, 0), (2, 1)),
    "pointwise": (3, 4, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
    "gaps": (3, 2, (2, 2), (3, 3), (1, 2, 0, 1), (1, 1)),
}


def drawn(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def relative(found, expected):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def layer(generator, name):
    wide, out, kernel, stride, padding, dilation = LAYERS[name]
    patches = Patches(
        source=drawn(generator, 3, wide, 9, 8).requires_grad_(),
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=1,
    )
    places = patches.places[0] * patches.places[1]
    output = drawn(generator, 3, 1, out, places).requires_grad_()
    return FactoredBlock(output=output, input=patches, shape=(out, wide, *kernel))


def slopes(generator, products, squares, sources):
    total = (products * drawn(generator, *products.shape)).sum()
    return torch.autograd.grad(total + (squares * drawn(generator, 3)).sum(), sources)


@pytest.mark.parametrize("gram", [True, False], ids=["gram", "formed"])
@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_products_norms_and_slopes_equal_autograds_of_formed_gradients(
    generator, name, count, gram
):
    block = layer(generator, name)
    queries = drawn(generator, count, block.size)
    sources = [block.output, block.held.source]
    formed = block.materialise()
    expected = (formed @ queries.T, formed.square().sum(dim=1))
    shaped = queries.reshape(count, block.output.shape[2], block.deep)
    pair = Pair(patches=block.held, queries=shaped, factors=None, gram=gram)
    found = paired(block.output, block.held.source, pair)
    seed = generator.get_state()
    ours = slopes(generator, *found, sources)
    generator.set_state(seed)
    theirs = slopes(generator, *expected, sources)
    assert relative(found[1], expected[1]) < 1e-13
    assert count == 0 or relative(found[0], expected[0]) < 1e-13
    for one, other in zip(ours, theirs, strict=True):
        assert relative(one, other) < 1e-13


def test_a_short_query_gives_the_same_from_its_factors(generator):
    block = layer(generator, "padded")
    held = torch.cat([block.held.source[:1].detach()[:, :, :3, :3]])
    query = FactoredBlock(
        output=drawn(generator, 1, 1, 4, 1),
        input=Patches(
            source=held,
            kernel=(3, 3),
            stride=(1, 1),
            padding=(0, 0, 0, 0),
            dilation=(1, 1),
            groups=1,
        ),
        shape=block.shape,
    )
    assert query.short
    sources = [block.output, block.held.source]
    seed = generator.get_state()
    ours = slopes(generator, *block.paired(query), sources)
    generator.set_state(seed)
    dense = DirectBlock(values=query.materialise(), shape=query.shape)
    theirs = slopes(generator, *block.paired(dense), sources)
    for one, other in zip(ours, theirs, strict=True):
        assert relative(one, other) < 1e-13


def test_slopes_of_every_network_equal_those_of_its_gradients_in_full(architecture, generator):
    queries = {
        name: DirectBlock(values=drawn(generator, 1, p.numel()), shape=tuple(p.shape))
        for name, p in architecture.network.parameters.items()
    }
    found = []
    for whole in (False, True):
        images = architecture.images.clone().requires_grad_()
        with torch.enable_grad():
            recorded = architecture.recorder.record(images, architecture.target, create_graph=True)
            if whole:
                flat = architecture.flat(recorded.materialise())
                query = architecture.flat({n: b.values for n, b in queries.items()})
                products, squares = flat @ query.T, flat.square().sum(dim=1)
            else:
                products, squares = recorded.paired(queries)
            cosines = products[:, 0] * squares.rsqrt()
            (slope,) = torch.autograd.grad(cosines.sum(), images)
        found.append((products, squares, slope))
    for one, other in zip(*found, strict=True):
        assert relative(one.detach(), other.detach()) < 1e-10


def test_a_pair_is_not_differentiated_twice(generator):
    block = layer(generator, "padded")
    square = block.squared_norm().square().sum()
    (slope,) = torch.autograd.grad(square, block.held.source, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
