"""ROAR on data whose one informative pixel is known."""

import pytest
import torch

from whence.core import Mean, TensorData, Zero
from whence.errors import DataError, SettingError, ShapeError
from whence.recipes.roar import Retraining, RetrainingCell, roar


def planted(count, seed):
    """Images of noise whose class is the brightness of the pixel (1, 2), and the true maps."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.rand(count, 1, 4, 4, generator=generator)
    images[:, 0, 1, 2] = 3.0 * labels - 1
    values = torch.rand(count, 1, 4, 4, generator=generator)
    values[:, 0, 1, 2] = 5.0
    return TensorData(images=images, labels=labels), values


def train(data, seed):
    """A least-squares classifier of pixels, exact and without a network."""
    del seed
    x = torch.cat([data.images.flatten(1), torch.ones(len(data.images), 1)], dim=1).double()
    y = torch.nn.functional.one_hot(data.labels, 2).double()
    weights = torch.linalg.lstsq(x, y, driver="gelsd").solution

    def model(images):
        ones = torch.ones(len(images), 1)
        return torch.cat([images.flatten(1), ones], dim=1).double() @ weights

    return model


def test_networks_without_the_informative_pixel_guess_and_without_others_do_not():
    data, test = planted(400, 0), planted(400, 1)
    settings = Retraining(shares=(0.125,), seeds=2, fill=Zero())
    (cell,) = roar(train, data, test, settings=settings)
    assert len(cell.accuracies) == len(cell.control) == 2
    assert max(cell.accuracies) < 0.6
    assert min(cell.control) > 0.85
    assert cell.gain > 0.25
    (kept,) = roar(train, data, test, settings=Retraining(shares=(0.9,), order="keep", seeds=1))
    assert kept.accuracies[0] > 0.99 > kept.control[0]
    assert kept.error != kept.error


def test_masked_images_are_those_of_a_loop():
    data, values = planted(5, 2)
    for order in ("remove", "keep"):
        found = Retraining(order=order, fill=Mean()).masked(data, values, 0.25)
        for k in range(5):
            ranked = values[k].flatten().argsort(descending=order == "remove")[:4]
            wanted = data.images[k].flatten().clone()
            wanted[ranked] = data.images[k].mean()
            torch.testing.assert_close(found.images[k].flatten(), wanted)


def test_the_usual_fill_is_one_colour_that_tells_nothing_of_the_image():
    data, test = planted(400, 0), planted(400, 1)
    shifted = TensorData(images=test[0].images + 7, labels=test[0].labels)
    settings = Retraining().settled(data[0])
    colour = data[0].images.mean()
    for part, values in (data, (shifted, test[1])):
        left = settings.masked(part, values, 0.25).images
        changed = left != part.images
        torch.testing.assert_close(left[changed].unique(), colour[None])
    assert Retraining(fill=Zero()).settled(data[0]).fill == Zero()


def test_the_mean_of_each_image_would_give_the_hidden_pixel_away():
    data, test = planted(400, 0), planted(400, 1)
    (leaking,) = roar(train, data, test, settings=Retraining(shares=(0.125,), seeds=1, fill=Mean()))
    (usual,) = roar(train, data, test, settings=Retraining(shares=(0.125,), seeds=1))
    assert leaking.accuracies[0] > 0.9
    assert usual.accuracies[0] < 0.6


def test_the_error_is_of_the_paired_differences():
    cell = RetrainingCell(share=0.5, accuracies=(0.5, 0.7), control=(0.6, 0.9))
    assert cell.gain == pytest.approx(0.15)
    assert cell.error == pytest.approx(0.05)


def test_maps_that_do_not_fit_and_missing_labels_are_refused():
    data, values = planted(6, 3)
    with pytest.raises(ShapeError, match="one map per image"):
        roar(train, (data, values[:, :, :2]), (data, values))
    bare = TensorData(images=data.images)
    with pytest.raises(DataError, match="all test images need labels"):
        roar(train, (data, values), (bare, values))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shares": (1.0,)}, "over 0 and under 1"),
        ({"order": "x"}, "remove .ROAR. or keep .KAR.; got 'x'"),
        ({"seeds": 0}, "seeds must be at least 1; got 0"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        Retraining(**settings)
