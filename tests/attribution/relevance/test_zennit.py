"""The same numbers as zennit, where it is installed: every rule and composite that it has.

Zennit sees modules, so it gets twins in which every sum and activation is a module of its own and
batch norms are merged. Its package imports torchvision; what is used here does not, and is loaded
without it.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from whence.attribution import Deconvnet, GuidedBackpropagation
from whence.attribution.relevance import (
    LRP,
    AlphaBeta,
    Assignment,
    Composite,
    Epsilon,
    Flat,
    GeneralisedGamma,
    Pass,
    Square,
    ZBox,
)
from whence.core import ModelScalar
from whence.network import Rule

LOW, HIGH = -4.0, 5.0
KINDS = ["vgg", "vgg-free", "resnet", "densenet"]
PARTS = ("rules", "composites", "layer", "types")


@pytest.fixture(scope="module")
def zennit():
    """Zennit's rules, composites, layers and types."""
    try:
        found = importlib.util.find_spec("zennit")
    except ImportError:
        found = None
    if found is None or found.origin is None:
        pytest.skip("needs whence[parity]: zennit")
    before = sys.modules.get("zennit")
    package = types.ModuleType("zennit")
    package.__path__ = [str(Path(found.origin).parent)]
    sys.modules["zennit"] = package
    try:
        parts = {part: importlib.import_module(f"zennit.{part}") for part in PARTS}
        return types.SimpleNamespace(**parts)
    finally:
        if before is None:
            sys.modules.pop("zennit", None)
        else:
            sys.modules["zennit"] = before


def merged(conv, norm):
    """Return a convolution that does what both do."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    made = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding
    ).double()
    bias = 0 if conv.bias is None else conv.bias
    with torch.no_grad():
        made.weight.copy_(conv.weight * scale[:, None, None, None])
        made.bias.copy_((bias - norm.running_mean) * scale + norm.bias)
    return made


class SumBlock(nn.Module):
    def __init__(self, block, zennit):
        super().__init__()
        self.one, self.first = merged(block.one, block.norm), nn.ReLU()
        self.two, self.sum = merged(block.two, block.last), zennit.layer.Sum()
        self.last = nn.ReLU()

    def forward(self, maps):
        branch = self.two(self.first(self.one(maps)))
        return self.last(self.sum(torch.stack([branch, maps], -1)))


class Dense(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.stem, self.norms, self.grow = model.stem, model.norms, model.grow
        self.acts = nn.ModuleList([nn.ReLU(), nn.ReLU()])
        self.end = nn.Sequential(
            nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head
        )

    def forward(self, images):
        maps = self.stem(images)
        for norm, act, grow in zip(self.norms, self.acts, self.grow, strict=True):
            maps = torch.cat([maps, grow(act(norm(maps)))], 1)
        return self.end(maps)


def without_shift(model):
    """Leave batch norms that nothing merges with their scale alone."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.zero_()
                module.bias.zero_()
    return model


def both(kind, zennit, models):
    """Return a model as a user wrote it, and its twin of clean modules."""
    model = models[kind]()
    if kind == "resnet":
        stem = [merged(model.stem[0], model.stem[1]), nn.ReLU()]
        blocks = [SumBlock(block, zennit) for block in model.blocks]
        end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head]
        return model, nn.Sequential(*stem, *blocks, *end).eval()
    if kind == "densenet":
        return without_shift(model), Dense(model).eval()
    return model, model


def theirs(composite, model, images, classes):
    """Return zennit's relevance, started with the logit itself."""
    leaf = images.clone().requires_grad_()
    with composite.context(model) as hooked:
        logits = hooked(leaf)
        start = torch.nn.functional.one_hot(classes, 4) * logits.detach()
        (relevance,) = torch.autograd.grad(logits, leaf, start)
    return relevance


def exact(zennit):
    """Return the assignments under which averages and sums are shared out exactly."""
    norm = zennit.rules.Norm(stabilizer=1e-14)
    return [(zennit.types.AvgPool, norm), (zennit.layer.Sum, norm)]


def assert_alike(actual, expected):
    size = expected.abs().amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(actual / size, expected / size, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "theirs_is", "settings"),
    [
        ("epsilon-plus", "EpsilonPlus", {}),
        ("epsilon-plus-flat", "EpsilonPlusFlat", {"flat": True}),
        ("epsilon-alpha2-beta1", "EpsilonAlpha2Beta1", {}),
        ("epsilon-alpha2-beta1-flat", "EpsilonAlpha2Beta1Flat", {"flat": True}),
        ("epsilon-gamma-box", "EpsilonGammaBox", {"low": LOW, "high": HIGH}),
        ("excitation-backprop", "ExcitationBackprop", {}),
    ],
    ids=["plus", "plus-flat", "alpha2-beta1", "alpha2-beta1-flat", "gamma-box", "excitation"],
)
def test_a_composite_is_zennits(
    name, theirs_is, settings, kind, zennit, models, scalar, images, classes
):
    """Excitation backprop has no rule for a batch norm there, so relevance would be scaled."""
    model, twin = both(kind, zennit, models)
    more = {key: torch.full_like(images[:1], value) for key, value in settings.items()}
    if more.pop("flat", None) is not None:
        more["first_map"] = [(zennit.types.Linear, zennit.rules.Flat(stabilizer=1e-14))]
        settings = {}
    norms = [(zennit.types.BatchNorm, zennit.rules.Pass())]
    composite = getattr(zennit.composites, theirs_is)(layer_map=[*exact(zennit), *norms], **more)
    actual = LRP(composite=name, **settings)(scalar(model), images)
    assert_alike(actual, theirs(composite, twin, images, classes))


def everywhere(zennit, rule, first=None):
    """Return zennit's composite in which every layer, or all but the first, follows a rule."""
    passed = [(zennit.types.Activation, zennit.rules.Pass())]
    passed += [(zennit.types.BatchNorm, zennit.rules.Pass())]
    layers = [(zennit.types.Linear, rule)]
    return zennit.composites.SpecialFirstLayerMapComposite(
        layer_map=[*exact(zennit), *passed, *layers],
        first_map=[(zennit.types.Linear, first or rule)],
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (Epsilon(), lambda rules: rules.Epsilon()),
        (Epsilon(epsilon=0.25), lambda rules: rules.Epsilon(epsilon=0.25)),
        (GeneralisedGamma(gamma=0.7), lambda rules: rules.Gamma(gamma=0.7)),
        (AlphaBeta(alpha=3, beta=2), lambda rules: rules.AlphaBeta(alpha=3, beta=2)),
        (AlphaBeta(), lambda rules: rules.ZPlus()),
    ],
    ids=["epsilon", "large epsilon", "gamma", "alpha-beta", "z-plus"],
)
def test_a_rule_on_every_layer_is_zennits(
    ours, make, kind, zennit, models, scalar, images, classes
):
    model, twin = both(kind, zennit, models)
    expected = theirs(everywhere(zennit, make(zennit.rules)), twin, images, classes)
    assert_alike(LRP(composite=Composite(otherwise=ours))(scalar(model), images), expected)


@pytest.mark.parametrize("kind", ["vgg-free", "resnet"])
def test_flat_everywhere_is_zennits_but_for_silent_averages(
    kind, zennit, models, scalar, images, classes
):
    """What flat gives to an average of zeros is lost there, and here goes to all of them."""
    model, twin = both(kind, zennit, models)
    composite = everywhere(zennit, zennit.rules.Flat(stabilizer=1e-14))
    expected = theirs(composite, twin, images, classes)
    f = scalar(model)
    actual = LRP(composite=Composite(otherwise=Flat()))(f, images)
    if kind == "resnet":
        assert_alike(actual, expected)
    else:
        torch.testing.assert_close(actual.flatten(1).sum(1), f(images).detach())
        assert not torch.allclose(expected.flatten(1).sum(1), f(images).detach(), rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Flat", "ZBox"])
def test_a_rule_of_the_first_layer_is_zennits(name, kind, zennit, models, scalar, images, classes):
    model, twin = both(kind, zennit, models)
    box = {key: torch.full_like(images[:1], v) for key, v in (("low", LOW), ("high", HIGH))}
    first = zennit.rules.Flat(stabilizer=1e-14) if name == "Flat" else zennit.rules.ZBox(**box)
    expected = theirs(everywhere(zennit, zennit.rules.Epsilon(), first), twin, images, classes)
    ours = Flat() if name == "Flat" else ZBox(low=LOW, high=HIGH)
    made = Composite(assignments=(Assignment(rule=ours, depth=(0, 0)),))
    assert_alike(LRP(composite=made)(scalar(model), images), expected)


@pytest.mark.parametrize("kind", ["vgg", "vgg-free"])
def test_the_squared_weights_are_zennits_but_for_the_bias_that_it_squares_too(
    kind, zennit, models, scalar, images, classes
):
    """A squared bias takes a share of what the rule gives to the inputs alone."""
    model = models[kind]()
    rules = zennit.rules
    first = rules.WSquare(stabilizer=1e-14, zero_params=["bias"])
    expected = theirs(everywhere(zennit, rules.Epsilon(), first), model, images, classes)
    made = Composite(assignments=(Assignment(rule=Square(), depth=(0, 0)),))
    actual = LRP(composite=made)(scalar(model), images)
    assert_alike(actual, expected)
    biased = everywhere(zennit, rules.Epsilon(), rules.WSquare(stabilizer=1e-14))
    other = theirs(biased, model, images, classes).flatten(1).sum(1)
    kept = torch.allclose(other, actual.flatten(1).sum(1))
    assert kept == (kind == "vgg-free")


class Same(nn.Sequential):
    def __init__(self):
        first, second = (nn.Conv2d(3, 3, 3, padding=1) for _ in "ab")
        head = nn.Linear(3, 4)
        super().__init__(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def test_a_layer_that_passes_relevance_is_zennits(zennit, scalar, images, classes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Same().double().eval()
    made = zennit.composites.NameMapComposite([(["2"], zennit.rules.Pass())])
    rest = everywhere(zennit, zennit.rules.Epsilon())
    both = zennit.composites.MixedComposite([made, rest])
    expected = theirs(both, model, images, classes)
    ours = Composite(assignments=(Assignment(rule=Pass(), path="2"),))
    assert_alike(LRP(composite=ours)(scalar(model), images), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "name"), [(GuidedBackpropagation(), "GuidedBackprop"), (Deconvnet(), "DeconvNet")]
)
def test_another_gradient_of_relus_is_zennits(
    method, name, kind, zennit, models, scalar, images, classes
):
    model, twin = both(kind, zennit, models)
    leaf = images.clone().requires_grad_()
    with getattr(zennit.composites, name)().context(twin) as hooked:
        start = torch.nn.functional.one_hot(classes, 4).double()
        (expected,) = torch.autograd.grad(hooked(leaf), leaf, start)
    assert_alike(method(scalar(model), images), expected)


class Smooth(torch.autograd.Function):
    """A ReLU with the gradient of a softplus."""

    @staticmethod
    def forward(ctx, values, beta):
        ctx.save_for_backward(values)
        ctx.beta = beta
        return values.relu()

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return gradient * (ctx.beta * values).sigmoid(), None


@pytest.mark.parametrize("kind", KINDS)
def test_a_smooth_gradient_of_relus_is_a_rule_of_the_users(
    kind, zennit, models, scalar, images, classes
):
    """Zennit's BetaSmooth is a surrogate for second derivatives, no attribution: a Rule here."""
    model, twin = both(kind, zennit, models)
    rule = Rule(operations=frozenset({"relu"}), function=lambda _, values: Smooth.apply(values, 10))
    f = scalar(model)
    leaf, other = (images.clone().requires_grad_() for _ in "ab")
    ruled = ModelScalar(f.model.under([rule]), f.target)
    (actual,) = torch.autograd.grad(ruled(leaf).sum(), leaf)
    with zennit.composites.BetaSmooth(beta_smooth=10).context(twin) as hooked:
        start = torch.nn.functional.one_hot(classes, 4).double()
        (expected,) = torch.autograd.grad(hooked(other), other, start)
    assert_alike(actual, expected)


def test_a_residual_sum_is_shared_out_here_and_counted_twice_there(
    zennit, models, scalar, images, classes
):
    """A sum that is no module of zennit's own hands all of its relevance to both parts."""
    model = models["resnet"]()
    account = LRP(composite="epsilon", fold=False).account(scalar(model), images)
    whole = account.values.flatten(1).sum(1) + account.absorbed
    torch.testing.assert_close(whole, account.explained, rtol=1e-4, atol=1e-4)
    composite = everywhere(zennit, zennit.rules.Epsilon())
    strange = theirs(composite, model, images, classes).flatten(1).sum(1)
    assert ((strange - account.explained).abs() > account.explained.abs()).any()


def test_the_shift_of_a_norm_takes_its_share_here_and_goes_to_the_pixels_there(
    zennit, models, scalar, images, classes
):
    """Before a convolution nothing merges a batch norm, and zennit passes relevance by it."""
    model = models["densenet"]()
    account = LRP(composite="epsilon").account(scalar(model), images)
    whole = account.values.flatten(1).sum(1) + account.absorbed
    torch.testing.assert_close(whole, account.explained, rtol=1e-4, atol=1e-4)
    composite = everywhere(zennit, zennit.rules.Epsilon())
    expected = theirs(composite, Dense(model).eval(), images, classes).flatten(1).sum(1)
    shifts = sum(rows for name, _, rows in account.taken if name == "batch_norm")
    assert shifts.abs().min() > 0
    assert not torch.allclose(expected, account.values.flatten(1).sum(1), rtol=0.01)
