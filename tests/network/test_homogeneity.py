"""Homogeneity: the verdict agrees with what scaling the images does."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from whence.errors import ShapeError
from whence.network import Network


class Net(nn.Module):
    """A network of one function between a convolution and a linear layer without biases."""

    def __init__(self, middle, parts=(), width=6):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
            self.other = nn.Conv2d(6, 6, 3, padding=1, bias=False)
            self.parts = nn.ModuleList(parts)
            self.fc = nn.Linear(width, 4, bias=False)
        self.middle = middle
        self.eval().double()

    def forward(self, images):
        maps = self.middle(self, self.stem(images))
        return self.fc(maps.mean((2, 3)) if maps.ndim == 4 else maps.mean(1))


def images_like(count=2, size=8):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64)


def read(model):
    return Network.read(model, images_like())


@torch.no_grad()
def measured_degree(model):
    """Return the degree that scaling shows, or None if no degree fits."""
    images = images_like()
    logits = model(images)
    for degree in (0.0, 0.5, 1.0, 2.0, 3.0):
        if all(
            torch.allclose(model(k * images), k**degree * logits, rtol=1e-7, atol=0)
            for k in (0.3, 2.0, 50.0)
        ):
            return degree
    return None


def norm(channels, *, shift):
    """Return a batch norm in eval mode, with or without a shift."""
    layer = nn.BatchNorm2d(channels)
    with torch.no_grad():
        layer.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
        if shift:
            layer.bias.fill_(0.1)
    return layer


def tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def attention(query, key, value):
    return functional.scaled_dot_product_attention(query, key, value)


def unit_attention(m, x):
    unit = functional.normalize(tokens(x), dim=-1)
    return attention(unit * 4, unit, tokens(x))


def gate(m, x, given):
    return x * torch.sigmoid(m.other(given).mean((2, 3), keepdim=True))


def size(x):
    return x.square().sum((1, 2, 3), True).sqrt().clamp_min(1e-12)


KEEP = {
    "relu": lambda m, x: x.relu(),
    "relu in place": lambda m, x: functional.relu_(x),
    "leaky relu": lambda m, x: functional.leaky_relu(x, 0.1),
    "prelu": lambda m, x: m.parts[0](x),
    "abs": lambda m, x: x.abs(),
    "max pool": lambda m, x: functional.max_pool2d(x, 3, 2, 1),
    "average pool": lambda m, x: functional.avg_pool2d(x, 2),
    "adaptive pools": lambda m, x: functional.adaptive_avg_pool2d(x, 3),
    "bilinear": lambda m, x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "nearest": lambda m, x: functional.interpolate(x, scale_factor=2.0),
    "zero padding": lambda m, x: functional.pad(x, (1, 1, 1, 1)),
    "reflection": lambda m, x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "concatenation": lambda m, x: torch.cat([x[:, :3], -x[:, 3:]], 1),
    "zero class token": lambda m, x: torch.cat(
        [x.new_zeros(1, 1, 6).expand(x.shape[0], -1, -1), tokens(x)], 1
    ),
    "residual": lambda m, x: x + m.other(x).relu(),
    "residual in place": lambda m, x: m.other(x).relu().add_(x),
    "maximum": lambda m, x: torch.maximum(x, m.other(x)),
    "batch norm without shift": lambda m, x: m.parts[0](x),
    "clamp at zero": lambda m, x: x.clamp(min=0),
    "clamp below zero": lambda m, x: x.clamp(max=0),
    "scale": lambda m, x: x * 3 / 7 - x,
    "root of squares": lambda m, x: (x**2 + m.other(x) ** 2).sqrt(),
    "geometric mean": lambda m, x: (x.abs() * m.other(x).abs()).sqrt(),
    "ratio": lambda m, x: x * m.other(x).abs() / size(x),
    "attention of unit length": unit_attention,
    "gate of unit length": lambda m, x: gate(m, x, x / size(x)),
    "choice by sign": lambda m, x: torch.where(x > 0, x, 0.2 * x),
    "choice between parts": lambda m, x: torch.where(x > m.other(x), x, torch.zeros_like(x)),
    "masked by sign": lambda m, x: x.masked_fill(x < 0, 0.0),
    "standard deviation": lambda m, x: x.std((2, 3), keepdim=True) * x.sign(),
    "tokens of a batch norm": lambda m, x: tokens(m.parts[0](x)),
    "matrix product with a constant": lambda m, x: tokens(x) @ m.fc.weight.T @ m.fc.weight,
}
PARTS = {
    "prelu": lambda: [nn.PReLU(6)],
    "batch norm without shift": lambda: [norm(6, shift=False)],
    "tokens of a batch norm": lambda: [norm(6, shift=False)],
}
BREAK = {
    "bias": ("conv2d", lambda m, x: m.parts[0](x), lambda: [nn.Conv2d(6, 6, 1)]),
    "relu6": ("relu6", lambda m, x: functional.relu6(x), list),
    "hardtanh": ("hardtanh", lambda m, x: functional.hardtanh(x), list),
    "clamp": ("clamp", lambda m, x: x.clamp(0, 2), list),
    "clamp above": ("clamp", lambda m, x: x.clamp(min=0.5), list),
    "gelu": ("gelu", lambda m, x: functional.gelu(x), list),
    "silu": ("silu", lambda m, x: functional.silu(x), list),
    "hardswish": ("hardswish", lambda m, x: functional.hardswish(x), list),
    "elu": ("elu", lambda m, x: functional.elu(x), list),
    "tanh": ("tanh", lambda m, x: x.tanh(), list),
    "constant padding": ("pad", lambda m, x: functional.pad(x, (1, 1, 1, 1), value=0.5), list),
    "class token": (
        "cat",
        lambda m, x: torch.cat([m.parts[0].weight.expand(x.shape[0], 1, 6), tokens(x)], 1),
        lambda: [nn.Embedding(1, 6)],
    ),
    "positional embedding": (
        "add",
        lambda m, x: tokens(x) + m.parts[0].weight,
        lambda: [nn.Embedding(64, 6)],
    ),
    "offset": ("add", lambda m, x: x + 0.5, list),
    "offset before": ("rsub", lambda m, x: 1 - x, list),
    "batch norm with shift": ("batch_norm", lambda m, x: m.parts[0](x), lambda: [norm(6, shift=1)]),
    "layer norm": (
        "layer_norm",
        lambda m, x: m.parts[0](tokens(x)),
        lambda: [nn.LayerNorm(6, eps=0.1)],
    ),
    "group norm": ("group_norm", lambda m, x: m.parts[0](x), lambda: [nn.GroupNorm(2, 6, eps=0.1)]),
    "attention": (
        "scaled_dot_product_attention",
        lambda m, x: attention(tokens(x), tokens(x), tokens(x)),
        list,
    ),
    "softmax attention": (
        "softmax",
        lambda m, x: (tokens(x) @ tokens(x).transpose(1, 2)).softmax(-1) @ tokens(x),
        list,
    ),
    "gate": ("sigmoid", lambda m, x: gate(m, x, x), list),
    "parts of two degrees": ("add", lambda m, x: x + x * m.other(x), list),
    "choice by threshold": ("gt", lambda m, x: torch.where(x > 0.1, x, 0.2 * x), list),
    "a constant chosen": ("where", lambda m, x: torch.where(x > 0, x, 0.2), list),
    "masked with a constant": ("masked_fill", lambda m, x: x.masked_fill(x < 0, 0.3), list),
    "rounding": ("div", lambda m, x: torch.div(x, 0.1, rounding_mode="floor"), list),
    "cosine": ("cos", lambda m, x: x.cos(), list),
}
DEGREES = {
    "square": (2.0, lambda m, x: x * x),
    "power": (3.0, lambda m, x: x**3),
    "product of branches": (2.0, lambda m, x: x * m.other(x).relu()),
    "matrix with itself": (2.0, lambda m, x: tokens(x).transpose(1, 2) @ tokens(x)),
    "einsum": (2.0, lambda m, x: torch.einsum("bchw,bdhw->bcd", x, x)),
    "variance": (2.0, lambda m, x: x.var((2, 3), keepdim=True)),
    "root": (0.5, lambda m, x: x.abs().sqrt()),
    "signs": (0.0, lambda m, x: x.sign()),
    "unit length": (0.0, lambda m, x: functional.normalize(tokens(x), dim=1)),
}


@pytest.mark.parametrize("name", KEEP)
def test_what_scales_with_the_image_is_proven_to(name):
    model = Net(KEEP[name], PARTS.get(name, list)())
    verdict = read(model).homogeneity()
    assert verdict.offenders == ()
    assert verdict.holds
    assert verdict.degree == measured_degree(model) == 1.0
    assert "an X-DNN" in str(verdict)


@pytest.mark.parametrize("name", BREAK)
def test_what_does_not_scale_with_the_image_is_named(name):
    operation, middle, parts = BREAK[name]
    model = Net(middle, parts())
    verdict = read(model).homogeneity()
    assert measured_degree(model) is None
    assert not verdict.holds
    assert verdict.degree is None
    assert verdict.first_offender.operation == operation
    assert verdict.first_offender.offence.cure
    assert f"({operation})" in str(verdict)


@pytest.mark.parametrize("name", DEGREES)
def test_other_degrees_are_found_and_are_no_x_dnn(name):
    degree, middle = DEGREES[name]
    model = Net(middle)
    verdict = read(model).homogeneity()
    assert (verdict.degree, verdict.holds) == (degree, False)
    assert measured_degree(model) == degree
    assert f"degree {degree:g}" in str(verdict)
    assert max(verdict.certificate.scale_errors.values()) < 1e-10


def test_every_offender_is_found_in_order_with_its_path():
    model = Net(
        lambda m, x: m.parts[2](m.parts[1](m.parts[0](x))),
        [nn.Conv2d(6, 6, 1), nn.SiLU(), nn.ReLU6()],
    )
    offenders = read(model).homogeneity().offenders
    assert [(o.path, o.operation) for o in offenders] == [
        ("parts.0", "conv2d"),
        ("parts.1", "silu"),
        ("parts.2", "hardtanh"),
    ]
    assert all(o.degree is None for o in offenders)


def test_a_bias_of_zeros_is_no_offence_until_it_is_trained():
    model = Net(lambda m, x: m.parts[0](x), [nn.Conv2d(6, 6, 1)])
    network = read(model)
    with torch.no_grad():
        model.parts[0].bias.zero_()
    assert network.homogeneity().holds
    with torch.no_grad():
        model.parts[0].bias[0] = 1e-3
    assert not network.homogeneity().holds


def test_folding_keeps_the_proof():
    model = Net(lambda m, x: m.parts[0](m.other(x)), [norm(6, shift=False)])
    network = read(model)
    assert network.homogeneity().holds
    assert network.folded().homogeneity().holds


def test_on_an_x_dnn_input_times_gradient_sums_to_the_logit():
    network = read(Net(lambda m, x: functional.max_pool2d(m.other(x.relu()).relu(), 2)))
    images = images_like().requires_grad_()
    logits = network(images)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), images)
    torch.testing.assert_close((images * gradient).sum((1, 2, 3)), logits[:, 1])


STEPS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "pool": lambda: nn.MaxPool2d(2, 1),
    "conv": lambda: nn.Conv2d(6, 6, 3, padding=1, bias=False),
    "reflecting conv": lambda: nn.Conv2d(6, 6, 3, padding=1, bias=False, padding_mode="reflect"),
    "norm": lambda: norm(6, shift=False),
    "biased conv": lambda: nn.Conv2d(6, 6, 3, padding=1),
    "shifting norm": lambda: norm(6, shift=True),
    "silu": nn.SiLU,
    "padding": lambda: nn.ConstantPad2d(1, 0.5),
}


@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=4))
def test_the_verdict_agrees_with_scaling_for_any_stack_of_layers(names):
    with torch.random.fork_rng():
        torch.manual_seed(len(names))
        layers = [STEPS[name]() for name in names]
    model = Net(lambda m, x: nn.Sequential(*m.parts)(x), layers)
    assert read(model).homogeneity().holds == (measured_degree(model) == 1.0)


@pytest.mark.parametrize("name", BREAK)
def test_what_offenders_add_and_what_pixels_account_for_make_up_the_logit(name):
    _, middle, parts = BREAK[name]
    verdict = read(Net(middle, parts())).homogeneity()
    identity = verdict.certificate.euler
    for image, (logit, pixels) in enumerate(zip(identity.explained, identity.total, strict=True)):
        gap = sum(row.gaps[image] for row in verdict.offenders if row.gaps)
        assert pixels + gap == pytest.approx(logit, rel=1e-10, abs=1e-12)


def test_what_a_bias_adds_is_itself_times_its_gradient_and_a_norms_shift_is_a_bias():
    model = Net(
        lambda m, x: m.parts[1](m.parts[0](x)).relu(), [nn.Conv2d(6, 6, 1), norm(6, shift=1)]
    )
    conv, shifting = model.parts
    with torch.no_grad():
        shifting.running_mean.copy_(torch.linspace(-0.3, 0.4, 6))
    verdict = read(model).homogeneity()
    gaps = {row.path: row.gaps for row in verdict.offenders}
    scale = shifting.weight / (shifting.running_var + shifting.eps).sqrt()
    for image, values in enumerate(images_like()):
        shift = (shifting.bias - scale * shifting.running_mean).detach().requires_grad_()
        inner = scale[:, None, None] * conv(model.stem(values[None])) + shift[:, None, None]
        logit = model.fc(inner.relu().mean((2, 3))).max()
        bias, moved = torch.autograd.grad(logit, [conv.bias, shift])
        assert gaps["parts.0"][image] == pytest.approx((conv.bias * bias).sum().item(), rel=1e-10)
        assert gaps["parts.1"][image] == pytest.approx((shift * moved).sum().item(), rel=1e-10)


@pytest.mark.parametrize("capped", [nn.ReLU6(), nn.Hardtanh()], ids=["relu6", "hardtanh"])
def test_a_cap_is_refused_although_a_local_test_passes(capped):
    model = Net(lambda m, x: m.parts[0](x), [capped])
    small = 0.1 * images_like()
    assert model.stem(small).abs().max() < 1
    verdict = read(model).homogeneity(small)
    assert verdict.certificate.euler_error < 1e-12  # below the cap it looks linear
    assert not verdict.certificate.passes  # large factors meet the cap
    assert verdict.certificate.scale_errors[0.5] < 1e-12
    assert verdict.certificate.scale_errors[1000] > 0.1
    assert verdict.first_offender.offence.reason.startswith("It is bounded by")
    assert not verdict.holds


def test_a_proof_that_the_tests_contradict_is_no_certificate(monkeypatch):
    from whence.network import degrees

    monkeypatch.setattr(degrees, "KEEPS", degrees.KEEPS | {"relu6", "hardtanh"})
    verdict = read(Net(lambda m, x: m.parts[0](x), [nn.ReLU6()])).homogeneity()
    assert (verdict.degree, verdict.holds) == (1, False)
    assert "the numeric tests fail" in str(verdict)


def test_where_single_precision_may_be_at_fault_double_precision_is_advised(monkeypatch):
    from whence.network import degrees

    monkeypatch.setattr(degrees, "KEEPS", degrees.KEEPS | {"relu6", "hardtanh"})
    model = Net(lambda m, x: m.parts[0](x), [nn.ReLU6()]).float()
    verdict = Network.read(model, images_like().float()).homogeneity()
    assert "model.double()" in str(verdict)
    assert "model.double()" not in str(read(model.double()).homogeneity())


def test_a_network_that_is_not_defined_at_zero_is_refused():
    verdict = read(Net(lambda m, x: x * (x / x.square().sum((1, 2, 3), True).sqrt()))).homogeneity()
    assert (verdict.degree, verdict.holds) == (1, False)
    assert verdict.certificate.at_zero != verdict.certificate.at_zero  # NaN
    assert max(verdict.certificate.scale_errors.values()) < 1e-12
    assert "not defined" in str(verdict)


def test_a_dead_network_is_refused():
    model = Net(lambda m, x: x * 0)
    assert not read(model).homogeneity().holds


def test_the_guard_of_a_division_is_named_as_such():
    verdict = read(Net(lambda m, x: x * x.abs() / (x.abs().mean((1, 2, 3), True) + 1e-6)))
    offence = verdict.homogeneity().first_offender.offence
    assert offence.reason == "It adds 1e-06, which does not scale: the guard of a division."
    assert offence.cure == "Guard with clamp(min=...) instead."


def test_a_gate_is_told_once_and_does_not_multiply_the_degrees_after_it():
    model = Net(lambda m, x: x + x * m.other(x) + x)
    rows = read(model).homogeneity().offenders
    assert [row.operation for row in rows] == ["add"]
    assert rows[0].offence.reason == "It joins parts of different degrees (1, 2)."


def test_zeros_on_which_the_proof_rests_are_named():
    model = Net(lambda m, x: m.parts[0](x), [nn.Conv2d(6, 6, 1)])
    with torch.no_grad():
        model.parts[0].bias.zero_()
    assert read(model).homogeneity().assumes == ("parts.0.bias",)
    assert read(Net(lambda m, x: x)).homogeneity().assumes == ()


def test_changes_of_one_kind_are_told_together():
    model = Net(
        lambda m, x: nn.Sequential(*m.parts)(x),
        [nn.Conv2d(6, 6, 1) for _ in range(5)] + [nn.GELU()],
    )
    verdict = read(model).homogeneity()
    biases, curves = verdict.needed
    assert biases.paths == tuple(f"parts.{k}" for k in range(5))
    assert biases.gap == pytest.approx(sum(row.gap for row in verdict.offenders[:5]))
    assert "5 x conv2d" in str(verdict)
    assert "At parts.0, parts.1, parts.2, ... parts.4; they add" in str(verdict)
    assert "First offender: parts.0 (conv2d). It adds a bias" in str(verdict)
    assert curves.operation == "gelu"


def test_the_tests_may_be_run_on_images_of_ones_own():
    network = read(Net(lambda m, x: m.parts[0](x), [nn.Conv2d(6, 6, 1)]))
    assert network.homogeneity(images_like(5)).certificate.images == 5
    with pytest.raises(ShapeError):
        network.homogeneity(images_like(2, 9))


def test_the_audit_leaves_the_model_alone(untouched):
    model = Net(lambda m, x: m.parts[0](x), [nn.Conv2d(6, 6, 1)])
    network = read(model)
    with untouched(model), torch.inference_mode():
        network.homogeneity()


def test_every_model_of_the_list_says_what_would_have_to_change_and_what_each_change_is_worth(case):
    verdict = case.network.homogeneity()
    identity = verdict.certificate.euler
    assert sum(len(kind.paths) for kind in verdict.needed) == len(verdict.offenders)
    for image, (logit, pixels) in enumerate(zip(identity.explained, identity.total, strict=True)):
        gaps = [row.gaps[image] for row in verdict.offenders]
        mass = abs(logit) + abs(pixels) + sum(map(abs, gaps))
        assert pixels + sum(gaps) == pytest.approx(logit, abs=2e-5 * mass)
    assert not verdict.certificate.passes
