"""A prior on every differentiable method: its gradient, its cost, and the kernels it leaves."""

from contextlib import suppress

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from whence.attribution import (
    ExpectedGradients,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    References,
)
from whence.core import ModelScalar, logit
from whence.network import Network
from whence.priors import Entropy, GiniSparsity, MeanMap, Prior, TotalVariation, prior_loss

BANK = torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
METHODS = [
    Gradient(),
    InputXGradient(),
    IntegratedGradients(steps=4),
    IntegratedGradients(steps=3, batch_size=4),
    ExpectedGradients(references=References(images=BANK), samples=3),
    ExpectedGradients(references=References(images=BANK), samples=3, shared=False, batch_size=2),
    GradCAM(relu=False),
    GradCAM(relu=False, upsample=False),
]
each_method = pytest.mark.parametrize(
    "method", METHODS, ids=[f"{type(m).__name__}-{k}" for k, m in enumerate(METHODS)]
)


@pytest.fixture
def smooth(generator):
    """Two smooth convolutions, whose second derivatives are everywhere defined."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    ).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model.eval()


def read_for(method, model, images):
    return Network.read(model, images) if isinstance(method, GradCAM) else model


@each_method
def test_the_priors_gradient_at_the_weights_is_that_of_finite_differences(
    method, smooth, images, labels, generator
):
    prior = Prior(method=method, penalty=TotalVariation(), weight=2.0)
    run = read_for(method, smooth, images)
    weights = list(smooth.parameters())
    drawn = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]

    def total(step):
        with torch.no_grad():
            for p, d in zip(weights, drawn, strict=True):
                p.add_(step * d)
        value = prior_loss(run, images, labels, prior=prior).total.item()
        with torch.no_grad():
            for p, d in zip(weights, drawn, strict=True):
                p.sub_(step * d)
        return value

    loss = prior_loss(run, images, labels, prior=prior)
    gradients = torch.autograd.grad(loss.total, weights, retain_graph=True)
    reached = torch.autograd.grad(loss.penalty, weights, allow_unused=True)
    along = sum((g * d).sum().item() for g, d in zip(gradients, drawn, strict=True))
    assert along == pytest.approx((total(1e-5) - total(-1e-5)) / 2e-5, rel=1e-6)
    if not isinstance(method, GradCAM):  # whose maps know nothing of what is behind a bias
        assert all(g is not None and g.any() for g in reached[:-1])
    assert reached[0] is not None
    assert reached[0].any()


@each_method
def test_the_penalty_is_that_of_the_maps_which_the_method_shows(method, smooth, images, labels):
    run = read_for(method, smooth, images)
    found = prior_loss(run, images, labels, prior=Prior(method=method, penalty=Entropy()))
    shown = Entropy()(method(ModelScalar(run, logit(labels)), images))
    torch.testing.assert_close(found.penalty, shown)
    torch.testing.assert_close(found.task, functional.cross_entropy(smooth(images), labels))


def naive_maps(model, x, y, start, places):
    """The mean over places of gradients on the line, times the change: written out."""
    total = torch.zeros_like(x)
    for place in places:
        point = (start + place * (x - start)).requires_grad_()
        value = model(point).gather(1, y[:, None]).sum()
        (slope,) = torch.autograd.grad(value, point, create_graph=True)
        total = total + slope / len(places)
    return (x - start) * total


@pytest.mark.parametrize(
    ("method", "places"),
    [
        (InputXGradient(), [1.0]),
        (IntegratedGradients(steps=4, rule="midpoint"), [1 / 8, 3 / 8, 5 / 8, 7 / 8]),
    ],
    ids=["input-x-gradient", "integrated-gradients"],
)
def test_the_gradient_is_that_of_a_double_backward_written_out(
    method, places, smooth, images, labels
):
    prior = Prior(method=method, penalty=GiniSparsity(), weight=0.3)
    loss = prior_loss(smooth, images, labels, prior=prior).total
    found = torch.autograd.grad(loss, list(smooth.parameters()))
    maps = naive_maps(smooth, images, labels, torch.zeros_like(images), places)
    task = functional.cross_entropy(smooth(images), labels)
    naive = torch.autograd.grad(task + 0.3 * GiniSparsity()(maps), list(smooth.parameters()))
    for one, other in zip(found, naive, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-14)


def test_a_method_that_draws_draws_anew_at_every_step_and_alike_for_a_step(smooth, images, labels):
    method = ExpectedGradients(references=References(images=BANK), samples=1, shared=False)
    prior = Prior(method=method, penalty=Entropy())
    rows = torch.arange(5)
    found = [
        prior_loss(smooth, images, labels, prior=prior.at(rows, step)).penalty.item()
        for step in (0, 1, 2, 1)
    ]
    assert len(set(found)) == 3
    assert found[1] == found[3]


def test_images_with_draws_of_their_own_are_those_of_the_draws_one_by_one(smooth, images, labels):
    method = ExpectedGradients(references=References(images=BANK), samples=3, shared=False)
    which, alphas = method.drawn().each(images)
    assert which.shape == alphas.shape == (3, 5)
    assert len({tuple(column.tolist()) for column in alphas.T}) == 5
    expected = torch.zeros_like(images)
    for s in range(3):
        for b in range(5):
            start = BANK[which[s, b]]
            change = images[b] - start
            point = (start + alphas[s, b] * change)[None].requires_grad_()
            (slope,) = torch.autograd.grad(smooth(point)[0, labels[b]], point)
            expected[b] += change * slope[0] / 3
    f = ModelScalar(smooth, logit(labels))
    torch.testing.assert_close(method(f, images), expected)
    account = method.account(f, images)
    torch.testing.assert_close(account.values, expected)
    level = torch.stack([smooth(BANK[which[:, b]])[:, labels[b]].mean() for b in range(5)])
    torch.testing.assert_close(account.reference, account.explained - level)


class Attention(nn.Module):
    """One head over the rows of the image; remembers which kernel it ran on."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 12)
        self.head = nn.Linear(4, 3)
        self.kernels = []

    def forward(self, images):
        q, k, v = self.project(images).chunk(3, dim=-1)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        self.kernels.append(type(mixed.grad_fn).__name__)
        return self.head(mixed.mean(dim=(1, 2)))


@pytest.mark.parametrize("fails", [False, True])
def test_attention_falls_back_while_a_prior_is_on_and_is_back_again_afterwards(
    fails, labels, generator
):
    def backends():
        cuda = torch.backends.cuda
        return (
            cuda.flash_sdp_enabled(),
            cuda.mem_efficient_sdp_enabled(),
            cuda.math_sdp_enabled(),
            cuda.cudnn_sdp_enabled(),
        )

    def method(f, images):
        values = InputXGradient(create_graph=True)(f, images)
        if fails:
            raise ZeroDivisionError
        return values

    images = torch.randn(5, 1, 6, 6, generator=generator)
    model, before = Attention().eval(), backends()
    prior = Prior(method=method, penalty=GiniSparsity())
    model(images)
    with suppress(ZeroDivisionError):
        prior_loss(model, images, labels, prior=prior)
    model(images)
    assert backends() == before
    plain, inside, after = model.kernels
    assert "FlashAttention" in plain
    assert "FlashAttention" not in inside
    assert after == plain


def test_a_method_on_layers_needs_a_network_and_says_so(smooth, images, labels):
    from whence.errors import SettingError

    with pytest.raises(SettingError, match=r"needs its graph.*Network\.read"):
        prior_loss(smooth, images, labels, prior=Prior(method=GradCAM(), penalty=GiniSparsity()))


def test_a_prior_on_a_networks_maps_trains_the_users_own_weights(smooth, images, labels):
    network = Network.read(smooth, images)
    prior = Prior(method=GradCAM(relu=False), penalty=TotalVariation(), weight=5.0)
    steps = torch.optim.SGD(smooth.parameters(), lr=0.02)
    costs = []
    for _ in range(20):
        steps.zero_grad()
        loss = prior_loss(network, images, labels, prior=prior)
        loss.total.backward()
        steps.step()
        costs.append(loss.penalty.item())
    assert costs[-1] < 0.8 * costs[0]
    torch.testing.assert_close(network(images), smooth(images))


def flops(step):
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def test_a_step_with_a_prior_costs_two_plain_steps_and_a_third_of_one_with_eight_references(
    generator,
):
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 16, 5, bias=False),
    )  # fmt: skip
    images = torch.randn(4, 3, 8, 8, generator=generator)
    labels = torch.tensor([0, 1, 2, 3])

    def step(method):
        prior = Prior(method=method, penalty=MeanMap(penalty=GiniSparsity()))

        def run():
            prior_loss(model, images, labels, prior=prior).total.backward()

        return run

    plain = flops(lambda: functional.cross_entropy(model(images), labels).backward())
    ours = flops(step(InputXGradient()))
    drawn = ExpectedGradients(references=References(images=images), samples=8, shared=False)
    assert ours <= 2.2 * plain
    assert flops(step(drawn)) >= 3 * ours
