"""Every model of the test list is read as the same function, and comes back as it was."""

import copy

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from whence.network.fold import folded
from whence.network.operations import is_inplace
from whence.network.rewrite import depends_on_images


def weighted(logits):
    """Return a scalar in which every logit of every image counts differently."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    return (logits * weights.to(logits)).sum()


def test_the_model_comes_back_untouched(case, untouched):
    with untouched(case.model):
        vars(case).pop("network", None)
        network = case.network
        network(case.images)
        case.cut.tail(*case.cut.head(case.images))
        network.homogeneity()
        network.describe()
        network.under([])
        network.folded()(case.images)


def test_two_stages_that_can_be_differentiated_twice_give_its_logits(case):
    staged = case.network.staged()
    with torch.no_grad():
        found = staged.run(staged.prepare(case.network.parameters), case.images)
        expected = case.network(case.images)
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * scale)


def test_the_logits_are_the_models_to_the_bit_for_any_batch(case):
    # With gradients, since torch's inference kernel of nn.MultiheadAttention rounds differently.
    for count in (1, 2, 3):
        images = case.images[:count]
        expected = case.eager(images)
        assert expected.std() > 0
        assert torch.equal(case.network(images), expected)


def test_gradients_are_the_models_and_reach_no_parameter_that_was_not_read(case):
    names, parameters = zip(*case.model.named_parameters(), strict=True)
    images = case.images[:2].clone().requires_grad_()
    expected = torch.autograd.grad(
        weighted(case.eager(images)), (images, *parameters), allow_unused=True
    )
    actual = torch.autograd.grad(
        weighted(case.network(images)), (images, *parameters), allow_unused=True
    )
    reached = {n for n, g in zip(names, expected[1:], strict=True) if g is not None}
    assert reached <= set(case.network.parameters)
    assert set(case.network.parameters) | set(case.network.unread) == set(names)
    for name, ours, theirs in zip(("images", *names), actual, expected, strict=True):
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)


def test_parameters_are_the_users_own(case):
    own = dict(case.model.named_parameters())
    assert all(own[name] is p for name, p in case.network.parameters.items())


@torch.no_grad()
def test_as_a_function_of_its_parameters_it_is_the_same_function(case):
    images = case.images[:2]
    function = case.network.function(taps=[case.cut.node])
    logits, (tapped,) = function(case.network.parameters, images)
    assert torch.equal(logits, case.network(images))
    assert torch.equal(tapped, case.cut.head(images)[0])
    zeros = {name: torch.zeros_like(p) for name, p in case.network.parameters.items()}
    assert not torch.equal(function(zeros, images)[0], logits)


@torch.no_grad()
def test_under_no_rules_it_is_the_same_function_and_overwrites_nothing(case):
    network = case.network.under([])
    moving = depends_on_images(network.graph)
    assert [node for node in network.graph.nodes if node in moving and is_inplace(node)] == []
    assert torch.equal(network(case.images[:2]), case.network(case.images[:2]))


@torch.no_grad()
def test_folding_batch_norms_keeps_the_function(case):
    images = case.images[:2]
    network = case.network.folded()
    expected = case.network(images)
    torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)
    if case.has_batch_norm:
        assert len(network.graph.nodes) < len(case.network.graph.nodes)
        exact = copy.deepcopy(case.network.module).double()
        expected = exact(images.double())
        actual = folded(exact)(images.double())
        assert (actual - expected).norm() <= 1e-10 * expected.norm()


def test_the_default_cut_is_where_grad_cam_looks(case):
    expected, plane = case.expected, case.cut.plane
    assert (case.cut.path, plane.kind) == (expected.path, expected.kind)
    assert (plane.height, plane.width, plane.prefix) == (
        expected.grid,
        expected.grid,
        expected.prefix,
    )


def test_head_and_tail_compose_to_the_network(case):
    images = case.images.clone().requires_grad_()
    whole = case.network(images)
    parts = case.cut.tail(*case.cut.head(images))
    assert torch.equal(parts, whole)
    (expected,) = torch.autograd.grad(weighted(whole), images)
    (actual,) = torch.autograd.grad(weighted(parts), images)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_reaches_every_position_of_the_maps(case):
    with torch.no_grad():
        first, *rest = case.cut.head(case.images)
    leaf = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted(case.cut.tail(leaf, *rest)), leaf)
    maps, grid = case.cut.maps(gradient), case.expected.grid
    assert maps.shape == (3, maps.shape[1], grid, grid)
    assert maps.numel() == gradient.numel() * grid**2 // (grid**2 + case.expected.prefix) or (
        case.expected.kind == "bchw"
    )
    assert bool(maps.abs().sum(1).all())


def test_the_first_offender_against_homogeneity_is_named(case):
    verdict = case.network.homogeneity()
    assert not verdict.holds
    assert verdict.first_offender is not None
    assert (verdict.first_offender.path, verdict.first_offender.operation) == (
        case.expected.offender
    )
    assert case.expected.offender[0] in str(verdict)


def test_the_description_counts_parameters_and_multiply_adds(case):
    description = case.network.describe()
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        case.eager(case.images[:1])
    counted = counter.get_total_flops() / 2
    assert abs(description.multiply_adds - counted) <= 0.01 * counted
    assert description.parameters == sum(p.numel() for p in case.network.parameters.values())
    assert case.expected.offender[0] in str(description)
