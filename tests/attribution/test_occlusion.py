"""Occlusion and RISE: windows and masks one by one, and what is known of linear models."""

import pytest
import torch

from whence.attribution import RISE, Occlusion, attribute
from whence.core import Custom, Mean, ModelScalar, logit
from whence.errors import SettingError, ShapeError

METHODS = [Occlusion(window=4, stride=3), RISE(masks=20, cells=3)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def pixels(function):
    """A scalar function of the pixels themselves."""
    return ModelScalar(lambda x: x.flatten(1), Custom(lambda z: function(z).sum(dim=1)))


@pytest.mark.parametrize(("window", "stride", "count"), [(4, 3, 9), (4, 4, 4), (3, 2, 16)])
def test_occlusion_is_the_mean_fall_over_the_windows_one_by_one(
    window, stride, count, rectifier, images, classes
):
    f = ModelScalar(rectifier(), logit(classes))
    total, times = torch.zeros(5, 1, 8, 8).double(), torch.zeros(8, 8)
    side = range(0, 8 - window + stride, stride)
    for top in side:
        for left in side:
            hidden = images.clone()
            inside = (..., slice(top, top + window), slice(left, left + window))
            hidden[inside] = Mean()(images)[inside]
            total[inside] += (f(images) - f(hidden)).detach().view(-1, 1, 1, 1)
            times[inside] += 1
    result = attribute(Occlusion(window=window, stride=stride, fill=Mean()), f, images)
    torch.testing.assert_close(result.values, total / times, rtol=1e-9, atol=1e-12)
    assert result.cost == 0.5 * (count + 1)


def test_occlusion_by_single_pixels_is_the_share_of_each_in_a_linear_model(linear, images):
    f = ModelScalar(linear, logit(2))
    values = Occlusion(window=1, stride=1)(f, images)
    weights = linear[1].weight[2].view(3, 8, 8)
    expected = (weights * images).sum(dim=1, keepdim=True)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(values.sum(dim=(1, 2, 3)), (f(images) - linear[1].bias[2]).detach())


def test_a_window_as_large_as_the_image_hides_it_all(rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    values = Occlusion(window=50, stride=50)(f, images)
    fall = (f(images) - f(torch.zeros_like(images))).detach()
    torch.testing.assert_close(values, fall.view(-1, 1, 1, 1).expand(5, 1, 8, 8))


def test_rise_is_the_weighted_mean_of_its_masks_one_by_one(rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    method = RISE(masks=6, cells=3, probability=0.4, fill=Mean(), seed=2)
    expected = torch.zeros(5, 1, 8, 8).double()
    for i in range(6):
        mask = method.mask((8, 8), i).double()
        seen = images * mask + Mean()(images) * (1 - mask)
        expected += f(seen).detach().view(-1, 1, 1, 1) * mask / (6 * 0.4)
    torch.testing.assert_close(method(f, images), expected)


def test_the_masks_of_rise_are_enlarged_coins_shifted_at_random():
    method = RISE(cells=4, probability=0.3)
    masks = torch.stack([method.mask((16, 12), i) for i in range(600)])
    assert masks.shape == (600, 1, 16, 12)
    assert 0 <= masks.min() < masks.max() <= 1 + 1e-6
    # Every pixel is shown with the coins' probability, up to four standard errors.
    assert (masks.mean(dim=0) - 0.3).abs().max() < 4 * (0.3 * 0.7 / 600) ** 0.5
    plain = RISE(cells=1, probability=1.0).mask((5, 5), 0)
    torch.testing.assert_close(plain, torch.ones(1, 5, 5))
    # Unshifted, the border of half a coin would always be flat.
    flat_rows = (masks[:, 0, 0] == masks[:, 0, 1]).all(dim=1).double().mean()
    flat_columns = (masks[:, 0, :, 0] == masks[:, 0, :, 1]).all(dim=1).double().mean()
    assert flat_rows < 0.7
    assert flat_columns < 0.7
    step = masks.diff(dim=3).abs().max()
    assert step <= 1 / 3 + 1e-6, "a coin is three pixels wide, and turns within them"


def test_rise_finds_the_region_that_the_value_depends_on():
    image = torch.ones(1, 1, 16, 16).double()
    f = pixels(lambda z: z.view(-1, 16, 16)[:, :8, :8].mean(dim=(1, 2))[:, None])
    values = RISE(masks=800, cells=4)(f, image)[0, 0]
    assert values[2:6, 2:6].mean() > 1.15 * values[10:, 10:].mean()
    # Unrelated pixels get the mean value, one half.
    assert abs(values[10:, 10:].mean() - 0.5) < 0.05


def test_seeds_repeat_and_differ(rectifier, images):
    f = ModelScalar(rectifier(), logit(1))
    first, again, other = (RISE(masks=5, seed=s)(f, images) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@each_method
@pytest.mark.parametrize("batch_size", [1, 7])
def test_maps_do_not_depend_on_how_the_work_was_cut(
    method, batch_size, rectifier, images, classes, untouched
):
    from dataclasses import replace

    model = rectifier()
    f = ModelScalar(model, logit(classes))
    with untouched(model), torch.inference_mode():
        whole = method(f, images.clone()).clone()
    torch.testing.assert_close(replace(method, batch_size=batch_size)(f, images), whole)
    alone = method(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, whole[3:4])


def test_settings_without_meaning_are_refused(rectifier, images):
    with pytest.raises(SettingError, match=r"stride=5 and window=4"):
        Occlusion(window=4, stride=5)
    with pytest.raises(SettingError, match=r"stride=0"):
        Occlusion(stride=0)
    with pytest.raises(SettingError, match=r"got 0 and 7"):
        RISE(masks=0)
    with pytest.raises(SettingError, match=r"at most 1; got 1.2"):
        RISE(probability=1.2)
    with pytest.raises(ShapeError, match="shaped like the images"):
        RISE(masks=2, fill=lambda x: x[:1])(ModelScalar(rectifier(), logit(1)), images)
