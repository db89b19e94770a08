"""Comparison, forward mode and low rank against full gradients of a loop over images."""

import pytest
import torch

from whence.core import Margin
from whence.errors import MismatchError, SettingError
from whence.gradients import (
    Comparison,
    DirectBlock,
    FactoredBlock,
    ForwardMode,
    Patches,
    kernels,
    low_rank,
)
from whence.gradients import compare as compare_module


def relative(found, expected):
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def dense(subject, count, generator):
    return {
        name: DirectBlock(
            values=torch.randn(count, p.numel(), generator=generator, dtype=torch.float64),
            shape=tuple(p.shape),
        )
        for name, p in subject.network.parameters.items()
    }


@pytest.mark.parametrize("room", [2**10, 2**24])
def test_products_and_norms_equal_those_of_a_loop_over_images(
    architecture, generator, monkeypatch, room
):
    monkeypatch.setattr(compare_module, "TILE_BYTES", room)
    monkeypatch.setattr(compare_module, "ROWS", 2)
    recorded = architecture.recorder.record(architecture.images, architecture.target)
    full = architecture.flat(architecture.loop)
    for queries in (dense(architecture, 3, generator), recorded.settled(3)):
        flat = architecture.flat({n: b.materialise() for n, b in queries.items()})
        found = Comparison.of(queries, recorded)(recorded)
        assert relative(found.products, full @ flat.T) < 1e-12
        assert relative(found.squared_norms, full.square().sum(dim=1)) < 1e-12


def test_norms_are_left_out_where_nobody_wants_them(architecture, generator):
    recorded = architecture.recorder.record(architecture.images, architecture.target)
    queries = dense(architecture, 2, generator)
    found = Comparison.of(queries, recorded, norms=False)(recorded)
    assert found.squared_norms is None
    assert torch.equal(found.products, Comparison.of(queries, recorded)(recorded).products)


def test_the_quick_kernel_gives_the_products_of_the_plain_one(generator):
    left, right = (torch.randn(3, *s, generator=generator) for s in ((64, 128), (128, 256)))
    out = torch.empty(3, 64, 256)
    kernels.batched(left, right, out)
    assert kernels.quick(left.double(), 2**30) is None
    assert kernels.quick(left, 10) is None
    assert relative(out.double(), left.double() @ right.double()) < 1e-6
    rows = torch.randn(4, 2**18, generator=generator)
    found = kernels.rows_times_rows(rows, rows)
    assert relative(found.double(), rows.double() @ rows.double().T) < 1e-5


def test_queries_of_other_parameters_are_refused(architecture, generator):
    recorded = architecture.recorder.record(architecture.images, architecture.target)
    queries = dense(architecture, 1, generator)
    queries.pop(next(iter(queries)))
    with pytest.raises(MismatchError, match="only in one of"):
        Comparison.of(queries, recorded)


def test_forward_mode_gives_the_products_of_a_loop_over_images(architecture, generator):
    queries = dense(architecture, 2, generator)
    flat = architecture.flat({n: b.materialise() for n, b in queries.items()})
    forward = ForwardMode.of(architecture.recorder, queries)
    products, logits = forward(architecture.images, architecture.target)
    assert relative(products, architecture.flat(architecture.loop) @ flat.T) < 1e-12
    with torch.no_grad():
        assert relative(logits, architecture.network(architecture.images)) < 1e-12


def test_forward_mode_along_some_parameters_is_that_of_their_gradients(architecture, generator):
    queries = dense(architecture, 1, generator)
    some = dict(list(queries.items())[-2:])
    found, _ = ForwardMode.of(architecture.recorder, some)(architecture.images, architecture.target)
    full = {n: architecture.loop[n].flatten(1) @ b.values.T for n, b in some.items()}
    assert relative(found, sum(full.values())) < 1e-12


SETTINGS = [
    (3, 4, (6, 5), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    (4, 4, (7, 6), (3, 2), (2, 1), (0, 1, 1, 0), (1, 1), 2),
    (4, 8, (8, 9), (3, 3), (1, 2), (2, 2, 2, 2), (2, 2), 4),
    (3, 5, (5, 5), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    (2, 3, (9, 9), (5, 5), (2, 2), (2, 2, 2, 2), (1, 1), 1),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: f"{s[3]}-{s[4]}-{s[6]}-{s[7]}")
def test_patches_equal_those_of_unfold_in_every_form(setting, generator):
    channels, out, side, kernel, stride, padding, dilation, groups = setting
    source = torch.randn(2, channels, *side, generator=generator, dtype=torch.float64)
    patches = Patches(
        source=source,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    padded = torch.nn.functional.pad(source, padding)
    expected = torch.nn.functional.unfold(padded, kernel, dilation, 0, stride)
    expected = expected.reshape(2, groups, -1, expected.shape[2])
    assert patches.shape == expected.shape
    assert torch.equal(patches.unfolded(), expected)
    assert relative(patches.gram(), expected.transpose(2, 3) @ expected) < 1e-14
    weights = torch.randn(
        groups, out // groups, expected.shape[2], generator=generator, dtype=torch.float64
    )
    assert relative(patches.convolved(weights), weights @ expected) < 1e-14
    view = patches.by_position().reshape(2, expected.shape[3], kernel[0] * kernel[1], channels)
    same = expected.reshape(2, channels, kernel[0] * kernel[1], -1).permute(0, 3, 2, 1)
    assert torch.equal(view, same)


def test_a_norm_by_inner_products_of_patches_has_the_slope_of_the_formed_one(generator):
    source = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    output = torch.randn(2, 1, 40, 16, generator=generator, dtype=torch.float64)
    patches = Patches(
        source=source,
        kernel=(3, 3),
        stride=(1, 1),
        padding=(1, 1, 1, 1),
        dilation=(1, 1),
        groups=1,
    )
    block = FactoredBlock(output=output, input=patches, shape=(40, 3, 3, 3))
    ours = (output.transpose(2, 3) @ output * block.gram()).sum()
    formed = block.materialise().square().sum()
    slopes = [torch.autograd.grad(value, source)[0] for value in (ours, formed)]
    assert relative(ours, formed) < 1e-14
    assert relative(*slopes) < 1e-13


@pytest.mark.parametrize("tolerance", [1e-12, 0.3])
def test_a_low_rank_query_is_as_close_as_was_asked_for(generator, tolerance):
    left = torch.randn(2, 9, 3, generator=generator, dtype=torch.float64)
    right = torch.randn(2, 3, 18, generator=generator, dtype=torch.float64)
    scale = torch.tensor([1.0, 0.5, 0.01], dtype=torch.float64)
    block = DirectBlock(values=(left * scale @ right).flatten(1), shape=(9, 2, 3, 3))
    shorter = low_rank(block, wide=9, tolerance=tolerance)
    assert shorter.output.shape[3] == (3 if tolerance < 0.1 else shorter.output.shape[3])
    error = (shorter.materialise() - block.values).norm(dim=1) / block.values.norm(dim=1)
    assert (error <= max(tolerance, 1e-13)).all()
    if tolerance > 0.1:
        assert shorter.output.shape[3] < 3


def test_a_tolerance_out_of_range_is_refused(generator):
    block = DirectBlock(values=torch.randn(1, 4, generator=generator), shape=(2, 2))
    with pytest.raises(SettingError, match="tolerance"):
        low_rank(block, wide=2, tolerance=1.5)


def test_the_logits_of_forward_mode_are_of_the_margin_that_was_asked(architecture, generator):
    queries = dense(architecture, 1, generator)
    forward = ForwardMode.of(architecture.recorder, queries)
    other = Margin((architecture.labels + 1) % 3)
    first, _ = forward(architecture.images, architecture.target)
    second, _ = forward(architecture.images, other)
    assert relative(first, second) > 1e-3
