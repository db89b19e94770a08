"""SmoothGrad's relatives: mean squares and variances over the same noisy copies."""

import pytest
import torch

from whence.attribution import (
    Gradient,
    InputXGradient,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
    attribute,
)
from whence.core import Custom, ModelScalar, logit
from whence.errors import SettingError


@pytest.mark.parametrize("inner", [Gradient(), InputXGradient()])
def test_they_are_the_moments_of_the_maps_one_by_one(inner, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    generator = torch.Generator().manual_seed(5)
    noises = [torch.randn(3, 8, 8, generator=generator).double() for _ in range(6)]
    spread = 0.3 * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))).view(-1, 1, 1, 1)
    maps = torch.stack([inner(f, images + spread * noise) for noise in noises])
    settings = {"samples": 6, "sigma": 0.3, "seed": 5, "method": inner}
    torch.testing.assert_close(SmoothGradSquared(**settings)(f, images), maps.square().mean(dim=0))
    torch.testing.assert_close(VarGrad(**settings)(f, images), maps.var(dim=0, correction=0))


def test_the_mean_square_is_the_square_of_the_mean_plus_the_variance(rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    mean, square, variance = (
        method(samples=7, seed=2)(f, images) for method in (SmoothGrad, SmoothGradSquared, VarGrad)
    )
    torch.testing.assert_close(square, mean.square() + variance, rtol=1e-10, atol=1e-14)


def test_the_variance_of_a_linear_models_gradient_is_zero(linear, images):
    assert (VarGrad(samples=5)(ModelScalar(linear, logit(1)), images) == 0).all()


def test_the_variance_is_exact_on_top_of_a_large_mean():
    noise = Custom(lambda z: (z**2 / 2 + 1e6 * z).sum(dim=1))
    f, image = ModelScalar(lambda x: x.flatten(1), noise), torch.rand(1, 1, 4, 4)
    spread = 0.15 * float(image.max() - image.min())
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.randn(1, 4, 4, generator=generator) for _ in range(50)])
    # The gradient is x + 1e6 in single precision: its step there is 1/16.
    maps = (image + spread * drawn + 1e6).double()
    expected = maps.var(dim=0, correction=0)
    torch.testing.assert_close(
        VarGrad(samples=50)(f, image)[0].double(), expected, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize("method", [SmoothGradSquared, VarGrad])
def test_maps_do_not_depend_on_how_the_work_was_cut(method, rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    whole = method(samples=5)(f, images)
    torch.testing.assert_close(method(samples=5, batch_size=2)(f, images), whole)
    alone = method(samples=5)(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, whole[3:4])


@pytest.mark.parametrize("method", [SmoothGradSquared, VarGrad])
def test_the_cost_is_the_samples(method, rectifier, images, untouched):
    model = rectifier()
    with untouched(model):
        result = attribute(method(samples=5), ModelScalar(model, logit(0)), images)
    assert result.cost == 5.5
    assert result.gap is None


@pytest.mark.parametrize("method", [SmoothGradSquared, VarGrad])
def test_settings_without_meaning_are_refused(method):
    with pytest.raises(SettingError, match="at least 1; got 0"):
        method(samples=0)
    with pytest.raises(SettingError, match=r"range.*got -1"):
        method(sigma=-1.0)


def test_copies_go_together_as_far_as_memory_allows_after_the_first(monkeypatch):
    monkeypatch.setattr("whence.attribution.batching.ON_PROCESSOR", 2**20)
    batches = []

    def model(images):
        batches.append(len(images))
        return images.square().flatten(1)  # keeps as much as an image of 48 KiB

    images = torch.rand(2, 3, 64, 64)
    maps = SmoothGrad(samples=8)(ModelScalar(model, logit(0)), images)
    assert batches == [1, 2, 2, 2, 1, 2, 2, 2, 2]  # the first is a guess, two fit
    monkeypatch.undo()
    torch.testing.assert_close(SmoothGrad(samples=8)(ModelScalar(model, logit(0)), images), maps)
