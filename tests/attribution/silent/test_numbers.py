"""Quadrature, half precision, targets, and gradients of attributions."""

import pytest
import torch
from torch import nn

from whence.attribution import (
    Gradient,
    InputXGradient,
    IntegratedGradients,
    attribute,
    relative_gap,
)
from whence.core import ModelScalar, logit, resolve_target
from whence.errors import SettingError, TargetError

RULES = ["midpoint", "right", "trapezoid", "gauss-legendre"]


@pytest.mark.parametrize("steps", [2, 10, 50])
@pytest.mark.parametrize("rule", RULES)
def test_a_linear_model_is_explained_exactly_by_every_rule(rule, steps, images):
    f = ModelScalar(lambda x: x.flatten(1)[:, :4] * 3, logit(1))
    result = attribute(IntegratedGradients(rule=rule, steps=steps), f, images)
    assert result.gap.max() < 1e-12


class Square(nn.Module):
    """The square of one pixel; the exact answer from zero is the square itself."""

    def forward(self, images):
        return images.flatten(1)[:, :2] ** 2


@pytest.mark.parametrize("rule", ["midpoint", "trapezoid", "gauss-legendre"])
def test_a_square_has_no_bias_at_ten_points(rule, images):
    f = ModelScalar(Square().eval(), logit(0))
    values = IntegratedGradients(rule=rule, steps=10)(f, images).flatten(1)[:, 0]
    torch.testing.assert_close(values, images.flatten(1)[:, 0] ** 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_added_up_in_single(dtype, generator):
    """Two hundred gradients of a half precision network, in steps that would swallow each other."""
    images = 1 + torch.rand(2, 3, 8, 8, generator=generator)
    f = ModelScalar(lambda x: x.flatten(1).square()[:, :4], logit(1))
    exact = IntegratedGradients(steps=200)(f, images)
    values = IntegratedGradients(steps=200, batch_size=2)(f, images.to(dtype))
    assert values.dtype == dtype
    error = (values.float() - exact).abs().max() / exact.abs().max()
    assert error < {torch.bfloat16: 0.006, torch.float16: 0.0006}[dtype]
    if dtype is torch.float16:
        return
    slopes = torch.zeros(2, 192, dtype=dtype)
    for a in (torch.arange(200) + 0.5) / 200:
        slopes[:, 1] += 2 * (a * images.flatten(1)[:, 1]).to(dtype)
    naive = (images.to(dtype).flatten(1) * (slopes / 200))[:, 1].float()
    worse = (naive - exact.flatten(1)[:, 1]).abs().max() / exact.abs().max()
    assert worse > 2 * error


def test_the_gap_of_exact_attributions_is_a_number_near_zero_not_a_verdict(read, images, classes):
    """Equality of floats is never met; a relative gap is."""
    model, network = read("residual without biases")
    f = ModelScalar(network, logit(classes))
    values = InputXGradient()(f, images)
    gap = relative_gap(values, f(images).detach())
    assert gap.max() < 1e-10
    single = model.float()
    values = InputXGradient()(ModelScalar(single, logit(classes)), images.float())
    gap = relative_gap(values, single(images.float())[torch.arange(5), classes].detach())
    model.double()
    assert 0 < gap.max() < 1e-4


LOGITS = torch.eye(5, 4)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2, [0, 0, 1, 0, 0]),
        ([0, 1, 2, 3, 0], [1, 1, 1, 1, 0]),
        (torch.tensor([1, 1, 1, 1, 1]), [0, 1, 0, 0, 0]),
        ("predicted", [1, 1, 1, 1, 0]),
        (lambda z: z.sum(1), [1, 1, 1, 1, 0]),
    ],
    ids=["integer", "list", "tensor", "predicted", "callable"],
)
def test_targets_are_read_by_one_grammar(target, expected):
    assert resolve_target(target, LOGITS)(LOGITS).tolist() == expected


@pytest.mark.parametrize(
    "target",
    [4, -1, [0, 1], torch.eye(5, 4), None, "best", 1.5],
    ids=["too high", "negative", "too few", "one hot", "none", "word", "real"],
)
def test_other_targets_are_refused_with_the_outputs_shape_and_an_example(target):
    with pytest.raises((TargetError, SettingError), match=r"\(5, 4\)|type"):
        try:
            resolve_target(target, LOGITS)
        except TypeError as error:  # the types themselves, which tests execute
            msg = f"type: {error}"
            raise TargetError(msg) from error


@pytest.mark.parametrize(
    "method",
    [
        Gradient(create_graph=True),
        InputXGradient(create_graph=True),
        IntegratedGradients(create_graph=True, steps=3),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("as_network", [True, False])
def test_a_loss_on_a_map_reaches_every_weight_that_the_gradient_depends_on(
    as_network, method, make, images, classes
):
    from whence.network import Network

    model = make("clean")
    held = Network.read(model, images) if as_network else model
    method(ModelScalar(held, logit(classes)), images).square().sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    weights = {name for name, _ in model.named_parameters() if name.endswith("weight")}
    assert reached >= weights
    # a bias moves the gradient only by switching a ReLU, almost nowhere


def test_without_asking_no_graph_is_kept(read, images, classes):
    for method in (Gradient(), InputXGradient(), IntegratedGradients(steps=2)):
        values = method(ModelScalar(read("clean")[1], logit(classes)), images)
        assert not values.requires_grad
