import pytest
import torch

from whence.core import ModelScalar, Zero, logit
from whence.errors import SettingError, ShapeError
from whence.evaluation import Deletion, Insertion, random_order


@pytest.fixture
def weights(generator):
    return torch.randn(1, 4, 5, generator=generator, dtype=torch.float64)


@pytest.fixture
def images(generator):
    return torch.rand(3, 1, 4, 5, generator=generator, dtype=torch.float64)


@pytest.fixture
def f(weights):
    def model(images):
        scores = (images * weights).sum(dim=(1, 2, 3))
        return torch.stack([scores, 2 * scores, -scores], dim=1)

    return ModelScalar(model, logit(torch.tensor([0, 1, 2])))


def naive_curve(f, images, values, order, *, insertion):
    """Replace one pixel after the other in a loop over images."""
    rows = []
    for row in range(len(images)):
        start = torch.zeros_like(images[row]) if insertion else images[row].clone()
        one = f.at(torch.tensor([row]))
        points = [one(start[None]).item()]
        flat = values[row].sum(dim=0).flatten()
        for at in sorted(order, key=lambda p, flat=flat: -flat[p].item()):
            start.view(-1)[at] = images[row].view(-1)[at] if insertion else 0
            points.append(one(start[None]).item())
        rows.append(points)
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_a_curve_is_the_one_of_a_loop_over_pixels_and_images(
    metric, batch_size, f, images, weights
):
    values = images * weights * torch.tensor([1.0, 1, -1]).view(3, 1, 1, 1)
    made = metric(steps=20, fill=Zero(), batch_size=batch_size).curve(f, images, values)
    expected = naive_curve(f, images, values, range(20), insertion=metric is Insertion)
    torch.testing.assert_close(made.values, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made.fractions, torch.arange(21).double() / 20)


def test_the_area_is_the_trapezoid_rule(f, images, weights):
    curve = Deletion(steps=4).curve(f, images, images * weights)
    v = curve.values
    expected = (v[:, 0] / 2 + v[:, 1] + v[:, 2] + v[:, 3] + v[:, 4] / 2) / 4
    torch.testing.assert_close(curve.area, expected)
    torch.testing.assert_close(Deletion(steps=4)(f, images, images * weights), expected)


def test_curves_begin_and_end_at_the_image_and_the_fill(f, images, weights):
    deletion = Deletion(steps=3).curve(f, images, images * weights).values
    insertion = Insertion(steps=3, fill=Zero()).curve(f, images, images * weights).values
    torch.testing.assert_close(deletion[:, 0], f(images))
    torch.testing.assert_close(deletion[:, -1], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(insertion[:, 0], deletion[:, -1])
    torch.testing.assert_close(insertion[:, -1], deletion[:, 0])


def test_true_contributions_beat_the_random_order_and_their_opposite_loses(f, images, weights):
    values = images * weights * torch.tensor([1.0, 1, -1]).view(3, 1, 1, 1)
    deletion, insertion = Deletion(steps=20), Insertion(steps=20, fill=Zero())
    control = random_order(images)
    assert (deletion(f, images, values) < deletion(f, images, control)).all()
    assert (deletion(f, images, -values) > deletion(f, images, control)).all()
    assert (insertion(f, images, values) > insertion(f, images, control)).all()


def test_a_constant_map_is_removed_in_a_random_order_not_row_by_row(images):
    def model(images):
        return images[:, :, :2].sum(dim=(1, 2, 3))[:, None]

    f = ModelScalar(model, logit(0))
    ones = torch.ones_like(images)
    curve = Deletion(steps=2).curve(f, ones, ones)
    assert 2 < curve.values[0, 1].item() < 8  # row by row would give 0 of the upper 10 pixels
    other = Deletion(steps=2, seed=1).curve(f, ones, ones)
    assert (Deletion(steps=2).curve(f, ones, ones).values == curve.values).all()
    assert other.values.shape == curve.values.shape


def test_the_control_does_not_depend_on_the_batch(images):
    both = random_order(images)
    assert (both[0] == random_order(images[:1])[0]).all()
    assert sorted(both[0].flatten().tolist()) == list(range(20))
    assert (both != random_order(images, seed=1)).any()


def test_no_graph_is_kept(f, images, weights):
    images = images.clone().requires_grad_()
    assert not Deletion(steps=2)(f, images, images.detach() * weights).requires_grad


def test_attributions_of_another_size_are_refused(f, images):
    with pytest.raises(ShapeError, match=r"one map per image.*\(3, 1, 5, 4\)"):
        Deletion()(f, images, images.transpose(2, 3))


@pytest.mark.parametrize("metric", [Deletion, Insertion])
@pytest.mark.parametrize("name", ["steps", "batch_size"])
def test_fewer_than_one_is_refused(metric, name):
    with pytest.raises(SettingError, match=f"{name} must be at least 1; got 0"):
        metric(**{name: 0})
