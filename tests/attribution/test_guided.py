"""Guided back-propagation and its kin against hooks, closed forms and Captum."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import Gradient
from whence.attribution.cam import GradCAM
from whence.attribution.guided import Deconvnet, GuidedBackpropagation, GuidedGradCAM
from whence.core import ModelScalar, logit
from whence.errors import SettingError, UnsupportedOperation
from whence.network import Network

METHODS = [GuidedBackpropagation(), Deconvnet(), GuidedGradCAM()]


class Plain(nn.Module):
    """Three ReLU layers, each ReLU a module of its own."""

    def __init__(self, head=True):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Linear(6, 8)
        self.head = nn.Linear(8, 4)
        self.acts = nn.ModuleList([nn.ReLU() for _ in range(3)])
        generator = torch.Generator().manual_seed(0)
        self.double().eval()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator).double() * 0.3)

    def forward(self, images):
        hidden = self.acts[0](self.one(images))
        hidden = self.acts[1](self.two(hidden))
        return self.head(self.acts[2](self.last(hidden.mean((2, 3)))))


class Functional(Plain):
    def forward(self, images):
        hidden = functional.relu(self.one(images))
        hidden = torch.relu(self.two(hidden))
        return self.head(self.last(hidden.mean((2, 3))).relu())


class Reused(Plain):
    def forward(self, images):
        act = self.acts[0]
        return self.head(act(self.last(act(self.two(act(self.one(images)))).mean((2, 3)))))


class InPlace(Plain):
    def forward(self, images):
        hidden = functional.relu(self.one(images), inplace=True)
        hidden = self.two(hidden).relu_()
        return self.head(torch.relu_(self.last(hidden.mean((2, 3)))))


def scalar(model, images, classes):
    return ModelScalar(Network.read(model, images), logit(classes))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("twin", [Functional, Reused, InPlace])
def test_however_the_relu_is_written_the_map_is_the_same(method, twin, images, classes, untouched):
    model = twin()
    with untouched(model):
        actual = method(scalar(model, images, classes), images)
    torch.testing.assert_close(actual, method(scalar(Plain(), images, classes), images))
    assert not torch.allclose(actual, Gradient()(scalar(model, images, classes), images))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_an_image_does_not_depend_on_its_neighbours_or_on_the_batch_size(method, images, classes):
    f = scalar(Plain(), images, classes)
    whole = method(f, images)
    cut = type(method)(batch_size=2)
    torch.testing.assert_close(cut(f, images), whole)
    torch.testing.assert_close(method(f.at(torch.tensor([3])), images[3:4]), whole[3:4])


class Difference(nn.Module):
    def forward(self, images):
        values = images.relu().flatten(1)
        return torch.stack([values[:, 0] - values[:, 1], values[:, 0]], 1)


def test_the_gradient_is_one_and_minus_one_where_the_guided_one_is_one_and_zero():
    images = torch.ones(2, 1, 1, 2)
    f = scalar(Difference().eval(), images, 0)
    assert Gradient()(f, images)[0].flatten().tolist() == [1, -1]
    assert GuidedBackpropagation()(f, images)[0].flatten().tolist() == [1, 0]
    assert Deconvnet()(f, -images)[0].flatten().tolist() == [1, 0]
    assert GuidedBackpropagation()(f, -images)[0].flatten().tolist() == [0, 0]


def test_with_positive_weights_behind_every_relu_the_guided_gradient_is_the_gradient(
    images, classes
):
    model = Plain()
    with torch.no_grad():
        for layer in (model.two, model.last, model.head):
            layer.weight.abs_()
    f = scalar(model, images, classes)
    torch.testing.assert_close(GuidedBackpropagation()(f, images), Gradient()(f, images))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    ("activation", "says"),
    [(nn.GELU(), "'gelu' in 1"), (nn.SiLU(), "'silu' in 1"), (nn.Identity(), "has no ReLU")],
)
def test_a_network_without_relu_is_refused(method, activation, says, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(144, 4))
    f = scalar(model.double().eval(), images, 0)
    with pytest.raises(UnsupportedOperation, match=says):
        method(f, images)


def test_a_model_that_was_not_read_is_refused_by_the_methods_name(images):
    with pytest.raises(SettingError, match=r"Deconvnet replaces .*Network\.read"):
        Deconvnet()(ModelScalar(Plain(), logit(0)), images)


@pytest.mark.parametrize("node", [None, "one"])
def test_guided_grad_cam_is_the_product_of_both_maps(node, images, classes):
    f = scalar(Plain(), images, classes)
    expected = GuidedBackpropagation()(f, images) * GradCAM(node=node)(f, images)
    assert expected.abs().max() > 0
    torch.testing.assert_close(GuidedGradCAM(node=node)(f, images), expected)


def test_weights_that_changed_show(images, classes):
    model = Plain()
    f = scalar(model, images, classes)
    before = GuidedBackpropagation()(f, images)
    with torch.no_grad():
        model.head.weight.mul_(2)
    torch.testing.assert_close(GuidedBackpropagation()(f, images), 2 * before)


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize("name", ["GuidedBackprop", "Deconvolution"])
def test_both_are_captums_on_modules_and_captum_gives_the_gradient_on_functions(
    name, images, classes
):
    captum = pytest.importorskip("captum.attr", reason="needs whence[parity]")
    ours = {"GuidedBackprop": GuidedBackpropagation(), "Deconvolution": Deconvnet()}[name]
    theirs = getattr(captum, name)
    expected = theirs(Plain()).attribute(images.clone().requires_grad_(), target=classes)
    torch.testing.assert_close(ours(scalar(Plain(), images, classes), images), expected.detach())
    silent = theirs(Functional()).attribute(images.clone().requires_grad_(), target=classes)
    plain = Gradient()(scalar(Plain(), images, classes), images)
    torch.testing.assert_close(silent.detach(), plain)
