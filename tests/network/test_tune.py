"""Tuning: the same function for less time and memory."""

import pytest
import torch
from torch import nn

from whence.attribution import LRP, DeepLift, GradCAM, Gradient, GuidedBackpropagation
from whence.attribution import IntegratedGradients as Integrated
from whence.core import ModelScalar, logit
from whence.errors import NumericsError, SettingError, UnsupportedOperation
from whence.network import Network
from whence.network.operations import name_of


class Residual(nn.Module):
    """Convolutions, norms, a skip and a table that parameters alone decide."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
            self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
            for norm in self.norms:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias)
            self.table = nn.Parameter(torch.randn(4, 6))
            self.head = nn.Linear(6, 4)
        self.eval()

    def forward(self, images):
        values = self.norms[0](self.first(images)).relu_()
        values = values + self.norms[1](self.second(values))
        values = (
            values * (self.table.softmax(dim=0).sum(dim=0) + self.table[0].sigmoid())[:, None, None]
        )
        return self.head(values.relu().mean((2, 3)))


def images_of(dtype):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)


def pair(kind, /, **settings):
    images = images_of(kind)
    network = Network.read(Residual().to(kind), images)
    return network, network.tuned(**settings), images


def operations(network):
    return {name_of(node) for node in network.graph.nodes}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_logits_and_gradients_are_the_same_to_rounding(dtype, rounding, channels_last):
    network, tuned, images = pair(dtype, channels_last=channels_last)
    torch.testing.assert_close(tuned(images), network(images), rtol=rounding, atol=rounding)
    maps = [Gradient()(ModelScalar(n, logit(1)), images) for n in (network, tuned)]
    scale = maps[0].abs().max()
    torch.testing.assert_close(maps[1] / scale, maps[0] / scale, rtol=rounding, atol=rounding)


def test_norms_are_folded_and_what_weights_alone_decide_is_computed_once():
    network, tuned, _ = pair(torch.float64)
    assert {"batch_norm", "softmax", "sigmoid"} <= operations(network)
    assert not {"batch_norm", "softmax", "sigmoid"} & operations(tuned)


def test_no_weight_asks_for_a_gradient_and_the_model_keeps_its_own(untouched):
    model = Residual().double()
    network = Network.read(model, images_of(torch.float64))
    with untouched(model):
        tuned = network.tuned(dtype=torch.bfloat16)
        tuned(images_of(torch.float64))
    assert tuned.parameters
    assert not any(p.requires_grad for p in tuned.parameters.values())
    assert all(p.requires_grad for p in model.parameters())


def kept_bytes(network, images):
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network.module(images.clone().requires_grad_())
    weights = {p.untyped_storage().data_ptr() for p in network.module.parameters()}
    weights |= {b.untyped_storage().data_ptr() for b in network.module.buffers()}
    return sum(size for place, size in kept.items() if place not in weights)


def test_a_pass_keeps_less():
    network, tuned, images = pair(torch.float32)
    lowered = network.tuned(dtype=torch.bfloat16)
    assert kept_bytes(tuned, images) < 0.7 * kept_bytes(network, images)
    assert kept_bytes(lowered, images) < 0.6 * kept_bytes(tuned, images)


def test_feature_maps_keep_their_channels_side_by_side():
    _, tuned, images = pair(torch.float32)
    _, flat, _ = pair(torch.float32, channels_last=False)
    assert tuned.cut("first").head(images)[0].is_contiguous(memory_format=torch.channels_last)
    assert flat.cut("first").head(images)[0].is_contiguous()


def test_bfloat16_takes_and_returns_single_precision():
    network, tuned, images = pair(torch.float32, dtype=torch.bfloat16)
    logits = tuned(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, network(images))
    # Eight bits of mantissa round by 2^-9 each; some operations in a row, a few times that.
    torch.testing.assert_close(logits, network(images), rtol=0.03, atol=0.03)
    values = Gradient()(ModelScalar(tuned, logit(1)), images)
    assert values.dtype == torch.float32


def test_integrated_gradients_add_up_in_single_precision_on_a_bfloat16_network():
    network, tuned, images = pair(torch.float32, dtype=torch.bfloat16)
    method = Integrated(steps=256)
    exact = method(ModelScalar(network, logit(1)), images)
    values = method(ModelScalar(tuned, logit(1)), images)
    # Added up in bfloat16, 256 terms would lose half of themselves.
    assert float((values.sum() - exact.sum()).abs() / exact.sum().abs()) < 0.03


METHODS = [LRP(), LRP(composite="gamma"), DeepLift(), GradCAM(), GuidedBackpropagation()]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method)[:28])
def test_rules_and_cuts_work_on_a_tuned_network(method):
    network, tuned, images = pair(torch.float64)
    maps = [method(ModelScalar(n, logit(2)), images) for n in (network, tuned)]
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-9, atol=1e-11)


def test_a_tuned_network_does_not_follow_training():
    model = Residual()
    images = images_of(torch.float32)
    tuned = Network.read(model, images).tuned()
    before = tuned(images)
    with torch.no_grad():
        model.first.weight.zero_()
    assert torch.equal(tuned(images), before)


def test_other_precisions_are_refused():
    with pytest.raises(SettingError, match=r"torch.bfloat16 or torch.float16, or None"):
        pair(torch.float32, dtype=torch.float64)


def test_an_overflow_in_half_precision_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 300), nn.Linear(300, 2)).eval()
    nn.init.constant_(model[1].weight, 50.0)
    nn.init.constant_(model[2].weight, 50.0)
    network = Network.read(model, torch.ones(2, 3, 8, 8))
    with pytest.raises(NumericsError, match=r"overflow in torch.float16.*bfloat16"):
        network.tuned(dtype=torch.float16)


def test_an_operation_without_a_half_precision_is_named():
    class Spectrum(nn.Module):
        def forward(self, images):
            return torch.linalg.qr(images.mean(1) + torch.eye(8, device=images.device)).R.sum(2)

    network = Network.read(Spectrum().eval(), images_of(torch.float32))
    with pytest.raises(UnsupportedOperation, match=r"cannot be tuned to torch.bfloat16"):
        network.tuned(dtype=torch.bfloat16)
