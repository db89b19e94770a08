"""Explainers of Captum and zennit as methods of whence, and methods of whence inside Quantus."""

import copy
import importlib

import numpy as np
import pytest
import torch

from whence.attribution import (
    LRP,
    DeepLift,
    GradCAM,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    as_quantus,
    attribute,
    captum_method,
    function_method,
    zennit_method,
)
from whence.core import ModelScalar, logit
from whence.errors import SettingError
from whence.evaluation import Deletion, ParameterRandomisation
from whence.network import Network

pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are providing multiple inputs for Lime:UserWarning"),
]

PIXELS = {
    "Saliency": {"abs": False},
    "InputXGradient": {},
    "IntegratedGradients": {"n_steps": 5, "baselines": 0.1},
    "DeepLift": {"baselines": 0.1},
    "GuidedBackprop": {},
    "Deconvolution": {},
    "LRP": {},
    "FeatureAblation": {},
    "Occlusion": {"sliding_window_shapes": (3, 2, 2), "strides": (3, 2, 2)},
    "GradientShap": {"baselines": torch.zeros(2, 3, 8, 8).double(), "n_samples": 4},
    "DeepLiftShap": {"baselines": torch.zeros(2, 3, 8, 8).double()},
    "KernelShap": {"feature_mask": torch.arange(4).repeat_interleave(16).view(1, 1, 8, 8)},
    "Lime": {"feature_mask": torch.arange(4).repeat_interleave(16).view(1, 1, 8, 8)},
    "ShapleyValueSampling": {
        "feature_mask": torch.arange(4).repeat_interleave(16).view(1, 1, 8, 8),
        "n_samples": 2,
    },
}
"""Captum's attributions of pixels, with settings of their own."""

COMPLETE = {"IntegratedGradients", "DeepLift", "LRP", "GradientShap", "DeepLiftShap"}
"""Those of which Captum says how far they are from adding up."""


@pytest.mark.parametrize("name", PIXELS)
def test_an_attribution_of_captum_is_what_it_is_there(
    name, captum, rectifier, images, classes, untouched
):
    model, settings = rectifier(), PIXELS[name]
    made = getattr(captum, name)
    draw()
    expected = made(model).attribute(images.clone().requires_grad_(), target=classes, **settings)
    method = captum_method(made, settings=settings)
    draw()
    with untouched(model):
        result = attribute(method, ModelScalar(model, logit(classes)), images)
    torch.testing.assert_close(result.values, expected.detach().to(images))
    assert (result.gap is not None) == (name in COMPLETE)


def test_captums_lrp_writes_on_weights_of_its_own(captum, rectifier, images, untouched):
    rules = importlib.import_module("captum.attr._utils.lrp_rules")

    def make(model):
        model[0].rule = rules.GammaRule()
        model[3].rule = rules.Alpha1_Beta0_Rule()
        return captum.LRP(model)

    model = rectifier()
    inputs = images.clone().requires_grad_()
    expected = make(copy.deepcopy(model)).attribute(inputs, target=1).detach()
    with untouched(model):
        values = captum_method(make)(ModelScalar(model, logit(1)), images)
    torch.testing.assert_close(values, expected)


def draw():
    """Captum draws from the global generators, in NumPy and in torch."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the one that it draws from


def test_the_gap_is_the_one_that_captum_reports_as_delta(captum, smooth, images, classes):
    f = ModelScalar(smooth, logit(classes))
    method = captum_method(captum.IntegratedGradients, settings={"n_steps": 3})
    _, delta = captum.IntegratedGradients(smooth).attribute(
        images, target=classes, n_steps=3, return_convergence_delta=True
    )
    change = (f(images) - f(torch.zeros_like(images))).detach()
    torch.testing.assert_close(
        attribute(method, f, images).gap, (delta / change).abs(), rtol=1e-6, atol=1e-9
    )


def test_captums_trapezoid_is_short_by_a_share_that_the_gap_shows(captum, rectifier, images):
    f = ModelScalar(rectifier(bias=False), logit(1))
    settings = {"n_steps": 10, "method": "riemann_trapezoid"}
    short = attribute(captum_method(captum.IntegratedGradients, settings=settings), f, images)
    right = attribute(IntegratedGradients(steps=10), f, images)
    assert right.gap.max() < 1e-12
    # The first of its ten points is at zero, where every ReLU is dead, and weighs half.
    torch.testing.assert_close(short.gap, torch.full((3,), 0.15).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda captum: lambda model: captum.LayerGradCam(model, model[4]),
        lambda captum: lambda model: captum.LayerConductance(model, model[1]),
        lambda captum: lambda model: captum.LayerActivation(model, model[4]),
        lambda captum: lambda model: captum.LayerIntegratedGradients(model, model[4]),
    ],
    ids=["grad-cam", "conductance", "activation", "integrated"],
)
def test_maps_of_captums_layers_are_enlarged(make, captum, rectifier, images, untouched):
    model = rectifier()
    explainer = make(captum)(model)
    target = {} if isinstance(explainer, captum.LayerActivation) else {"target": 2}
    small = explainer.attribute(images, **target).detach().sum(dim=1, keepdim=True)
    expected = torch.nn.functional.interpolate(small, size=(8, 8), mode="bilinear")
    with untouched(model):
        values = captum_method(make(captum))(ModelScalar(model, logit(2)), images)
    torch.testing.assert_close(values, expected)


def test_captums_grad_cam_is_ours_without_the_relu(captum, rectifier, images, classes):
    model = rectifier()
    method = captum_method(lambda model: captum.LayerGradCam(model, model[4]))
    theirs = method(ModelScalar(model, logit(classes)), images)
    ours = GradCAM(relu=False)(ModelScalar(Network.read(model, images), logit(classes)), images)
    torch.testing.assert_close(theirs, ours)


def test_a_noise_tunnel_is_a_method_around_a_method(captum, smooth, images):
    settings = {"nt_samples": 3, "stdevs": 0.1, "nt_type": "smoothgrad", "abs": False}
    method = captum_method(
        lambda model: captum.NoiseTunnel(captum.Saliency(model)), settings=settings
    )
    draw()
    values = method(ModelScalar(smooth, logit(1)), images)
    draw()
    expected = captum.NoiseTunnel(captum.Saliency(smooth)).attribute(images, target=1, **settings)
    torch.testing.assert_close(values, expected)
    assert str(method).startswith("Foreign(name='captum made by a function'")


def test_captum_is_judged_as_ours_is_and_by_the_right_model(captum, rectifier, images, classes):
    """A bound object would explain the model as it was, however its copy is randomised."""
    model, target = rectifier(), logit(classes)
    judge = ParameterRandomisation()
    cascade = judge(model, images, target, captum_method(captum.InputXGradient)).correlations
    assert cascade.abs().mean() < 0.6
    again = judge(model, images, target, InputXGradient()).correlations
    torch.testing.assert_close(cascade, again)
    with pytest.raises(SettingError, match="does not compute the logits that are explained"):
        ParameterRandomisation()(model, images, target, captum_method(captum.InputXGradient(model)))
    deep = judge(model, images, target, captum_method(captum.DeepLift)).correlations
    assert deep.abs().mean() < 0.6  # on the copy as well, though it asks for a module
    f = ModelScalar(model, target)
    areas = [
        Deletion(steps=4)(f, images, method(f, images))
        for method in (captum_method(captum.InputXGradient), InputXGradient())
    ]
    torch.testing.assert_close(*areas)


@pytest.mark.parametrize("start", ["one", "value"])
def test_relevance_of_zennit_is_ours_and_keeps_its_share(
    start, zennit, rectifier, images, classes, untouched
):
    model = rectifier(bias=False)
    composite = zennit.composites.EpsilonPlus

    def make(model):
        return zennit.attribution.Gradient(model, composite())

    f = ModelScalar(model, logit(classes))
    with untouched(model):
        result = attribute(zennit_method(make, start=start), f, images)
    graph = ModelScalar(Network.read(model, images), logit(classes))
    ours = LRP(composite="epsilon-plus")(graph, images)
    scale = 1 if start == "value" else f(images).detach().view(-1, 1, 1, 1)
    torch.testing.assert_close(scale * result.values, ours, rtol=1e-4, atol=1e-7)
    if start == "value":
        assert result.gap.max() < 1e-4
    bound = make(model)
    again = zennit_method(bound, start=start)(f, images)
    torch.testing.assert_close(again, result.values)


def test_other_attributors_of_zennit_work_too(zennit, smooth, images):
    f = ModelScalar(smooth, logit(2))
    attributors = zennit.attribution
    gradient = zennit_method(attributors.Gradient)(f, images)
    torch.testing.assert_close(images * gradient, InputXGradient()(f, images))
    path = zennit_method(lambda model: attributors.IntegratedGradients(model, n_iter=4))(f, images)
    right = IntegratedGradients(steps=4, rule="right")(f, images)
    torch.testing.assert_close(path, right)
    draw()
    noisy = zennit_method(lambda model: attributors.SmoothGrad(model, noise_level=0.1, n_iter=200))(
        f, images
    )
    ours = SmoothGrad(samples=200, sigma=0.1)(f, images)
    assert (noisy - ours).norm() < 0.2 * ours.norm()


def test_a_map_of_grad_cam_is_a_method_of_three_lines(grad_cam, rectifier, images):
    def hires(model, images, classes):
        targets = [target(int(k)) for k in classes]
        with grad_cam.HiResCAM(model, [model[4]]) as cam:
            return cam(images.float(), targets)

    target = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    model = rectifier().float()
    values = function_method(hires)(ModelScalar(model, logit(1)), images.float())
    assert values.shape == (3, 1, 8, 8)
    assert values.amin() == 0
    assert values.amax() > 0.99


# ------------------------------------------------------------------------------ inside Quantus


@pytest.fixture
def arrays(images, classes):
    return images.float().numpy(), classes.numpy()


OURS = {"lrp": LRP(), "grad-cam": GradCAM(relu=False), "deeplift": DeepLift()}
each_method = pytest.mark.parametrize("name", OURS)


@each_method
def test_quantus_scores_our_maps_as_if_they_were_given(name, quantus, rectifier, arrays):
    model, (inputs, targets) = rectifier().float(), arrays
    function = as_quantus(OURS[name])
    maps = function(model, inputs, targets)
    for metric in (
        quantus.Sparseness(disable_warnings=True),
        quantus.PixelFlipping(features_in_step=32, disable_warnings=True),
        quantus.FaithfulnessCorrelation(subset_size=8, nr_runs=5, disable_warnings=True),
    ):
        call = {"model": model, "x_batch": inputs, "y_batch": targets, "device": "cpu"}
        draw()
        given = metric(**call, a_batch=maps)
        draw()
        asked = metric(**call, explain_func=function)
        np.testing.assert_allclose(asked, given, rtol=1e-6)


@each_method
def test_a_randomisation_test_of_quantus_sees_the_randomised_model(
    name, quantus, rectifier, arrays, untouched
):
    model, (inputs, targets) = rectifier().float(), arrays
    metric = quantus.MPRT(disable_warnings=True)

    def read_each_time(**call):
        return as_quantus(OURS[name])(**call)

    with untouched(model):
        cached = metric(model, inputs, targets, explain_func=as_quantus(OURS[name]))
        fresh = metric(model, inputs, targets, explain_func=read_each_time)
    assert cached == fresh
    assert cached["original"] == pytest.approx([1, 1, 1])
    assert all(abs(score) < 0.99 for layer in ("5", "3", "0") for score in cached[layer])


def test_the_segmentation_metrics_of_quantus_take_one_channel(quantus, rectifier, arrays):
    model, (inputs, targets) = rectifier().float(), arrays
    masks = np.zeros((3, 1, 8, 8))
    masks[:, :, 2:6, 2:6] = 1
    metric = quantus.RelevanceMassAccuracy(disable_warnings=True, abs=True)
    scores = metric(
        model, inputs, targets, s_batch=masks, explain_func=as_quantus("input-x-gradient")
    )
    maps = np.abs(as_quantus("input-x-gradient")(model, inputs, targets))
    np.testing.assert_allclose(
        scores, (maps * masks).sum((1, 2, 3)) / maps.sum((1, 2, 3)), rtol=1e-5
    )


def test_the_table_of_quantus_takes_our_methods_by_name(quantus, rectifier, arrays):
    model, (inputs, targets) = rectifier().float(), arrays
    names = ("gradient", "lrp", "grad-cam")
    table = quantus.evaluate(
        metrics={"sparseness": quantus.Sparseness(disable_warnings=True)},
        xai_methods={name: as_quantus(name) for name in names},
        model=model,
        x_batch=inputs,
        y_batch=targets,
        agg_func=np.mean,
        explain_func_kwargs={"device": "cpu"},
    )
    assert set(table) == set(names)
    assert all(0 < table[name]["sparseness"] < 1 for name in names)


def test_quantus_own_integrated_gradients_is_short_and_changes_the_mode(quantus, rectifier, arrays):
    model, (inputs, targets) = rectifier(bias=False).float(), arrays
    model.train()
    values = as_quantus(IntegratedGradients(steps=10))(model, inputs, targets)
    assert model.training
    theirs = quantus.explain(model, inputs, targets, method="IntegratedGradients", device="cpu")
    assert not model.training
    # Ten points of Captum's trapezoid weigh 0.9 in all, and half of one is at zero.
    np.testing.assert_allclose(theirs.sum((1, 2, 3)), 0.85 * values.sum((1, 2, 3)), rtol=1e-4)
