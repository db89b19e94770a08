"""Baselines and the normalisation that they go through."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whence.core import (
    BASELINES,
    Baseline,
    Blur,
    Colour,
    Mean,
    Noise,
    Normalisation,
    RandomBaseline,
    Shuffled,
    Uniform,
    Zero,
    baseline_named,
)
from whence.errors import SettingError

IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.fixture
def images(generator):
    return torch.randn(4, 3, 9, 7, generator=generator)


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_name_gives_a_baseline_shaped_like_the_images(name, dtype, images):
    images = images.to(dtype)
    baseline = baseline_named(name, IMAGENET)
    filled = baseline(images)
    assert isinstance(baseline, Baseline)
    assert filled.shape == images.shape
    assert filled.dtype == dtype
    assert filled.isfinite().all()
    first = filled[0].clone()
    filled[1:] = 7.0  # no image of it shares memory with another, nor with the input
    torch.testing.assert_close(filled[0], first, rtol=0, atol=0)
    assert not (images == 7.0).any()


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_treats_each_image_alone(name, images):
    baseline = baseline_named(name, IMAGENET)
    alone = torch.cat([baseline(images[i : i + 1]) for i in range(len(images))])
    torch.testing.assert_close(alone, baseline(images))


@pytest.mark.parametrize(("name", "pixel"), [("black", 0.0), ("white", 1.0)])
def test_black_is_black_and_white_is_white_under_a_normalisation(name, pixel, images):
    filled = baseline_named(name, IMAGENET)(images)
    expected = torch.tensor(
        [(pixel - m) / s for m, s in zip(IMAGENET.mean, IMAGENET.std, strict=True)]
    )
    torch.testing.assert_close(filled, expected.view(1, 3, 1, 1).expand_as(images))
    pixels = IMAGENET.to_pixels(filled)
    torch.testing.assert_close(pixels, torch.full_like(pixels, pixel))


def test_zero_is_zero_in_model_units(images):
    assert not Zero()(images).any()


def test_a_colour_is_given_in_pixels_channel_by_channel(images):
    filled = Colour(value=(1.0, 0.5, 0.0), normalisation=IMAGENET)(images)
    pixels = IMAGENET.to_pixels(filled).mean(dim=(0, 2, 3))
    torch.testing.assert_close(pixels, torch.tensor([1.0, 0.5, 0.0]), atol=1e-6, rtol=0)


def test_a_colour_with_a_wrong_number_of_channels_is_refused(images):
    with pytest.raises(SettingError, match="colour has 2 channels, the images have 3"):
        Colour(value=(0.0, 1.0))(images)


def test_the_mean_is_each_images_own(images):
    filled = Mean()(images)
    for image, result in zip(images, filled, strict=True):
        for channel, flat in zip(image, result, strict=True):
            assert flat.unique().numel() == 1
            assert flat[0, 0].item() == pytest.approx(channel.mean().item(), abs=1e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 2.0])
def test_a_blur_keeps_constants(sigma):
    constant = torch.tensor([0.3, -2.0, 5.0]).view(1, 3, 1, 1).expand(2, 3, 9, 7).contiguous()
    torch.testing.assert_close(Blur(sigma=sigma)(constant), constant)


def test_a_blur_is_a_gaussian_mean_of_neighbours_with_the_border_repeated(images):
    image = images[:1].double()
    sigma = 0.1 * 7
    radius = round(3 * sigma)
    weight = {d: math.exp(-0.5 * (d / sigma) ** 2) for d in range(-radius, radius + 1)}
    scale = sum(weight.values()) ** 2
    for i, j in [(0, 0), (4, 3), (8, 6), (0, 5)]:
        expected = sum(
            weight[di]
            * weight[dj]
            * image[0, 1, min(max(i + di, 0), 8), min(max(j + dj, 0), 6)].item()
            for di in weight
            for dj in weight
        )
        blurred = Blur(sigma=0.1)(image)[0, 1, i, j].item()
        assert blurred == pytest.approx(expected / scale, rel=1e-12)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan])
def test_a_blur_without_width_is_refused(sigma):
    with pytest.raises(SettingError, match="positive sigma"):
        Blur(sigma=sigma)


def test_uniform_noise_is_the_same_on_every_call_and_for_every_batching(images):
    noise = Uniform(seed=3, normalisation=IMAGENET)
    whole = noise(images)
    torch.testing.assert_close(noise(images), whole, rtol=0, atol=0)
    parts = torch.cat([noise(images[:3]), noise(images[3:])])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    assert not torch.equal(Uniform(seed=4, normalisation=IMAGENET)(images), whole)


def test_uniform_noise_leaves_the_global_generator_alone(images):
    before = torch.get_rng_state()
    Uniform()(images)
    assert torch.equal(torch.get_rng_state(), before)


def test_uniform_noise_fills_the_pixel_range():
    noise = Uniform(normalisation=IMAGENET)(torch.zeros(1, 3, 64, 64))
    pixels = IMAGENET.to_pixels(noise)
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6
    histogram = torch.histc(pixels, bins=8, min=0, max=1) / pixels.numel()
    torch.testing.assert_close(histogram, torch.full((8,), 1 / 8), atol=0.02, rtol=0)


def test_gaussian_noise_has_the_deviation_that_was_asked_for():
    noise = Noise(sigma=0.5, seed=2)(torch.zeros(2, 3, 64, 64))
    assert noise.mean().abs() < 0.02
    assert noise.std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(noise[0], noise[1])
    with pytest.raises(SettingError, match=r"positive sigma, in model units; got 0\.0"):
        Noise(sigma=0.0)


def test_shuffled_pixels_keep_their_colours(images):
    shuffled = Shuffled(seed=1)(images)
    assert not torch.equal(shuffled, images)
    for image, other in zip(images, shuffled, strict=True):
        pixels, others = image.flatten(1).T.tolist(), other.flatten(1).T.tolist()
        assert sorted(pixels) == sorted(others)


@pytest.mark.parametrize(
    "baseline", [Uniform(), Noise(), Shuffled()], ids=lambda b: type(b).__name__
)
def test_what_is_drawn_anew_depends_on_the_generator_alone(baseline, images):
    assert isinstance(baseline, RandomBaseline)
    generator = torch.Generator().manual_seed(7)
    first, second = baseline.draw(images, generator), baseline.draw(images, generator)
    assert not torch.equal(first, second)
    again = torch.Generator().manual_seed(7)
    alone = torch.cat([baseline.draw(images[:2], again), baseline.draw(images[:2], again)])
    torch.testing.assert_close(alone, torch.cat([first[:2], second[:2]]), rtol=0, atol=0)


def test_an_unknown_baseline_is_refused_with_the_names():
    with pytest.raises(SettingError, match=r"Unknown baseline 'grey'.*zero, black, white, mean"):
        baseline_named("grey")


@given(
    pixel=st.floats(0, 1),
    mean=st.tuples(*[st.floats(-2, 2)] * 3),
    std=st.tuples(*[st.floats(0.01, 10)] * 3),
)
def test_a_normalisation_and_its_inverse_give_the_pixels_back(pixel, mean, std):
    units = Normalisation(mean=mean, std=std)
    pixels = torch.full((1, 3, 2, 2), pixel, dtype=torch.float64)
    torch.testing.assert_close(units.to_pixels(units.to_model(pixels)), pixels)


def test_the_span_is_the_distance_from_black_to_white(images):
    black, white = (baseline_named(name, IMAGENET)(images) for name in ("black", "white"))
    torch.testing.assert_close((white - black)[:1, :, :1, :1], IMAGENET.span(images))


def test_a_normalisation_of_other_channels_is_refused():
    with pytest.raises(SettingError, match="normalisation has 3 channels, the images have 1"):
        IMAGENET.to_model(torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("mean", "std"), [((), (1.0,)), ((0.0,), ()), ((0.0,), (0.0,)), ((0.0,), (-1.0,))]
)
def test_a_normalisation_needs_means_and_positive_deviations(mean, std):
    with pytest.raises(SettingError, match="positive deviations"):
        Normalisation(mean=mean, std=std)
