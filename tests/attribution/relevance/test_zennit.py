"""The same numbers as zennit, where it is installed: every rule and composite that it has.

Zennit's package imports torchvision; its rules do not, and are loaded without it.
"""

import importlib
import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from whence.attribution.relevance import (
    LRP,
    AlphaBeta,
    Assignment,
    Composite,
    Epsilon,
    Flat,
    GeneralisedGamma,
    Square,
    ZBox,
)

LOW, HIGH = -4.0, 5.0
CONVOLUTION = frozenset({"conv2d"})


@pytest.fixture(scope="module")
def zennit():
    """Zennit's rules, and its hooks' registration."""
    try:
        found = importlib.util.find_spec("zennit")
    except ImportError:
        found = None
    if found is None or found.origin is None:
        pytest.skip("needs whence[parity]: zennit")
    before = {name: sys.modules.get(name) for name in ("zennit",)}
    package = types.ModuleType("zennit")
    package.__path__ = [str(Path(found.origin).parent)]
    sys.modules["zennit"] = package
    try:
        return importlib.import_module("zennit.rules")
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def theirs(zennit, model, images, classes, rule_of):
    """Return zennit's relevance; ``rule_of(name, module)`` gives each module's rule."""
    handles = []
    for name, module in model.named_modules():
        rule = rule_of(name, module)
        if rule is not None:
            handles.append(rule.register(module))
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    start = torch.nn.functional.one_hot(classes, 4) * logits.detach()
    (relevance,) = torch.autograd.grad(logits, leaf, start)
    for handle in handles:
        handle.remove()
    return relevance


def chooser(zennit, *, first=None, convolution, linear=None):
    """Return zennit's rule of each module, as its composites choose."""

    def rule_of(name, module):
        if isinstance(module, (nn.ReLU, nn.BatchNorm2d)):
            return zennit.Pass()
        if isinstance(module, nn.AdaptiveAvgPool2d):
            return zennit.Norm(stabilizer=1e-12)
        if isinstance(module, (nn.Conv2d, nn.Linear)) and first and name == "0":
            return first()
        if isinstance(module, nn.Conv2d):
            return convolution()
        if isinstance(module, nn.Linear):
            return (linear or zennit.Epsilon)()
        return None

    return rule_of


@pytest.mark.parametrize("kind", ["vgg", "vgg-free"])
@pytest.mark.parametrize(
    ("name", "settings", "rules"),
    [
        ("epsilon", {}, (None, "Epsilon")),
        ("epsilon-plus", {}, (None, "ZPlus")),
        ("epsilon-plus-flat", {}, ("Flat", "ZPlus")),
        ("epsilon-alpha2-beta1", {}, (None, "AlphaBeta")),
        ("epsilon-alpha2-beta1-flat", {}, ("Flat", "AlphaBeta")),
        ("epsilon-gamma-box", {"low": LOW, "high": HIGH}, ("ZBox", "Gamma")),
    ],
)
def test_a_composite_is_zennits(
    name, settings, rules, kind, zennit, models, scalar, images, classes
):
    model = models[kind]()
    first, convolution = rules
    made = {
        "ZBox": lambda: zennit.ZBox(low=LOW, high=HIGH),
        "Flat": zennit.Flat,
        None: None,
    }[first]
    rules = chooser(zennit, first=made, convolution=getattr(zennit, convolution))
    actual = LRP(composite=name, **settings)(scalar(model), images)
    expected = theirs(zennit, model, images, classes, rules)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        (Epsilon(epsilon=0.25), lambda z: z.Epsilon(epsilon=0.25)),
        (GeneralisedGamma(gamma=0.7), lambda z: z.Gamma(gamma=0.7)),
        (AlphaBeta(alpha=3, beta=2), lambda z: z.AlphaBeta(alpha=3, beta=2)),
        (AlphaBeta(), lambda z: z.ZPlus()),
    ],
    ids=["epsilon", "gamma", "alpha-beta", "z-plus"],
)
def test_a_rule_on_every_layer_is_zennits(ours, make, zennit, models, scalar, images, classes):
    model = models["vgg"]()
    rules = chooser(zennit, convolution=lambda: make(zennit), linear=lambda: make(zennit))
    actual = LRP(composite=Composite(otherwise=ours))(scalar(model), images)
    expected = theirs(zennit, model, images, classes, rules)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("ours", "name"), [(Flat(), "Flat"), (Square(), "WSquare"), (ZBox(low=-4, high=5), "ZBox")]
)
def test_a_rule_of_the_first_layer_is_zennits(ours, name, zennit, models, scalar, images, classes):
    model = models["vgg-free"]()
    first = {"low": LOW, "high": HIGH} if name == "ZBox" else {}
    rules = chooser(
        zennit, first=lambda: getattr(zennit, name)(**first), convolution=zennit.Epsilon
    )
    made = Composite(assignments=(Assignment(rule=ours, depth=(0, 0)),))
    actual = LRP(composite=made)(scalar(model), images)
    expected = theirs(zennit, model, images, classes, rules)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-7)


def test_a_residual_sum_is_shared_out_here_and_counted_twice_there(
    zennit, models, scalar, images, classes
):
    model = models["resnet"]()
    account = LRP(composite="epsilon", fold=False).account(scalar(model), images)
    whole = account.values.flatten(1).sum(1) + account.absorbed
    torch.testing.assert_close(whole, account.explained, rtol=1e-4, atol=1e-4)
    rules = chooser(zennit, convolution=zennit.Epsilon)
    strange = theirs(zennit, model, images, classes, rules).flatten(1).sum(1)
    assert ((strange - account.explained).abs() > account.explained.abs()).any()
