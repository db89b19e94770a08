"""Soundness Saliency: its terms by hand, and masks whose end is known."""

import math

import pytest
import torch
from torch import nn

from whence.attribution import References, SoundnessSaliency, attribute, method_named
from whence.attribution.soundness import data_term, masked, total_variation
from whence.core import Custom, ModelScalar, Noise, Shuffled, Uniform, baseline_named, logit
from whence.errors import SettingError, TargetError

PLAIN = {"scale": 1, "variation": 0.0}
CURVE = {20: 0.271, 50: 0.099, 100: 0.036, 200: 0.013}
"""Where Adam takes a value that starts at one half, if only the area counts."""


class Region(nn.Module):
    """Two classes; the first one's logit is the mean of the upper left quarter, times a gain."""

    def __init__(self, gain=8.0):
        super().__init__()
        self.gain = gain

    def forward(self, images):
        quarter = images[:, :, : images.shape[2] // 2, : images.shape[3] // 2]
        own = self.gain * quarter.mean(dim=(1, 2, 3))
        return torch.stack([own, torch.zeros_like(own)], dim=1)


@pytest.fixture
def bright():
    """Two images of ones, 16 x 16."""
    return torch.ones(2, 3, 16, 16, dtype=torch.float64)


@pytest.mark.parametrize("steps", CURVE)
def test_where_the_value_does_not_depend_on_a_pixel_it_falls_along_adams_curve(steps, bright):
    f = ModelScalar(Region().eval(), logit(0))
    method = SoundnessSaliency(objective="likelihood", steps=steps, **PLAIN)
    mask = method(f, bright)
    outside = torch.cat([mask[:, 0, 8:].flatten(), mask[:, 0, :8, 8:].flatten()])
    torch.testing.assert_close(
        outside, torch.full_like(outside, CURVE[steps]), rtol=0.02, atol=0.0001
    )
    assert (mask[:, 0, :8, :8] > CURVE[steps] + 0.1).all()


def test_the_weight_of_the_area_does_not_change_the_curve(bright):
    f = ModelScalar(lambda x: 0 * x.mean(dim=(2, 3)), logit(1))
    masks = [SoundnessSaliency(steps=30, area=a, **PLAIN)(f, bright) for a in (0.5, 50.0)]
    torch.testing.assert_close(masks[0], masks[1], rtol=1e-3, atol=1e-5)
    assert masks[0].std() < 1e-12


def test_without_a_cost_of_area_pixels_that_do_not_count_stay_at_one_half(bright):
    f = ModelScalar(Region().eval(), logit(0))
    mask = SoundnessSaliency(steps=20, area=0.0, **PLAIN)(f, bright)
    assert (mask[:, 0, 8:] == 0.5).all()
    assert (mask[:, 0, :8, :8] > 0.6).all()


def test_a_full_mask_shows_the_image_and_an_empty_one_the_fill_to_the_bit(images):
    fills = torch.randn(4, 1, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    one, zero = torch.ones(5, 1, 8, 8).double(), torch.zeros(5, 1, 8, 8).double()
    assert torch.equal(masked(images, one, fills), images.expand(4, 5, 3, 8, 8))
    assert torch.equal(masked(images, zero, fills), fills.expand(4, 5, 3, 8, 8))


def test_behind_a_bank_that_is_the_image_nothing_is_learnt_but_the_area(smooth, images):
    f = ModelScalar(smooth, logit(1))
    bank = References(images=images[:1])
    mask = SoundnessSaliency(fill=bank, steps=50, draws=2, **PLAIN)(f, images[:1])
    torch.testing.assert_close(mask, torch.full_like(mask, CURVE[50]), rtol=0.02, atol=0)


def test_a_class_that_is_not_there_gets_no_mask_in_the_modified_form(bright):
    f = ModelScalar(Region().eval(), logit(1))
    settings = {"steps": 60, **PLAIN}
    plain, weighted = (
        SoundnessSaliency(objective=o, **settings)(f, -bright) for o in ("likelihood", "weighted")
    )
    # Minus one in the region speaks for the second class; on the whole image it has 0.9997.
    assert (plain[:, 0, :8, :8] > 0.3).all()
    torch.testing.assert_close(weighted, plain, rtol=0, atol=0.01)
    absent = SoundnessSaliency(objective="weighted", **settings)(f, bright)
    blank = ModelScalar(lambda x: 0 * x.mean(dim=(2, 3)), logit(1))
    torch.testing.assert_close(
        absent, SoundnessSaliency(**settings)(blank, bright), rtol=0.1, atol=0.02
    )


def test_the_terms_are_their_formulas(generator):
    scores = torch.randn(3, 2, 4, generator=generator).double()
    whole = torch.randn(2, 4, generator=generator).double().softmax(dim=1)
    classes = torch.tensor([2, 0])
    chance = scores.softmax(dim=2)
    for i, c in enumerate(classes.tolist()):
        mean = chance[:, i].mean(dim=0)
        double = -mean[c] + mean.exp().sum().log()
        likelihood = -chance[:, i, c].log().mean()
        full = -(whole[i] * chance[:, i].log()).sum(dim=1).mean()
        expected = {
            "double-softmax": double,
            "distance": 1 - mean[c],
            "likelihood": likelihood,
            "weighted": whole[i, c] * likelihood,
            "distribution": full,
        }
        for name, value in expected.items():
            torch.testing.assert_close(data_term(name, scores, classes, whole)[i], value)


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_the_original_loss_has_a_range_of_length_one(count):
    sure = 1e4 * torch.eye(count).double()[:2][None]
    whole = torch.full((2, count), 1 / count).double()
    best, worst = data_term("double-softmax", sure, torch.tensor([0, 0]), whole).tolist()
    assert best == pytest.approx(math.log(math.e + count - 1) - 1)
    assert worst == pytest.approx(math.log(math.e + count - 1))


def test_the_variation_of_a_rectangle_is_its_circumference():
    mask = torch.zeros(2, 1, 12, 10)
    mask[0, 0, 3:7, 2:8] = 1.0
    assert total_variation(mask).tolist() == [2 * (4 + 6), 0]


def test_absolute_variation_counts_a_step_whatever_its_width():
    mask = torch.zeros(1, 1, 9, 9)
    mask[0, 0, 2:, 2:] = 1.0
    soft = mask.clone()
    soft[0, 0, 1], soft[0, 0, :, 1] = 0.5 * soft[0, 0, 2], 0.5 * soft[0, 0, :, 2]
    sharp, wide = (total_variation(m, "absolute").item() for m in (mask, soft))
    assert sharp == 2 * (8 - 2)
    assert wide == pytest.approx(sharp, rel=0.1)
    assert total_variation(soft).item() < 0.6 * total_variation(mask).item()
    method = SoundnessSaliency(area=0.0, variation=2.0, roughness="absolute")
    assert method.penalty(mask).item() == pytest.approx(2 * 12 / 9)


def test_the_cost_of_entropy_is_that_of_a_coin_and_makes_masks_binary(bright):
    mask = torch.tensor([0.0, 0.5, 0.25, 1.0]).view(1, 1, 2, 2)
    coin = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    method = SoundnessSaliency(area=0.0, variation=0.0, entropy=3.0)
    assert method.penalty(mask).item() == pytest.approx(3 * (math.log(2) + coin) / 4, abs=1e-3)
    f = ModelScalar(Region().eval(), logit(0))
    soft, hard = (
        SoundnessSaliency(steps=100, entropy=e, objective="likelihood", area=0.2, **PLAIN)(
            f, bright
        )
        for e in (0.0, 1.0)
    )
    assert (hard * (1 - hard)).mean() < 0.5 * (soft * (1 - soft)).mean()


def test_probabilities_may_be_taken_among_some_classes(smooth, images):
    settings = {"objective": "weighted", "steps": 8, "scale": 2}
    f = ModelScalar(smooth, logit(torch.tensor([3, 1, 1, 0, 3])))
    among = SoundnessSaliency(labels=(3, 0, 1), **settings)(f, images)
    places = logit(torch.tensor([0, 2, 2, 1, 0]))
    fewer = ModelScalar(lambda x: smooth(x)[:, [3, 0, 1]], places)
    torch.testing.assert_close(among, SoundnessSaliency(**settings)(fewer, images))
    assert not torch.allclose(among, SoundnessSaliency(**settings)(f, images))
    named = method_named("soundness-saliency", {"labels": "3,0,1", **settings})
    assert torch.equal(named(f, images), among)
    with pytest.raises(SettingError, match=r"Class 3 is explained, .* among the labels \(0, 1\)"):
        SoundnessSaliency(labels=(0, 1), **settings)(f, images)
    with pytest.raises(TargetError, match="labels hold class 4"):
        SoundnessSaliency(labels=(0, 4), **settings)(f, images)
    for wrong in ((0,), (1, 1), "0,one", ""):
        with pytest.raises(SettingError, match="two different classes or more"):
            SoundnessSaliency(labels=wrong)


@pytest.mark.parametrize("fill", [Noise(), Shuffled(), Uniform()])
def test_random_fills_are_drawn_anew_in_each_step(fill, smooth, images, classes):
    method = SoundnessSaliency(fill=fill, draws=3, steps=2, scale=2)
    generator = torch.Generator().manual_seed(0)
    first, second = method.fills(images, generator), method.fills(images, generator)
    assert first.shape == (3, 5, 3, 8, 8)
    apart = torch.cat([first, second])
    assert all(not torch.equal(apart[i], apart[j]) for i in range(6) for j in range(i))
    f = ModelScalar(smooth, logit(classes))
    result = attribute(method, f, images)
    assert result.cost == 2 * 3 + 0.5
    alone = method(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, result.values[3:4])


@pytest.mark.parametrize("name", ["zero", "black", "mean", "blur", "uniform", "noise", "shuffled"])
def test_fills_have_names(name, images):
    fill = method_named("soundness-saliency", {"fill": name, "steps": 1}).fill
    assert fill == baseline_named(name)
    assert SoundnessSaliency(fill=fill, draws=2).fills(images, torch.Generator()).shape[2:] == (
        3,
        8,
        8,
    )


def test_weights_are_the_releases_for_224_pixels():
    method, mask = SoundnessSaliency(), torch.ones(1, 1, 224, 224)
    assert method.penalty(mask).item() == pytest.approx(2e-5 * 224 * 224, rel=0.004)
    mask[0, 0, 50:60, 50:60] = 0
    rough = method.penalty(mask) - mask.mean()
    assert rough.item() == pytest.approx(0.01 * 40, rel=1e-3)


def test_a_heavy_weight_on_variation_makes_the_mask_even_and_on_area_empty(bright):
    f = ModelScalar(Region().eval(), logit(0))
    settings = {"objective": "likelihood", "scale": 2, "steps": 120}
    free = SoundnessSaliency(variation=0.0, **settings)(f, bright)
    even = SoundnessSaliency(variation=1e4, area=0.0, **settings)(f, bright)
    empty = SoundnessSaliency(variation=0.0, area=1e4, **settings)(f, bright)
    assert even.flatten(1).std(dim=1).max() < 0.05 * free.flatten(1).std(dim=1).min()
    assert empty.max() < 0.04


def test_shifting_image_and_fill_shifts_the_mask(generator):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    model = model.double().eval()
    image = torch.randn(1, 3, 8, 8, generator=generator).double()
    bank = torch.randn(2, 3, 8, 8, generator=generator).double()
    f = ModelScalar(model, logit(1))
    masks = [
        SoundnessSaliency(fill=References(images=b), steps=15, draws=2, **PLAIN)(f, x)
        for b, x in ((bank, image), (bank.roll((2, 3), (2, 3)), image.roll((2, 3), (2, 3))))
    ]
    torch.testing.assert_close(masks[0].roll((2, 3), (2, 3)), masks[1])


def test_masks_depend_on_the_seed_but_not_on_neighbours_or_batches(
    rectifier, images, classes, untouched
):
    model = rectifier()
    f = ModelScalar(model, logit(classes))
    bank = References(images=images.flip(0) + 1)
    settings = {"fill": bank, "steps": 6, "draws": 3, "scale": 2}
    with untouched(model), torch.inference_mode():
        result = attribute(SoundnessSaliency(**settings), f, images.clone())
    whole = result.values.clone()
    assert whole.shape == (5, 1, 8, 8)
    assert result.cost == 18.5
    cut = SoundnessSaliency(batch_size=2, **settings)(f, images)
    torch.testing.assert_close(cut, whole)
    alone = SoundnessSaliency(**settings)(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, whole[3:4])
    assert not torch.allclose(SoundnessSaliency(seed=1, **settings)(f, images), whole)


def test_what_cannot_be_learnt_is_refused(images):
    with pytest.raises(SettingError, match=r"SoundnessSaliency weighs a class .* got Custom"):
        SoundnessSaliency(steps=1)(ModelScalar(Region().eval(), Custom(lambda z: z[:, 0])), images)
    with pytest.raises(SettingError, match="got 0, 10 and 4"):
        SoundnessSaliency(steps=0)
    with pytest.raises(SettingError, match=r"rate is above 0; got 1\.0, 0\.56, 0\.0 and 0"):
        SoundnessSaliency(rate=0.0)
    with pytest.raises(SettingError, match="one of double-softmax, distance, likelihood, wei"):
        method_named("soundness-saliency", {"objective": "softmax"})
