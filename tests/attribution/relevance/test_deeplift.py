"""DeepLIFT: completeness on every kind of network, its formulas, and Captum."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.attribution import InputXGradient, IntegratedGradients, attribute
from whence.attribution.deeplift import DeepLift
from whence.core import Mean, ModelScalar, log_probability, logit
from whence.errors import SettingError, ShapeError, UnsupportedOperation
from whence.network import Network

KINDS = ["vgg", "vgg-free", "resnet", "densenet", "gated", "vit", "vit-plain"]


def shifted(images):
    return 0.3 * images.flip(0) - 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("baseline", [torch.zeros_like, shifted])
def test_the_values_add_up_to_the_difference(baseline, kind, models, scalar, images, untouched):
    model = models[kind]()
    f = scalar(model)
    with untouched(model):
        account = DeepLift(baseline=baseline).account(f, images)
    difference = (f(images) - f(baseline(images))).detach()
    torch.testing.assert_close(account.explained, f(images).detach())
    torch.testing.assert_close(account.reference, difference)
    torch.testing.assert_close(account.values.flatten(1).sum(1), difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_at_its_baseline_has_the_gradient_as_multiplier(kind, models, scalar, images):
    f = scalar(models[kind]())
    change = 1e-5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).double()
    near = DeepLift(baseline=lambda x: x - change)(f, images)
    expected = IntegratedGradients(steps=1, baseline=lambda x: x - change)(f, images)
    size = expected.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(near / size, expected / size, rtol=0, atol=1e-3)


class Twin(nn.Module):
    """The small VGG network with functional, reused and in-place ReLUs."""

    def __init__(self, model):
        super().__init__()
        self.layers = nn.ModuleList(model)
        self.act = nn.ReLU(inplace=True)

    def forward(self, images):
        layers = self.layers
        maps = self.act(layers[2](functional.relu(layers[0](images), inplace=True)))
        maps = layers[5](functional.max_pool2d(maps, 2)).relu_().mean((2, 3))
        return layers[11](self.act(layers[9](maps)))


def test_however_the_network_is_written_the_values_are_the_same(models, scalar, images):
    model = models["vgg"]()
    expected = DeepLift(baseline=shifted)(scalar(model), images)
    actual = DeepLift(baseline=shifted)(scalar(Twin(model).eval()), images)
    torch.testing.assert_close(actual, expected)


def test_without_biases_and_from_zero_it_is_input_times_gradient_on_a_relu_network(
    models, scalar, images
):
    f = scalar(models["vgg-free"]())
    torch.testing.assert_close(DeepLift()(f, images), InputXGradient()(f, images))


def plain(layers):
    """Convolutions, ReLUs of their own, averages and linear layers; no maximum."""
    head = nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 4)
    stem = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 3)
    model = nn.Sequential(*stem, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)
    model.double().eval()
    for layer, like in zip((model[0], model[3], model[7], model[9]), layers, strict=True):
        shape = layer.weight.shape
        weight = like.weight.detach().flatten().repeat(9)[: shape.numel()]
        layer.weight = nn.Parameter(weight.view(shape).clone())
    return model


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.filterwarnings("ignore:Input Tensor")
@pytest.mark.parametrize("baseline", [torch.zeros_like, shifted])
def test_it_is_captums_on_modules(baseline, models, scalar, images, classes):
    captum = pytest.importorskip("captum.attr", reason="needs whence[parity]")
    source = models["vgg"]()
    model = plain([source[0], source[2], source[9], source[11]])
    expected = captum.DeepLift(model).attribute(
        images.clone().requires_grad_(), baseline(images), target=classes
    )
    actual = DeepLift(baseline=baseline)(scalar(model), images)
    torch.testing.assert_close(actual, expected.detach(), rtol=1e-6, atol=1e-9)


def naive(conv, head, images, start, classes):
    """Return DeepLIFT of convolution, ReLU, maximum of 2 x 2 and a linear layer, by loops."""
    before, before_start = conv(images), conv(start)
    maps, maps_start = before.relu(), before_start.relu()
    shares = torch.zeros_like(maps)
    weights = head.weight[classes].view(-1, *maps.shape[1:2], 4, 4)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        image, channel, row, column = place
        window = (image, channel, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        rise = maps[window].max() - maps_start[window].max()
        if rise == 0:
            continue
        winner = (maps if rise > 0 else maps_start)[window].flatten().argmax()
        change = (maps - maps_start)[window].flatten()[winner]
        shares[window].view(2, 2)[winner // 2, winner % 2] += weights[tuple(place)] * rise / change
    shares = shares * (maps - maps_start) / (before - before_start)
    return (images - start) * functional.conv_transpose2d(shares, conv.weight, padding=1)


def test_a_maximum_behind_a_relu_follows_its_definition(models, scalar, images, classes):
    """Captum adds up to the same here, with other shares: the loops hold the definition."""
    conv, act, pool = (models["vgg"]()[i] for i in (0, 1, 4))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(96, 4).double()
    f = scalar(nn.Sequential(conv, act, pool, nn.Flatten(), head).eval())
    with torch.no_grad():
        expected = naive(conv, head, images, shifted(images), classes)
    torch.testing.assert_close(DeepLift(baseline=shifted)(f, images), expected)


class Product(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        a, b, c = (images[:, i].flatten(1)[:, :1] for i in range(3))
        value = {"product": a * b, "quotient": a / b, "inverse": 1 / c, "pool": a}[self.kind]
        return torch.cat([value, c], 1)


def test_a_product_is_shared_by_the_means_of_both_ends(images):
    start = torch.full_like(images, 0.5)
    f = ModelScalar(Network.read(Product("product").eval(), images), logit(0))
    actual = DeepLift(baseline=lambda x: torch.full_like(x, 0.5))(f, images)[:, :2, 0, 0]
    a, b = images[:, 0, 0, 0], images[:, 1, 0, 0]
    expected = torch.stack([(a - 0.5) * (b + 0.5) / 2, (b - 0.5) * (a + 0.5) / 2], 1)
    torch.testing.assert_close(actual, expected)
    assert start.shape == images.shape


@pytest.mark.parametrize("kind", ["quotient", "inverse"])
def test_a_quotient_is_complete(kind, images):
    images = images.abs() + 0.5
    f = ModelScalar(Network.read(Product(kind).eval(), images), logit(0))
    account = DeepLift(baseline=torch.ones_like).account(f, images)
    expected = (f(images) - f(torch.ones_like(images))).detach()
    torch.testing.assert_close(account.values.flatten(1).sum(1), expected)


class Norms(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.head = norm, nn.Linear(8, 4)

    def forward(self, images):
        maps = functional.pixel_unshuffle(images, 2)[:, :8]
        if isinstance(self.norm, nn.GroupNorm):
            return self.head(self.norm(maps).square().mean((2, 3)))
        return self.head(self.norm(maps.permute(0, 2, 3, 1)).tanh().mean((1, 2)))


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8)], ids=str)
def test_norms_are_complete(norm, scalar, images):
    f = scalar(Norms(norm).double().eval())
    account = DeepLift(baseline=shifted).account(f, images)
    expected = (f(images) - f(shifted(images))).detach()
    torch.testing.assert_close(account.values.flatten(1).sum(1), expected)


class Response(nn.Module):
    """The normalisation of ConvNeXt V2: lengths of channels over their mean."""

    def __init__(self, order=2):
        super().__init__()
        self.order = order
        self.scale, self.shift = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def forward(self, images):
        maps = images.permute(0, 2, 3, 1)
        lengths = maps.norm(p=self.order, dim=(1, 2), keepdim=True)
        ratio = lengths / (lengths.mean(-1, keepdim=True) + 1e-6)
        return (maps + torch.addcmul(self.shift, self.scale, maps * ratio)).tanh().mean((1, 2))


def test_a_response_norm_is_complete_and_only_lengths_of_order_two_are_known(scalar, images):
    f = scalar(Response().double().eval(), at=1)
    account = DeepLift(baseline=shifted).account(f, images)
    expected = (f(images) - f(shifted(images))).detach()
    torch.testing.assert_close(account.values.flatten(1).sum(1), expected)
    with pytest.raises(UnsupportedOperation, match="order 3 has no rule"):
        DeepLift()(scalar(Response(order=3).double().eval(), at=1), images)


class Pool(nn.Module):
    def forward(self, images):
        return functional.max_pool2d(images, 2).flatten(1)


def test_a_rise_of_a_maximum_belongs_to_the_winner_and_a_fall_to_the_former_winner():
    images = torch.tensor([[5.0, 1, 0, 2], [1.0, 1, 0, 2]]).view(2, 1, 2, 2)
    start = torch.tensor([0.0, 4, 0, 0]).view(1, 1, 2, 2).expand(2, 1, 2, 2)
    f = ModelScalar(Network.read(Pool().eval(), images), logit(0))
    actual = DeepLift(baseline=lambda x: start.clone())(f, images).flatten(1)
    assert actual.tolist() == [[1, 0, 0, 0], [0, -2, 0, 0]]


def test_an_image_depends_neither_on_its_neighbours_nor_on_the_batch_size(models, scalar, images):
    f = scalar(models["vit"]())
    whole = DeepLift()(f, images)
    torch.testing.assert_close(DeepLift(batch_size=2)(f, images), whole)
    torch.testing.assert_close(DeepLift()(f.at(torch.tensor([3])), images[3:4]), whole[3:4])


def test_the_result_shows_the_gap_and_the_cost(models, scalar, images):
    result = attribute(DeepLift(baseline=Mean()), scalar(models["vit"]()), images)
    assert result.gap.max() < 1e-6
    assert result.cost == 1.5


def test_of_a_curved_target_the_logits_differences_are_shared_out(models, images):
    network = Network.read(models["vgg"](), images)
    account = DeepLift().account(ModelScalar(network, log_probability(1)), images)
    logits, before = (network(x).detach() for x in (images, torch.zeros_like(images)))
    slope = functional.one_hot(torch.tensor(1), 4) - logits.softmax(1)
    expected = (slope * (logits - before)).sum(1)
    torch.testing.assert_close(account.reference, expected)
    torch.testing.assert_close(account.values.flatten(1).sum(1), expected)


PICKS = {
    "adaptive": lambda maps: functional.adaptive_max_pool2d(maps, 3),
    "adaptive along an axis": lambda maps: functional.adaptive_max_pool1d(maps.flatten(2), 5),
    "along an axis": lambda maps: functional.max_pool1d(maps.flatten(2), 3, 2, 1),
    "overlapping": lambda maps: functional.max_pool2d(maps, 3, 2, 1, ceil_mode=True),
    "amax": lambda maps: maps.amax((2, 3)),
    "amin": lambda maps: maps.amin(3, keepdim=True),
    "maximum": lambda maps: torch.maximum(maps[:, :, 1:], maps[:, :, :-1] ** 2),
    "minimum": lambda maps: torch.minimum(maps[:, :, 1:], maps[:, :, :-1]),
    "where": lambda maps: torch.where(maps > 0, maps, 0.1 * maps),
    "two signals": lambda maps: torch.where(maps.flip(2) > 0, maps, maps.flip(3).tanh()),
    "filled": lambda maps: maps.masked_fill(maps < 0.2, 0.2),
}


class Picks(nn.Module):
    """A maximum, minimum or choice, behind a layer and before a square."""

    def __init__(self, kind):
        super().__init__()
        self.pick, self.layer = PICKS[kind], nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        found = self.pick(self.layer(images)).square()
        return found.flatten(2).sum(2) if found.ndim > 2 else found


@pytest.mark.parametrize("kind", PICKS)
def test_whatever_picks_is_complete(kind, scalar, images, untouched):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Picks(kind).double().eval()
    f = scalar(model, at=0)
    with untouched(model):
        account = DeepLift(baseline=shifted).account(f, images)
    difference = (f(images) - f(shifted(images))).detach()
    torch.testing.assert_close(account.values.flatten(1).sum(1), difference, rtol=1e-6, atol=1e-8)


class Rectified(nn.Module):
    """One ReLU, in five ways to write it."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        match self.kind:
            case "relu":
                found = functional.relu(images)
            case "where":
                found = torch.where(images > 0, images, 0)
            case "masked_fill":
                found = images.masked_fill(images < 0, 0)
            case "maximum":
                found = torch.maximum(images, torch.zeros_like(images))
            case _:
                found = images.clamp(min=0)
        return found.square().mean((2, 3))


@pytest.mark.parametrize("kind", ["where", "masked_fill", "maximum", "clamp"])
def test_a_relu_written_by_hand_is_a_relu(kind, scalar, images):
    expected = DeepLift(baseline=shifted)(scalar(Rectified("relu").eval(), at=1), images)
    actual = DeepLift(baseline=shifted)(scalar(Rectified(kind).eval(), at=1), images)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("size", [1, (2, 2)])
def test_an_adaptive_maximum_is_the_plain_one_with_the_same_windows(size, scalar, images):
    conv = nn.Conv2d(3, 4, 3, padding=1).double()
    plain = nn.MaxPool2d(8 if size == 1 else 4)
    models = [
        nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten()).eval()
        for pool in (plain, nn.AdaptiveMaxPool2d(size))
    ]
    expected, actual = (DeepLift(baseline=shifted)(scalar(m, at=1), images) for m in models)
    torch.testing.assert_close(actual, expected)


class Largest(nn.Module):
    def forward(self, images):
        return images.flatten(2).median(2).values


def test_what_cannot_be_compared_is_refused(models, scalar, images):
    with pytest.raises(UnsupportedOperation, match="arrives at the operation 'median'"):
        DeepLift()(scalar(Largest().eval(), at=0), images)
    with pytest.raises(ShapeError, match="baseline must be shaped like the images"):
        DeepLift(baseline=lambda x: x[:1])(scalar(models["vgg"]()), images)
    with pytest.raises(SettingError, match=r"DeepLift replaces .*Network\.read"):
        DeepLift()(ModelScalar(models["vgg"](), logit(0)), images)
    with pytest.raises(SettingError, match="batch_size must be at least 1"):
        DeepLift(batch_size=0)
