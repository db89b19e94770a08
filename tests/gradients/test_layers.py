"""Each kind of layer, and each way in which a parameter may enter, on networks of a few weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import Margin


class Then(nn.Module):
    """A body, pooled where it has a plane, then a linear layer."""

    def __init__(self, body, features=16):
        super().__init__()
        self.body = body
        self.head = nn.Linear(features, 3)

    def forward(self, x):
        x = torch.tanh(self.body(x))
        return self.head((functional.adaptive_avg_pool2d(x, 2) if x.ndim == 4 else x).flatten(1))


def convolution(*arguments, **settings):
    return lambda: Then(nn.Conv2d(*arguments, **settings), 4 * arguments[1])


def after_convolution(layer):
    return lambda: Then(nn.Sequential(nn.Conv2d(3, 4, 3), layer))


class SequenceFirst(nn.Module):
    """Attention over pixels with the sequence in front, with a class token and positions."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 3))
        self.positions = nn.Parameter(torch.zeros(82, 3))
        self.attention = nn.MultiheadAttention(3, 1)
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        token = self.token.expand(x.shape[0], -1, -1).transpose(0, 1)
        x = torch.cat([token, x.flatten(2).permute(2, 0, 1)]) + self.positions[:, None]
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.head(x[0])


class BatchFirst(SequenceFirst):
    def forward(self, x):
        token = self.token.expand(x.shape[0], -1, -1)
        x = torch.cat([token, x.flatten(2).transpose(1, 2)], dim=1) + self.positions
        return self.head(self.norm(torch.tanh(self.attention.out_proj(x)))[:, :2].flatten(1)[:, :3])


class TokensFlattened(nn.Module):
    """Batch norm over features of tokens, batch and tokens in one axis, as LeViT does it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.linear(x.flatten(2).transpose(1, 2))
        return self.head(torch.tanh(self.norm(x.flatten(0, 1)).reshape_as(x)).mean(1))


class Patches(nn.Module):
    """A convolution and batch norm over nine patches of each image, which stand in the batch."""

    def __init__(self, *, first):
        super().__init__()
        self.first = first
        self.convolution = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.groups = nn.GroupNorm(2, 4)
        self.head = nn.Linear(36, 3)

    def forward(self, x):
        cut = x.unfold(2, 3, 3).unfold(3, 3, 3)
        order = (2, 3, 0, 1, 4, 5) if self.first else (0, 2, 3, 1, 4, 5)
        y = self.groups(self.norm(self.convolution(cut.permute(order).reshape(-1, 3, 3, 3))))
        y = torch.tanh(y).mean((2, 3))
        y = y.view(9, -1, 4).transpose(0, 1) if self.first else y.view(-1, 9, 4)
        return self.head(y.flatten(1))


class Windows(nn.Module):
    """Attention inside windows with a table of relative positions, read through an index."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(3, 9)
        self.table = nn.Parameter(torch.zeros(25, 1))
        self.register_buffer("index", torch.arange(81).view(9, 9) % 25)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        cut = x.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 4, 5, 1).reshape(-1, 9, 3)
        q, k, v = self.qkv(cut).unsqueeze(1).chunk(3, dim=-1)
        bias = self.table[self.index.view(-1)].view(9, 9, 1).permute(2, 0, 1)
        mixed = torch.softmax(q @ k.transpose(-2, -1) + bias, dim=-1) @ v
        return self.head(torch.tanh(mixed).reshape(x.shape[0], -1, 3).mean(1))


class Scales(nn.Module):
    """Parameters that broadcast: per channel, a number, before and behind an operation."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, 1, 1))
        self.width = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(3))
        self.temperature = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.tanh((self.shift - x) / (self.width.square() + 1)).mean((2, 3))
        return self.head(self.gamma * x) * self.temperature.exp() + self.gamma


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.head = nn.Linear(243, 3)

    def forward(self, x):
        rows = torch.arange(9).remainder(7)
        return self.head(torch.tanh(x * self.embedding(rows).T[None, :, None]).flatten(1))


class Thrice(nn.Module):
    """One convolution, used three times."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.convolution(x))
        return self.head(x.mean((2, 3)))


class Normalised(nn.Module):
    """A convolution whose weight is made of a length and a direction."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.convolution(x)).mean((2, 3)))


class NormalisedTwice(Normalised):
    """The length is used once more, where it broadcasts."""

    def forward(self, x):
        length = self.convolution.parametrizations.weight.original0.flatten()
        return self.head(torch.tanh(self.convolution(x)).mean((2, 3)) * length)


def tied():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(243, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)
    )
    model[5].weight = model[3].weight
    return model


class MixedTokens(nn.Module):
    """Linear over pixels, then over channels, as an MLP-mixer does it."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(81, 5)
        self.channels = nn.Linear(3, 4)
        self.norm = nn.LayerNorm((5, 4))
        self.head = nn.Linear(20, 3)

    def forward(self, x):
        x = torch.tanh(self.tokens(x.flatten(2))).transpose(1, 2)
        return self.head(self.norm(self.channels(x)).flatten(1))


EXACT = {
    "convolution": convolution(3, 4, 3),
    "without a bias": convolution(3, 4, 3, bias=False),
    "stride and padding": convolution(3, 4, 3, stride=2, padding=1),
    "uneven kernel": convolution(3, 4, (2, 5), stride=(2, 1), padding=(0, 2)),
    "dilated": convolution(3, 4, 3, dilation=(2, 3)),
    "grouped": convolution(3, 6, 3, groups=3),
    "depthwise": convolution(3, 3, 3, groups=3, padding=1),
    "pointwise with stride 2": convolution(3, 4, 1, stride=2),
    "pointwise with padding": convolution(3, 4, 1, stride=2, padding=1),
    "padding same": convolution(3, 4, 3, padding="same", dilation=2),
    "padding same, even kernel": convolution(3, 4, (4, 2), padding="same"),
    "padding same, even and dilated": convolution(3, 4, (2, 3), padding="same", dilation=3),
    "padding valid": convolution(3, 4, 3, padding="valid", stride=2),
    "padding circular": convolution(3, 4, 3, padding=1, padding_mode="circular"),
    "batch norm": after_convolution(nn.BatchNorm2d(4)),
    "batch norm without scale": after_convolution(nn.BatchNorm2d(4, affine=False)),
    "group norm": after_convolution(nn.GroupNorm(2, 4, eps=0.1)),
    "layer norm over a plane": after_convolution(nn.LayerNorm((4, 7, 7), eps=0.1)),
    "layer norm without bias": after_convolution(nn.LayerNorm(7, bias=False)),
    "batch norm over features": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(243, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)
    ),
    "batch norm over a sequence": lambda: nn.Sequential(
        nn.Flatten(2), nn.BatchNorm1d(3), nn.Tanh(), nn.Flatten(), nn.Linear(243, 3)
    ),
    "sequence first": SequenceFirst,
    "batch first": BatchFirst,
    "tokens mixed": MixedTokens,
    "tokens flattened": TokensFlattened,
    "patches behind images": lambda: Patches(first=False),
    "patches before images": lambda: Patches(first=True),
    "windows": Windows,
    "scales": Scales,
    "embedding": Embedded,
    "reused": Thrice,
    "tied": tied,
    "weight norm": Normalised,
    "weight norm, used twice": NormalisedTwice,
}


# torch says so where it splits a weight into length and direction for many images at once
slow_weight_norm = pytest.mark.filterwarnings("ignore:There is a performance drop")


@slow_weight_norm
@pytest.mark.parametrize("name", EXACT)
def test_gradients_of_a_layer_equal_a_loop_over_images(subject, agree, name):
    made = subject(EXACT[name]())
    recorded = made.recorder.record(made.images, made.target)
    assert made.recorder.fallback == ()
    agree(recorded.materialise(), made.loop)
    full = made.flat(made.loop)
    torch.testing.assert_close(
        recorded.squared_norm(), full.square().sum(dim=1), rtol=1e-10, atol=0
    )
    torch.testing.assert_close(recorded.dot(recorded.settled(3)), full @ full.T, rtol=1e-9, atol=0)


class RawMatrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(243, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(torch.tanh(x.flatten(1) @ self.weight))


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 3, 9))
        self.queries = nn.Parameter(torch.zeros(1, 2, 4))
        self.head = nn.Linear(18, 3)

    def forward(self, x):
        tokens = torch.tanh(torch.einsum("bchw,dcw->bhd", x, self.weight))
        queries = self.queries.expand(x.shape[0], -1, -1)
        return self.head((queries @ tokens.transpose(1, 2)).flatten(1))


class TiedToMatrix(nn.Module):
    """A linear layer whose weight is also multiplied as it is."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(27, 27)
        self.head = nn.Linear(27, 3)

    def forward(self, x):
        x = torch.tanh(self.linear(x[:, 0, :3].flatten(1)))
        return self.head(x @ self.linear.weight)


class NormalisedToMatrix(Normalised):
    def forward(self, x):
        length = self.convolution.parametrizations.weight.original0.flatten()
        return self.head(torch.tanh(self.convolution(x)).mean((2, 3)) @ torch.diag(length))


class Repeated(BatchFirst):
    def forward(self, x):
        token = self.token.repeat(x.shape[0], 1, 1)
        return self.head(torch.cat([token, x.flatten(2).transpose(1, 2)], dim=1).mean(1).tanh())


class Scaled(nn.Module):
    """A number that multiplies a matrix of which no route is known."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.head = nn.Linear(243, 3)

    def forward(self, x):
        return self.head(torch.pow(x.flatten(1).square() + 1, self.scale))


LEFT = {
    "a raw matrix": (RawMatrix, ("weight",)),
    "einsum": (Einsum, ("weight",)),
    "a layer's weight, also as a matrix": (TiedToMatrix, ("linear.bias", "linear.weight")),
    "a length, also in a matrix": (
        NormalisedToMatrix,
        (
            "convolution.bias",
            "convolution.parametrizations.weight.original0",
            "convolution.parametrizations.weight.original1",
        ),
    ),
    "a repeated token": (Repeated, ("token",)),
    "an exponent": (Scaled, ("scale",)),
    "PReLU": (after_convolution(nn.PReLU(4)), ("body.1.weight",)),
    "instance norm": (
        after_convolution(nn.InstanceNorm2d(4, affine=True)),
        ("body.1.bias", "body.1.weight"),
    ),
    "transposed convolution": (
        lambda: Then(nn.ConvTranspose2d(3, 4, 3)),
        ("body.bias", "body.weight"),
    ),
    "convolution in one dimension": (
        lambda: Then(nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 78)), 16),
        ("body.1.bias", "body.1.weight"),
    ),
}


@slow_weight_norm
@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_route_is_exact_by_vmap_and_named(subject, agree, name):
    build, left = LEFT[name]
    made = subject(build())
    assert made.recorder.fallback == left
    found = made.recorder.record(made.images, made.target).materialise()
    agree(found, made.loop)


@slow_weight_norm
@pytest.mark.parametrize("build", [RawMatrix, Scaled, NormalisedTwice, Scales, Thrice, Windows])
def test_every_route_keeps_the_graph_on_request(subject, build):
    made = subject(build(), count=2)
    images = made.images.clone().requires_grad_()
    recorded = made.recorder.record(images, made.target, create_graph=True)
    (found,) = torch.autograd.grad(recorded.squared_norm().sum(), images)

    def norms(shifted):
        return made.recorder.record(shifted, made.target).squared_norm()

    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).double()
    step = 1e-5 * direction
    with torch.no_grad():
        expected = (norms(images + step) - norms(images - step)) / 2e-5
    torch.testing.assert_close(
        (found * direction).flatten(1).sum(dim=1), expected, rtol=1e-6, atol=1e-8
    )


class NormThenTokens(nn.Module):
    """A normalised feature map whose positions become tokens."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        tokens = self.norm(self.convolution(x)).flatten(2).transpose(1, 2)
        return self.head(torch.tanh(tokens)[:, :5].sum(dim=1))


def test_gradients_of_a_single_image_are_right_where_tokens_follow_a_batch_norm(subject, agree):
    made = subject(NormThenTokens(), count=2)
    image, margin = made.images[:1], Margin(made.labels[:1])
    found = made.recorder.record(image, margin).materialise()
    model = made.model
    with torch.no_grad():  # the chain rule by hand
        scale = (model.norm.running_var + model.norm.eps).rsqrt()
        response = model.convolution(image)
        plane = (response - model.norm.running_mean.view(-1, 1, 1)) * scale.view(-1, 1, 1)
        normed = model.norm(response)
        logits = model(image)
    logits.requires_grad_()
    (pulled,) = torch.autograd.grad(margin(logits).sum(), logits)
    tokens = torch.zeros_like(normed).flatten(2)
    tokens[:, :, :5] = (pulled @ model.head.weight.detach())[:, :, None]
    slope = (tokens * (1 - normed.flatten(2).tanh().square())).view_as(normed)
    patches = functional.unfold(image, 3)[0]
    inner = (slope[0].flatten(1) * (scale * model.norm.weight.detach())[:, None]) @ patches.T
    agree(
        found,
        {
            "norm.weight": (slope * plane).sum((2, 3)),
            "norm.bias": slope.sum((2, 3)),
            "convolution.weight": inner.view(1, 4, 3, 3, 3),
        },
        relative=1e-12,
    )
