"""What Captum 0.9 does with the same networks, for the table in the manual."""

import pytest
import torch
from torch import nn

from whence.attribution import (
    LRP,
    Deconvnet,
    DeepLift,
    Gradient,
    GuidedBackpropagation,
    InputXGradient,
    attribute,
)
from whence.core import ModelScalar, logit
from whence.network import Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting "),
    pytest.mark.filterwarnings("ignore:Input Tensor"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture
def theirs(captum, images, classes):
    """Return the values of a Captum method on a model."""

    def explain(name, model, **settings):
        made = getattr(captum, name)(model)
        return made.attribute(images.clone().requires_grad_(), target=classes, **settings).detach()

    return explain


def far(one, other):
    """By how much two maps differ, as a part of the second's largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("way", ["functional", "in-place"])
@pytest.mark.parametrize(
    ("name", "ours"), [("GuidedBackprop", GuidedBackpropagation()), ("Deconvolution", Deconvnet())]
)
def test_captum_gives_the_gradient_for_guided_rules_where_a_relu_is_a_function(
    name, ours, way, theirs, make, explained
):
    assert far(theirs(name, make("clean")), explained("clean", ours)) < 1e-12
    silent = theirs(name, make(way))
    assert far(silent, explained("clean", ours)) > 1
    assert far(silent, explained("clean", Gradient())) < 1e-12


@pytest.mark.parametrize("way", ["reused", "tied", "called-twice", "nested"])
def test_captums_guided_rules_are_right_for_modules(way, theirs, make, explained):
    values = theirs("GuidedBackprop", make(way))
    assert far(values, explained("clean", GuidedBackpropagation())) < 1e-12


def test_captum_gives_the_gradient_for_guided_rules_on_gelus(theirs, images, classes):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 4))
    model = model.double().eval()
    plain = Gradient()(ModelScalar(model, logit(classes)), images)
    assert far(theirs("GuidedBackprop", model), plain) < 1e-12


def gap_of(captum, model, images, classes):
    _, delta = captum.DeepLift(model).attribute(
        images.clone().requires_grad_(),
        torch.zeros_like(images),
        target=classes,
        return_convergence_delta=True,
    )
    rows = torch.arange(len(images))
    change = (model(images) - model(torch.zeros_like(images)))[rows, classes].detach()
    return (delta / change).abs().max()


@pytest.mark.parametrize("way", ["functional", "in-place"])
def test_captums_deeplift_does_not_add_up_where_a_relu_is_a_function(
    way, captum, make, images, classes
):
    assert gap_of(captum, make("clean"), images, classes) < 1e-12
    assert gap_of(captum, make(way), images, classes) > 0.5


@pytest.mark.parametrize("way", ["reused", "residual"])
def test_captums_deeplift_raises_where_a_relu_is_reused(way, theirs, make):
    with pytest.raises(RuntimeError, match="A Module ReLU"):
        theirs("DeepLift", make(way))


def test_captums_deeplift_is_input_times_gradient_on_a_transformer(theirs, make, explained):
    silent = theirs("DeepLift", make("transformer"))
    assert far(silent, explained("transformer", InputXGradient())) < 1e-12
    assert far(silent, explained("transformer", DeepLift())) > 0.1


@pytest.mark.parametrize("way", ["clean", "functional", "reused", "in-place"])
def test_captums_lrp_is_right_without_residual_sums(way, theirs, make, explained):
    assert far(theirs("LRP", make(way)), explained("clean", InputXGradient())) < 1e-6


class Normed(nn.Module):
    """A batch norm behind a convolution; one of its scales is negative."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 4)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in (*self.parameters(), self.norm.running_mean):
                p.copy_(torch.randn(p.shape, generator=generator))
            self.norm.weight[0] = -1
        self.double().eval()

    def forward(self, images):
        return self.head(self.pool(self.act(self.norm(self.conv(images)))).flatten(1))


def test_captums_lrp_is_right_for_batch_norms_behind_convolutions(theirs, images, classes):
    model = Normed()
    expected = InputXGradient()(ModelScalar(model, logit(classes)), images)
    assert far(theirs("LRP", model), expected) < 1e-5


def test_captums_lrp_raises_where_a_layer_is_called_twice(theirs, make):
    with pytest.raises(RuntimeError, match="being used more than once"):
        theirs("LRP", make("called-twice"))


def test_captums_lrp_loses_count_at_residual_sums_and_ours_does_not(
    theirs, make, read, images, classes
):
    model, network = read("residual without biases")
    values = theirs("LRP", make("residual without biases")).flatten(1).sum(1)
    logits = model(images)[torch.arange(5), classes].detach()
    assert (values / logits - 1).abs().min() > 1
    result = attribute(LRP(composite="epsilon"), ModelScalar(network, logit(classes)), images)
    torch.testing.assert_close(result.total, logits, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [nn.Identity(), nn.Flatten(1, 2), nn.LeakyReLU(), nn.GELU(), nn.LayerNorm(8)],
    ids=lambda m: type(m).__name__,
)
def test_captums_lrp_refuses_common_layers(layer, captum, images):
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), layer).double().eval()
    target = (0, 0, 0) if not isinstance(layer, nn.Flatten) else (0, 0)
    with pytest.raises(TypeError, match="has no rule defined"):
        captum.LRP(model).attribute(images.clone().requires_grad_(), target=target)


def test_captums_grad_cam_averages_over_the_wrong_axis_of_tokens(captum, make, images, classes):
    """One number per channel of the embedding, where a map has one per patch."""
    model = make("transformer")
    values = captum.LayerGradCam(model, model.norms[2]).attribute(images, target=classes)
    assert values.shape == (5, 1, 8)


def test_captum_explains_a_frozen_model(theirs, make, explained):
    frozen = make("clean").requires_grad_(requires_grad=False)
    values = theirs("GuidedBackprop", frozen)
    assert far(values, explained("clean", GuidedBackpropagation())) < 1e-12


def test_captum_moves_running_statistics_in_train_mode(captum, images, classes):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    model = model.double().train()
    before = model[1].running_mean.clone()
    captum.IntegratedGradients(model).attribute(images, target=classes, n_steps=3)
    assert (model[1].running_mean - before).abs().max() > 1e-3


def test_captums_noise_depends_on_how_the_work_is_cut(captum, make, images, classes):
    tunnel = captum.NoiseTunnel(captum.Saliency(make("clean")))
    maps = []
    for size in (1, 5):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            settings = {"nt_samples": 10, "nt_samples_batch_size": size, "abs": False}
            maps.append(tunnel.attribute(images, target=classes, **settings))
    assert far(maps[0], maps[1]) > 0.1


@pytest.mark.parametrize(
    ("target", "error"),
    [(None, AssertionError), (99, IndexError), (torch.eye(5, 4), AssertionError)],
    ids=["none", "too high", "one hot"],
)
def test_captum_answers_other_targets_with_bare_errors(target, error, captum, make, images):
    with pytest.raises(error):
        captum.Saliency(make("clean")).attribute(images.clone().requires_grad_(), target=target)


@pytest.fixture
def compiled(make, images):
    """A compiled network that ran before anything was hooked onto it."""
    model = torch.compile(make("clean"), backend="eager")
    for given in (images, torch.cat([images, images])):
        model(given)
        model(given.clone().requires_grad_())
    return model


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("GuidedBackprop", GuidedBackpropagation()),
        ("Deconvolution", Deconvnet()),
        ("LRP", InputXGradient()),
    ],
)
def test_captums_hooks_are_passed_by_on_a_compiled_model(name, ours, theirs, compiled, explained):
    assert far(theirs(name, compiled), explained("clean", ours)) > 1


def test_captums_deeplift_does_not_add_up_on_a_compiled_model(captum, compiled, images, classes):
    assert gap_of(captum, compiled, images, classes) > 0.1


def test_captums_grad_cam_raises_on_a_compiled_model(captum, compiled, images, classes):
    inner = compiled._orig_mod
    with pytest.raises(AssertionError, match="did not obtain any outputs"):
        captum.LayerGradCam(compiled, inner.four).attribute(images, target=classes)


@pytest.mark.parametrize(
    ("name", "settings"), [("InputXGradient", {}), ("IntegratedGradients", {"n_steps": 3})]
)
def test_a_loss_on_captums_maps_trains_no_weight(name, settings, captum, make, images, classes):
    model = make("clean")
    values = getattr(captum, name)(model).attribute(
        images.clone().requires_grad_(), target=classes, **settings
    )
    values.square().sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_loss_on_captums_gradient_raises(captum, make, images, classes):
    values = captum.Saliency(make("clean")).attribute(
        images.clone().requires_grad_(), target=classes
    )
    with pytest.raises(RuntimeError, match="does not require grad"):
        values.square().sum().backward()


@pytest.mark.parametrize("steps", [5, 10, 50])
def test_the_weights_of_captums_trapezoid_add_up_to_one_less_a_step(steps, captum, images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).double().eval()
    values = captum.IntegratedGradients(model).attribute(
        images, target=1, n_steps=steps, method="riemann_trapezoid"
    )
    exact = images * model[1].weight[1].view(3, 8, 8).detach()
    torch.testing.assert_close(values, exact * (steps - 1) / steps, rtol=1e-6, atol=1e-9)


def test_captum_runs_no_fewer_rows_than_there_are_images(captum, make, images, classes):
    explainer = captum.IntegratedGradients(make("clean"))
    with pytest.warns(UserWarning, match="Defaulting to internal batch size of 5"):
        explainer.attribute(images, target=classes, n_steps=3, internal_batch_size=2)


def test_captums_methods_leave_the_model_as_it_is_in_eval_mode(
    captum, make, images, classes, untouched
):
    """What is right is said too."""
    model = make("clean")
    with untouched(model):
        for name in ("GuidedBackprop", "DeepLift", "IntegratedGradients"):
            getattr(captum, name)(model).attribute(images.clone().requires_grad_(), target=classes)
    assert Network.read(model, images)(images).shape == (5, 4)
