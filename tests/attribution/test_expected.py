"""Expected gradients and GradientSHAP: draws written out, and the means that they estimate."""

import pytest
import torch

from whence.attribution import (
    ExpectedGradients,
    GradientSHAP,
    IntegratedGradients,
    References,
    attribute,
)
from whence.core import Mean, ModelScalar, Uniform, logit
from whence.errors import SettingError, ShapeError


@pytest.fixture
def bank():
    """Three references of 3 x 8 x 8."""
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_they_are_the_mean_over_the_draws_one_by_one(smooth, images, classes, bank):
    f = ModelScalar(smooth, logit(classes))
    method = ExpectedGradients(references=References(images=bank), samples=7, seed=3)
    which, alphas = method.drawn().places()
    expected = torch.zeros_like(images)
    for k, alpha in zip(which.tolist(), alphas.tolist(), strict=True):
        leaf = (bank[k] + alpha * (images - bank[k])).requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).sum(), leaf)
        expected += (images - bank[k]) * gradient / 7
    torch.testing.assert_close(method(f, images), expected)


def test_every_reference_is_drawn_as_often_and_every_part_of_the_path_once(bank):
    drawn = ExpectedGradients(references=References(images=bank), samples=9, seed=1).drawn()
    which, alphas = drawn.places()
    assert which.bincount().tolist() == [3, 3, 3]
    assert sorted((alphas * 9).floor().tolist()) == list(range(9))
    _, many = ExpectedGradients(samples=2000).drawn().places()
    inside = (many * 2000) % 1
    # Uniform within the parts: mean 1/2 and variance 1/12, up to four standard errors.
    assert abs(inside.mean() - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    assert abs(inside.var() - 1 / 12) < 4 * (1 / 180 / 2000) ** 0.5


def test_they_estimate_integrated_gradients_averaged_over_the_references(
    smooth, images, classes, bank
):
    f = ModelScalar(smooth, logit(classes))
    paths = [
        IntegratedGradients(steps=64, baseline=References(images=bank[k : k + 1]))(f, images)
        for k in range(3)
    ]
    expected = torch.stack(paths).mean(dim=0)
    errors = []
    for samples in (12, 768):
        method = ExpectedGradients(references=References(images=bank), samples=samples)
        errors.append(float((method(f, images) - expected).norm() / expected.norm()))
    assert errors[1] < 0.05
    assert errors[1] < 0.4 * errors[0]


def test_of_a_linear_model_they_are_exact_and_add_up(linear, images, bank):
    f = ModelScalar(linear, logit(1))
    method = ExpectedGradients(references=References(images=bank), samples=7)
    result = attribute(method, f, images)
    times = method.drawn().places()[0].bincount()
    assert sorted(times.tolist()) == [2, 2, 3]
    expected = f(images) - (f(bank) * times).sum() / 7
    torch.testing.assert_close(result.total, expected.detach())
    assert result.gap.max() < 1e-12
    assert result.cost == 7 + 0.5 * 4


def test_one_reference_with_strata_is_nearly_integrated_gradients(smooth, images):
    f = ModelScalar(smooth, logit(1))
    expected = IntegratedGradients(steps=200, baseline=Mean())(f, images)
    errors = [
        (ExpectedGradients(references=Mean(), samples=100, stratified=s)(f, images) - expected)
        .norm()
        .item()
        for s in (True, False)
    ]
    assert errors[0] < 0.05 * expected.norm()
    assert errors[0] < 0.3 * errors[1]


def test_gradient_shap_without_noise_has_independent_draws_of_the_same_mean(linear, images, bank):
    f = ModelScalar(linear, logit(1))
    bank = References(images=bank)
    plain = ExpectedGradients(references=bank, samples=5, stratified=False)(f, images)
    torch.testing.assert_close(
        GradientSHAP(references=bank, samples=5, sigma=0.0)(f, images), plain
    )


def test_gradient_shap_is_the_mean_over_noisy_draws_one_by_one(smooth, images, bank):
    f = ModelScalar(smooth, logit(2))
    method = GradientSHAP(references=References(images=bank), samples=4, sigma=0.2, seed=6)
    which, alphas = method.drawn().places()
    generator = torch.Generator().manual_seed(7)
    noises = [torch.randn(3, 8, 8, generator=generator).double() for _ in range(4)]
    spread = 0.2 * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))).view(-1, 1, 1, 1)
    expected = torch.zeros_like(images)
    for k, alpha, noise in zip(which.tolist(), alphas.tolist(), noises, strict=True):
        change = images + spread * noise - bank[k]
        leaf = (bank[k] + alpha * change).requires_grad_()
        (gradient,) = torch.autograd.grad(f(leaf).sum(), leaf)
        expected += change * gradient / 4
    torch.testing.assert_close(method(f, images), expected)
    result = attribute(method, f, images)
    assert result.gap is None
    assert result.cost == 4.5


@pytest.mark.parametrize("method", [ExpectedGradients, GradientSHAP])
def test_maps_do_not_depend_on_how_the_work_was_cut(
    method, rectifier, images, classes, bank, untouched
):
    model = rectifier()
    f, bank = ModelScalar(model, logit(classes)), References(images=bank)
    with untouched(model):
        whole = method(references=bank, samples=5)(f, images)
    torch.testing.assert_close(method(references=bank, samples=5, batch_size=2)(f, images), whole)
    alone = method(references=bank, samples=5)(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, whole[3:4])
    assert not torch.allclose(method(references=bank, samples=5, seed=1)(f, images), whole)


def test_what_is_no_bank_for_these_images_is_refused(rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    with pytest.raises(ShapeError, match="References must have"):
        ExpectedGradients(references=References(images=torch.zeros(2, 3, 4, 4)))(f, images)
    with pytest.raises(ShapeError, match="must have shape"):
        References(images=torch.zeros(3, 4, 4))
    with pytest.raises(ShapeError, match="shaped like the images"):
        GradientSHAP(references=lambda x: Uniform()(x)[:2])(f, images)
    with pytest.raises(SettingError, match="samples must be at least 1"):
        ExpectedGradients(samples=0)
    with pytest.raises(SettingError, match="sigma"):
        GradientSHAP(sigma=-1.0)
