"""The catalogue: every method by its name, with settings as a command line writes them."""

import pytest
import torch

import whence.attribution as room
from whence.attribution import (
    CATALOGUE,
    GradCAM,
    Gradient,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    cards,
    method_named,
    settings_of,
)
from whence.core import Colour, Mean, Method, Normalisation
from whence.errors import SettingError


def test_every_method_of_the_room_has_a_card_and_a_name():
    methods = {
        getattr(room, name)
        for name in room.__all__
        if isinstance(getattr(room, name), type)
        and hasattr(getattr(room, name), "account")
        and name != "Accountable"
    }
    assert {entry.make for entry in CATALOGUE} == methods
    names = [card.name for card in cards()]
    assert len(set(names)) == len(names)
    assert all(vars(card)[field] for card in cards() for field in vars(card))


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.card.name)
def test_a_name_without_settings_is_the_default_method(entry):
    method = method_named(entry.card.name)
    assert method == entry.make()
    assert isinstance(method, Method)


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.card.name)
def test_the_settings_as_written_give_the_default_method_back(entry):
    assert method_named(entry.card.name, settings_of(entry.card.name)) == entry.make()


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("integrated-gradients", {"steps": "64"}, IntegratedGradients(steps=64)),
        (
            "integrated-gradients",
            {"steps": "none", "tolerance": "1e-2", "rule": "right", "max-steps": 99},
            IntegratedGradients(steps=None, tolerance=0.01, rule="right", max_steps=99),
        ),
        ("integrated-gradients", {"baseline": "mean"}, IntegratedGradients(baseline=Mean())),
        ("integrated-gradients", {"tolerance": 1}, IntegratedGradients(tolerance=1.0)),
        ("gradient", {"create_graph": "yes"}, Gradient(create_graph=True)),
        ("gradient", {"create_graph": False, "batch_size": "8"}, Gradient(batch_size=8)),
        ("smoothgrad", {"sigma": "0.1", "seed": 3}, SmoothGrad(sigma=0.1, seed=3)),
        ("smoothgrad", {"method": "input-x-gradient"}, SmoothGrad(method=InputXGradient())),
        ("grad-cam", {"node": "layer4", "relu": "off"}, GradCAM(node="layer4", relu=False)),
    ],
)
def test_settings_are_read_by_the_type_of_their_field(name, settings, expected):
    assert method_named(name, settings) == expected


def test_a_black_baseline_is_black_in_the_models_units():
    units = Normalisation(mean=(0.5,), std=(0.25,))
    method = method_named("integrated-gradients", {"baseline": "black"}, normalisation=units)
    assert method.baseline == Colour(value=(0.0,), normalisation=units)
    assert (method.baseline(torch.rand(1, 3, 2, 2)) == -2).all()


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("intergrated_gradients", {}, "Did you mean integrated-gradients"),
        ("GradCAM", {}, "Did you mean grad-cam"),
        ("saliency", {}, "There are: gradient, input-x-gradient"),
        ("integrated-gradients", {"step": "3"}, "Unknown setting .*'step'. Did you mean steps"),
        (
            "integrated-gradients",
            {"steps": "many"},
            "steps takes a whole number or none; got 'many'",
        ),
        ("integrated-gradients", {"steps": "2.5"}, "steps takes a whole number"),
        ("integrated-gradients", {"steps": True}, "steps takes a whole number"),
        ("integrated-gradients", {"rule": "left"}, "one of midpoint, right, trapezoid, gauss-l"),
        ("integrated-gradients", {"baseline": "grey"}, "Unknown baseline 'grey'"),
        ("integrated-gradients", {"steps": "0"}, "steps must be at least 1"),
        ("gradient", {"create_graph": "maybe"}, "true or false; got 'maybe'"),
        ("smoothgrad", {"method": "grad"}, "Unknown method 'grad'. Did you mean"),
        ("smoothgrad", {"sigma": "wide"}, "sigma takes a number; got 'wide'"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(name, settings, says):
    with pytest.raises(SettingError, match=says):
        method_named(name, settings)
