"""A model that cannot be exported: the module, the line, what it means, and the cure."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from whence.errors import ModeError, NumericsError, ReadError, SettingError, ShapeError
from whence.network import Network
from whence.network.refusal import why_not_exported

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Branch(nn.Module):
    def forward(self, maps):
        if maps.sum() > 0:  # the line that is named
            return maps
        return -maps


class Leaves(nn.Module):
    def forward(self, maps):
        return maps * torch.from_numpy(maps.detach().numpy())  # leaves torch


class Fixed(nn.Module):
    def forward(self, maps):
        return maps + torch.zeros(len(maps), 1, 1, 1)


class Mixes(nn.Module):
    def forward(self, maps):
        return maps - maps.mean()


class Centred(nn.Module):
    def forward(self, maps):
        return maps - maps.mean(dim=(1, 2, 3), keepdim=True)


class Divides(nn.Module):
    def forward(self, maps):
        return maps / (maps - maps)


class Root(nn.Module):
    def forward(self, maps):
        return maps.relu().sqrt()


def around(part):
    """A network with this part in its second block."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.Sequential(nn.ReLU(), part),
            nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
        ).eval()


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (
            Branch(),
            r"pixel values, in '1\.1' \(Branch\), test_refusal\.py line \d+: if maps\.sum",
        ),
        (Leaves(), r"it leaves torch, in '1\.1' \(Leaves\), test_refusal\.py line \d+.*leaves"),
        (Fixed(), r"its code fixes the batch size.*images\.shape\[0\] does not"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_module_and_the_line_are_named_with_the_cure(part, says, untouched):
    model = around(part)
    with untouched(model), pytest.raises(ReadError, match=says) as caught:
        Network.read(model, IMAGES)
    assert "occlusion) work on the model itself" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_line_that_is_named_is_the_line():
    with pytest.raises(ReadError) as caught:
        Network.read(around(Branch()), IMAGES)
    number = int(re.search(r"line (\d+)", str(caught.value))[1])
    assert "the line that is named" in Path(__file__).read_text("utf-8").splitlines()[number - 1]


def test_an_exporters_words_that_are_new_are_quoted():
    model = around(nn.ReLU())
    text = why_not_exported(model, RuntimeError("A guard that nobody has seen."))
    assert "could not be read as a graph: A guard that nobody has seen." in text
    assert "work on the model itself" in text
    assert "The exporter says" not in text


@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_mixes_the_images_of_a_batch_is_refused(count, untouched):
    model = around(Mixes())
    with untouched(model), pytest.raises(ModeError, match=r"mixes the images.*dim=\(1, 2, 3\)"):
        Network.read(model, IMAGES[:count])


def test_means_over_each_images_own_axes_are_read():
    model = around(Centred())
    torch.testing.assert_close(Network.read(model, IMAGES)(IMAGES), model(IMAGES))


def test_logits_that_are_not_finite_are_refused_with_the_operation_where_it_began(untouched):
    model = around(Divides())
    with untouched(model), pytest.raises(NumericsError, match=r"began in 'div' in '1\.1'"):
        Network.read(model, IMAGES)


def test_images_that_are_not_finite_are_refused_before_anything_is_read():
    images = IMAGES.clone()
    images[1, 2, 0, 0] = torch.inf
    with pytest.raises(NumericsError, match="in 1 of 3 images, first in image 1"):
        Network.read(around(nn.ReLU()), images)


def test_a_network_names_the_operation_whose_derivative_is_infinite():
    network = Network.read(around(Root()), IMAGES)
    images = IMAGES.clone()
    assert network.first_not_finite(images) is None
    found = network.first_not_finite(images, lambda logits: logits[:, 0])
    assert found == "'sqrt' in '1.1'"


def test_a_network_without_trouble_names_nothing():
    network = Network.read(around(nn.Tanh()), IMAGES)
    assert network.first_not_finite(IMAGES, lambda logits: logits[:, 0]) is None


def test_attention_that_is_masked_with_minus_infinity_is_not_blamed():
    class Masked(nn.Module):
        def forward(self, maps):
            tokens = maps.flatten(2).transpose(1, 2)
            scores = (tokens @ tokens.transpose(1, 2)).masked_fill(
                torch.ones(36, 36).triu(1).bool(), -torch.inf
            )
            mixed = scores.softmax(-1) @ tokens
            return (mixed / 0).transpose(1, 2).reshape(maps.shape)

    with pytest.raises(NumericsError, match=r"began in 'div' in '1\.1'"):
        Network.read(around(Masked()), IMAGES)


def test_a_network_whose_model_was_moved_says_so():
    model = around(nn.ReLU())
    network = Network.read(model, IMAGES)
    model.to("meta")
    weight = next(iter(network.parameters.values()))
    if weight.device.type == "meta":
        with pytest.raises(SettingError, match="moved to meta after the network was read on cpu"):
            network(IMAGES)
    else:
        torch.testing.assert_close(network(IMAGES), network(IMAGES))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda x: x[:, :, :7], ShapeError, r"shape \(3, 8, 8\); these are \(3, 7, 8\)"),
        (lambda x: x[:, :1], ShapeError, r"shape \(3, 8, 8\); these are \(1, 8, 8\)"),
        (lambda x: x.double(), SettingError, r"float32 on cpu; these are torch\.float64 on cpu"),
        (lambda x: x.half(), SettingError, r"these are torch\.float16.*or read the model again"),
        (lambda x: x.to("meta"), SettingError, r"on the device 'meta', which holds shapes"),
        (lambda x: x[:0], ShapeError, r"\(0, 3, 8, 8\).*one image at least"),
    ],
)
def test_a_network_refuses_images_that_are_not_like_those_it_was_read_with(change, error, says):
    network = Network.read(around(nn.ReLU()), IMAGES)
    with pytest.raises(error, match=says):
        network.check(change(IMAGES))
