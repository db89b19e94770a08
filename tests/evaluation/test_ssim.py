import pytest
import torch
from skimage.metrics import structural_similarity

from whence.errors import SettingError, ShapeError
from whence.evaluation import SSIM


def ranged(values):
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize("sigma", [0.8, 1.5])
@pytest.mark.parametrize("absolute", [False, True])
def test_it_is_scikit_images_similarity_of_the_maps_from_0_to_1(generator, sigma, absolute):
    one, two = torch.randn(2, 4, 2, 17, 20, generator=generator, dtype=torch.float64)
    two = 0.6 * one + two
    found = SSIM(sigma=sigma, absolute=absolute)(one, two)
    for row in range(4):
        maps = [x[row].sum(dim=0) for x in (one, two)]
        maps = [ranged(x.abs() if absolute else x).numpy() for x in maps]
        expected = structural_similarity(
            *maps, data_range=1, gaussian_weights=True, sigma=sigma, use_sample_covariance=False
        )
        assert found[row].item() == pytest.approx(expected, abs=1e-12)


def test_a_map_is_like_itself_at_any_scale(generator):
    values = torch.randn(3, 1, 12, 12, generator=generator)
    torch.testing.assert_close(SSIM()(values, 7 * values + 3), torch.ones(3))


def test_noise_is_unlike_other_noise_and_sparse_maps_are_alike(generator):
    one, two = torch.randn(2, 50, 1, 24, 24, generator=generator)
    assert SSIM()(one, two).abs().mean().item() < 0.2
    peaks = torch.zeros(2, 1, 1, 40, 40)
    peaks[0, 0, 0, 3, 3] = peaks[1, 0, 0, 36, 36] = 1
    assert SSIM()(peaks[0], peaks[1]).item() > 0.8


def test_a_constant_map_has_no_similarity(generator):
    values = torch.randn(1, 1, 12, 12, generator=generator)
    assert SSIM()(values, torch.ones(1, 1, 12, 12)).isnan().all()


def test_maps_smaller_than_the_window_are_refused_with_the_largest_sigma():
    with pytest.raises(ShapeError, match=r"11 pixels.*at most 0\.97"):
        SSIM()(torch.ones(1, 1, 8, 9), torch.ones(1, 1, 8, 9))
    SSIM(sigma=0.97)(torch.ones(1, 1, 8, 9), torch.ones(1, 1, 8, 9))


@pytest.mark.parametrize("sigma", [0, -1.0, float("nan"), float("inf")])
def test_a_window_without_width_is_refused(sigma):
    with pytest.raises(SettingError, match="over 0"):
        SSIM(sigma=sigma)
