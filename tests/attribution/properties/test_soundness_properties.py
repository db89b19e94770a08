"""Properties 32 to 43: Soundness Saliency, where its end is known; objectives by their formulas."""

import math

import pytest
import torch
from torch import nn

from whence.attribution import References, SoundnessSaliency
from whence.attribution.soundness import data_term, masked, total_variation
from whence.core import ModelScalar, logit

PLAIN = {"scale": 1, "variation": 0.0}
CURVE = {20: 0.271, 50: 0.099, 100: 0.036, 200: 0.013, 500: 0.0033, 1000: 0.0011}
"""Where Adam, with steps of 0.05, takes a value of one half of which only the area counts."""


class Region(nn.Module):
    """Two classes; the first one's logit is the mean of 8 x 8 pixels, times a gain."""

    def __init__(self, gain=8.0, start=0):
        super().__init__()
        self.gain, self.start = gain, start

    def forward(self, images):
        at = slice(self.start, self.start + 8)
        own = self.gain * images[:, :, at, at].mean(dim=(1, 2, 3))
        return torch.stack([own, torch.zeros_like(own)], dim=1)


class Constant(nn.Module):
    """Two classes, to which nothing in the image matters."""

    def forward(self, images):
        return 0 * images.mean(dim=(2, 3))[:, :2]


@pytest.fixture
def bright():
    """An image of ones, 16 x 16; the network looks at its upper left 8 x 8."""
    return torch.ones(1, 3, 16, 16, dtype=torch.float64)


def learnt(images, model=None, k=0, **settings):
    """Return the mask of a class of a model, the region's if none is given."""
    made = SoundnessSaliency(**{"objective": "likelihood", "steps": 50, **PLAIN, **settings})
    return made(ModelScalar((model or Region()).eval(), logit(k)), images)[:, 0]


def outside(mask, start=0, gap=0):
    """The pixels that are further than a gap from the region."""
    far = torch.ones(mask.shape[1:], dtype=torch.bool)
    far[max(start - gap, 0) : start + 8 + gap, max(start - gap, 0) : start + 8 + gap] = False
    return mask[:, far]


@pytest.mark.parametrize("steps", CURVE)
def test_property_32_outside_of_what_counts_the_mask_follows_adams_curve(steps, bright):
    mask = learnt(bright, Region(gain=3.0), steps=steps)
    empty = outside(mask)
    torch.testing.assert_close(empty, torch.full_like(empty, CURVE[steps]), rtol=0.03, atol=6e-5)
    assert (mask[:, :8, :8] > 0.6).all()


def test_property_32_inside_the_mask_ends_where_the_loss_pays_for_the_area_no_more(bright):
    """The slope of the loss, -g / (1 + exp(g M)), is that of the area, 1/4: M = ln(4g - 1) / g."""
    mask = learnt(bright, Region(gain=3.0), steps=1000)
    inside = mask[:, :8, :8]
    torch.testing.assert_close(inside, torch.full_like(inside, math.log(11) / 3), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("steps", "veil"), [(50, 0.19), (100, 0.11), (200, 0.06), (500, 0.03), (1000, 0.02)]
)
def test_property_32_enlargement_and_variation_leave_a_halo_and_nothing_further_out(steps, veil):
    """The dossier's means over the outside were measured on a network that it does not name."""
    image = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    model = Region(gain=3.0, start=12)
    mask = learnt(image, model, steps=steps, scale=4, variation=0.01 * 32 / 4, area=1.024)
    assert veil / 2 < outside(mask, 12).mean() < 2 * veil
    assert outside(mask, 12).max() > 3 * CURVE[steps]
    far = outside(mask, 12, gap=8).mean().item()
    assert far == pytest.approx(CURVE[steps], rel=0.2, abs=2e-3)


def test_property_33_without_a_cost_of_area_the_outside_stays_at_exactly_one_half(bright):
    mask = learnt(bright, area=0.0)
    assert (outside(mask) == 0.5).all()
    assert (mask[:, :8, :8] > 0.6).all()


@pytest.mark.parametrize("steps", [20, 100])
def test_property_34_of_a_constant_the_whole_mask_follows_the_curve(steps, bright):
    mask = learnt(bright, Constant(), steps=steps)
    assert mask.std() < 1e-12
    assert mask.mean().item() == pytest.approx(CURVE[steps], rel=0.02)


def test_property_35_a_full_mask_is_the_image_and_an_empty_one_the_fill_bit_for_bit(images):
    fills = torch.randn(4, 1, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    one = torch.ones(5, 1, 8, 8).double()
    assert torch.equal(masked(images, one, fills), images.expand(4, 5, 3, 8, 8))
    assert torch.equal(masked(images, 0 * one, fills), fills.expand(4, 5, 3, 8, 8))


@pytest.mark.parametrize("objective", ["double-softmax", "likelihood", "weighted", "distribution"])
def test_property_36_behind_a_bank_that_is_the_image_the_data_have_no_gradient(
    objective, smooth, images
):
    f = ModelScalar(smooth, logit(1))
    bank = References(images=images[:1])
    method = SoundnessSaliency(objective=objective, fill=bank, steps=50, draws=2, **PLAIN)
    mask = method(f, images[:1])
    torch.testing.assert_close(mask, torch.full_like(mask, CURVE[50]), rtol=0.01, atol=0)


def test_property_37_a_large_cost_of_area_empties_the_mask_and_one_of_variation_evens_it(bright):
    free = learnt(bright, steps=120)
    empty = learnt(bright, steps=120, area=1e4)
    even = learnt(bright, steps=120, area=0.0, variation=1e4, scale=2)
    assert empty.max() < 0.04 < free.max()
    assert even.std() < 0.05 * free.std()
    assert even.min() > 0.3


def test_property_38_a_class_that_is_not_seen_gets_the_mask_of_no_data_term(bright):
    absent = learnt(bright, k=1, objective="weighted", steps=100)
    blank = learnt(bright, Constant(), steps=100)
    assert (absent - blank).abs().max() < 0.02
    present = learnt(bright, k=0, objective="weighted", steps=100)
    assert (present[:, :8, :8] > blank.max() + 0.3).all()


@pytest.mark.parametrize(
    ("count", "low", "high"), [(2, 0.3133, 1.3133), (10, 1.4612, 2.4612), (1000, 5.9095, 6.9095)]
)
def test_property_39_the_original_loss_lies_in_an_interval_of_length_one(count, low, high):
    sure = 1e4 * torch.eye(count).double()[:2][None]
    classes, whole = torch.tensor([0, 0]), torch.full((2, count), 1 / count).double()
    best, worst = data_term("double-softmax", sure, classes, whole).tolist()
    assert (best, worst) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    generator = torch.Generator().manual_seed(0)
    scores = 5 * torch.randn(3, 2, count, generator=generator).double()
    any_of_them = data_term("double-softmax", scores, classes, whole)
    assert ((best <= any_of_them) & (any_of_them <= worst)).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 6), (9, 2)])
def test_property_40_the_variation_of_a_rectangle_is_its_circumference(height, width):
    mask = torch.zeros(1, 1, 16, 12)
    mask[0, 0, 3 : 3 + height, 2 : 2 + width] = 1.0
    assert total_variation(mask).tolist() == [2 * (height + width)]


def test_property_40_the_released_weights_are_the_defaults_at_224_pixels():
    """2e-5 on the sum is 1.0035 for a full mask; the default is 1, in units free of the size."""
    method, mask = SoundnessSaliency(), torch.ones(1, 1, 224, 224)
    released = 2e-5 * mask.sum().item()
    assert released == pytest.approx(1.0035, abs=5e-5)
    assert method.penalty(mask).item() == pytest.approx(1.0035, rel=0.004)
    mask[0, 0, 50:60, 50:60] = 0
    rough = method.penalty(mask) - method.area * mask.mean()
    assert rough.item() == pytest.approx(0.01 * 40, rel=1e-3)


@pytest.fixture
def circular(fill):
    """A network that does not know where in the image a thing is."""
    return fill(
        nn.Sequential(
            nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(5, 3),
        )
    )


def test_property_41_shifting_image_and_bank_shifts_the_mask(circular, generator):
    image = torch.randn(1, 3, 8, 8, generator=generator).double()
    bank = torch.randn(2, 3, 8, 8, generator=generator).double()
    masks = [
        learnt(x, circular, steps=15, draws=2, fill=References(images=b))
        for b, x in ((bank, image), (bank.roll((3, 2), (2, 3)), image.roll((3, 2), (2, 3))))
    ]
    torch.testing.assert_close(masks[0].roll((3, 2), (1, 2)), masks[1])


@pytest.mark.parametrize(("shift", "alike"), [((4, 2), True), ((3, 2), False)])
def test_property_41_with_enlargement_a_shift_by_multiples_of_the_scale_shifts_the_mask(
    shift, alike, circular, generator
):
    """Around the thing the image is its fill: what the border of the mask does counts nowhere."""
    thing = torch.randn(1, 3, 4, 4, generator=generator).double()
    image = torch.nn.functional.pad(thing, (4, 8, 4, 8))
    one, other = (
        learnt(x, circular, steps=15, scale=2) for x in (image, image.roll(shift, (2, 3)))
    )
    # Adam's epsilon is felt a little where the gradient is that of the area alone.
    assert torch.allclose(one.roll(shift, (1, 2)), other, rtol=1e-4, atol=1e-5) == alike


class Either(nn.Module):
    """The first class is there as soon as one of two corners is bright."""

    def forward(self, images):
        corners = [images[:, :, :8, :8], images[:, :, 8:, 8:]]
        seen = torch.stack([c.mean(dim=(1, 2, 3)) for c in corners]).logsumexp(dim=0)
        return torch.stack([8 * seen, 4 * torch.ones_like(seen)], dim=1)


def test_property_42_of_two_regions_that_suffice_the_sum_is_settled_not_the_place(bright):
    bank = References(
        images=torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    )
    sums = []
    for seed in (0, 1):
        mask = learnt(bright, Either(), steps=150, fill=bank, draws=3, seed=seed)
        sums.append(mask[:, :8, :8].sum() + mask[:, 8:, 8:].sum())
        rest = mask[:, :8, 8:]
        assert rest.max() < 1.1 * CURVE[200] / CURVE[100] * 0.1
        assert sums[-1] > 2 * rest.sum()
    assert sums[0] == pytest.approx(sums[1].item(), rel=0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_property_43_there_is_one_mask_for_all_colours(channels, images, classes, fill):
    model = fill(
        nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    )
    method = SoundnessSaliency(steps=3, draws=1)
    mask = method(ModelScalar(model, logit(classes)), images[:, :channels])
    assert mask.shape == (5, 1, 8, 8)
    assert ((mask >= 0) & (mask <= 1)).all()


def test_property_39_no_logarithm_of_the_first_softmax_is_taken():
    """At a probability of nothing the loss stays finite, where a likelihood has none."""
    scores = torch.tensor([[[0.0, 1e4]]]).double()
    args = scores, torch.tensor([0]), torch.full((1, 2), 0.5).double()
    assert data_term("double-softmax", *args).item() == pytest.approx(math.log(1 + math.e))
    assert data_term("likelihood", *args).item() == pytest.approx(1e4)
