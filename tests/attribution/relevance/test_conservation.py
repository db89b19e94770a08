"""Where relevance that does not arrive was kept: the ledger of biases, and the trace."""

import pytest
import torch
from torch import nn

from whence.attribution import IntegratedGradients, attribute
from whence.attribution.deeplift import DeepLift
from whence.attribution.relevance import LRP, AlphaBeta, Assignment, Composite, Epsilon
from whence.core import ModelScalar, logit
from whence.errors import NumericsError
from whence.network import Network

KINDS = ["vgg", "resnet", "densenet", "gated", "vit", "vit-plain"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["epsilon", "epsilon-plus", "pixel-wise"])
def test_the_losses_of_all_operations_are_the_whole_gap(name, kind, models, scalar, images):
    account = LRP(composite=name).account(scalar(models[kind]()), images)
    for row in (0, 3):
        whole = account.reference[row]
        kept = sum(loss.share for loss in account.trace(row))
        missing = (1 - account.values[row].sum() / whole).item()
        assert kept == pytest.approx(missing, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", ["vgg", "resnet", "densenet"])
def test_the_ledger_of_biases_is_what_the_trace_finds(kind, models, scalar, images):
    account = LRP(composite="epsilon", epsilon=1e-12).account(scalar(models[kind]()), images)
    found = {(loss.operation, loss.path): loss.share for loss in account.trace(2)}
    whole = account.reference[2]
    assert account.taken
    for name, path, rows in account.taken:
        share = (rows[2] / whole).item()
        assert found.get((name, path), 0.0) == pytest.approx(share, rel=1e-6, abs=1e-7)
    torch.testing.assert_close(sum(rows for _, _, rows in account.taken), account.absorbed)


def test_one_large_bias_is_named_at_no_cost(models, scalar, images):
    model = models["vgg-free"]()
    model[5].bias = nn.Parameter(torch.full((8,), 5.0).double())
    result = attribute(LRP(composite="epsilon"), scalar(model), images)
    assert result.worst == int(result.gap.argmax())
    assert result.cost == 1.0
    first = result.losses[0]
    assert (first.operation, first.path) == ("conv2d", "5")
    missing = float(1 - result.total[result.worst] / result.explained[result.worst])
    assert first.share == pytest.approx(missing, abs=1e-4)
    assert f"image {result.worst}: the values miss their sum by" in result.warning
    assert f"conv2d in 5 {'kept' if missing > 0 else 'added'}" in result.warning
    assert f"Biases took {100 * missing:.1f} %; bias=ignore gives that" in result.warning
    ignored = attribute(LRP(composite="epsilon", bias="ignore"), scalar(model), images)
    assert "iases" not in ignored.warning


def test_a_rule_that_does_not_conserve_is_named_by_its_layer(models, scalar, images):
    method = LRP(
        composite=Composite(assignments=(Assignment(rule=AlphaBeta(alpha=2, beta=1), path="9"),))
    )
    result = attribute(method, scalar(models["vgg-free"]()), images)
    assert (result.losses[0].operation, result.losses[0].path) == ("linear", "9")
    assert result.cost == method.passes(scalar(models["vgg-free"]()).model) + 1 / 5
    assert "iases" not in result.warning
    large = LRP(composite=Composite(otherwise=Epsilon(epsilon=0)), epsilon=0)
    assert attribute(large, scalar(models["vgg-free"]()), images).warning == ""


@pytest.mark.parametrize(
    ("kind", "where"), [("vit", "scaled_dot_product_attention"), ("vit-plain", "softmax")]
)
def test_the_softmax_and_a_constant_token_are_named(kind, where, models, scalar, images):
    model = models[kind]()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "bias" in name or name == "place":
                value.zero_()
    losses = LRP(composite="epsilon").account(scalar(model), images).trace(1)
    named = {loss.operation for loss in losses if abs(loss.share) > 1e-4}
    assert named <= {where, "cat", "linear", "conv2d"}
    assert {where, "cat"} <= named


@pytest.mark.parametrize("kind", [*KINDS, "vgg-free"])
def test_no_operation_loses_a_difference(kind, models, scalar, images):
    method = DeepLift(baseline=lambda x: 0.3 * x.flip(0) - 0.2)
    f = scalar(models[kind]())
    account = method.account(f, images)
    assert max(abs(loss.share) for loss in account.trace(1)) < 1e-9
    assert attribute(method, f, images).warning == ""


class Crossing(nn.Module):
    """Two signals that a condition exchanges, with opposite changes: no share of a sum is right."""

    def forward(self, images):
        one = images[:, 0].flatten(1)
        return torch.where(one > 0, one, -one).cumsum(1)[:, :4]


def test_an_operation_that_cannot_share_a_difference_out_is_named(images):
    f = ModelScalar(Network.read(Crossing().eval(), images), logit(0))
    images = images.abs() + 0.1
    result = attribute(DeepLift(baseline=lambda x: -0.5 * x), f, images)
    assert result.losses[0].operation == "where"
    assert "where" in result.warning


def test_the_gap_of_a_path_travels_with_the_result(models, scalar, images):
    result = attribute(IntegratedGradients(steps=1), scalar(models["gated"]()), images)
    assert result.gap.max() > 0.01
    assert "the values miss their sum by" in result.warning
    assert result.losses == ()


class Overflowing:
    """A rule that divides by nothing."""

    conserves = True
    passes = 1.0

    def __call__(self, at):
        return at.layer.transposed(at.relevance / (at.values * 0), at.weight), None


@pytest.mark.parametrize("path", ["0", "5", "9"])
def test_a_rule_that_divides_by_zero_is_named_by_its_layer(path, models, scalar, images):
    rule = Overflowing()
    method = LRP(composite=Composite(assignments=(Assignment(rule=rule, path=path),)))
    kind = "linear" if path == "9" else "conv2d"
    says = f"became NaN or infinite in '{kind}' in '{path}', for 5 of 5 images"
    with pytest.raises(NumericsError, match=says):
        method(scalar(models["vgg"]()), images)
