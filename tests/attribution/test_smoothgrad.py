"""SmoothGrad: the mean of a method over noisy copies."""

import pytest
import torch

from whence.attribution import Gradient, InputXGradient, IntegratedGradients, SmoothGrad
from whence.core import Custom, ModelScalar, logit
from whence.errors import SettingError


def pixels(function):
    """A scalar function of the pixels themselves."""
    return ModelScalar(lambda x: x.flatten(1), Custom(lambda z: function(z).sum(dim=1)))


@pytest.mark.parametrize("inner", [Gradient(), InputXGradient(), IntegratedGradients(steps=2)])
def test_it_is_the_mean_over_the_noisy_copies_one_by_one(inner, rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    values = SmoothGrad(samples=4, sigma=0.3, seed=7, method=inner)(f, images)
    generator = torch.Generator().manual_seed(7)
    noises = [torch.randn(3, 8, 8, generator=generator).double() for _ in range(4)]
    for i in range(len(images)):
        image = images[i : i + 1]
        scale = 0.3 * (image.max() - image.min())
        own = f.at(torch.tensor([i]))
        maps = [inner(own, image + scale * noise) for noise in noises]
        torch.testing.assert_close(
            values[i : i + 1], torch.stack(maps).mean(dim=0), rtol=1e-12, atol=1e-13
        )


def test_of_a_linear_model_it_is_the_gradient(linear, images):
    f = ModelScalar(linear, logit(1))
    torch.testing.assert_close(SmoothGrad(samples=5)(f, images), Gradient()(f, images))


def test_of_a_cubic_it_adds_the_variance_of_the_noise():
    image = torch.linspace(0, 1, 64, dtype=torch.float64).view(1, 1, 8, 8)
    values = SmoothGrad(samples=4000, sigma=0.2)(pixels(lambda z: z**3 / 3), image)
    noise = 0.2
    # The gradient (x + e)^2 has mean x^2 + s^2 and variance 4 x^2 s^2 + 2 s^4.
    error = ((4 * image**2 * noise**2 + 2 * noise**4) / 4000).sqrt()
    assert ((values - (image**2 + noise**2)).abs() < 4.5 * error).all()
    assert ((values - image**2) / error).mean() > 10


def test_without_noise_it_is_the_inner_method(rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    torch.testing.assert_close(SmoothGrad(samples=3, sigma=0)(f, images), Gradient()(f, images))


def test_an_image_of_one_colour_gets_no_noise(rectifier):
    f, grey = ModelScalar(rectifier(), logit(1)), torch.full((1, 3, 8, 8), 0.4).double()
    torch.testing.assert_close(SmoothGrad(samples=3)(f, grey), Gradient()(f, grey))


def test_the_noise_follows_the_range_of_each_image(rectifier, images):
    f = ModelScalar(rectifier(bias=False), logit(1))
    method = SmoothGrad(samples=3)
    torch.testing.assert_close(method(f, 10 * images), method(f, images), rtol=1e-10, atol=1e-12)


def test_seeds_repeat_and_differ(rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    first, again, other = (SmoothGrad(samples=3, seed=s)(f, images) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_no_global_random_state_is_used(rectifier, images):
    f, before = ModelScalar(rectifier(), logit(1)), torch.get_rng_state()
    SmoothGrad(samples=2)(f, images)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_method_from_elsewhere_can_be_smoothed(rectifier, images):
    def sign(f, images):
        return Gradient()(f, images).sign()

    f = ModelScalar(rectifier(), logit(1))
    values = SmoothGrad(samples=1, sigma=0, method=sign)(f, images)
    assert torch.equal(values, Gradient()(f, images).sign())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(SettingError, match=says):
        SmoothGrad(**settings)
