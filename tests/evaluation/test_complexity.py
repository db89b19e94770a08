import math

import pytest
import torch
from scipy.stats import entropy

from whence.errors import SettingError
from whence.evaluation import EffectivePixels, Entropy, Gini, MassArea, Participation

METRICS = [Entropy(), EffectivePixels(), Participation(), MassArea(), Gini()]


def test_entropy_is_scipys_of_the_absolute_sums_over_channels(generator):
    values = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    expected = entropy(values.sum(dim=1).abs().flatten(1).numpy(), axis=1)
    torch.testing.assert_close(Entropy()(values), torch.from_numpy(expected))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_map_that_is_constant_on_some_pixels_uses_these(count):
    values = torch.zeros(1, 1, 4, 5)
    values.view(-1)[:count] = -2.5
    assert Entropy()(values).item() == pytest.approx(math.log(count), abs=1e-6)
    assert EffectivePixels()(values).item() == pytest.approx(count / 20)
    assert Participation()(values).item() == pytest.approx(count / 20)
    assert MassArea(mass=0.8)(values).item() == pytest.approx(0.8 * count / 20)


def test_participation_is_its_formula(generator):
    values = torch.randn(4, 1, 5, 6, generator=generator, dtype=torch.float64)
    v = values.abs().flatten(1)
    expected = v.sum(dim=1) ** 2 / (30 * (v**2).sum(dim=1))
    torch.testing.assert_close(Participation()(values), expected)


def test_the_mass_area_counts_the_last_pixel_in_part():
    values = torch.tensor([5.0, 3.0, -1.0, 1.0, 0.0]).view(1, 1, 1, 5)
    assert MassArea(mass=0.5)(values).item() == pytest.approx(1 / 5)
    assert MassArea(mass=0.65)(values).item() == pytest.approx(1.5 / 5)
    assert MassArea(mass=1.0)(values).item() == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("metric", "level"),
    [
        (Entropy(), math.log(90_000) - 0.28),
        (EffectivePixels(), 0.75),
        (Participation(), 2 / math.pi),
        (MassArea(), 0.65),
    ],
)
def test_noise_gets_the_level_of_the_card(metric, level, generator):
    values = torch.randn(1, 1, 300, 300, generator=generator)
    assert metric(values).item() == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_the_scale_of_a_map_does_not_matter(metric, generator):
    values = torch.randn(3, 1, 6, 6, generator=generator)
    torch.testing.assert_close(metric(values), metric(-1e-30 * values))
    if not isinstance(metric, Gini):
        torch.testing.assert_close(metric(values), metric(2.0**125 * values))


@pytest.mark.parametrize("metric", METRICS)
def test_a_map_of_zeros_is_undefined_and_no_other(metric, generator):
    values = torch.randn(3, 1, 6, 6, generator=generator)
    values[1] = 0
    assert metric(values).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("mass", [0, 1.1, float("nan")])
def test_a_mass_out_of_range_is_refused(mass):
    with pytest.raises(SettingError, match="over 0 and at most 1"):
        MassArea(mass=mass)
