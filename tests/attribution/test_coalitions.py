"""KernelSHAP and LIME: Shapley values by their definition, and a ridge regression's fit."""

from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from whence.attribution import LIME, Grid, KernelSHAP, attribute
from whence.core import Mean, ModelScalar, logit
from whence.errors import SettingError, ShapeError

METHODS = [KernelSHAP(samples=30, superpixels=Grid(cells=3)), LIME(samples=20)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def hidden(image, fill, labels, shown):
    mask = torch.tensor([float(s) for s in shown]).double()[labels]
    return fill + mask * (image - fill)


def by_definition(f, image, fill, labels):
    """The mean gain of each superpixel over all orders of coming."""
    count = int(labels.max()) + 1
    gains = np.zeros(count)
    orders = list(permutations(range(count)))
    for order in orders:
        shown = [False] * count
        level = f(hidden(image, fill, labels, shown)).item()
        for s in order:
            shown[s] = True
            after = f(hidden(image, fill, labels, shown)).item()
            gains[s] += (after - level) / len(orders)
            level = after
    return torch.from_numpy(gains)


def test_with_all_coalitions_they_are_shapley_values(rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    values = KernelSHAP(superpixels=Grid(cells=2), fill=Mean())(f, images)
    labels = Grid(cells=2)(images)[0]
    for i in range(2):
        image = images[i : i + 1]
        shares = by_definition(f.at(torch.tensor([i])), image, Mean()(image), labels)
        torch.testing.assert_close(values[i, 0], shares[labels] / 16, rtol=1e-8, atol=1e-11)


def test_the_values_add_up_with_few_coalitions_too(rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    for samples in (2, 9, 60):
        method = KernelSHAP(samples=samples, superpixels=Grid(cells=4), fill=Mean())
        result = attribute(method, f, images)
        change = (f(images) - f(Mean()(images))).detach()
        torch.testing.assert_close(result.total, change)
        assert result.gap.max() < 1e-9
        assert result.cost == 0.5 * (2 + samples // 2 * 2)


def test_a_linear_models_superpixels_get_their_own_share_from_few_coalitions(linear, images):
    f = ModelScalar(linear, logit(1))
    values = KernelSHAP(samples=60, superpixels=Grid(cells=4))(f, images)
    exact = (linear[1].weight[1].view(3, 8, 8) * images).sum(dim=1).detach()
    labels = Grid(cells=4)(images)[0]
    for s in range(16):
        share = values[:, 0][:, labels == s].sum(dim=1)
        torch.testing.assert_close(share, exact[:, labels == s].sum(dim=1))


def test_drawn_coalitions_approach_shapley_values(smooth, images):
    f, image = ModelScalar(smooth, logit(1)), images[:1]
    settings = {"superpixels": Grid(cells=3)}
    exact = KernelSHAP(samples=2**9, **settings)(f, image)
    few, many = (KernelSHAP(samples=s, **settings)(f, image) for s in (30, 400))
    assert (many - exact).norm() < 0.5 * (few - exact).norm()
    assert (many - exact).norm() < 0.05 * exact.norm()


def test_coalitions_are_drawn_by_the_weight_of_their_size_in_pairs():
    drawn, weights = KernelSHAP(samples=8000).coalitions(20)
    assert torch.equal(drawn[::2], ~drawn[1::2])
    assert (weights == 1).all()
    sizes = drawn[::2].sum(dim=1).bincount(minlength=20)[1:] / 4000
    kernel = torch.tensor([19 / (k * (20 - k)) for k in range(1, 20)])
    chance = kernel / kernel.sum()
    assert ((sizes - chance).abs() < 4.5 * (chance * (1 - chance) / 4000).sqrt()).all()
    shown = drawn[::2].double().mean(dim=0)
    assert (shown - shown.mean()).abs().max() < 4.5 * 0.5 / 4000**0.5


def test_lime_is_the_weighted_ridge_regression(rectifier, images, classes):
    f = ModelScalar(rectifier(), logit(classes))
    method = LIME(samples=40, superpixels=Grid(cells=3), width=0.4, ridge=0.7, seed=3)
    values = method(f, images)
    labels, coalitions = Grid(cells=3)(images)[0], method.coalitions(9)
    weights = np.exp(-(((1 - np.sqrt(coalitions.double().mean(dim=1).numpy())) / 0.4) ** 2))
    assert coalitions[0].all()
    for i in range(2):
        own, image = f.at(torch.tensor([i])), images[i : i + 1]
        seen = [own(hidden(image, torch.zeros_like(image), labels, z)).item() for z in coalitions]
        fit = Ridge(alpha=0.7).fit(coalitions.numpy(), np.array(seen), sample_weight=weights)
        area = torch.bincount(labels.flatten())
        expected = (torch.from_numpy(fit.coef_) / area)[labels]
        torch.testing.assert_close(values[i, 0], expected, rtol=1e-8, atol=1e-11)


def test_superpixels_may_differ_from_image_to_image(rectifier, images):
    def halves(images):
        labels = torch.zeros(len(images), 8, 8, dtype=torch.long)
        labels[1:, :4] = 1
        return labels

    f = ModelScalar(rectifier(), logit(1))
    values = KernelSHAP(superpixels=halves)(f, images)
    change = (f(images) - f(torch.zeros_like(images))).detach()
    torch.testing.assert_close(values[0, 0], (change[0] / 64).expand(8, 8))
    assert (values[1, 0, :4] == values[1, 0, 0, 0]).all()
    assert values[1, 0, 0, 0] != values[1, 0, 7, 7]


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
    assert not torch.allclose(replace(method, seed=1)(f, images), whole)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: KernelSHAP(samples=1), "samples must be at least 2; got 1"),
        (lambda: LIME(samples=0), "samples must be at least 2"),
        (lambda: LIME(width=0.0), "width is above 0"),
        (lambda: LIME(ridge=-1.0), "ridge at least 0"),
    ],
)
def test_settings_without_meaning_are_refused(make, says):
    with pytest.raises(SettingError, match=says):
        make()


@each_method
def test_labels_of_another_shape_are_refused(method, rectifier, images):
    from dataclasses import replace

    f = ModelScalar(rectifier(), logit(1))
    with pytest.raises(ShapeError, match=r"of shape \(5, 8, 8\).*returned torch.int64 of shape"):
        replace(method, superpixels=lambda x: Grid()(x)[:, :4])(f, images)
