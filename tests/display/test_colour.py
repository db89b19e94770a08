"""The diverging colours."""

import numpy as np
import pytest

from whence.display import diverging

# Machado, Oliveira and Fernandes (2009): linear light as people without one kind of cone see it.
DEFICIENCIES = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def linear(colours):
    share = np.asarray(colours, dtype=np.float64) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def cielab(light):
    """CIE 1976 L*a*b* from linear sRGB: another space than the one the map is computed in."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = np.clip(light, 0, 1) @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    cube = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = cube[..., 0], cube[..., 1], cube[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def test_zero_is_a_neutral_nearly_white():
    red, green, blue = diverging(np.array(0.0)).astype(int)
    assert min(red, green, blue) >= 240
    assert max(red, green, blue) - min(red, green, blue) <= 1


def test_positive_is_warm_and_negative_is_cool():
    cool, warm = diverging(np.array([-1.0, 1.0])).astype(int)
    assert warm[0] > warm[1] > warm[2]
    assert cool[2] > cool[1] > cool[0]


def test_both_signs_are_equally_light_at_every_strength():
    strength = np.linspace(0, 1, 21)
    lightness = [cielab(linear(diverging(sign * strength)))[:, 0] for sign in (-1, 1)]
    # OKLab and CIELAB rate blues a little differently; six units are hardly seen.
    assert np.abs(lightness[0] - lightness[1]).max() < 6


def test_the_colour_deepens_steadily_on_both_sides():
    strength = np.linspace(0, 1, 41)
    for sign in (-1, 1):
        lab = cielab(linear(diverging(sign * strength)))
        assert (np.diff(lab[:, 0]) < 0).all()
        steps = np.linalg.norm(np.diff(lab, axis=0), axis=1)
        assert steps.max() < 3 * np.median(steps)


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_the_signs_stay_apart_for_the_colour_blind(kind):
    matrix = np.array(DEFICIENCIES[kind])
    for strength in (0.3, 0.6, 1.0):
        pair = linear(diverging(np.array([-strength, strength]))) @ matrix.T
        against, favour = cielab(pair)
        assert np.linalg.norm(against - favour) > 30 * strength


def test_values_beyond_one_have_the_last_colour():
    assert (diverging(np.array([7.0, -7.0])) == diverging(np.array([1.0, -1.0]))).all()


def test_any_shape_gains_a_colour_axis():
    assert diverging(np.zeros((2, 3, 4), np.float32)).shape == (2, 3, 4, 3)
