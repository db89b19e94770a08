import math
from dataclasses import dataclass, replace

import pytest
import torch

from whence.attribution import Gradient, InputXGradient, IntegratedGradients, SmoothGrad, attribute
from whence.core import Margin, ModelScalar, ScalarFn
from whence.errors import DataError, SettingError, UnsupportedOperation
from whence.influence import GradCos, GradDot, Influence, Scoring, influence, one
from whence.training_features import (
    MAPS,
    Additive,
    AntitheticDifferences,
    InfluenceXGradient,
    held_weights,
    influence_fn,
    normalisers,
    reduced,
    training_features,
)
from whence.training_features.additive import enlarged
from whence.training_features.readings import check_reduction

BOTH = pytest.mark.parametrize("scorer", [GradCos(), GradDot()], ids=lambda s: s.name)


@dataclass(frozen=True)
class Linear:
    """An inner product with a slope."""

    slope: torch.Tensor

    def __call__(self, images):
        return (images * self.slope).sum(dim=(1, 2, 3))

    def at(self, rows):
        return self


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


# ---------------------------------------------------------------------- two routes agree


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


def test_the_product_map_of_an_image_against_itself_is_half_the_gradient_of_its_norm(setting):
    case = setting()
    target = Margin(case.train.labels[:1])
    scores = influence(case.network, case.train, case.train.images[:1], target, scorer=Product())
    found = maps(scores, train=case.train, indices=[0]).attribution.values
    images = case.train.images[:1].clone().requires_grad_()
    norms = scores.recorder.record(images, target, create_graph=True).squared_norm()
    (expected,) = torch.autograd.grad(norms.sum() / 2, images)
    assert_equal(found, expected)


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


def test_input_x_gradient_multiplies(setting):
    case = setting()
    plain = maps(case).attribution.values
    found = training_features(case.influence(), 0, case.train, [0, 1, 2, 3], InputXGradient())
    assert_equal(found.attribution.values, plain * case.train.images)
    assert_equal(found.maps, (plain * case.train.images).sum(dim=1))


@pytest.mark.parametrize("each", MAPS, ids=lambda m: m.name)
def test_every_named_map_is_the_method_with_its_settings(setting, each):
    case = setting("without biases")
    scores = case.influence()
    found = training_features(scores, 1, case.train, [2, 0], each.name)
    weights = held_weights(scores, torch.tensor([2, 0])) if each.hold_weights else None
    f = influence_fn(scores, 1, case.train.labels[[2, 0]], weights)
    values = each.method(f, case.train.images[[2, 0]])
    assert torch.equal(found.attribution.values, values)
    assert torch.equal(found.maps, reduced(values, each.reduction))
    assert found.maps.abs().max() > 0


def test_the_papers_map_is_the_absolute_maximum_of_the_slope_of_the_whole_cosine(setting):
    case = setting()
    found = training_features(case.influence(), 0, case.train, [1], "tfa").maps
    _, pixels = case.brute_force(1, 0, GradCos())
    assert_equal(found[0], pixels.abs().amax(dim=0), rtol=1e-9)


def test_a_map_is_read_in_four_ways():
    values = torch.tensor([[[[1.0, -4.0]], [[-3.0, 1.0]]]])
    expected = {
        "absolute-maximum": [3.0, 4.0],
        "absolute-sum": [4.0, 5.0],
        "signed": [-2.0, -3.0],
        "positive": [0.0, 0.0],
    }
    for by, numbers in expected.items():
        assert reduced(values, by).flatten().tolist() == numbers


def test_settings_of_a_named_map_can_be_changed(setting):
    case = setting()
    scores = case.influence()
    found = training_features(
        scores, 0, case.train, [1], "tfa", hold_weights=True, reduction="signed"
    )
    expected = maps(scores, train=case.train, indices=[1], hold_weights=True).attribution.values
    assert_equal(found.maps, expected.sum(dim=1))


def test_unknown_maps_and_reductions_are_named(setting):
    case = setting()
    scores = case.influence()
    with pytest.raises(SettingError, match=r"'saliency'.*Choose one of: shared-evidence, "):
        training_features(scores, 0, case.train, [0], "saliency")
    with pytest.raises(SettingError, match=r"'max'.*absolute-maximum"):
        check_reduction("max")


def test_kept_normalisers_hold_for_maps_at_the_image_alone(setting):
    case = setting()
    scores = case.influence()
    kept = normalisers(scores, case.train, [0, 1])
    with pytest.raises(SettingError, match="IntegratedGradients looks at others"):
        maps(scores, train=case.train, indices=[0], method=IntegratedGradients(), kept=kept)
    with pytest.raises(DataError, match=r"\[3\] are not among them"):
        maps(scores, train=case.train, indices=[0, 3], kept=kept)


def test_the_difference_of_two_queries_has_the_difference_of_their_maps(setting):
    case = setting("convolutions")
    scores = case.influence()
    rather = scores.combined(torch.tensor([1.0, -1.0], dtype=torch.float64))
    found = training_features(rather, 0, case.train, [0, 2], "additive").maps
    one, other = (training_features(scores, q, case.train, [0, 2], "additive").maps for q in (0, 1))
    assert_equal(found, one - other)


# ------------------------------------------------------------------------ antithetic pairs


def test_antithetic_differences_estimate_the_gradient_of_a_linear_function():
    """Of which the mean over noise is the gradient itself."""
    slope = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    f = Linear(slope)
    images = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    few, many = (
        AntitheticDifferences(pairs=pairs, sigma=0.2)(f, images) for pairs in (200, 20_000)
    )
    errors = [float((found - slope).square().mean().sqrt()) for found in (few, many)]
    assert errors[1] < 0.06
    assert 5 < errors[0] / errors[1] < 20


def test_coarse_noise_estimates_the_mean_of_the_gradient_over_its_squares():
    slope = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    images = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(2)).double()
    found = AntitheticDifferences(pairs=20_000, cell=2)(Linear(slope), images)
    expected = torch.nn.functional.avg_pool2d(slope, 2).repeat_interleave(2, 2)
    assert torch.allclose(found, expected.repeat_interleave(2, 3), atol=0.05)


def test_antithetic_differences_see_the_jumps_that_gradients_miss():
    """Of a step at zero, the mean over noise rises as the normal density, the gradient is zero."""

    class Step:
        def __call__(self, images):
            return 3.0 * (images[:, 0, 0, 0] > 0).to(images)

        def at(self, rows):
            return self

    image = torch.tensor([[[[0.1, 1.0], [0.0, 0.5]]]], dtype=torch.float64)
    found = AntitheticDifferences(pairs=40_000, sigma=0.2, batch_size=4000)(Step(), image)
    density = math.exp(-0.5 * (0.1 / 0.2) ** 2) / (0.2 * math.sqrt(2 * math.pi))
    assert float(found[0, 0, 0, 0]) == pytest.approx(3.0 * density, abs=0.1)
    assert found.flatten()[1:].abs().max() < 0.1


def test_antithetic_differences_repeat_and_do_not_depend_on_the_batch(setting):
    case = setting()
    f = influence_fn(case.influence(Product()), 0, case.train.labels)
    method = AntitheticDifferences(pairs=6, sigma=0.1)
    first, again = (method(f, case.train.images) for _ in range(2))
    assert torch.equal(first, again)
    cut = replace(method, batch_size=1)(f, case.train.images)
    assert_equal(cut, first)
    assert_equal(method(f.at(torch.tensor([2])), case.train.images[2:3]), first[2:3])


@pytest.mark.parametrize(
    "wrong", [{"pairs": 0}, {"cell": 0}, {"sigma": 0.0}, {"batch_size": 0}], ids=str
)
def test_antithetic_differences_refuse_what_is_no_noise(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        AntitheticDifferences(**wrong)


# ------------------------------------------------------------------------------ refusals


def test_maps_of_an_influence_refuse_anything_else(setting):
    case = setting()
    plain = ModelScalar(case.network, Margin(0))
    for method in (Additive(), InfluenceXGradient()):
        with pytest.raises(SettingError, match="This map is of an influence"):
            method(plain, case.train.images)


def test_x_gradient_names_what_keeps_a_network_from_being_an_x_dnn(setting):
    case = setting()
    with pytest.raises(UnsupportedOperation, match="adds a bias"):
        training_features(case.influence(), 0, case.train, [0], "x-gradient")


def test_the_share_of_one_layer_can_be_asked_for(setting):
    case = setting("convolutions")
    f = influence_fn(case.influence(Product()), 0, case.train.labels)
    whole = Additive()(f, case.train.images)
    with pytest.raises(SettingError, match=r"no layer 'nose'; the layers are (.*)\.") as caught:
        Additive(layers=("nose",))(f, case.train.images)
    names = str(caught.value).partition("layers are ")[2].rstrip(".").split(", ")
    parts = [Additive(layers=(name,))(f, case.train.images) for name in names]
    assert len(parts) > 3
    assert_equal(torch.stack(parts).sum(dim=0), whole)


def test_enlarging_keeps_every_sum():
    values = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    for size in ((3, 5), (7, 11), (12, 20)):
        found = enlarged(values, size)
        assert found.shape == (2, *size)
        assert_equal(found.sum(dim=(1, 2)), values.sum(dim=(1, 2)))
    assert torch.equal(enlarged(values, (3, 5)), values)


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
