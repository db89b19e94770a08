"""Folding: the same function in fewer operations."""

import pytest
import torch
from torch import nn

from whence.network import Network


class Stack(nn.Module):
    def __init__(self, layer, norm, *, skip=False, affine=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer, self.norm = layer(), norm(5, affine=affine)
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            if affine:
                nn.init.normal_(self.norm.weight)
                nn.init.normal_(self.norm.bias)
        self.skip = skip
        self.eval().double()

    def forward(self, images):
        values = images.flatten(1) if isinstance(self.layer, nn.Linear) else images
        values = self.layer(values)
        normalised = self.norm(values)
        values = normalised + values if self.skip else normalised
        return values.relu().flatten(2).mean(2) if values.ndim == 4 else values.relu()


LAYERS = {
    "conv": lambda: nn.Conv2d(3, 5, 3, padding=1),
    "conv without bias": lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False),
    "dilated conv": lambda: nn.Conv2d(3, 5, 3, dilation=2),
    "linear": lambda: nn.Linear(192, 5),
}
IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def operations(network):
    return [row.operation for row in network.describe().rows]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_norm_goes_into_the_layer_before_it(name, affine):
    kind = nn.BatchNorm1d if name == "linear" else nn.BatchNorm2d
    model = Stack(LAYERS[name], kind, affine=affine)
    network = Network.read(model, IMAGES)
    folded = network.folded()
    assert "batch_norm" in operations(network)
    assert "batch_norm" not in operations(folded)
    torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-12)


def test_a_batch_norm_whose_input_is_used_elsewhere_stays():
    model = Stack(LAYERS["conv"], nn.BatchNorm2d, skip=True)
    folded = Network.read(model, IMAGES).folded()
    assert "batch_norm" in operations(folded)
    torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-12)


def test_a_batch_norm_before_its_layer_stays():
    class Before(Stack):
        def forward(self, images):
            return self.layer(self.norm(torch.cat([images, images[:, :2]], 1))).mean((2, 3))

    model = Before(lambda: nn.Conv2d(5, 4, 3, padding=1), nn.BatchNorm2d)
    folded = Network.read(model, IMAGES).folded()
    torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-12)


def test_one_layer_under_two_batch_norms_is_folded_into_each():
    class Twice(Stack):
        def __init__(self):
            super().__init__(lambda: nn.Conv2d(5, 5, 1), nn.BatchNorm2d)
            self.other = nn.BatchNorm2d(5).eval().double()
            nn.init.constant_(self.other.bias, 3.0)

        def forward(self, images):
            wide = torch.cat([images, images[:, :2]], 1)
            return self.other(self.layer(self.norm(self.layer(wide)).relu())).mean((2, 3))

    model = Twice()
    folded = Network.read(model, IMAGES).folded()
    assert "batch_norm" not in operations(folded)
    torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-10, atol=1e-12)


def test_folded_weights_are_copies_and_the_model_keeps_its_own(untouched):
    model = Stack(LAYERS["conv"], nn.BatchNorm2d)
    network = Network.read(model, IMAGES)
    with untouched(model):
        folded = network.folded()
        before = folded(IMAGES)
    with torch.no_grad():
        model.layer.weight.zero_()
    assert torch.equal(folded(IMAGES), before)
    assert not any(p is q for p in folded.parameters.values() for q in model.parameters())


def test_a_folded_network_can_be_asked_everything_else():
    model = Stack(LAYERS["conv"], nn.BatchNorm2d)
    folded = Network.read(model, IMAGES).folded()
    logits = folded(IMAGES)
    cut = folded.cut()
    assert torch.equal(cut.tail(*cut.head(IMAGES)), logits)
    assert torch.equal(folded.under([])(IMAGES), logits)
    assert torch.equal(folded.function()(folded.parameters, IMAGES)[0], logits)
    assert folded.describe().parameters == 3 * 5 * 9 + 5
