import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from whence.core import Logit, Margin, TensorData
from whence.errors import DataError, NumericsError, SettingError, ShapeError, TargetError
from whence.gradients import Recorder
from whence.influence import GradCos, GradDot, influence, query_vectors
from whence.network import Network

BOTH = pytest.mark.parametrize("scorer", [GradCos(), GradDot()], ids=lambda s: s.name)


def expected_scores(case, scorer):
    """Return scores of loss gradients, as they are defined."""
    training, queries = case.gradients()
    if isinstance(scorer, GradCos):
        training = training / training.norm(dim=1, keepdim=True)
        queries = queries / queries.norm(dim=1, keepdim=True)
    return training @ queries.T


def assert_equal(found, expected, rtol=1e-10):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


@BOTH
@pytest.mark.parametrize("kind", ["cnn", "softmax regression"])
def test_scores_equal_products_of_loss_gradients_by_brute_force(setting, scorer, kind):
    case = setting(kind)
    found = influence(case.network, case.train, case.images, case.target, scorer=scorer)
    assert_equal(found.scores, expected_scores(case, scorer))
    assert found.passes == 1
    assert found.coverage == 1
    assert found.parameters == tuple(case.network.parameters)


@BOTH
def test_softmax_regression_has_the_scores_of_its_closed_form(setting, scorer):
    case = setting("softmax regression")
    found = influence(case.network, case.train, case.images, case.target, scorer=scorer)

    def residuals(images, labels):
        eye = torch.eye(4, dtype=torch.float64)
        return case.model(images).softmax(dim=1) - eye[labels]

    def extended(images):
        return torch.cat([images.flatten(1), torch.ones(len(images), 1).double()], dim=1)

    sides = [
        (residuals(images, labels), extended(images))
        for images, labels in (
            (case.train.images, case.train.labels),
            (case.images, case.classes),
        )
    ]
    if isinstance(scorer, GradCos):
        sides = [[v / v.norm(dim=1, keepdim=True) for v in side] for side in sides]
    (left, across), (right, over) = sides
    assert_equal(found.scores, ((left @ right.T) * (across @ over.T)).detach())


def test_facts_of_the_pass_are_those_of_the_model(setting):
    case = setting()
    found = influence(case.network, case.train, case.images, case.target)
    probabilities = case.model(case.train.images).softmax(dim=1).detach()
    assert torch.equal(found.labels, case.train.labels)
    assert torch.equal(found.indices, torch.arange(9))
    assert torch.equal(found.predictions, probabilities.argmax(dim=1))
    assert_equal(found.confidences, probabilities.amax(dim=1))
    assert_equal(found.residuals, 1 - probabilities[range(9), case.train.labels])
    training, _ = case.gradients()
    assert_equal(found.self_influence, training.square().sum(dim=1))
    assert found.zero_gradients == 0


def test_another_target_is_compared_by_its_own_gradient(setting):
    case = setting()
    found = influence(case.network, case.train, case.images, Logit(1), scorer=GradDot())
    logits = case.model(case.images)
    parameters = list(case.model.parameters())
    queries = torch.stack(
        [
            torch.cat([g.flatten() for g in torch.autograd.grad(z, parameters, retain_graph=True)])
            for z in logits[:, 1]
        ]
    )
    training, _ = case.gradients()
    assert_equal(found.scores, -training @ queries.T)


@BOTH
@pytest.mark.parametrize("size", [1, 2, 4, 64])
def test_scores_do_not_depend_on_how_the_work_is_cut(setting, scorer, size):
    case = setting()
    whole = influence(
        case.network, case.train, case.images, case.target, scorer=scorer, batch_size=9
    )
    one = sum(p.numel() for p in case.network.parameters.values()) * 8
    cut = influence(
        case.network,
        case.train,
        case.images,
        case.target,
        scorer=scorer,
        batch_size=size,
        memory=2 * one,
    )
    assert (whole.passes, cut.passes) == (1, 2)
    assert len(cut.queries) == 3
    assert_equal(cut.scores, whole.scores, rtol=1e-12)
    assert_equal(cut.squared_norms, whole.squared_norms, rtol=1e-12)
    for name, value in whole.queries.dense().items():
        assert_equal(cut.queries.dense()[name], value, rtol=1e-12)


def test_scores_follow_their_images_when_the_data_are_reordered(setting):
    case = setting()
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    shuffled = TensorData(images=case.train.images[order], labels=case.train.labels[order])
    whole = influence(case.network, case.train, case.images, case.target)
    found = influence(case.network, shuffled, case.images, case.target, batch_size=4)
    assert_equal(found.scores, whole.scores[order], rtol=1e-12)
    turned = influence(case.network, case.train, case.images[[2, 0]], Margin(case.classes[[2, 0]]))
    assert_equal(turned.scores, whole.scores[:, [2, 0]], rtol=1e-12)


@BOTH
def test_scores_are_symmetric_and_the_cosine_of_an_image_with_itself_is_one(setting, scorer):
    case = setting()
    target = Margin(case.train.labels)
    found = influence(case.network, case.train, case.train.images, target, scorer=scorer)
    assert_equal(found.scores, found.scores.T.clone(), rtol=1e-12)
    if isinstance(scorer, GradCos):
        assert_equal(found.scores.diag(), torch.ones(9).double(), rtol=1e-12)
        assert found.scores.abs().max() <= 1 + 1e-12
    else:
        assert_equal(found.scores.diag(), found.self_influence, rtol=1e-12)


def test_cosines_do_not_see_the_scale_of_a_target(setting):
    case = setting()

    class Half:
        def __init__(self, inside):
            self.inside = inside

        def __call__(self, logits):
            return self.inside(logits) / 2

        def at(self, rows):
            return Half(self.inside.at(rows))

    whole = influence(case.network, case.train, case.images, case.target)
    half = influence(case.network, case.train, case.images, Half(case.target))
    assert_equal(half.scores, whole.scores, rtol=1e-12)


@pytest.mark.parametrize("gap", [20.0, 40.0])
def test_a_saturated_example_keeps_its_direction_in_single_precision(gap):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 27, generator=generator, dtype=torch.float64)
    image = torch.randn(2, 3, 3, 3, generator=generator, dtype=torch.float64)
    scores, directions = [], []
    for dtype in (torch.float64, torch.float32):
        model = nn.Sequential(nn.Flatten(), nn.Linear(27, 5)).to(dtype)
        with torch.no_grad():
            model[1].weight.copy_(weight)
            model[1].bias.zero_()
            top = model(image.to(dtype))[0].topk(2)
            model[1].bias[top.indices[0]] += gap - float(top.values[0] - top.values[1])
        network = Network.read(model.eval(), image.to(dtype))
        label = model(image[:1].to(dtype)).argmax(dim=1)
        train = TensorData(images=image[:1].to(dtype), labels=label)
        query = Margin(torch.tensor([0, 3]))
        found = influence(network, train, image.to(dtype), query)
        dots = influence(network, train, image.to(dtype), query, scorer=GradDot())
        scores.append((found.scores.double(), dots.scores.double()))
        recorded = Recorder(network).record(train.images, Margin(label)).materialise()
        directions.append(torch.cat([v.flatten() for v in recorded.values()]).double())
    assert 1 - torch.cosine_similarity(*directions, dim=0) < 1e-5
    (cosine, dot), (single_cosine, single_dot) = scores
    torch.testing.assert_close(single_cosine, cosine, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single_dot, dot, rtol=1e-4, atol=0)
    assert dot.abs().max() < 1e3 * math.exp(-gap)
    assert (dot != 0).all()


class Dead(nn.Module):
    """A network without biases: a black image changes nothing, whatever its weights."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.convolution(x)).mean((2, 3)))


@BOTH
def test_an_image_without_a_gradient_scores_zero_and_is_reported(scorer, generator):
    images = torch.randn(4, 3, 8, 8, generator=generator)
    images[1] = 0
    network = Network.read(Dead().eval(), images)
    train = TensorData(images=images, labels=torch.tensor([0, 1, 2, 0]))
    found = influence(network, train, images[:2], Margin(torch.tensor([0, 1])), scorer=scorer)
    assert found.zero_gradients == 1
    assert found.queries.zero.tolist() == [False, True]
    assert found.scores[1].tolist() == [0, 0]
    assert found.scores[:, 1].tolist() == [0, 0, 0, 0]
    assert (found.scores[[0, 2, 3], 0] != 0).all()


def test_proponents_and_opponents_come_strongest_first(setting):
    case = setting()
    found = influence(case.network, case.train, case.images, case.target)
    for q in range(3):
        order = found.scores[:, q].argsort(descending=True)
        for k in (1, 4, 9, 50):
            best, worst = found.proponents(k), found.opponents(k)
            assert best.indices[q].tolist() == order[:k].tolist()
            assert worst.indices[q].tolist() == order.flip(0)[:k].tolist()
            assert torch.equal(best.scores[q], found.scores[best.indices[q], q])
            assert torch.equal(worst.scores[q], found.scores[worst.indices[q], q])
    with pytest.raises(SettingError, match="got k=0"):
        found.proponents(0)


def test_unusable_training_images_are_left_out_and_places_are_kept(setting, holed):
    case = setting()
    found = influence(
        case.network, holed(case.train, (0, 4)), case.images, case.target, batch_size=2
    )
    whole = influence(case.network, case.train, case.images, case.target)
    kept = [1, 2, 3, 5, 6, 7, 8]
    assert found.indices.tolist() == kept
    assert_equal(found.scores, whole.scores[kept], rtol=1e-12)
    best = found.proponents(3)
    assert not {0, 4} & set(best.indices.flatten().tolist())
    assert_equal(best.scores[0], whole.scores[best.indices[0], 0], rtol=1e-12)


def test_data_without_a_usable_image_are_refused(setting, holed):
    case = setting()
    with pytest.raises(DataError, match="holed holds no usable training image"):
        influence(case.network, holed(case.train, tuple(range(9))), case.images, case.target)


def test_a_training_image_without_a_label_is_named(setting):
    case = setting()
    labels = case.train.labels.clone()
    labels[5] = -1
    names = tuple(f"picture-{i}.png" for i in range(9))
    train = replace_data(case.train, labels=labels, names=names)
    with pytest.raises(DataError, match=r"'picture-5\.png' has no label"):
        influence(case.network, train, case.images, case.target, batch_size=4)


def test_a_label_that_the_model_does_not_have_is_named(setting):
    case = setting()
    labels = case.train.labels.clone()
    labels[6] = 4
    train = replace_data(case.train, labels=labels, classes=tuple("abcde"))
    with pytest.raises(TargetError, match=r"'6' has the label 4, but .* from 0 to 3"):
        influence(case.network, train, case.images, case.target, batch_size=4)


def replace_data(data, **changes):
    given = {"images": data.images, "labels": data.labels, "classes": data.classes, **changes}
    return TensorData(**given)


def test_a_query_class_that_the_model_does_not_have_is_refused(setting):
    case = setting()
    with pytest.raises(TargetError, match="class 7"):
        influence(case.network, case.train, case.images, Margin(torch.tensor([0, 7, 1])))


def test_no_queries_are_refused(setting):
    case = setting()
    with pytest.raises(ShapeError, match="must have shape"):
        influence(case.network, case.train, case.images[:0], case.target)


def test_a_batch_needs_an_image(setting):
    case = setting()
    with pytest.raises(SettingError, match="batch_size must be at least 1; got 0"):
        influence(case.network, case.train, case.images, case.target, batch_size=0)


def test_a_gradient_that_is_not_finite_is_named(setting):
    case = setting()
    bad = case.images.clone()
    bad[1, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"queries \[1\] are NaN or infinite"):
        influence(case.network, case.train, bad, case.target)
    images = case.train.images.clone()
    images[7, 0, 0, 0] = torch.inf
    train = replace_data(case.train, images=images)
    with pytest.raises(NumericsError, match=r"training images \[7\] are NaN or infinite"):
        influence(case.network, train, case.images, case.target, batch_size=4)


def test_progress_rises_from_nothing_to_all_in_every_pass(setting, holed):
    case = setting()
    calls = []
    one = sum(p.numel() for p in case.network.parameters.values()) * 8
    influence(
        case.network,
        holed(case.train, (8,)),
        case.images,
        case.target,
        batch_size=4,
        memory=one,
        progress=lambda *call: calls.append(call),
    )
    stages = list(dict.fromkeys(stage for stage, _, _ in calls))
    assert stages == ["influence 1/3", "influence 2/3", "influence 3/3"]
    for stage in stages:
        done = [d for s, d, total in calls if s == stage and total == 9]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, 9)
        assert len(done) > 3


def test_progress_may_stop_the_work(setting, untouched):
    case = setting()

    def stop(stage, done, total):
        if done:
            raise KeyboardInterrupt

    with untouched(case.model), pytest.raises(KeyboardInterrupt):
        influence(case.network, case.train, case.images, case.target, progress=stop)


def test_the_users_model_is_left_untouched(setting, untouched):
    case = setting()
    with untouched(case.model):
        influence(case.network, case.train, case.images, case.target)
        influence(case.network, case.train, case.images, case.target, scorer=GradDot())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_changes_nothing(setting, mode):
    case = setting()
    expected = influence(case.network, case.train, case.images, case.target)
    with mode():
        found = influence(case.network, case.train, case.images.clone(), case.target)
    assert torch.equal(found.scores, expected.scores)


def test_scores_over_chosen_parameters_are_those_of_their_gradients(setting):
    case = setting()
    found = influence(
        case.network, case.train, case.images, case.target, parameters="6.*", scorer=GradDot()
    )
    training, queries = (g[:, -220:] for g in case.gradients())
    assert found.parameters == ("6.weight", "6.bias")
    total = sum(p.numel() for p in case.model.parameters())
    assert found.coverage == 220 / total
    assert_equal(found.scores, training @ queries.T)


def test_scores_are_linear_in_the_query(setting):
    case = setting()
    found = influence(case.network, case.train, case.images, case.target, scorer=GradDot())
    coefficients = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    mixed = found.combined(coefficients)
    assert len(mixed.queries) == 1
    recorded = found.recorder.record(case.train.images, Margin(case.train.labels))
    scores = recorded.dot(mixed.queries.blocks)[:, 0] * found.residuals
    assert_equal(scores, found.scores @ coefficients)
    assert_equal(mixed.scores[:, 0], scores)


def test_queries_are_made_in_batches_of_any_size(setting):
    case = setting()
    scoring = GradCos().fit(Recorder(case.network), case.train)
    made = [query_vectors(scoring, case.images, case.target, batch_size=size) for size in (1, 2, 8)]
    for other in made[1:]:
        for name, value in made[0].dense().items():
            assert_equal(other.dense()[name], value, rtol=1e-12)
    lengths = sum(v.flatten(1).square().sum(dim=1) for v in made[0].dense().values())
    assert_equal(lengths, torch.ones(3).double(), rtol=1e-12)
    alone = made[0].only(1)
    assert len(alone) == 1
    for name, value in alone.dense().items():
        assert torch.equal(value, made[0].dense()[name][1:2])


def test_more_memory_means_larger_batches(setting):
    from whence.influence.batches import images_per_batch

    recorder = Recorder(setting().network)
    sizes = [images_per_batch(recorder, memory) for memory in (1, 10**5, 10**6, 10**12)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] == 64
    assert len(set(sizes)) > 2


def test_queries_in_half_the_pixels_are_refused(setting):
    case = setting()
    with pytest.raises(ShapeError, match="read with images of shape"):
        influence(case.network, case.train, case.images[..., :4], case.target)


def test_single_precision_scores_are_close(setting):
    double, single = setting(), setting(dtype=torch.float32)
    for scorer in (GradCos(), GradDot()):
        found = [
            influence(c.network, c.train, c.images, c.target, scorer=scorer).scores.double()
            for c in (single, double)
        ]
        assert_equal(*found, rtol=1e-4)


def test_a_scorer_is_a_value():
    assert replace(GradCos()) == GradCos()
    assert len({GradCos(), GradCos(), GradDot()}) == 2
