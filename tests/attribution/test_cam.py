"""Grad-CAM against its closed form behind a pooled head, and against hooks."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from whence.attribution import GradCAM, attribute
from whence.core import Custom, ModelScalar, contrast, log_probability, logit
from whence.errors import SettingError, ShapeError
from whence.network import Network


class Residual(nn.Module):
    """A residual block whose sum and ReLU are functional and in place."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, maps):
        return functional.relu_(self.body(maps).add_(maps))


class Patches(nn.Module):
    """A transformer over 4 x 4 patches with a class token in front."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 2, stride=2)
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(3)])
        self.mix = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)
        self.think = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, images):
        tokens = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        query, key, value = self.mix(self.norms[0](tokens)).chunk(3, dim=-1)
        tokens = tokens + self.out(functional.scaled_dot_product_attention(query, key, value))
        tokens = tokens + self.think(self.norms[1](tokens))
        return self.head(self.norms[2](tokens)[:, 0])


class Backwards(TorchDispatchMode):
    """Counts the backwards of convolutions."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution_backward.default
        return func(*args, **(kwargs or {}))


def made(body, head):
    torch.manual_seed(3)
    return nn.Sequential(body(), head()).double().eval()


@pytest.fixture
def pooled():
    """A network whose head is an average over positions and a linear layer."""
    return made(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), Residual(6)),
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
    )


@pytest.fixture
def dense():
    """A network whose head mixes the positions."""
    return made(
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU()),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(96, 12), nn.Tanh(), nn.Linear(12, 4)),
    )


def scalar(model, images, target):
    return ModelScalar(Network.read(model, images), target)


def test_behind_a_pooled_head_it_is_the_class_activation_map(pooled, images, classes):
    f = scalar(pooled, images, logit(classes))
    maps = GradCAM(relu=False, upsample=False)(f, images)
    weights, bias = pooled[1][2].weight[classes], pooled[1][2].bias[classes]
    expected = torch.einsum("bk,bkhw->bhw", weights, pooled[0](images)) / 16
    torch.testing.assert_close(maps[:, 0], expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), f(images) - bias, rtol=1e-12, atol=1e-13)


def test_it_is_the_formula_with_activations_taken_by_autograd(dense, images, classes):
    f = scalar(dense, images, contrast(classes, (classes + 1) % 4))
    activation = dense[0](images).detach().requires_grad_()
    logits = dense[1](activation)
    rows = torch.arange(5)
    value = logits[rows, classes] - logits[rows, (classes + 1) % 4]
    (slopes,) = torch.autograd.grad(value.sum(), activation)
    weights = slopes.mean(dim=(2, 3), keepdim=True)
    expected = (weights * activation).sum(dim=1, keepdim=True).relu()
    maps = GradCAM(upsample=False)(f, images)
    torch.testing.assert_close(maps, expected.detach(), rtol=1e-12, atol=1e-14)
    assert 0 < (maps > 0).double().mean() < 1, "the ReLU has something to do"


def test_the_map_is_enlarged_bilinearly_without_aligned_corners(dense, images):
    f = scalar(dense, images, logit(1))
    small, large = GradCAM(upsample=False)(f, images), GradCAM()(f, images)
    assert (small.shape, large.shape) == ((5, 1, 4, 4), (5, 1, 8, 8))
    # Twice the size: an inner pixel mixes its two nearest cells 3 to 1 along each axis.
    rows = 0.75 * small[:, 0, 1] + 0.25 * small[:, 0, 0]
    inner = 0.75 * rows[:, 2] + 0.25 * rows[:, 3]
    torch.testing.assert_close(large[:, 0, 2, 5], inner)
    torch.testing.assert_close(large[:, 0, 0, 0], small[:, 0, 0, 0])


def test_the_map_is_in_the_units_of_the_value_and_never_rescaled(dense, images):
    network = Network.read(dense, images)
    single = GradCAM()(ModelScalar(network, Custom(lambda z: z[:, 1])), images)
    triple = GradCAM()(ModelScalar(network, Custom(lambda z: 3 * z[:, 1])), images)
    torch.testing.assert_close(triple, 3 * single)


def test_a_map_with_nothing_in_favour_is_zero_and_reported(pooled, images):
    with torch.no_grad():
        pooled[1][2].weight[0] = -1.0
    f = scalar(pooled, images, logit(torch.tensor([0, 1, 0, 2, 3])))
    result = attribute(GradCAM(), f, images)
    assert (result.values[[0, 2]] == 0).all()
    assert result.blank.tolist()[0] is True
    assert result.blank.tolist()[2] is True
    assert not result.blank.all()
    signed = attribute(GradCAM(relu=False), f, images)
    assert (signed.values[0] < 0).all()
    assert not signed.blank.any()


def test_the_cut_can_be_named(pooled, images):
    f = scalar(pooled, images, logit(1))
    first = GradCAM(node="0.0", relu=False, upsample=False)(f, images)
    activation = pooled[0][0](images).detach().requires_grad_()
    value = pooled[1](pooled[0][1](activation.clone()))[:, 1]
    (slopes,) = torch.autograd.grad(value.sum(), activation)
    expected = (slopes.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1, keepdim=True)
    torch.testing.assert_close(first, expected.detach(), rtol=1e-12, atol=1e-14)


def test_tokens_are_a_map_and_the_class_token_is_not_in_it(images):
    torch.manual_seed(4)
    model = Patches().double().eval()
    f = scalar(model, images, logit(1))
    result = attribute(GradCAM(relu=False, upsample=False), f, images)
    assert result.values.shape == (5, 1, 4, 4)
    assert not result.blank.any(), "the gradient still reaches every patch"
    cut = f.model.cut()
    state = [value.detach() for value in cut.head(images)]
    state[0].requires_grad_()
    (slopes,) = torch.autograd.grad(cut.tail(*state)[:, 1].sum(), state[0])
    tokens = [t[:, -16:].unflatten(1, (4, 4)).permute(0, 3, 1, 2) for t in (state[0], slopes)]
    expected = (tokens[1].mean(dim=(2, 3), keepdim=True) * tokens[0]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(result.values, expected.detach(), rtol=1e-12, atol=1e-14)


def test_nothing_in_front_of_the_cut_is_differentiated(pooled, images):
    f = scalar(pooled, images, logit(1))
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with Backwards() as seen, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        GradCAM()(f, images)
    assert seen.count == 0
    assert max(kept) <= 5 * 6 * 16, "no more is kept than the activation at the cut"
    assert images.numel() not in kept


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_batch_gives_what_its_images_give_alone(batch_size, dense, images, classes):
    f = scalar(dense, images, log_probability(classes))
    together = GradCAM(batch_size=batch_size)(f, images)
    for i in range(5):
        alone = GradCAM()(f.at(torch.tensor([i])), images[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_may_have_switched_gradients_off(mode, pooled, images):
    f = scalar(pooled, images, logit(1))
    with mode():
        values = GradCAM()(f, images.clone())
    torch.testing.assert_close(values.clone(), GradCAM()(f, images))


def test_the_model_and_the_images_come_back_as_they_were(pooled, images, untouched):
    before = images.clone()
    with untouched(pooled):
        maps = GradCAM()(scalar(pooled, images, logit(1)), images)
    assert torch.equal(images, before)
    assert not maps.requires_grad


def test_half_precision_goes_in_and_comes_out(pooled, images):
    exact = GradCAM()(scalar(pooled, images, logit(1)), images)
    f = scalar(pooled.bfloat16(), images.bfloat16(), logit(1))
    maps = GradCAM()(f, images.bfloat16())
    assert maps.dtype == torch.bfloat16
    assert torch.corrcoef(torch.stack([maps.double().flatten(), exact.flatten()]))[0, 1] > 0.95


def test_a_function_without_a_network_is_told_how_to_get_one(pooled, images):
    with pytest.raises(SettingError, match=r"Network.read\(model, images\).*Gradient, InputX"):
        GradCAM()(ModelScalar(pooled, logit(1)), images)


def test_images_of_another_size_than_the_network_was_read_with_are_refused(pooled, images):
    with pytest.raises(ShapeError, match="read with images of shape"):
        GradCAM()(scalar(pooled, images, logit(1)), images[:, :, :6])
