"""Sensitivity of maps to noise, against a loop over draws, and its closed cases."""

import pytest
import torch
from torch import nn

from whence.attribution import Gradient, InputXGradient
from whence.core import ModelScalar, logit
from whence.errors import NumericsError, SettingError, ShapeError
from whence.evaluation import AverageSensitivity, MaxSensitivity
from whence.evaluation.robustness import drawn_boxes

BOTH = pytest.mark.parametrize("metric", [MaxSensitivity, AverageSensitivity])
LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(scope="module")
def f():
    generator = torch.Generator().manual_seed(3)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return ModelScalar(net.double().eval(), logit(LABELS))


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 2, 6, 8, generator=torch.Generator().manual_seed(4)).double()


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("batch_size", [2, 64])
@BOTH
def test_a_sensitivity_is_a_loop_over_images_and_draws(metric, batch_size, relative, f, images):
    method = InputXGradient()
    values = method(f, images)
    judge = metric(radius=0.1, samples=5, relative=relative, batch_size=batch_size)
    found = judge(f, images, values, method)
    draws = drawn_boxes(0, torch.arange(5), images)
    assert draws.abs().max() <= 1
    for row in range(3):
        one = f.at(torch.tensor([row]))
        span = (images[row].max() - images[row].min()).item()
        sizes = []
        for draw in draws:
            made = method(one, images[row : row + 1] + 0.1 * span * draw)[0]
            sizes.append((made - values[row]).norm().item())
        wanted = max(sizes) if metric is MaxSensitivity else sum(sizes) / 5
        wanted /= values[row].norm().item() if relative else 1
        assert found[row].item() == pytest.approx(wanted, rel=1e-9)


@BOTH
def test_the_gradient_of_a_linear_function_does_not_change_and_its_contributions_do(metric, images):
    weights = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(6)).double()
    f = ModelScalar(lambda x: (x * weights).sum((1, 2, 3))[:, None], logit(0))
    judge = metric(radius=0.1)
    steady = judge(f, images, Gradient()(f, images), Gradient())
    torch.testing.assert_close(steady, torch.zeros(3).double())
    moved = judge(f, images, images * weights, InputXGradient())
    span = images.flatten(1).amax(1) - images.flatten(1).amin(1)
    sizes = (drawn_boxes(0, torch.arange(10), images) * weights).flatten(1).norm(dim=1)
    size = sizes.max() if metric is MaxSensitivity else sizes.mean()
    wanted = 0.1 * span * size / (images * weights).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, wanted)


def test_the_largest_change_is_not_below_the_mean_and_grows_with_more_draws(f, images):
    method = Gradient()
    values = method(f, images)
    few, many = (MaxSensitivity(samples=n)(f, images, values, method) for n in (3, 12))
    assert (many >= few).all()
    assert (few > AverageSensitivity(samples=3)(f, images, values, method)).all()


@BOTH
def test_an_image_alone_gets_what_it_gets_in_a_batch(metric, f, images):
    method = Gradient()
    values = method(f, images)
    every = metric(samples=3)(f, images, values, method)
    rows = torch.tensor([1])
    alone = metric(samples=3)(f.at(rows), images[rows], values[rows], method)
    torch.testing.assert_close(alone, every[1:2])


@BOTH
def test_a_map_of_zeros_is_undefined_where_its_size_divides(metric, f, images):
    values = torch.zeros_like(images)
    assert metric(samples=2)(f, images, values, Gradient()).isnan().all()
    assert (metric(samples=2, relative=False)(f, images, values, Gradient()) > 0).all()


@BOTH
def test_maps_that_do_not_fit_or_are_not_finite_are_refused(metric, f, images):
    values = Gradient()(f, images)
    with pytest.raises(ShapeError, match=r"makes maps \(2, 6, 8\), but .* are \(1, 6, 8\)"):
        metric()(f, images, values[:, :1], Gradient())
    with pytest.raises(ShapeError, match="One map per image is needed; got 2 for 3"):
        metric()(f, images, values[:2], Gradient())
    with pytest.raises(NumericsError, match="NaN or infinite"):
        metric()(f, images, values, lambda f, x: Gradient()(f, x) / 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radius": 0.0}, "over 0, usually 0.02; got 0"),
        ({"samples": 0}, "samples must be at least 1; got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
    ],
)
@BOTH
def test_impossible_settings_are_refused(metric, settings, message):
    with pytest.raises(SettingError, match=message):
        metric(**settings)
