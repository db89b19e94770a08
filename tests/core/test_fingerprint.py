"""Fingerprints: the same for the same bytes, another for one bit."""

import copy

import pytest
import torch
from torch import nn

from whence.core import fingerprint_data, fingerprint_model, fingerprint_tensor


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2)).eval()


def flip_bit(tensor, place=0):
    """Flip the lowest bit of one number."""
    raw = tensor.data.view(-1)[place : place + 1].view(torch.uint8)
    raw[0] ^= 1


def test_a_copy_has_the_same_fingerprint(model, untouched):
    with untouched(model):
        name = fingerprint_model(model)
    assert len(name) == 64
    assert fingerprint_model(copy.deepcopy(model)) == name


@pytest.mark.parametrize("key", ["0.weight", "1.running_mean", "1.num_batches_tracked", "2.bias"])
def test_one_bit_of_any_weight_or_buffer_changes_the_models_fingerprint(model, key):
    before = fingerprint_model(model)
    flip_bit(model.state_dict()[key])
    changed = fingerprint_model(model)
    assert changed != before
    flip_bit(model.state_dict()[key])
    assert fingerprint_model(model) == before


def test_the_graph_is_part_of_the_models_fingerprint(model):
    assert fingerprint_model(model, "relu(conv(x))") != fingerprint_model(model, "conv(relu(x))")


def test_the_names_of_the_weights_are_part_of_the_models_fingerprint():
    layer = nn.Linear(2, 2)
    one, other = nn.ModuleDict({"a": layer}), nn.ModuleDict({"b": layer})
    assert fingerprint_model(one) != fingerprint_model(other)


def test_a_tensors_fingerprint_knows_type_and_shape():
    zeros = torch.zeros(2, 3)
    same_bytes = [zeros.view(torch.int32), zeros.reshape(3, 2), zeros.reshape(6)]
    names = {fingerprint_tensor(t) for t in [zeros, *same_bytes]}
    assert len(names) == 4


def test_a_tensors_fingerprint_ignores_how_it_lies_in_memory():
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    other = tensor.contiguous(memory_format=torch.channels_last)
    assert other.stride() != tensor.stride()
    assert fingerprint_tensor(other) == fingerprint_tensor(tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.complex64])
def test_every_type_of_number_has_a_fingerprint(dtype):
    assert fingerprint_tensor(torch.ones(3).to(dtype)) != fingerprint_tensor(torch.ones(3))


def test_an_empty_tensor_and_a_single_number_have_fingerprints():
    assert fingerprint_tensor(torch.zeros(0)) != fingerprint_tensor(torch.tensor(0.0))


def test_a_datasets_fingerprint_knows_images_labels_and_order():
    samples = [("a", 0), ("b", 1)]
    others = [[("b", 1), ("a", 0)], [("a", 1), ("b", 1)], [("a", 0)], [("a", 0), ("c", 1)], []]
    names = {fingerprint_data(s) for s in [samples, *others]}
    assert len(names) == 6
    assert fingerprint_data(iter(samples)) == fingerprint_data(samples)
