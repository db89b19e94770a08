"""A diverging colour map: blue is against, white is nothing, orange is for.

The colours are computed in OKLab, a space in which equal steps look equally large. Both sides
have the same lightness and the same colourfulness at the same distance from zero, so neither
sign looks stronger; blue and orange stay apart for every common kind of colour blindness.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["diverging"]

Colours = NDArray[np.uint8]

_STRENGTH = np.array([0.0, 0.35, 0.7, 1.0])
"""Where the anchors lie between nothing and the strongest value."""

_LIGHTNESS = np.array([0.975, 0.86, 0.72, 0.60])
_CHROMA = np.array([0.0, 0.08, 0.15, 0.17])
_HUE_FOR, _HUE_AGAINST = 47.0, 255.0
"""Degrees on OKLab's colour circle: orange and blue."""

_NEARLY_BLACK = 0.0031308
"""Below this sRGB is a straight line."""

_TO_CONE = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_TO_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def diverging(values: NDArray[np.floating[Any]]) -> Colours:
    """Colours ``(..., 3)`` of signed values, centred at zero.

    Args:
        values: Any shape; -1 is the deepest blue, 0 white, 1 the deepest orange. What lies
            outside is clipped.

    References:
        Ottosson (2020), "A perceptual color space for image processing": the matrices.
    """
    strength = np.clip(np.abs(values), 0.0, 1.0)
    hue = np.deg2rad(np.where(values < 0, _HUE_AGAINST, _HUE_FOR))
    chroma = np.interp(strength, _STRENGTH, _CHROMA)
    lightness = np.interp(strength, _STRENGTH, _LIGHTNESS)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = ((lab @ _TO_CONE.T) ** 3) @ _TO_LINEAR.T
    return np.round(_encode_gamma(linear) * 255).astype(np.uint8)


def _encode_gamma(linear: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Linear light as sRGB in [0, 1]."""
    light = np.clip(linear, 0.0, 1.0)
    curved = 1.055 * np.maximum(light, _NEARLY_BLACK) ** (1 / 2.4) - 0.055
    encoded: NDArray[np.floating[Any]] = np.where(light <= _NEARLY_BLACK, 12.92 * light, curved)
    return encoded
