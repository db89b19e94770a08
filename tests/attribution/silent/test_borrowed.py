"""The model, the images, the random numbers and the process come back as they were."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import (
    CATALOGUE,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    attribute,
)
from whence.core import ModelScalar, logit
from whence.errors import ModeError, TargetError, WhenceError
from whence.network import Network

GRADIENTS = [
    Gradient(),
    InputXGradient(),
    IntegratedGradients(steps=3),
    IntegratedGradients(steps=3, batch_size=1),
    SmoothGrad(samples=2),
]
FROM_CALLABLES = {entry.card.name for entry in CATALOGUE if entry.card.needs == "any callable"} - {
    "x-gradient"
}


class Normed(nn.Module):
    """Batch norms, dropout and in-place ReLUs: everything that a mode or a pass may change."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.act, self.drop, self.head = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(6, 4)
        generator = torch.Generator().manual_seed(0)
        self.double().eval()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def forward(self, images):
        return self.head(self.drop(self.act(self.norm(self.conv(images))).mean((2, 3))))


@pytest.fixture
def normed(held, images):
    """A model and its network, read once: no test may change either."""
    if Normed not in held:
        model = Normed()
        held[Normed] = (model, Network.read(model, images))
    return held[Normed]


def globals_of_torch():
    """What a monkey patch would replace: forwards of module classes, and functions."""
    kinds = [kind for kind in vars(nn).values() if isinstance(kind, type)]
    patched = {(kind, name): vars(kind).get(name) for kind in kinds for name in ("forward",)}
    patched |= {(nn.Module, name): vars(nn.Module)[name] for name in ("__call__", "__setattr__")}
    functions = {
        (module, name): value
        for module in (torch, functional, torch.autograd, torch.Tensor)
        for name, value in list(vars(module).items())
        if isinstance(value, Callable)
    }
    flags = {"grad": torch.is_grad_enabled(), "dtype": torch.get_default_dtype()}
    flags["deterministic"] = torch.are_deterministic_algorithms_enabled()
    flags["hooks"] = len(nn.modules.module._global_forward_hooks)
    return patched | functions | flags


def test_nothing_stays_behind(convolutional_method, untouched, images, classes, normed):
    model, network = normed  # PyTorch's exporter wraps torch.manual_seed when it is first used
    images.requires_grad_()
    before, state, world = images.detach().clone(), torch.get_rng_state(), globals_of_torch()
    with untouched(model):
        values = convolutional_method(ModelScalar(network, logit(classes)), images)
    assert values.isfinite().all()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, before)
    assert images.grad is None
    assert images.requires_grad
    assert globals_of_torch() == world
    assert all(p.grad is None for p in model.parameters())


def test_reading_leaves_nothing_behind_either(untouched, images, normed):
    model, state, world = Normed(), torch.get_rng_state(), globals_of_torch()
    with untouched(model):
        Network.read(model, images)
        with pytest.raises(WhenceError):
            Network.read(model, images[:, :2])
    assert torch.equal(torch.get_rng_state(), state)
    assert globals_of_torch() == world


def test_nothing_stays_behind_an_error(convolutional_method, untouched, images, normed):
    model, network = normed
    state = torch.get_rng_state()
    with untouched(model), pytest.raises(TargetError):
        convolutional_method(ModelScalar(network, logit(99)), images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("part", ["", "drop", "norm"])
def test_a_model_of_which_any_part_is_in_train_mode_is_refused(part, untouched, images):
    model = Normed()
    model.get_submodule(part).train()
    with untouched(model):
        with pytest.raises(ModeError, match=r"is in train mode.*Call model\.eval\(\) first"):
            Network.read(model, images)
        with pytest.raises(ModeError, match="is in train mode"):
            ModelScalar(model, logit(0))


def test_a_network_read_before_is_what_it_was_when_the_model_trains(
    convolutional_method, untouched, images, classes, normed
):
    """The graph is that of eval mode; the model, and its running statistics, are left alone."""
    model, network = normed
    f = ModelScalar(network, logit(classes))
    expected = convolutional_method(f, images)
    model.train()
    try:
        with untouched(model):
            torch.testing.assert_close(convolutional_method(f, images), expected)
    finally:
        model.eval()


@pytest.mark.parametrize("method", GRADIENTS, ids=str)
def test_a_function_made_before_the_model_trains_is_refused_and_moves_no_statistics(
    method, untouched, images, classes
):
    model = Normed()
    f = ModelScalar(model, logit(classes))
    model.train()
    with untouched(model), pytest.raises(ModeError, match="is in train mode"):
        method(f, images)


@pytest.mark.parametrize("method", ["gradient", "integrated-gradients", "grad-cam", "lrp"])
def test_the_public_face_refuses_a_model_in_train_mode_too(method, untouched, images):
    import whence

    model = Normed().train()
    with untouched(model), pytest.raises(ModeError, match="is in train mode"):
        whence.explain(model, images, method=method)


def test_a_frozen_model_gives_the_same_map(
    convolutional_method, untouched, images, classes, normed, held
):
    expected = convolutional_method(ModelScalar(normed[1], logit(classes)), images)
    if "frozen" not in held:
        model = Normed().requires_grad_(requires_grad=False)
        with untouched(model):
            held["frozen"] = (model, Network.read(model, images))
    model, network = held["frozen"]
    with untouched(model):
        actual = convolutional_method(ModelScalar(network, logit(classes)), images)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_gradient_mode_does_not_matter(
    mode, convolutional_method, read, images, classes
):
    f = ModelScalar(read("clean")[1], logit(classes))
    expected = convolutional_method(f, images)
    with mode():
        actual = convolutional_method(f, images).clone()
    torch.testing.assert_close(actual, expected)


def test_classes_and_images_that_were_made_in_inference_mode_serve(
    convolutional_method, read, explained, images, classes
):
    with torch.inference_mode():
        own, targets = images.clone(), classes.clone()
    actual = convolutional_method(ModelScalar(read("clean")[1], logit(targets)), own)
    torch.testing.assert_close(actual, explained("clean", convolutional_method))


def test_a_model_can_be_copied_saved_loaded_and_converted_afterwards(
    convolutional_method, images, classes, normed
):
    model, network = normed
    convolutional_method(ModelScalar(network, logit(classes)), images)
    assert list(model.state_dict()) == list(Normed().state_dict())
    Normed().load_state_dict(model.state_dict(), strict=True)
    copy.deepcopy(model).float()(images.float())
    copy.deepcopy(model).train()(images)


def test_the_users_random_numbers_change_no_map(
    convolutional_method, explained, read, images, classes
):
    f = ModelScalar(read("clean")[1], logit(classes))
    with torch.random.fork_rng():
        torch.manual_seed(123)
        actual = convolutional_method(f, images)
    torch.testing.assert_close(actual, explained("clean", convolutional_method))


@pytest.mark.parametrize("name", sorted(FROM_CALLABLES))
def test_methods_that_need_no_graph_work_on_the_model_itself(name, read, images, classes):
    from whence.attribution import method_named

    cheap = {"samples": 4, "steps": 3, "masks": 8, "cells": 3, "searches": 1, "window": 4}
    cheap |= {"stride": 4, "superpixels": "grid:2"}
    made = {entry.card.name: entry.make for entry in CATALOGUE}[name]
    known = {key: value for key, value in cheap.items() if key in made.__dataclass_fields__}
    method = method_named(name, known)
    model, network = read("clean")
    direct = method(ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(direct, method(ModelScalar(network, logit(classes)), images))


def test_without_a_graph_the_rest_says_what_is_needed(convolutional_method, read, images, request):
    model, _ = read("clean")
    name = request.node.callspec.id
    f = ModelScalar(model, logit(0))
    if name in FROM_CALLABLES:
        assert attribute(convolutional_method, f, images).values.isfinite().all()
        return
    with pytest.raises(WhenceError, match=r"Network\.read"):
        convolutional_method(f, images)
