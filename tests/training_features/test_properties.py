"""The numeric properties of training-feature maps, numbered as in the project's own list.

The others (of scores) stand with the tests of influence.
"""

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from torch.func import hessian
from torch.nn import functional

from whence.attribution import Gradient, InputXGradient, IntegratedGradients, SmoothGrad, attribute
from whence.core import Margin, TensorData
from whence.gradients import Operator
from whence.influence import GradCos, GradDot, Influence, Scoring, influence, one
from whence.influence.scoring import residual
from whence.network import Network
from whence.training_features import (
    Additive,
    InfluenceXGradient,
    held_weights,
    influence_fn,
    normalisers,
    training_features,
)

BOTH = pytest.mark.parametrize("scorer", [GradCos(), GradDot()], ids=lambda s: s.name)


@dataclass(frozen=True)
class Product:
    """The inner product of the margins' gradients alone."""

    name: str = "product"

    def fit(self, recorder, train, *, batch_size=32, progress=None):
        return Scoring(recorder=recorder, factors=one, weights=one)


def maps(case, query=0, *, scorer=None, method=None, indices=(0, 1, 2, 3), **settings):
    scores = case if isinstance(case, Influence) else case.influence(scorer)
    train = settings.pop("train", None) or case.train
    return training_features(scores, query, train, list(indices), method or Gradient(), **settings)


def assert_equal(found, expected, rtol=1e-10):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


@pytest.mark.parametrize("name", ["smooth", "resnet", "vit", "convnext", "swin", "levit"])
def test_property_2_forward_mode_and_double_backward_give_one_map(setting, name):
    case = setting(name)
    labels = case.train.labels[:2]
    f = influence_fn(case.influence(GradDot()), 0, labels)
    found = []
    for terms in (f.terms, (replace(f.terms[0], along=None),)):
        images = case.train.images[:2].clone().requires_grad_()
        values = replace(f, terms=terms)(images)
        found.append((values.detach(), torch.autograd.grad(values.sum(), images)[0]))
    (value, pixels), (expected_value, expected_pixels) = found
    assert_equal(value, expected_value, rtol=1e-9)
    assert_equal(pixels, expected_pixels, rtol=1e-9)


@pytest.mark.parametrize("name", ["smooth", "vit"])
def test_property_2_forward_over_reverse_gives_the_same_map(setting, name):
    case = setting(name)
    scores = case.influence(Product())
    along = {n: v[0] for n, v in scores.queries.dense().items()}
    held = {n: p.detach() for n, p in case.network.parameters.items()}
    function = case.network.function(twice=True)

    def pixels(parameters):
        def margin(images):
            return Margin(case.train.labels[:2])(function(parameters, images)[0]).sum()

        return torch.func.grad(margin)(case.train.images[:2])

    with warnings_of_forward_mode_hidden():
        expected = torch.func.jvp(pixels, (held,), (along,))[1]
    assert_equal(maps(scores, train=case.train, indices=[0, 1]).attribution.values, expected)


@BOTH
def test_property_3_a_map_is_the_central_difference_of_the_score_pixel_by_pixel(setting, scorer):
    case = setting()
    found = maps(case, scorer=scorer, indices=[3]).attribution.values[0]
    f = influence_fn(case.influence(scorer), 0, case.train.labels[[3]].repeat(192))
    steps = 1e-6 * torch.eye(192, dtype=torch.float64).view(192, 3, 8, 8)
    image = case.train.images[3:]
    with torch.no_grad():
        slopes = (f(image + steps) - f(image - steps)) / 2e-6
    assert_equal(slopes.view(3, 8, 8), found, rtol=1e-6)


def test_property_4_a_map_is_the_difference_of_input_gradients_along_the_query(setting):
    case = setting()
    scores = case.influence(Product())
    found = maps(scores, train=case.train).attribution.values
    function = case.network.function()
    along = {n: v[0] for n, v in scores.queries.dense().items()}

    def pixels(step):
        images = case.train.images.clone().requires_grad_()
        moved = {n: p.detach() + step * along[n] for n, p in case.network.parameters.items()}
        margins = Margin(case.train.labels)(function(moved, images)[0])
        return torch.autograd.grad(margins.sum(), images)[0]

    assert_equal((pixels(1e-5) - pixels(-1e-5)) / 2e-5, found, rtol=1e-7)


def test_properties_5_and_6_cosines_split_into_a_shared_vector_and_an_orthogonal_one(setting):
    """The map is that of an inner product with a fixed vector orthogonal to the gradient."""
    case = setting()
    scores = case.influence(GradCos())
    found = maps(scores, train=case.train, indices=[1]).attribution.values[0]
    recorded = scores.recorder.record(case.train.images[1:2], Margin(case.train.labels[1:2]))
    own = recorded.materialise()
    norm, score = recorded.norm()[0], scores.scores[1, 0]
    along = {
        name: (v[:1] - score * own[name] / norm) / norm
        for name, v in scores.queries.dense().items()
    }
    assert abs(sum(float((along[n] * own[n]).sum()) for n in own)) < 1e-12
    images = case.train.images[1:2].clone().requires_grad_()
    kept = scores.recorder.record(images, Margin(case.train.labels[1:2]), create_graph=True)
    (expected,) = torch.autograd.grad(kept.dot(along).sum(), images)
    assert_equal(found, expected[0])


@pytest.mark.parametrize("name", ["smooth", "resnet", "vit"])
def test_property_5_the_split_with_kept_normalisers_gives_the_maps_of_brute_force(setting, name):
    case = setting(name)
    scores = case.influence(GradCos())
    kept = normalisers(scores, case.train, [3, 0, 2])
    for query in range(2):
        found = maps(scores, query, train=case.train, indices=[2, 0], kept=kept).attribution
        for row, index in enumerate((2, 0)):
            value, pixels = case.brute_force(index, query, GradCos())
            assert_equal(found.explained[row], value, rtol=1e-9)
            assert_equal(found.values[row], pixels, rtol=1e-9)


def test_property_6_the_cosine_map_of_an_image_against_itself_is_zero(setting):
    case = setting()
    target = Margin(case.train.labels[:1])
    scores = influence(case.network, case.train, case.train.images[:1], target)
    found = maps(scores, train=case.train, indices=[0, 1]).attribution
    assert abs(found.explained[0] - 1) < 1e-12
    assert found.values[0].abs().max() < 1e-9 * found.values[1].abs().max()


def test_property_9_a_linear_model_shows_what_of_the_query_is_not_in_the_training_image(setting):
    case = setting("two classes")
    found = maps(case).attribution
    query = case.images[0].flatten()
    for i in range(4):
        image = case.train.images[i].flatten()
        sign = 1 if case.train.labels[i] == case.classes[0] else -1
        cosine = torch.cosine_similarity(image, query, dim=0)
        expected = sign * (query / query.norm() - cosine * image / image.norm()) / image.norm()
        assert_equal(found.explained[i], sign * cosine)
        assert_equal(found.values[i].flatten(), expected)


class Matrix(Operator):
    """A linear map on the gradients of one weight, as a matrix."""

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, vectors):
        return {n: (v.flatten(1) @ self.matrix).reshape(v.shape) for n, v in vectors.items()}


@dataclass(frozen=True)
class Exact:
    """Influence functions with the inverse of the whole Hessian."""

    inverse: torch.Tensor
    name: str = "exact"

    def fit(self, recorder, train, *, batch_size=32, progress=None):
        operator = Matrix(self.inverse)
        return Scoring(recorder=recorder, factors=one, weights=residual, operator=operator)


def test_property_9_the_map_of_influence_functions_is_the_slope_of_the_retrained_margin():
    """With a pixel of a training image changed, and the model trained anew to the optimum."""
    generator = torch.Generator().manual_seed(0)
    images, query = torch.randn(6, 2, 2, 2, generator=generator).double().split([5, 1])
    labels = torch.tensor([0, 1, 2, 1, 0])

    def loss(weight, x):
        fit = functional.cross_entropy(x.flatten(1) @ weight.T, labels, reduction="sum")
        return fit + 0.15 * weight.square().sum()

    def trained(x):
        weight = torch.zeros(3, 8, dtype=torch.float64)
        for _ in range(20):
            slope = torch.func.grad(loss)(weight, x).flatten()
            curve = hessian(loss)(weight, x).reshape(24, 24)
            weight = weight - torch.linalg.solve(curve, slope).reshape(3, 8)
        return weight

    def margin(weight):
        return float(Margin(2)(query.flatten(1) @ weight.T))

    weight = trained(images)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(weight)
    inverse = torch.linalg.inv(hessian(loss)(weight, images).reshape(24, 24))
    network = Network.read(model.eval(), images)
    train = TensorData(images=images, labels=labels)
    asked = Margin(torch.tensor([2]))
    scores = influence(network, train, query, asked, scorer=Exact(inverse))
    found = maps(scores, train=train, indices=[1, 3]).attribution.values
    step = 1e-5
    for row, index in enumerate((1, 3)):
        for channel, i, j in ((0, 0, 0), (1, 0, 1), (0, 1, 1)):
            ends = []
            for sign in (1, -1):
                moved = images.clone()
                moved[index, channel, i, j] += sign * step
                ends.append(margin(trained(moved)))
            expected = (ends[0] - ends[1]) / (2 * step)
            assert float(found[row, channel, i, j]) == pytest.approx(expected, rel=1e-6)


def test_property_10_without_biases_products_add_up_to_the_score_and_cosines_to_zero(setting):
    case = setting("without biases")
    product = maps(case, scorer=Product(), method=InputXGradient()).attribution
    assert_equal(product.total, product.explained)
    assert (product.explained.abs() > 1e-3).all()
    cosine = maps(case, method=InputXGradient()).attribution
    assert cosine.total.abs().max() < 1e-12
    assert cosine.values.abs().sum(dim=(1, 2, 3)).min() > 1e-3


@BOTH
@pytest.mark.parametrize("classes", [2, 4])
def test_property_10_on_an_x_dnn_x_gradient_adds_up_to_the_influence_exactly(scorer, classes):
    scores, train = without_biases(scorer, classes)
    f = influence_fn(scores, 0, train.labels, held_weights(scores, scores.indices))
    found = attribute(InfluenceXGradient(), f, train.images)
    assert_equal(found.explained, scores.scores[:, 0])
    assert_equal(found.total, scores.scores[:, 0], rtol=1e-12)
    assert found.gap.max() < 1e-12
    assert (found.explained.abs() > 1e-6).all()


@BOTH
@pytest.mark.parametrize("name", ["without biases", "smooth", "convolutions", "softmax regression"])
def test_property_11_shares_of_positions_add_up_to_the_score(setting, scorer, name):
    """All of it, but for the bias of the last layer, which has no position."""
    case = setting(name)
    scores = case.influence(scorer)
    found = maps(case, scorer=scorer, method=Additive(), hold_weights=True).attribution
    own = scores.recorder.record(case.train.images, Margin(case.train.labels)).materialise()
    last = list(own)[-1]
    left = torch.zeros(4, dtype=torch.float64)
    if last.endswith("bias"):
        left = own[last] @ scores.queries.dense()[last][0] * scores.weights[:, 0]
    assert_equal(found.explained, scores.scores[:, 0])
    assert_equal(found.total, scores.scores[:, 0] - left, rtol=1e-12)


@BOTH
def test_property_12_integrated_gradients_of_an_influence_are_complete_on_a_smooth_network(
    setting, scorer
):
    case = setting()
    method = IntegratedGradients(steps=48, rule="gauss-legendre")
    found = maps(case, scorer=scorer, method=method).attribution
    f = influence_fn(case.influence(scorer), 0, case.train.labels)
    with torch.no_grad():
        change = f(case.train.images) - f(torch.zeros_like(case.train.images))
    assert_equal(found.total, change, rtol=1e-5)
    assert found.gap.max() < 1e-4


def test_property_12_on_a_network_of_relus_they_are_not(setting):
    case = setting("relus")
    found = maps(case, scorer=Product(), method=IntegratedGradients(steps=256)).attribution
    assert found.gap.max() > 0.01


def test_property_15_maps_are_linear_in_the_query(setting):
    case = setting()
    scores = case.influence(GradDot())
    coefficients = torch.tensor([2.0, -0.5], dtype=torch.float64)
    mixed = scores.combined(coefficients)
    found = maps(mixed, train=case.train).attribution
    parts = [maps(scores, q, train=case.train).attribution for q in range(2)]
    assert_equal(found.values, 2 * parts[0].values - 0.5 * parts[1].values)
    assert_equal(found.explained, 2 * parts[0].explained - 0.5 * parts[1].explained)


@BOTH
def test_property_17_smoothing_without_noise_is_the_plain_map_and_repeats_bit_for_bit(
    setting, scorer
):
    case = setting()
    plain = maps(case, scorer=scorer).attribution.values
    still = maps(case, scorer=scorer, method=SmoothGrad(samples=3, sigma=0)).attribution.values
    assert_equal(still, plain)
    noisy = SmoothGrad(samples=4, sigma=0.1, seed=7)
    first, again = (maps(case, scorer=scorer, method=noisy).attribution.values for _ in range(2))
    assert torch.equal(first, again)
    cut = maps(case, scorer=scorer, method=replace(noisy, batch_size=3), batch_size=2)
    assert_equal(cut.attribution.values, first)
    assert not torch.allclose(first, plain, rtol=1e-3)


def test_property_17_the_error_of_smoothing_falls_with_the_root_of_the_samples(setting):
    case = setting()
    scores = case.influence(GradDot())

    def spread(samples):
        runs = [
            maps(
                scores,
                train=case.train,
                indices=[0],
                method=SmoothGrad(samples=samples, sigma=0.1, seed=seed),
            ).attribution.values
            for seed in range(6)
        ]
        return float(torch.cat(runs).std(dim=0).square().mean().sqrt())

    assert 2.5 < spread(4) / spread(64) < 6.5


@pytest.mark.parametrize("gap", [20.0, 40.0])
def test_property_18_a_saturated_training_image_keeps_its_map_in_single_precision(gap):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 5, 5, generator=generator, dtype=torch.float64)
    weights = [torch.randn(s, generator=generator).double() / 5 for s in ((6, 75), (4, 6))]
    found = []
    for dtype in (torch.float64, torch.float32):
        model = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(75, 6), torch.nn.GELU(), torch.nn.Linear(6, 4)
        ).to(dtype)
        with torch.no_grad():
            model[1].weight.copy_(weights[0])
            model[3].weight.copy_(weights[1])
            model[1].bias.zero_()
            model[3].bias.copy_(torch.tensor([gap, 0.0, 0.0, 0.0]))
        network = Network.read(model.eval(), images.to(dtype))
        train = TensorData(images=images[:1].to(dtype), labels=torch.tensor([0]))
        query = Margin(torch.tensor([1]))
        for scorer in (GradCos(), GradDot()):
            scores = influence(network, train, images[1:].to(dtype), query, scorer=scorer)
            found.append(training_features(scores, 0, train, [0], Gradient()).attribution.values)
    for double, single in zip(found[:2], found[2:], strict=True):
        assert single.isfinite().all()
        sides = [v.double().flatten() / v.abs().max() for v in (double, single)]
        assert 1 - torch.cosine_similarity(*sides, dim=0) < 1e-5
        assert_equal(single.double(), double, rtol=1e-3)


@BOTH
def test_property_19_a_training_image_without_a_gradient_has_an_empty_map(setting, scorer):
    case = setting("without biases")
    images = case.train.images.clone()
    images[1] = 0
    train = TensorData(images=images, labels=case.train.labels)
    scores = influence(case.network, train, case.images, Margin(case.classes), scorer=scorer)
    found = maps(scores, train=train, indices=[0, 1]).attribution
    assert scores.zero_gradients == 1
    assert found.explained[1] == 0
    assert found.values[1].abs().max() <= (0 if isinstance(scorer, GradCos) else 1)
    assert found.values[0].abs().max() > 0


def without_biases(scorer, classes):
    """Scores of training images under a network of convolutions and ReLUs without biases."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, bias=False),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(6, 6, 2, bias=False),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(24, classes, bias=False),
    ).double()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(normal(*value.shape) / value[0].numel() ** 0.5)
    images = normal(4, 3, 8, 8)
    train = TensorData(images=images, labels=torch.arange(4) % classes)
    network = Network.read(model.eval(), images)
    asked = Margin(torch.tensor([1]))
    return influence(network, train, normal(1, 3, 8, 8), asked, scorer=scorer), train


@contextmanager
def warnings_of_forward_mode_hidden():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
