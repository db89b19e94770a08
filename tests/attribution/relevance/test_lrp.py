"""LRP on whole networks: conservation, known equalities, and other ways to write the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from whence.adapters import Preprocessing
from whence.attribution import Gradient, InputXGradient, attribute, method_named
from whence.attribution.deeplift import DeepLift
from whence.attribution.relevance import (
    LRP,
    AlphaBeta,
    Assignment,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    ZBox,
    composite_named,
)
from whence.core import ModelScalar, Normalisation, contrast, log_probability, logit
from whence.errors import SettingError, UnsupportedOperation
from whence.network import Network, Place
from whence.recipes import explain

NAMES = [
    "epsilon",
    "epsilon-plus",
    "epsilon-plus-flat",
    "epsilon-alpha2-beta1",
    "epsilon-alpha2-beta1-flat",
    "epsilon-gamma-box",
    "gamma",
    "generalised-gamma",
    "pixel-wise",
    "excitation-backprop",
]


def total(values):
    return values.flatten(1).sum(1)


@pytest.mark.parametrize("name", NAMES)
def test_without_biases_relevance_adds_up_to_the_logit_if_the_rules_conserve(
    name, models, scalar, images
):
    f = scalar(models["vgg-free"]())
    method = LRP(composite=name)
    account = method.account(f, images)
    torch.testing.assert_close(account.reference, account.explained)
    assert account.absorbed.abs().max() == 0
    assert method.conserves(f.model) == ("alpha2" not in name and name != "pixel-wise")
    if method.conserves(f.model):
        torch.testing.assert_close(total(account.values), account.explained, rtol=1e-3, atol=1e-6)
    if name == "pixel-wise":
        assert not torch.allclose(total(account.values), account.explained, rtol=0.1)


@pytest.mark.parametrize("name", ["epsilon", "epsilon-plus", "epsilon-gamma-box", "gamma"])
@pytest.mark.parametrize("kind", ["vgg", "resnet", "densenet"])
def test_what_is_missing_is_what_biases_took(name, kind, models, scalar, images):
    account = LRP(composite=name).account(scalar(models[kind]()), images)
    assert (account.absorbed.abs() > 1e-3).any()
    torch.testing.assert_close(
        total(account.values) + account.absorbed, account.explained, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["vgg", "resnet", "densenet"])
def test_with_biases_ignored_only_what_a_bias_alone_made_is_missing(kind, models, scalar, images):
    f = scalar(models[kind]())
    account = LRP(composite="epsilon", epsilon=1e-9, bias="ignore").account(f, images)
    torch.testing.assert_close(
        total(account.values) + account.absorbed, account.explained, rtol=1e-2, atol=5e-3
    )
    taken = LRP(composite="epsilon").account(f, images).absorbed
    assert account.absorbed.abs().median() < 0.5 * taken.abs().median()


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("kind", ["vgg", "vgg-free", "resnet", "densenet"])
def test_lrp_zero_is_input_times_gradient_on_relu_networks(kind, fold, models, scalar, images):
    f = scalar(models[kind]())
    method = LRP(composite="epsilon", epsilon=0, fold=fold)
    torch.testing.assert_close(method(f, images), InputXGradient()(f, images))


@pytest.mark.parametrize("kind", ["vgg", "resnet", "densenet", "gated", "vit"])
@pytest.mark.parametrize("name", ["epsilon-plus", "epsilon-gamma-box"])
def test_the_model_and_the_value_are_untouched(name, kind, models, scalar, images, untouched):
    model = models[kind]()
    f = scalar(model)
    with untouched(model):
        account = LRP(composite=name).account(f, images)
    torch.testing.assert_close(account.explained, f(images).detach())
    assert account.values.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_neither_on_its_neighbours_nor_on_the_batch_size(
    name, models, scalar, images
):
    f = scalar(models["resnet"]())
    whole = LRP(composite=name)(f, images)
    torch.testing.assert_close(LRP(composite=name, batch_size=2)(f, images), whole)
    alone = LRP(composite=name)(f.at(torch.tensor([2])), images[2:3])
    torch.testing.assert_close(alone, whole[2:3])


class Twin(nn.Module):
    """The small VGG network, its ReLUs functional, reused and in place, its layers nested."""

    def __init__(self, model):
        super().__init__()
        self.outer = nn.ModuleDict({"inner": nn.ModuleList(model)})
        self.act = nn.ReLU(inplace=True)

    def forward(self, images):
        layers = self.outer["inner"]
        maps = self.act(layers[2](functional.relu(layers[0](images), inplace=True)))
        maps = layers[5](functional.max_pool2d(maps, 2)).relu_().mean((2, 3))
        return layers[11](self.act(layers[9](maps)))


@pytest.mark.parametrize("name", NAMES)
def test_however_the_network_is_written_the_map_is_the_same(name, models, scalar, images):
    model = models["vgg"]()
    expected = LRP(composite=name)(scalar(model), images)
    actual = LRP(composite=name)(scalar(Twin(model).eval()), images)
    torch.testing.assert_close(actual, expected)


def test_tied_weights_give_what_copies_of_them_give(scalar, images):
    def make(second):
        torch.manual_seed(0)
        first = nn.Conv2d(3, 3, 3, padding=1)
        other = first if second is None else second
        other.load_state_dict(first.state_dict())
        head = nn.Linear(3, 4)
        layers = [first, nn.ReLU(), other, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head]
        return nn.Sequential(*layers).double().eval()

    with torch.random.fork_rng():
        tied, clean = make(None), make(nn.Conv2d(3, 3, 3, padding=1))
    torch.testing.assert_close(LRP()(scalar(tied), images), LRP()(scalar(clean), images))


def test_relevance_of_a_contrast_is_the_difference_for_rules_that_are_linear_in_it(models, images):
    network = Network.read(models["resnet"](), images)
    parts = [LRP()(ModelScalar(network, logit(k)), images) for k in (1, 3)]
    both = LRP()(ModelScalar(network, contrast(1, 3)), images)
    torch.testing.assert_close(both, parts[0] - parts[1], rtol=1e-3, atol=1e-5)


def test_the_start_of_a_probability_is_what_its_gradient_makes_of_the_logits(models, images):
    network = Network.read(models["vgg-free"](), images)
    account = LRP(composite="epsilon").account(ModelScalar(network, log_probability(2)), images)
    logits = network(images).detach()
    shares = logits.softmax(1)
    expected = logits[:, 2] - (shares * logits).sum(1)
    torch.testing.assert_close(account.reference, expected)
    torch.testing.assert_close(total(account.values), expected, rtol=1e-3, atol=1e-5)


def test_the_result_shows_the_gap_of_conservation(models, scalar, images):
    result = attribute(LRP(composite="epsilon"), scalar(models["vgg"]()), images)
    expected = (result.total - result.explained).abs() / result.explained.abs()
    torch.testing.assert_close(result.gap, expected, rtol=1e-4, atol=1e-6)
    assert result.cost == 1.0
    assert attribute(LRP(), scalar(models["vgg"]()), images).cost == 1.5


def test_the_result_shows_the_part_that_arrived_and_what_biases_took(models, scalar, images):
    result = attribute(LRP(composite="epsilon"), scalar(models["vgg"]()), images)
    missing = 1 - result.absorbed / result.explained
    torch.testing.assert_close(result.conservation, missing, rtol=1e-4, atol=1e-4)
    assert attribute(Gradient(), scalar(models["vgg"]()), images).conservation is None


def flops(method, f, images):
    method(f, images)  # the network under rules is made once
    with FlopCounterMode(display=False) as counter:
        method(f, images)
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (LRP(composite="epsilon"), 1.0),
        (LRP(composite="epsilon-plus"), 1.5),
        (LRP(composite="gamma"), 1.5),
        (LRP(composite="pixel-wise"), 2.5),
        (DeepLift(), 1.5),
    ],
)
def test_the_work_in_passes_is_what_the_account_says(method, passes, models, scalar, images):
    images = images.abs()
    f = scalar(models["vgg"](), like=images)
    spent = flops(method, f, images) / flops(Gradient(), f, images)
    assert spent == pytest.approx(passes, rel=0.1)
    assert method.account(f, images).passes == passes


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"path": "stem.O"}, r"layers at 'stem.O', and no layer fits. Did you mean stem.0"),
        ({"operations": frozenset({"conv3d"})}, "of the operations conv3d, and no layer fits"),
        ({"depth": (9, 12)}, "of depth 9 to 12, and no .* conv2d and linear, at depths 0 to 5"),
        ({"height": (7, 7)}, "of height 7 to 7, and no layer fits. .* heights 0 to 5: stem.0,"),
        (
            {"path": "head", "operations": frozenset({"conv2d"})},
            "layers at 'head' and of the operations conv2d, and no layer fits. There are",
        ),
    ],
)
def test_an_assignment_that_no_layer_fits_is_refused_with_what_there_is(
    asked, says, models, scalar, images
):
    f = scalar(models["resnet"]())
    with pytest.raises(SettingError, match=says):
        LRP(composite=Composite(assignments=(Assignment(rule=Flat(), **asked),)))(f, images)
    lax = Assignment(rule=Flat(), optional=True, **asked)
    actual = LRP(composite=Composite(assignments=(lax,)))(f, images)
    torch.testing.assert_close(actual, LRP(composite="epsilon")(f, images))


def test_layers_are_chosen_by_operation_depth_height_and_path(models, images):
    made = Composite(
        assignments=(
            Assignment(rule=Flat(), depth=(0, 0)),
            Assignment(rule=Gamma(), path="blocks.1.*"),
            Assignment(rule=AlphaBeta(), operations=frozenset({"conv2d"})),
            Assignment(rule=Epsilon(epsilon=0), height=(0, 0)),
        )
    )
    asked = {"depth": 2, "height": 1, "first": False}
    rules = [
        made.rule_at(Place(name=name, path=path, **(asked | more)))
        for name, path, more in [
            ("linear", "a", {"depth": 0}),
            ("conv2d", "blocks.1.one", {}),
            ("conv2d", "blocks.0.one", {}),
            ("linear", "head", {"height": 0}),
            ("linear", "hidden", {}),
        ]
    ]
    assert rules == [Flat(), Gamma(), AlphaBeta(), Epsilon(epsilon=0), Epsilon()]


def test_a_composite_of_ones_own_is_the_named_one_made_by_hand(models, scalar, images):
    own = Composite(
        assignments=(
            Assignment(rule=Flat(), path="stem.*"),
            Assignment(rule=AlphaBeta(), operations=frozenset({"conv2d"})),
        )
    )
    f = scalar(models["resnet"]())
    expected = LRP(composite="epsilon-plus-flat")(f, images)
    torch.testing.assert_close(LRP(composite=own)(f, images), expected)
    assert not torch.allclose(LRP()(f, images), expected)
    assert composite_named("epsilon-plus").otherwise == Epsilon()


def test_flat_everywhere_reaches_the_pixels_through_silent_units(models, scalar, images):
    f = scalar(models["vgg-free"]())
    account = LRP(composite=Composite(otherwise=Flat())).account(f, images)
    torch.testing.assert_close(total(account.values), account.explained, rtol=1e-6, atol=1e-9)


def test_folding_changes_nothing_but_the_bias_where_scales_are_positive(models, images):
    model = models["resnet"]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.abs_()
                module.bias.zero_()
                module.running_mean.zero_()
    f = ModelScalar(Network.read(model, images), logit(1))
    one, other = (
        LRP(composite="generalised-gamma", fold=fold)(f, images) for fold in (True, False)
    )
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_weights_that_changed_show(models, scalar, images):
    model = models["resnet"]()
    f = scalar(model)
    before = LRP()(f, images)
    with torch.no_grad():
        model.head.weight.mul_(2)
        model.head.bias.mul_(2)
    torch.testing.assert_close(LRP()(f, images), 2 * before, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        model.stem[1].running_mean.add_(1)
    assert not torch.allclose(LRP()(f, images), 2 * before)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_frozen_or_compiled_model_gives_the_same(compiled, models, scalar, images):
    model = models["resnet"]()
    expected = LRP()(scalar(model), images)
    model.requires_grad_(requires_grad=False)
    wrapped = torch.compile(model, backend="eager") if compiled else model
    torch.testing.assert_close(LRP()(scalar(wrapped), images), expected)


class Exponential(nn.Module):
    def forward(self, images):
        return images.exp().mean((2, 3))


def test_an_operation_without_a_rule_is_named_when_relevance_arrives(scalar, images):
    with pytest.raises(UnsupportedOperation, match="arrives at the operation 'exp'"):
        LRP()(scalar(Exponential().eval(), at=0), images)


class Weights(nn.Module):
    """Signals as weights of other signals."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, images):
        one, other = images[:, 0], images[:, 1]
        if self.kind == "einsum":
            return torch.einsum("bij,bkj->bik", one, other).mean(2)
        if self.kind == "linear":
            return functional.linear(one, other[0]).mean(2)
        return torch.addcmul(one, one, other).mean(2)


@pytest.mark.parametrize("kind", ["einsum", "linear", "addcmul"])
@pytest.mark.parametrize("method", [LRP(), DeepLift()])
def test_products_of_signals_in_other_clothes_are_refused(method, kind, scalar, images):
    model = Weights(kind).eval()
    with pytest.raises(UnsupportedOperation, match=f"arrives at the operation '{kind}'"):
        method(scalar(model, at=0), images)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("composite", "epsilon_plus", "no composite 'epsilon_plus'. There are: epsilon,"),
        ("attention", "rollout", "attnlrp or cp-lrp"),
        ("bias", "zero", "absorb or ignore"),
        ("batch_size", 0, "batch_size must be at least 1"),
        ("epsilon", -1.0, "epsilon must be 0 or more"),
    ],
)
def test_settings_that_make_no_method_are_refused(field, value, says):
    method = LRP(composite="epsilon")
    object.__setattr__(method, field, value)  # past the types, which tests execute
    with pytest.raises(SettingError, match=says):
        method.__post_init__()


def test_a_model_that_was_not_read_is_refused(models, images):
    with pytest.raises(SettingError, match=r"LRP replaces .*Network\.read"):
        LRP()(ModelScalar(models["vgg"](), logit(0)), images)


def test_relevance_needs_no_gradient_mode(models, scalar, images):
    f = scalar(models["vgg"]())
    expected = LRP()(f, images)
    with torch.no_grad():
        torch.testing.assert_close(LRP()(f, images), expected)
    assert not torch.allclose(expected, Gradient()(f, images))


MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
BLACK, WHITE = (-2.5, -1.6, -1.0), (2.5, 2.4, 7 / 3)


def test_the_box_reaches_from_black_to_white_where_the_normalisation_is_known(
    models, scalar, images
):
    f = scalar(models["vgg"]())
    units = Normalisation(mean=MEAN, std=STD)
    given = LRP(composite="epsilon-gamma-box", low=BLACK, high=WHITE)(f, images)
    for method in (
        LRP(composite="epsilon-gamma-box", normalisation=units),
        LRP(composite="epsilon-gamma-box", normalisation=units, low=BLACK),
        method_named("lrp", {"composite": "epsilon-gamma-box"}, normalisation=units),
        LRP(composite=composite_named("epsilon-gamma-box"), normalisation=units),
    ):
        torch.testing.assert_close(method(f, images), given)
    own = LRP(composite="epsilon-gamma-box")(f, images)
    assert not torch.allclose(own, given, rtol=0.1)


def test_explain_gives_the_box_the_models_normalisation(models, images):
    model, units = models["vgg"](), Normalisation(mean=MEAN, std=STD)
    preprocessing = Preprocessing(
        size=(8, 8),
        resize=None,
        crop=False,
        interpolation="bilinear",
        channels=3,
        normalisation=units,
        source="test",
    )
    asked = {"settings": {"composite": "epsilon-gamma-box"}, "preprocessing": preprocessing}
    result = explain(model, images, target=1, method="lrp", **asked)
    assert result.method.normalisation == units
    f = ModelScalar(Network.read(model, images), logit(1))
    expected = LRP(composite="epsilon-gamma-box", low=BLACK, high=WHITE)(f, images)
    torch.testing.assert_close(result.values, expected)
    method = LRP(composite="epsilon-gamma-box")
    by_value = explain(model, images, target=1, method=method, preprocessing=preprocessing)
    torch.testing.assert_close(by_value.values, expected)


def test_a_box_of_no_size_is_the_epsilon_rule_on_a_whole_network(models, scalar, images):
    f = scalar(models["vgg-free"]())
    first = Assignment(rule=ZBox(low=0, high=0), depth=(0, 0))
    empty = LRP(composite=Composite(assignments=(first,)))(f, images)
    torch.testing.assert_close(empty, LRP(composite="epsilon")(f, images))
    torch.testing.assert_close(
        LRP(composite=Composite(assignments=(first,), otherwise=Epsilon(epsilon=0)))(f, images),
        InputXGradient()(f, images),
        rtol=1e-3,
        atol=1e-5,
    )
