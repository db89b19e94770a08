from dataclasses import dataclass, replace

import pytest
import torch

from whence.attribution import Gradient, InputXGradient, IntegratedGradients, SmoothGrad, attribute
from whence.core import Margin, ScalarFn, TensorData
from whence.errors import DataError, SettingError
from whence.influence import GradCos, GradDot, Influence, Scoring, influence, one
from whence.network import Network
from whence.training_features import influence_fn, training_features

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


# ----------------------------------------------------------------------------- oracles


@BOTH
@pytest.mark.parametrize("name", ["smooth", "resnet", "vit", "convnext", "swin", "levit"])
def test_scores_and_maps_equal_a_double_backward_pass_for_each_image(setting, scorer, name):
    case = setting(name)
    scores = case.influence(scorer)
    found = training_features(scores, 1, case.train, [0, 2], Gradient())
    for row, index in enumerate((0, 2)):
        value, pixels = case.brute_force(index, 1, scorer)
        assert_equal(scores.scores[index, 1], value, rtol=1e-9)
        assert_equal(found.attribution.explained[row], value, rtol=1e-9)
        assert_equal(found.attribution.values[row], pixels, rtol=1e-9)


@BOTH
def test_a_map_is_the_central_difference_of_the_score_pixel_by_pixel(setting, scorer):
    case = setting()
    found = maps(case, scorer=scorer, indices=[3]).attribution.values[0]
    f = influence_fn(case.influence(scorer), 0, case.train.labels[[3]].repeat(192))
    steps = 1e-6 * torch.eye(192, dtype=torch.float64).view(192, 3, 8, 8)
    image = case.train.images[3:]
    with torch.no_grad():
        slopes = (f(image + steps) - f(image - steps)) / 2e-6
    assert_equal(slopes.view(3, 8, 8), found, rtol=1e-6)


def test_a_map_is_the_difference_of_input_gradients_along_the_query(setting):
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


def test_softmax_regression_has_the_maps_of_its_closed_form(setting):
    case = setting("softmax regression")
    weight = case.model[1].weight.detach()
    dots = maps(case, 1, scorer=GradDot()).attribution.values
    cosines = maps(case, 1, scorer=GradCos()).attribution.values

    def sides(image, label):
        p = case.model(image[None])[0].softmax(dim=0).detach()
        residual = p - torch.eye(4, dtype=torch.float64)[label]
        return p, residual, torch.cat([image.flatten(), torch.ones(1).double()])

    def unit_change(value, other):
        """The gradient of the cosine of two vectors with respect to the first."""
        cosine = torch.cosine_similarity(value, other, dim=0)
        change = (other / other.norm() - cosine * value / value.norm()) / value.norm()
        return cosine, change

    _, r_q, x_q = sides(case.images[1], case.classes[1])
    for i in range(4):
        p, r, x = sides(case.train.images[i], case.train.labels[i])
        jacobian = torch.diag(p) - torch.outer(p, p)
        dot = (r @ r_q) * x_q[:-1] + (x @ x_q) * (weight.T @ jacobian @ r_q)
        assert_equal(dots[i].flatten(), dot)
        outputs, outputs_change = unit_change(r, r_q)
        inputs, inputs_change = unit_change(x, x_q)
        cosine = outputs * inputs_change[:-1] + inputs * (weight.T @ jacobian @ outputs_change)
        assert_equal(cosines[i].flatten(), cosine, rtol=1e-9)


def test_a_linear_model_shows_what_of_the_query_is_not_in_the_training_image(setting):
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


# ---------------------------------------------------------------------- two routes agree


@pytest.mark.parametrize("name", ["smooth", "resnet", "vit", "convnext", "swin", "levit"])
def test_the_forward_mode_route_equals_the_double_backward_route(setting, name):
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


def test_cosines_split_into_a_shared_vector_and_a_fixed_one(setting):
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


def test_the_loss_gives_the_same_cosine_maps_as_the_margin(setting):
    case = setting()
    found = maps(case).attribution.values[2]
    parameters = list(case.model.parameters())

    def gradient(image, label, **keep):
        loss = torch.nn.functional.cross_entropy(case.model(image[None]), label[None])
        parts = torch.autograd.grad(loss, parameters, **keep)
        return torch.cat([p.flatten() for p in parts])

    v = gradient(case.images[0], case.classes[0])
    x = case.train.images[2].clone().requires_grad_()
    g = gradient(x, case.train.labels[2], create_graph=True)
    (expected,) = torch.autograd.grad(g @ v / (g.norm() * v.norm()), x)
    assert_equal(found, expected)


# ------------------------------------------------------------------------------- laws


def test_a_step_of_training_lowers_the_querys_loss_by_the_score(setting):
    case = setting()
    score = float(case.influence(GradDot()).scores[0, 0])
    function = case.network.function()
    parameters = {n: p.detach().requires_grad_() for n, p in case.network.parameters.items()}

    def loss(values, image, label):
        logits = function(values, image[None])[0]
        return torch.nn.functional.cross_entropy(logits, label[None])

    own = loss(parameters, case.train.images[0], case.train.labels[0])
    slopes = torch.autograd.grad(own, list(parameters.values()))
    before = float(loss(parameters, case.images[0], case.classes[0]).detach())
    errors = []
    for rate in (1e-4, 1e-5):
        stepped = {
            n: (p - rate * s).detach() for (n, p), s in zip(parameters.items(), slopes, strict=True)
        }
        change = float(loss(stepped, case.images[0], case.classes[0]).detach()) - before
        errors.append(abs(change / -rate - score))
    assert errors[1] < 1e-2 * abs(score)
    assert errors[1] < 0.2 * errors[0]


def test_the_cosine_map_of_an_image_against_itself_is_zero(setting):
    case = setting()
    target = Margin(case.train.labels[:1])
    scores = influence(case.network, case.train, case.train.images[:1], target)
    found = maps(scores, train=case.train, indices=[0, 1]).attribution
    assert abs(found.explained[0] - 1) < 1e-12
    assert found.values[0].abs().max() < 1e-9 * found.values[1].abs().max()


def test_the_product_map_of_an_image_against_itself_is_half_the_gradient_of_its_norm(setting):
    case = setting()
    target = Margin(case.train.labels[:1])
    scores = influence(case.network, case.train, case.train.images[:1], target, scorer=Product())
    found = maps(scores, train=case.train, indices=[0]).attribution.values
    images = case.train.images[:1].clone().requires_grad_()
    norms = scores.recorder.record(images, target, create_graph=True).squared_norm()
    (expected,) = torch.autograd.grad(norms.sum() / 2, images)
    assert_equal(found, expected)


def test_without_biases_products_add_up_to_the_score_and_cosines_to_zero(setting):
    case = setting("without biases")
    product = maps(case, scorer=Product(), method=InputXGradient()).attribution
    assert_equal(product.total, product.explained)
    assert (product.explained.abs() > 1e-3).all()
    cosine = maps(case, method=InputXGradient()).attribution
    assert cosine.total.abs().max() < 1e-12
    assert cosine.values.abs().sum(dim=(1, 2, 3)).min() > 1e-3


def test_maps_are_linear_in_the_query(setting):
    case = setting()
    scores = case.influence(GradDot())
    coefficients = torch.tensor([2.0, -0.5], dtype=torch.float64)
    mixed = scores.combined(coefficients)
    found = maps(mixed, train=case.train).attribution
    parts = [maps(scores, q, train=case.train).attribution for q in range(2)]
    assert_equal(found.values, 2 * parts[0].values - 0.5 * parts[1].values)
    assert_equal(found.explained, 2 * parts[0].explained - 0.5 * parts[1].explained)


@BOTH
def test_a_map_depends_on_no_other_image_and_on_no_batch(setting, scorer):
    case = setting()
    whole = maps(case, scorer=scorer)
    turned = maps(case, scorer=scorer, indices=[3, 0, 2], batch_size=2)
    assert turned.indices.tolist() == [3, 0, 2]
    assert turned.labels.tolist() == case.train.labels[[3, 0, 2]].tolist()
    assert torch.equal(turned.images, case.train.images[[3, 0, 2]])
    assert_equal(turned.attribution.values, whole.attribution.values[[3, 0, 2]], rtol=1e-11)
    alone = maps(case, scorer=scorer, indices=[2, 2], batch_size=1)
    assert_equal(alone.attribution.values[1], whole.attribution.values[2], rtol=1e-11)


def test_cosine_maps_do_not_see_the_length_of_the_querys_gradient(setting):
    case = setting()
    scores = case.influence()
    margins = maps(scores, train=case.train).attribution.values

    class Third(Margin):
        def __call__(self, logits):
            return super().__call__(logits) / 3

        def at(self, rows):
            return Third(super().at(rows).labels)

    third = influence(case.network, case.train, case.images, Third(case.classes))
    assert_equal(maps(third, train=case.train).attribution.values, margins)


# ----------------------------------------------------------------------------- methods


def test_input_x_gradient_is_the_default_and_multiplies(setting):
    case = setting()
    plain = maps(case).attribution.values
    found = training_features(case.influence(), 0, case.train, [0, 1, 2, 3])
    assert isinstance(found.attribution.method, InputXGradient)
    assert_equal(found.attribution.values, plain * case.train.images)
    assert_equal(found.maps, (plain * case.train.images).sum(dim=1))


@BOTH
def test_smoothing_without_noise_is_the_plain_map_and_repeats_bit_for_bit(setting, scorer):
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


def test_the_error_of_smoothing_falls_with_the_root_of_the_samples(setting):
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


@BOTH
def test_integrated_gradients_of_an_influence_are_complete_on_a_smooth_network(setting, scorer):
    case = setting()
    method = IntegratedGradients(steps=48, rule="gauss-legendre")
    found = maps(case, scorer=scorer, method=method).attribution
    f = influence_fn(case.influence(scorer), 0, case.train.labels)
    with torch.no_grad():
        change = f(case.train.images) - f(torch.zeros_like(case.train.images))
    assert_equal(found.total, change, rtol=1e-5)
    assert found.gap.max() < 1e-4


def test_the_influence_is_a_scalar_function_for_any_method(setting):
    case = setting()
    f = influence_fn(case.influence(), 1, case.train.labels)
    assert isinstance(f, ScalarFn)
    with torch.no_grad():
        assert_equal(f(case.train.images), case.influence().scores[:, 1])
    rows = torch.tensor([2, 0])
    assert_equal(f.at(rows)(case.train.images[rows]).detach(), case.influence().scores[rows, 1])
    found = attribute(Gradient(), f, case.train.images)
    assert_equal(found.values, maps(case, 1).attribution.values)


# ------------------------------------------------------------------------ held weights


@BOTH
@pytest.mark.parametrize("name", ["smooth", "vit"])
def test_with_held_weights_a_map_is_that_of_the_inner_product_alone(setting, scorer, name):
    case = setting(name)
    scores = case.influence(scorer)
    found = maps(scores, 1, train=case.train, indices=[3, 1], hold_weights=True).attribution
    product = maps(case, 1, scorer=Product(), indices=[3, 1]).attribution
    factors = scores.scores[[3, 1], 1] / product.explained
    assert_equal(found.explained, scores.scores[[3, 1], 1])
    assert_equal(found.values, product.values * factors.view(2, 1, 1, 1), rtol=1e-9)


def test_with_held_weights_cosines_add_up_to_the_score_where_there_are_no_biases(setting):
    case = setting("without biases")
    found = maps(case, method=InputXGradient(), hold_weights=True).attribution
    assert_equal(found.total, case.influence().scores[:, 0])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_weights_are_held_for_the_right_images(setting, batch_size):
    case = setting()
    scores = case.influence()
    found = maps(
        scores, train=case.train, indices=[2, 0, 3], hold_weights=True, batch_size=batch_size
    )
    assert_equal(found.attribution.explained, scores.scores[[2, 0, 3], 0])


# ------------------------------------------------------------------------------- edges


@pytest.mark.parametrize("gap", [20.0, 40.0])
def test_a_saturated_training_image_keeps_its_map_in_single_precision(gap):
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
def test_a_training_image_without_a_gradient_has_an_empty_map(setting, scorer):
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


def test_a_query_without_a_gradient_has_empty_maps(setting):
    case = setting("without biases")
    black = torch.zeros_like(case.images)
    for scorer in (GradCos(), GradDot()):
        scores = influence(case.network, case.train, black, Margin(case.classes), scorer=scorer)
        found = maps(scores, train=case.train).attribution
        assert not found.values.any()
        assert not found.explained.any()


@pytest.mark.parametrize("query", [-1, 2])
def test_a_query_that_does_not_exist_is_refused(setting, query):
    case = setting()
    with pytest.raises(SettingError, match=rf"no query {query}: queries run from 0 to 1"):
        maps(case, query)


@pytest.mark.parametrize("indices", [[], [4], [0, -1]])
def test_training_images_that_do_not_exist_are_refused(setting, indices):
    case = setting()
    with pytest.raises(DataError, match=r"no training images at .* from 0 to 3"):
        maps(case, indices=indices)


def test_training_images_that_cannot_be_used_are_named(setting):
    case = setting()

    class Holed:
        title, skipped = "holed", ()
        classes = case.train.classes
        name, label, fingerprint = (
            case.train.name,
            case.train.label,
            case.train.fingerprint,
        )

        def __len__(self):
            return 4

        def batches(self, size, indices=None):
            return case.train.batches(size, [i for i in indices if i != 2])

    with pytest.raises(DataError, match=r"\['2'\] cannot be used"):
        maps(case.influence(), train=Holed(), indices=[0, 2])


@BOTH
def test_the_users_model_is_left_untouched(setting, untouched, scorer):
    case = setting()
    with untouched(case.model):
        maps(case, scorer=scorer, method=SmoothGrad(samples=2))
    assert all(p.grad is None for p in case.model.parameters())


@BOTH
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_changes_nothing(setting, scorer, mode):
    case = setting()
    expected = maps(case, scorer=scorer).attribution.values
    with mode():
        found = maps(case, scorer=scorer).attribution.values
    assert torch.equal(found, expected)


def test_maps_of_chosen_parameters_are_those_of_their_gradients(setting):
    case = setting()
    target = Margin(case.classes)
    scores = influence(case.network, case.train, case.images, target, parameters="6.*")
    found = maps(scores, train=case.train).attribution
    head = list(case.model[6].parameters())

    def gradient(image, label, **keep):
        margin = Margin(label[None])(case.model(image[None])).sum()
        return torch.cat([p.flatten() for p in torch.autograd.grad(margin, head, **keep)])

    v = gradient(case.images[0], case.classes[0])
    x = case.train.images[1].clone().requires_grad_()
    g = gradient(x, case.train.labels[1], create_graph=True)
    (expected,) = torch.autograd.grad(torch.cosine_similarity(g, v, dim=0), x)
    assert_equal(found.values[1], expected, rtol=1e-9)
