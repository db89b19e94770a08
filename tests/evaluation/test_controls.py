import pytest
import torch
from scipy import ndimage

from whence.core import Method, ModelScalar, logit
from whence.errors import SettingError, ShapeError
from whence.evaluation import (
    CONTROLS,
    AverageMap,
    CentreMap,
    ConstantMap,
    EdgeMap,
    InputMap,
    RandomMap,
    RedrawnMap,
    average_map,
)


@pytest.fixture
def images(generator):
    return torch.randn(5, 3, 9, 7, generator=generator)


def scores(weight=1.0):
    return ModelScalar(lambda images: weight * images.flatten(1)[:, :4], logit(1))


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_is_a_method_that_looks_at_each_image_alone(name, images):
    control = CONTROLS[name]()
    assert isinstance(control, Method)
    whole = control(scores(), images)
    assert whole.shape in {(5, 1, 9, 7), images.shape}
    assert whole.isfinite().all()
    parts = torch.cat([control(scores(), images[:2]), control(scores(), images[2:])])
    assert torch.equal(whole, parts)


def test_random_maps_are_standard_normal_and_unrelated_between_images():
    images = torch.arange(400.0).view(400, 1, 1, 1).expand(-1, 1, 8, 8)
    found = RandomMap()(scores(), images).flatten(1)
    assert found.mean().item() == pytest.approx(0, abs=0.02)
    assert found.std().item() == pytest.approx(1, abs=0.02)
    between = torch.corrcoef(found)[~torch.eye(400, dtype=bool)]
    assert between.mean().item() == pytest.approx(0, abs=0.01)
    assert not torch.equal(found, RandomMap(seed=1)(scores(), images).flatten(1))


def test_a_random_map_ignores_the_function_and_a_redrawn_one_follows_it(images):
    assert torch.equal(RandomMap()(scores(), images), RandomMap()(scores(2.0), images))
    first, same, other = (RedrawnMap()(scores(w), images) for w in (1.0, 1.0 + 1e-7, 2.0))
    assert torch.equal(first, same)
    assert torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1].abs() < 0.2


def test_edges_are_scipys_sobel_magnitude(images):
    found = EdgeMap()(scores(), images.double())
    for row, image in enumerate(images.double().mean(dim=1).numpy()):
        sides = [ndimage.sobel(image, axis=k, mode="nearest") for k in (0, 1)]
        expected = torch.from_numpy((sides[0] ** 2 + sides[1] ** 2) ** 0.5)
        torch.testing.assert_close(found[row, 0], expected)


def test_the_input_is_a_copy_of_the_images(images):
    found = InputMap()(scores(), images)
    assert torch.equal(found, images)
    assert found.data_ptr() != images.data_ptr()


def test_the_constant_map_is_ones(images):
    assert torch.equal(ConstantMap()(scores(), images), torch.ones(5, 1, 9, 7))


def test_the_centre_is_a_gaussian_of_the_width_that_was_asked_for():
    found = CentreMap(sigma=0.5)(scores(), torch.zeros(1, 1, 5, 5))[0, 0]
    assert found[2, 2].item() == 1
    assert found[2, 3].item() == pytest.approx(torch.tensor(-0.5).exp().item())  # one sigma
    assert found[0, 0].item() == pytest.approx(torch.tensor(-4.0).exp().item())
    with pytest.raises(SettingError, match="over 0; got 0"):
        CentreMap(sigma=0)


def test_the_average_map_weighs_every_image_alike_and_skips_empty_maps(generator):
    values = torch.randn(3, 2, 4, 4, generator=generator)
    scaled = values * torch.tensor([1.0, 1e6, 1e-6]).view(3, 1, 1, 1)
    summed = values.sum(dim=1)
    expected = (summed / summed.abs().mean(dim=(1, 2), keepdim=True)).sum(dim=0) / 4
    control = average_map(torch.cat([scaled, torch.zeros(1, 2, 4, 4)]))
    torch.testing.assert_close(control.values, expected)
    found = control(scores(), torch.zeros(6, 3, 4, 4))
    assert found.shape == (6, 1, 4, 4)
    torch.testing.assert_close(found[5, 0], expected)


def test_the_average_map_of_another_size_is_refused(images):
    with pytest.raises(ShapeError, match=r"\(4, 4\) pixels, the images are of \(9, 7\)"):
        AverageMap(values=torch.zeros(4, 4))(scores(), images)
