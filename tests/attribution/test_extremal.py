"""Extremal perturbation: masks by hand, areas as asked, and functions whose region is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from whence.attribution import ExtremalPerturbation, attribute, method_named
from whence.attribution.extremal import Views
from whence.attribution.smooth_masks import SmoothMasks, area_penalty
from whence.core import Blur, Custom, Mean, ModelScalar, Zero, logit
from whence.errors import SettingError

QUICK = ExtremalPerturbation(steps=120, growth=1.0235, rate=0.02, fill=Zero(), area=1 / 9)
"""As strong at the end as the default, in fewer steps."""


class Region(nn.Module):
    """Two classes; the first one's logit is the mean of a ninth of the image, times a gain."""

    def __init__(self, top=0, left=0):
        super().__init__()
        self.top, self.left = top, left

    def forward(self, images):
        side = images.shape[2] // 3
        inside = images[:, :, self.top : self.top + side, self.left : self.left + side]
        own = 20 * inside.mean(dim=(1, 2, 3))
        return torch.stack([own, torch.zeros_like(own)], dim=1)


def region(top=0, left=0):
    return ModelScalar(Region(top, left).eval(), logit(0))


@pytest.fixture
def bright():
    """Two images of ones, 24 x 24."""
    return torch.ones(2, 3, 24, 24)


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
@pytest.mark.parametrize(("top", "left"), [(0, 0), (8, 11)])
def test_the_mask_is_where_the_value_depends_on_the_image(variant, top, left, bright):
    mask = replace(QUICK, variant=variant)(region(top, left), bright)[:, 0]
    inside = torch.zeros(24, 24, dtype=torch.bool)
    inside[top : top + 8, left : left + 8] = True
    assert (mask[:, inside].mean(dim=1) > 0.75).all()
    assert (mask[:, ~inside].mean(dim=1) < 0.06).all()
    assert torch.equal(mask[0], mask[1])


@pytest.mark.parametrize("area", [0.05, 0.1, 0.3, 0.6])
def test_the_mask_has_the_area_that_was_asked_for(area, smooth):
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).double()
    f = ModelScalar(smooth, logit(torch.tensor([0, 2])))
    mask = replace(QUICK, area=area, fill=Blur())(f, images)
    assert ((mask.mean(dim=(1, 2, 3)) - area).abs() < 0.07).all()
    assert (((mask > 0.5).double().mean(dim=(1, 2, 3)) - area).abs() < 0.07).all()
    assert mask.min() >= 0
    assert mask.max() <= 1


def smooth_maximum(weights, side, step, sigma):
    """The mask of one image, pixel by pixel."""
    mask = torch.zeros(side, side).double()
    radius = math.ceil(1.6 * sigma / step)
    for y in range(side):
        for x in range(side):
            spots = []
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    i, j = y // step + dy, x // step + dx
                    near = weights[
                        min(max(i, 0), weights.shape[0] - 1), min(max(j, 0), weights.shape[1] - 1)
                    ]
                    down = (i + 0.5) * step - (y + 0.5)
                    right = (j + 0.5) * step - (x + 0.5)
                    z = (down**2 + right**2) ** 0.5 / sigma
                    k = torch.tensor(-2 * max(0.0, z - 0.5) ** 2).double().exp()
                    spots.append(k * near)
            spots = torch.stack(spots)
            mask[y, x] = (spots * (20 * spots).exp()).sum() / (20 * spots).exp().sum()
    return mask


@pytest.mark.parametrize(("step", "sigma"), [(1, 1.0), (2, 1.5), (3, 6.0)])
def test_masks_are_the_smooth_maximum_of_their_spots(step, sigma, generator):
    make = SmoothMasks(height=7, width=7, step=step, sigma=sigma, points=step)
    weights = torch.rand(2, 1, *make.grid, generator=generator).double()
    masks = make(weights)
    for mask, own in zip(masks, weights, strict=True):
        torch.testing.assert_close(mask[0], smooth_maximum(own[0], 7, step, sigma))


@pytest.mark.parametrize("density", [0.05, 0.5])
def test_between_the_points_of_a_cell_masks_are_interpolated_and_hardly_change(density, generator):
    make = SmoothMasks(height=100, width=77, step=7, sigma=21.0)
    weights = (torch.rand(3, 1, *make.grid, generator=generator) < density).double()
    exact = replace(make, points=7)(weights)
    change = (make(weights) - exact).abs()
    assert change.max() < 0.07
    assert change.mean() < 0.005
    assert (make(weights) != exact).any()


def test_masks_are_smooth_whatever_their_weights(generator):
    make = SmoothMasks(height=56, width=56, step=4, sigma=12.0)
    rough = (torch.rand(3, 1, *make.grid, generator=generator) < 0.03).float()
    masks = make(rough)
    assert masks.amax(dim=(1, 2, 3)).min() > 0.9
    assert masks.amin(dim=(1, 2, 3)).max() < 0.1
    slopes = torch.cat([masks.diff(dim=2).flatten(), masks.diff(dim=3).flatten()])
    assert slopes.abs().max() < 0.2


def test_the_penalty_is_the_distance_of_the_sorted_pixels_from_the_best_mask(generator):
    masks = torch.rand(3, 1, 5, 4, generator=generator).double()
    areas = torch.tensor([0.1, 0.5, 0.95]).double()
    for value, mask, ones in zip(area_penalty(masks, areas), masks, (2, 10, 19), strict=True):
        best = torch.cat([torch.zeros(20 - ones), torch.ones(ones)]).double()
        expected = (mask.flatten().sort().values - best).square().mean()
        torch.testing.assert_close(value, expected)
    sharp = torch.zeros(1, 1, 5, 4).double()
    sharp[0, 0, 2, :2] = 1
    assert area_penalty(sharp, areas[:1]).item() == 0


def test_equal_pixels_share_their_places_in_the_order():
    even = torch.full((1, 1, 5, 4), 0.3, dtype=torch.float64, requires_grad=True)
    penalty = area_penalty(even, torch.tensor([0.25]).double())
    (slope,) = torch.autograd.grad(penalty.sum(), even)
    torch.testing.assert_close(slope, torch.full_like(slope, 2 * (0.3 - 0.25) / 20))


def test_a_full_mask_shows_the_image_and_an_empty_one_the_fill_to_the_bit(images):
    f = ModelScalar(lambda x: x.flatten(1), logit(0))
    for fill in (Zero(), Mean(), Blur()):
        views = Views.of(ExtremalPerturbation(fill=fill), f, images, fill(images), torch.arange(5))
        assert torch.equal(views.seen(torch.ones(5, 1, 8, 8).double()), images)
        assert torch.equal(views.seen(torch.zeros(5, 1, 8, 8).double()), fill(images))


def test_between_both_ends_a_blur_is_weaker_and_another_fill_is_blended(images):
    f = ModelScalar(lambda x: x.flatten(1), logit(0))
    part = torch.full((5, 1, 8, 8), 4.5 / 7).double()
    blurred = ExtremalPerturbation(fill=Blur(sigma=0.2), levels=8)
    views = Views.of(blurred, f, images, Blur(sigma=0.2)(images), torch.arange(5))
    expected = (Blur(sigma=0.2 * 3 / 7)(images) + Blur(sigma=0.2 * 2 / 7)(images)) / 2
    torch.testing.assert_close(views.seen(part), expected)
    views = Views.of(ExtremalPerturbation(fill=Mean()), f, images, Mean()(images), torch.arange(5))
    expected = Mean()(images) + 4.5 / 7 * (images - Mean()(images))
    torch.testing.assert_close(views.seen(part), expected)


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_the_ascent_is_that_of_the_formula_with_momentum(variant, generator):
    slope = 40 * torch.randn(1, 8, 8, generator=generator).double()
    image = torch.rand(1, 1, 8, 8, generator=generator).double()

    def score(seen):
        return (seen * slope).sum(dim=(1, 2, 3)).tanh()

    weights, velocity = torch.ones(1, 1, 8, 8).double(), 0.0
    smooth = SmoothMasks(height=8, width=8, step=1, sigma=1.5)
    for step in range(4):
        leaf = weights.clone().requires_grad_()
        mask = smooth(leaf)
        shown, hidden = score(mask * image), score((1 - mask) * image)
        reward = {"preserve": shown, "delete": -hidden, "dual": shown - hidden}[variant]
        cost = 30 * 1.5**step * area_penalty(mask, torch.tensor([0.25]).double())
        (rise,) = torch.autograd.grad((reward - cost).sum(), leaf)
        velocity = 0.8 * velocity + 0.2 * rise if step else rise
        weights = (weights + 0.5 * velocity).clamp(0, 1)
    settings = {"weight": 30.0, "growth": 1.5, "rate": 0.5, "momentum": 0.8, "steps": 4}
    method = ExtremalPerturbation(
        area=0.25, variant=variant, fill=Zero(), cells=16, reach=3.0, **settings
    )
    f = ModelScalar(lambda x: x.flatten(1), Custom(lambda z: score(z.view(-1, 1, 8, 8))))
    torch.testing.assert_close(method(f, image), smooth(weights))
    assert smooth(weights).std() > 0.05


def test_of_several_areas_the_smallest_that_keeps_the_value_is_the_map(bright):
    method = replace(QUICK, area=(0.2, 0.03, 0.5), keep=0.8)
    found = method.search(region(), bright)
    assert found.masks.shape == (2, 3, 24, 24)
    assert (found.masks.mean(dim=(0, 2, 3)) - torch.tensor([0.03, 0.2, 0.5])).abs().max() < 0.03
    assert found.sufficient.tolist() == [[False, True, True]] * 2
    assert found.chosen.tolist() == [1, 1]
    seen = found.masks[0, :, None] * bright[:1]
    torch.testing.assert_close(found.scores[0], region()(seen))
    assert torch.equal(method(region(), bright)[:, 0], found.masks[:, 1])
    mean = replace(method, choice="mean")(region(), bright)
    torch.testing.assert_close(mean[:, 0], found.masks.mean(dim=1))
    apart = attribute(replace(method, area=0.2), region(), bright)
    torch.testing.assert_close(apart.values[:, 0], found.masks[:, 1])
    assert apart.found is None, "with one area there is nothing to choose"


@pytest.mark.parametrize(("variant", "spare"), [("delete", 6.0), ("dual", 20.0)])
def test_what_is_hidden_takes_the_value_away(variant, spare, bright):
    found = replace(QUICK, variant=variant, area=(0.03, 0.25), keep=0.7).search(region(), bright)
    assert found.sufficient.tolist() == [[False, True]] * 2
    gone = region()((1 - found.masks[:, 1, None]) * bright)
    assert (gone < spare).all()
    kept = region()(found.masks[:, 1, None] * bright)
    expected = gone if variant == "delete" else kept - gone
    torch.testing.assert_close(found.scores[:, 1], expected)


@pytest.mark.parametrize(
    ("variant", "suffices"), [("preserve", True), ("delete", False), ("dual", False)]
)
def test_of_two_regions_that_say_the_same_one_suffices_but_is_not_needed(variant, suffices, bright):
    def strongest(images):
        parts = [images[:, :, :8, :8], 0.8 * images[:, :, 16:, 16:]]
        return 20 * torch.stack([p.mean(dim=(1, 2, 3)) for p in parts], dim=1)

    f = ModelScalar(strongest, Custom(lambda z: (4 * z).logsumexp(dim=1) / 4))
    found = replace(QUICK, variant=variant, area=1 / 9, keep=0.7).search(f, bright[:1])
    assert found.sufficient.tolist() == [[suffices]]


def test_where_no_area_suffices_the_greatest_is_the_map(bright):
    found = replace(QUICK, area=(0.02, 0.04), steps=40).search(region(), bright)
    assert not found.sufficient.any()
    method = replace(QUICK, area=(0.02, 0.04), steps=40)
    assert attribute(method, region(), bright).found.tolist() == [False, False]
    assert found.chosen.tolist() == [1, 1]


@pytest.mark.parametrize("axis", [2, 3])
def test_the_mask_of_a_mirrored_image_is_mirrored(axis, generator):
    weights = torch.randn(3, 12, 12, generator=generator).double()

    def f(turned):
        return ModelScalar(
            lambda x: (x * turned).flatten(1), Custom(lambda z: 5 * z.sum(dim=1).tanh())
        )

    image = torch.randn(1, 3, 12, 12, generator=generator).double()
    method = ExtremalPerturbation(steps=25, cells=6, area=0.3)
    mask = method(f(weights), image)
    assert mask.std() > 0.05
    mirrored = method(f(weights.flip(axis - 1)), image.flip(axis))
    torch.testing.assert_close(mirrored, mask.flip(axis), rtol=1e-6, atol=1e-8)


def test_shifting_what_counts_shifts_the_mask(bright):
    bright = bright.double()
    places = torch.arange(24).double() - torch.tensor([[10], [13]])

    def f(down, right):
        y, x = places[down][:, None], places[right]
        hill = 2 * (-(y**2) / 9 - (x - 0.4 * y + 0.1) ** 2 / 25).exp()
        return ModelScalar(lambda x: (x * hill).flatten(1), Custom(lambda z: z.sum(dim=1)))

    first, second = QUICK(f(0, 1), bright[:1]), QUICK(f(1, 0), bright[:1])
    assert first[0, 0, 8:13, 11:16].min() > 0.5
    torch.testing.assert_close(second[:, :, 7:20, 4:17], first[:, :, 4:17, 7:20], rtol=0, atol=1e-3)


def test_in_every_other_step_the_image_may_be_mirrored(bright):
    mask = replace(QUICK, mirror=True, area=0.25)(region(), bright)[0, 0]
    left, right = mask[:8, :8].mean(), mask[:8, -8:].mean()
    assert min(left, right) > 0.5
    alone = replace(QUICK, area=0.25)(region(), bright)[0, 0]
    assert alone[:8, :8].mean() > 3 * alone[:8, -8:].mean()


def test_masks_repeat_and_do_not_depend_on_neighbours_or_batches(
    rectifier, images, classes, untouched
):
    model = rectifier()
    f = ModelScalar(model, logit(classes))
    method = ExtremalPerturbation(steps=20, area="0.1, 0.4", variant="dual")
    with untouched(model), torch.inference_mode():
        result = attribute(method, f, images.clone())
    whole = result.values.clone()
    assert whole.shape == (5, 1, 8, 8)
    assert result.cost == 20 * 4 + 0.5 * (4 + 2)
    torch.testing.assert_close(result.explained.clone(), f(images).detach())
    assert torch.equal(method(f, images), whole)
    torch.testing.assert_close(replace(method, batch_size=4)(f, images), whole)
    torch.testing.assert_close(method(f.at(torch.tensor([3])), images[3:4]), whole[3:4])


@pytest.mark.parametrize("area", [0.0, 1.0, -0.1, 1.5, (), (0.1, 2.0), "wide", "0.1,", ""])
def test_an_area_that_is_no_share_of_the_image_is_refused(area):
    with pytest.raises(SettingError, match="area is a share of the image, above 0 and below 1"):
        ExtremalPerturbation(area=area)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": 0}, "got 0, 32 and 8"),
        ({"levels": 1}, "got 800, 32 and 1"),
        ({"rate": 0.0}, r"rate and growth are above 0 .* got 3\.0, 0\.0"),
        ({"momentum": 1.0}, r"below 1, and keep from 0 to 1; got 1\.0 and 1\.0"),
        ({"keep": 1.1}, r"got 0\.9 and 1\.1"),
    ],
)
def test_settings_without_meaning_are_refused(settings, says):
    with pytest.raises(SettingError, match=says):
        ExtremalPerturbation(**settings)


def test_areas_and_choices_are_read_from_a_command_line():
    with pytest.raises(SettingError, match="one of preserve, delete, dual; got 'both'"):
        method_named("extremal-perturbation", {"variant": "both"})
    with pytest.raises(SettingError, match="one of smallest, mean; got 'largest'"):
        method_named("extremal-perturbation", {"choice": "largest"})
    assert method_named("extremal-perturbation", {"area": "0.2"}).areas() == (0.2,)
    several = method_named("extremal-perturbation", {"area": "0.2,0.05", "fill": "black"})
    assert several.areas() == (0.05, 0.2)
