"""Tiny pictures and folders of them."""

import numpy as np
import pytest
from PIL import Image

from whence.adapters import declared_preprocessing

PLAIN = {"size": 8, "resize": None, "crop": False, "mean": 0.0, "std": 1.0}


@pytest.fixture
def plain():
    """Pictures of 8 x 8 pixels as they are, in [0, 1]."""
    return declared_preprocessing(PLAIN, "test")


@pytest.fixture
def picture():
    """A function that draws random pictures, the same for the same number."""

    def draw(number=0, size=(8, 8), mode="RGB"):
        values = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        return Image.fromarray(values).convert(mode)

    return draw


@pytest.fixture
def photos(tmp_path, picture):
    """An image folder with two classes of three pictures."""
    root = tmp_path / "photos"
    for k, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for n in range(3):
            picture(10 * k + n).save(root / name / f"{n}.png")
    return root
