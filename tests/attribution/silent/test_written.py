"""However a network is written, every method gives the map of its clean twin."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import (
    LRP,
    Deconvnet,
    DeepLift,
    Gradient,
    GuidedBackpropagation,
    GuidedGradCAM,
    attribute,
)
from whence.core import ModelScalar, logit
from whence.errors import UnsupportedOperation
from whence.network import Network

WAYS = ["functional", "reused", "in-place", "tied", "called-twice", "nested"]
RULED = [GuidedBackpropagation(), Deconvnet(), GuidedGradCAM()]


@pytest.mark.parametrize("way", WAYS)
def test_the_twins_are_the_same_function(way, make, images):
    assert torch.equal(make(way)(images), make("clean")(images))


@pytest.mark.parametrize("way", WAYS)
def test_every_method_gives_the_clean_twins_map(way, convolutional_method, explained):
    values = explained(way, convolutional_method)
    assert values.isfinite().all()
    torch.testing.assert_close(values, explained("clean", convolutional_method))


@pytest.mark.parametrize("way", ["clean", *WAYS])
@pytest.mark.parametrize("method", RULED, ids=lambda m: type(m).__name__)
def test_guided_rules_are_not_the_gradient_however_the_relu_is_written(method, way, explained):
    values, gradient = explained(way, method), explained(way, Gradient())
    assert (values - gradient).abs().max() > 0.1 * gradient.abs().max()


@pytest.mark.parametrize("way", ["clean", *WAYS])
def test_deeplift_adds_up_however_the_relu_is_written(way, read, images, classes):
    network = read(way)[1]
    result = attribute(DeepLift(), ModelScalar(network, logit(classes)), images)
    assert result.gap.max() < 1e-10


@pytest.mark.parametrize("way", ["clean", *WAYS])
def test_relevance_is_accounted_for_however_the_network_is_written(way, read, images, classes):
    network = read(way)[1]
    account = LRP(composite="epsilon").account(ModelScalar(network, logit(classes)), images)
    whole = account.values.flatten(1).sum(1) + account.absorbed
    torch.testing.assert_close(whole, account.explained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU(), nn.Tanh()], ids=str)
@pytest.mark.parametrize("method", RULED, ids=lambda m: type(m).__name__)
def test_guided_rules_raise_where_there_is_no_relu(method, activation, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), activation, nn.Flatten(), nn.Linear(144, 4))
    f = ModelScalar(Network.read(model.double().eval(), images), logit(0))
    with pytest.raises(UnsupportedOperation, match="would be the plain gradient"):
        method(f, images)


@pytest.mark.parametrize("method", RULED, ids=lambda m: type(m).__name__)
def test_guided_rules_raise_on_a_transformer(method, read, images):
    with pytest.raises(UnsupportedOperation, match=r"'gelu' in think\.0"):
        method(ModelScalar(read("transformer")[1], logit(0)), images)


class ByHand(nn.Module):
    """A convolution, an activation, and a head behind a ReLU."""

    def __init__(self, act):
        super().__init__()
        self.act = act
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        generator = torch.Generator().manual_seed(0)
        self.double().eval()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def forward(self, images):
        return self.head(torch.relu(self.act(self.conv(images)).mean((2, 3))))


BY_HAND = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp of a number": lambda x: torch.clamp(x, 0.0),
    "clip": lambda x: x.clip(0),
    "clamp_min": lambda x: x.clamp_min(0),
    "in place": lambda x: (1 * x).clamp_(min=0),
    "threshold": lambda x: functional.threshold(x, 0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(x, torch.zeros_like(x)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked": lambda x: x.masked_fill(x < 0, 0.0),
    "gate": lambda x: x * (x > 0),
    "gate as numbers": lambda x: x * (x > 0).to(x.dtype),
    "detached gate": lambda x: x * (x > 0).to(x.dtype).detach(),
    "heaviside": lambda x: x * torch.heaviside(x, torch.zeros_like(x)),
    "absolute": lambda x: (x + x.abs()) / 2,
    "leaky": lambda x: functional.leaky_relu(x, 0.0),
    "prelu": lambda x: functional.prelu(x, torch.zeros(1, dtype=x.dtype)),
    "relu6": lambda x: functional.relu6(1e-3 * x) * 1e3,
    "hardtanh": lambda x: functional.hardtanh(x, 0.0, 1e3),
    "both bounds": lambda x: x.clamp(0, 1e3),
}
"""The same function of values in this range, written in other ways."""

SPECIAL = {
    "guided-backpropagation": GuidedBackpropagation(),
    "deconvnet": Deconvnet(),
    "guided-grad-cam": GuidedGradCAM(),
    "deeplift": DeepLift(),
    **{name: LRP(composite=name) for name in ("epsilon", "epsilon-plus", "epsilon-gamma-box")},
}


@pytest.fixture
def by_hand(held, images, classes):
    """Return the values of a method on one of these networks, which are read once."""

    def explain(way, method):
        if (ByHand, way) not in held:
            act = BY_HAND.get(way, torch.relu)
            held[ByHand, way] = ModelScalar(Network.read(ByHand(act), images), logit(classes))
        return attribute(method, held[ByHand, way], images)

    return explain


@pytest.mark.parametrize("method", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("way", BY_HAND)
def test_a_relu_written_by_hand_gives_the_same_map_or_is_refused(way, method, by_hand, images):
    torch.testing.assert_close(ByHand(BY_HAND[way])(images), ByHand(torch.relu)(images))
    expected = by_hand("relu", method).values
    try:
        actual = by_hand(way, method)
    except UnsupportedOperation:
        return
    torch.testing.assert_close(actual.values, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("way", ["clamp", "clamp of a number", "clamp_min", "in place"])
def test_cutting_at_zero_is_a_relu(way, method, by_hand):
    values, expected = by_hand(way, method).values, by_hand("relu", method).values
    assert values.any()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ["clean", *WAYS])
def test_x_gradient_is_refused_with_biases_however_the_network_is_written(way, read, images):
    from whence.attribution import method_named

    with pytest.raises(UnsupportedOperation, match="needs an X-DNN"):
        method_named("x-gradient")(ModelScalar(read(way)[1], logit(0)), images)
