"""What every method of the catalogue says to input that does not fit, before it works in vain."""

import pytest
import torch
from torch import nn

from whence.attribution import CATALOGUE, attribute, method_named
from whence.attribution.catalogue import settings_of
from whence.core import ModelScalar, logit
from whence.errors import NumericsError, SettingError, ShapeError, TargetError
from whence.network import Network

NAMES = [entry.card.name for entry in CATALOGUE]
each_method = pytest.mark.parametrize("name", NAMES)

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))

NEEDS_GRAPH = r"needs (its|the network's) graph"
NOT_HERE = "the network has no attention"
"""What methods say that are not defined for a function, or for this network."""

FEW = {"steps": 2, "samples": 4, "masks": 4, "draws": 1, "searches": 1, "window": 4, "stride": 4}


def few(name):
    """Return a method of the catalogue that repeats itself a few times only."""
    known = settings_of(name)
    settings = {key: value for key, value in FEW.items() if key in known}
    if "superpixels" in known:
        settings["superpixels"] = "grid:2"
    return method_named(name, settings)


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 3),
        ).eval()


@pytest.fixture(scope="module")
def network(model):
    return Network.read(model, IMAGES)


def spoilt():
    images = IMAGES.clone()
    images[1, 0, 2, 2] = torch.nan
    return images


@each_method
def test_a_class_that_does_not_exist_is_named(name, network):
    f = ModelScalar(network, logit(torch.tensor([0, 9])))
    with pytest.raises((TargetError, SettingError), match=f"holds class 9|{NOT_HERE}"):
        attribute(few(name), f, IMAGES)


@each_method
def test_classes_that_are_not_one_per_image_are_refused(name, network):
    f = ModelScalar(network, logit(torch.tensor([0, 1, 2])))
    with pytest.raises(TargetError, match="holds 3 classes, but there are 2 images"):
        attribute(few(name), f, IMAGES)


@each_method
def test_images_that_are_not_finite_are_named(name, network):
    with pytest.raises(NumericsError, match=r"in the images already, in 1 of 2 images.*image 1"):
        attribute(few(name), ModelScalar(network, logit(0)), spoilt())


@each_method
@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda x: x[:, :, :7], ShapeError, r"shape \(3, 8, 8\); these are \(3, 7, 8\)"),
        (lambda x: x[:, :1], ShapeError, r"shape \(3, 8, 8\); these are \(1, 8, 8\)"),
        (lambda x: x.double(), SettingError, r"float32 on cpu; these are torch\.float64"),
        (lambda x: x.to("meta"), SettingError, r"'meta', which holds shapes but no values"),
        (lambda x: x[:0], ShapeError, r"nothing in it: give one image at least"),
    ],
    ids=["size", "channels", "type", "device", "empty"],
)
def test_images_unlike_those_the_network_was_read_with_are_refused(
    name, change, error, says, network
):
    with pytest.raises(error, match=says):
        attribute(few(name), ModelScalar(network, logit(0)), change(IMAGES))


@each_method
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: x[:, :1], r"cannot take images of shape \(\d+, 1, 8, 8\)"),
        (lambda x: x.double(), r"weights are torch\.float32, but the images are torch\.float64"),
    ],
    ids=["channels", "type"],
)
def test_images_that_a_plain_model_cannot_take_are_refused(name, change, says, model):
    with pytest.raises((ShapeError, SettingError), match=f"{says}|{NEEDS_GRAPH}"):
        attribute(few(name), ModelScalar(model, logit(0)), change(IMAGES))
