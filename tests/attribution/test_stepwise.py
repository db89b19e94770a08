"""IDGI, blurred paths and guided integrated gradients, each against the formula written out."""

import numpy as np
import pytest
import torch

from whence.attribution import IDGI, BlurIG, GuidedIG, attribute
from whence.core import Blur, Custom, Mean, ModelScalar, Zero, logit
from whence.errors import SettingError, ShapeError

METHODS = [IDGI(steps=5), BlurIG(steps=5), GuidedIG(steps=5)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def slope(f, images):
    leaf = images.detach().clone().requires_grad_()
    return torch.autograd.grad(f(leaf).sum(), leaf)[0]


def test_idgi_is_its_formula_written_out(smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    start, expected = Mean()(images), torch.zeros_like(images)
    for k in range(6):
        here, there = (start + j / 6 * (images - start) for j in (k, k + 1))
        square = slope(f, here).square()
        change = (f(there) - f(here)).detach().view(-1, 1, 1, 1)
        expected += change * square / square.sum(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(IDGI(steps=6, baseline=Mean())(f, images), expected)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_idgi_is_complete_for_any_number_of_steps(steps, batch_size, rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    method = IDGI(steps=steps, baseline=Mean(), batch_size=batch_size)
    result = attribute(method, f, images)
    expected = f(images) - f(Mean()(images))
    torch.testing.assert_close(result.total, expected.detach(), rtol=1e-11, atol=1e-12)
    assert result.gap.max() < 1e-11
    assert result.cost == steps + 0.5


def test_an_idgi_step_without_a_gradient_adds_nothing_and_the_gap_says_so(rectifier, images):
    f = ModelScalar(rectifier(bias=False), logit(1))
    result = attribute(IDGI(steps=4), f, images)
    # The network is dead at zero and linear on the ray: one step in four is lost.
    torch.testing.assert_close(result.total, 0.75 * f(images).detach())
    torch.testing.assert_close(result.gap, torch.full((5,), 0.25).double())


def test_blur_ig_is_its_formula_written_out(smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    expected = torch.zeros_like(images)
    for k in range(4):
        near, middle, far = (
            Blur(sigma=0.4 * s / 4)(images) if s else images for s in (k, k + 0.5, k + 1)
        )
        expected += slope(f, middle) * (near - far)
    torch.testing.assert_close(BlurIG(steps=4, sigma=0.4)(f, images), expected)


def test_blur_ig_adds_up_to_what_the_blur_takes_away(smooth, linear, images):
    curved, straight = ModelScalar(smooth, logit(1)), ModelScalar(linear, logit(1))
    few, many = (attribute(BlurIG(steps=s), curved, images) for s in (4, 64))
    expected = (curved(images) - curved(Blur(sigma=0.22)(images))).detach()
    torch.testing.assert_close(many.total, expected, rtol=0.01, atol=1e-3)
    assert many.gap.median() < few.gap.median()
    assert attribute(BlurIG(steps=3), straight, images).gap.max() < 1e-12


def test_guided_ig_without_a_corridor_is_integrated_gradients_with_the_left_rule(
    smooth, images, classes
):
    f = ModelScalar(smooth, logit(classes))
    expected = sum(slope(f, k / 8 * images) for k in range(8)) / 8 * images
    torch.testing.assert_close(GuidedIG(steps=8, corridor=0.0)(f, images), expected)


def guided_by_hand(f, image, steps, fraction, corridor):
    """The algorithm for one image and a zero baseline, pixel by pixel in NumPy."""
    end = image.numpy().ravel()
    here, total = np.zeros_like(end), np.zeros_like(end)
    for step in range(1, steps + 1):
        at = torch.from_numpy(here.reshape(image.shape))
        gradient = slope(f, at).numpy().ravel()
        low, high = max(step / steps - corridor, 0), min(step / steps + corridor, 1)
        wanted = np.abs(end).sum() * (1 - step / steps)
        before = here.copy()
        for i in range(len(here)):
            if here[i] / end[i] < low:
                here[i] = low * end[i]
        while np.abs(end - here).sum() > wanted + 1e-11:
            free = [i for i in range(len(here)) if here[i] / end[i] < high - 1e-12]
            steep = [abs(gradient[i]) if i in free else np.inf for i in range(len(here))]
            bound = sorted(steep)[int(fraction * (len(here) - 1))]
            chosen = [i for i in free if steep[i] <= bound]
            room = sum(abs(high * end[i] - here[i]) for i in chosen)
            part = min(1.0, (np.abs(end - here).sum() - wanted) / room)
            for i in chosen:
                here[i] += part * (high * end[i] - here[i])
        total += gradient * (here - before)
    return torch.from_numpy(total.reshape(image.shape))


@pytest.mark.parametrize(("fraction", "corridor"), [(0.25, 0.1), (0.1, 1.0), (0.0, 0.3)])
def test_guided_ig_is_its_algorithm_pixel_by_pixel(fraction, corridor, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    values = GuidedIG(steps=4, fraction=fraction, corridor=corridor)(f, images)
    for i in range(2):
        own = f.at(torch.tensor([i]))
        expected = guided_by_hand(own, images[i : i + 1], 4, fraction, corridor)
        torch.testing.assert_close(values[i : i + 1], expected, rtol=1e-8, atol=1e-10)


def test_guided_ig_becomes_complete_as_steps_grow(smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    few, many = (attribute(GuidedIG(steps=s), f, images) for s in (8, 128))
    expected = (f(images) - f(torch.zeros_like(images))).detach()
    torch.testing.assert_close(many.total, expected, rtol=0.05, atol=0.01)
    assert many.gap.median() < 0.3 * few.gap.median()
    assert many.cost == 128.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guided_ig_ends_in_low_precision(dtype, smooth, images):
    f = ModelScalar(smooth.to(dtype), logit(1))
    values = GuidedIG(steps=10, corridor=0.5)(f, images.to(dtype))
    assert values.dtype == dtype
    assert values.isfinite().all()


@each_method
def test_a_linear_models_share_is_exact(method, linear, images):
    f = ModelScalar(linear, logit(2))
    result = attribute(method, f, images)
    assert result.gap.max() < 1e-10


@each_method
def test_a_pixel_that_is_not_used_gets_nothing(method, images):
    f = ModelScalar(lambda x: x[:, :1].square().flatten(1), Custom(lambda z: z.sum(dim=1)))
    values = method(f, images)
    assert (values[:, 1:] == 0).all()
    assert (values[:, 0] != 0).any()


@each_method
def test_maps_do_not_depend_on_neighbours_or_internal_batches(method, rectifier, images, classes):
    from dataclasses import replace

    f = ModelScalar(rectifier(), logit(classes))
    whole = method(f, images)
    torch.testing.assert_close(replace(method, batch_size=3)(f, images), whole)
    alone = method(f.at(torch.tensor([4])), images[4:])
    torch.testing.assert_close(alone, whole[4:])


@each_method
def test_the_model_is_left_alone_and_gradients_may_be_off(method, rectifier, images, untouched):
    model = rectifier()
    with untouched(model), torch.inference_mode():
        values = method(ModelScalar(model, logit(1)), images.clone())
    torch.testing.assert_close(values.clone(), method(ModelScalar(model, logit(1)), images))


def test_settings_without_meaning_are_refused(rectifier, images):
    with pytest.raises(SettingError, match="steps must be at least 1"):
        IDGI(steps=0)
    with pytest.raises(SettingError, match="fraction is a share"):
        GuidedIG(fraction=1.5)
    with pytest.raises(SettingError, match="corridor is a share"):
        GuidedIG(corridor=-0.1)
    with pytest.raises(SettingError, match="positive sigma"):
        BlurIG(sigma=0.0)
    f = ModelScalar(rectifier(), logit(1))
    with pytest.raises(ShapeError, match="shaped like the images"):
        IDGI(baseline=lambda x: Zero()(x)[:1])(f, images)
