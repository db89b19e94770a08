from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import RISE, Occlusion, SmoothGrad
from whence.core import LogProbability, ModelScalar, logit
from whence.errors import SettingError
from whence.priors import GiniSparsity, Prior, TotalVariation, prior_loss


class Counted(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        return self.model(images)


def test_the_loss_is_cross_entropy_plus_the_weighted_penalty(model, images, labels, method):
    prior = Prior(method=method, penalty=TotalVariation(), weight=0.7)
    found = prior_loss(model, images, labels, prior=prior)
    task = functional.cross_entropy(model(images), labels)
    penalty = TotalVariation()(method(ModelScalar(model, logit(labels)), images))
    torch.testing.assert_close(found.total, task + 0.7 * penalty)
    torch.testing.assert_close(found.task, task)
    torch.testing.assert_close(found.penalty, penalty)
    torch.testing.assert_close(found.logits, model(images))


def test_the_gradient_reaches_every_weight_and_is_that_of_finite_differences(
    model, images, labels, method
):
    prior = Prior(method=method, penalty=TotalVariation(), weight=3.0)
    names, values = zip(*model.named_parameters(), strict=True)

    def loss(*parameters):
        def run(x):
            return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), x)

        return prior_loss(run, images, labels, prior=prior).penalty

    parameters = tuple(p.detach().clone().requires_grad_() for p in values)
    gradients = torch.autograd.grad(loss(*parameters), parameters, allow_unused=True)
    reached = {name for name, g in zip(names, gradients, strict=True) if g is not None and g.any()}
    assert reached == {"0.weight", "0.bias", "3.weight"}  # the last bias moves no attribution
    torch.autograd.gradcheck(loss, parameters, atol=1e-6)


def test_a_method_that_asks_for_the_images_shares_its_forward_pass(images, labels, method, model):
    counted = Counted(model).eval()
    prior_loss(counted, images, labels, prior=Prior(method=method, penalty=GiniSparsity()))
    assert counted.calls == 1


def test_a_method_that_asks_for_other_images_does_not(images, labels, method, model):
    counted = Counted(model).eval()
    prior = Prior(method=type(method)(at_zero=True), penalty=GiniSparsity())
    found = prior_loss(counted, images, labels, prior=prior)
    assert counted.calls == 2
    torch.testing.assert_close(found.logits, model(images))


def test_the_target_is_a_choice(model, images, labels, method):
    prior = Prior(method=method, penalty=TotalVariation(), target=LogProbability)
    expected = TotalVariation()(method(ModelScalar(model, LogProbability(labels)), images))
    found = prior_loss(model, images, labels, prior=prior)
    torch.testing.assert_close(found.penalty, expected)


def test_attention_can_be_trained_with_a_prior(labels, generator, method):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(6, 12)
            self.head = nn.Linear(4, 3)

        def forward(self, images):
            q, k, v = self.project(images).chunk(3, dim=-1)
            return self.head(functional.scaled_dot_product_attention(q, k, v).mean(dim=(1, 2)))

    images = torch.randn(5, 1, 6, 6, generator=generator)
    model = Attention().eval()
    prior_loss(
        model, images, labels, prior=Prior(method=method, penalty=GiniSparsity())
    ).total.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_a_method_is_made_to_keep_its_graph(model, images, labels, method):
    prior = Prior(method=type(method)(create_graph=False), penalty=GiniSparsity())
    assert prior.method == type(method)(create_graph=True)
    assert prior_loss(model, images, labels, prior=prior).penalty.requires_grad


def without_graph(f, images):
    return f(images).detach()[:, None, None, None] * images


@dataclass(frozen=True, kw_only=True)
class Detached:
    def __call__(self, f, images):
        return without_graph(f, images)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Detached(), "Detached"),
        (without_graph, "without_graph"),
        (Occlusion(window=3, stride=3), "Occlusion"),
        (RISE(masks=4, cells=2), "RISE"),
        (SmoothGrad(samples=2), "SmoothGrad"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_method_that_is_not_differentiable_is_refused_by_name(
    method, name, model, images, labels
):
    prior = Prior(method=method, penalty=GiniSparsity())
    with pytest.raises(SettingError, match=f"^{name} is not differentiable.*create_graph"):
        prior_loss(model, images, labels, prior=prior)


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_refused(weight, method):
    with pytest.raises(SettingError, match="0 or more, and finite"):
        Prior(method=method, penalty=GiniSparsity(), weight=weight)
