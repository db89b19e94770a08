"""The fixture that protects the user's model can itself fail."""

import pytest
import torch
from torch import nn


def change_weight(model):
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-3


def replace_parameter(model):
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


def freeze(model):
    model[0].weight.requires_grad_(requires_grad=False)


def leave_gradient(model):
    model(torch.ones(2, 3)).sum().backward()


def switch_mode(model):
    model[1].train()


def leave_hook(model):
    model[1].register_forward_hook(lambda *_: None)


def leave_full_backward_hook(model):
    model[1].register_full_backward_hook(lambda *_: None)


def leave_tensor_hook(model):
    model[0].weight.register_hook(lambda grad: grad)


def add_attribute(model):
    model[0].note = "mine"


def replace_forward(model):
    model.forward = lambda x: x


def add_buffer(model):
    model.register_buffer("seen", torch.zeros(1))


def replace_child(model):
    model[1] = nn.Identity()


DAMAGES = [
    change_weight,
    replace_parameter,
    freeze,
    leave_gradient,
    switch_mode,
    leave_hook,
    leave_full_backward_hook,
    leave_tensor_hook,
    add_attribute,
    replace_forward,
    add_buffer,
    replace_child,
]


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


@pytest.mark.parametrize("damage", DAMAGES)
def test_untouched_notices_what_was_left_behind(untouched, model, damage):
    with pytest.raises(AssertionError, match="came back changed"), untouched(model):
        damage(model)


def test_untouched_notices_also_when_the_body_raises(untouched, model):
    with pytest.raises(AssertionError, match="came back changed"), untouched(model):
        freeze(model)
        raise KeyError


def test_untouched_lets_a_clean_body_and_its_error_through(untouched, model):
    with untouched(model):
        model(torch.ones(2, 3)).sum()
    with pytest.raises(KeyError), untouched(model):
        raise KeyError
