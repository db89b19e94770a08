"""Relevance of an influence, neutral queries, and the evidence that image and query share."""

import pytest
import torch
from torch.nn import functional

from whence.attribution import LRP, attribute
from whence.core import Margin, ModelScalar, TensorData
from whence.errors import DataError, SettingError
from whence.influence import (
    Checkpoint,
    GradCos,
    GradDot,
    RepresentationSimilarity,
    TracIn,
    influence,
)
from whence.training_features import (
    Additive,
    InfluenceLRP,
    InfluenceXGradient,
    SharedEvidence,
    held_weights,
    influence_fn,
    neutral,
    training_features,
)

ZERO = LRP(composite="epsilon", epsilon=1e-13)
PLUS = LRP(composite="epsilon-plus", epsilon=1e-13)


def function(case, scorer=None, query=0):
    scores = case.influence(scorer)
    return influence_fn(scores, query, case.train.labels, held_weights(scores, scores.indices))


def assert_equal(found, expected, rtol=1e-9):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


# ------------------------------------------------------------------------------ LRP of an influence


@pytest.mark.parametrize("scorer", [GradCos(), GradDot()], ids=lambda s: s.name)
def test_without_biases_the_rule_zero_gives_x_gradient_of_the_influence(setting, scorer):
    case = setting("without biases")
    f = function(case, scorer)
    found = attribute(InfluenceLRP(rules=ZERO), f, case.train.images)
    assert_equal(found.values, InfluenceXGradient()(f, case.train.images), rtol=1e-7)
    assert found.gap.max() < 1e-7


def test_without_biases_the_positive_rule_keeps_the_influence(setting):
    case = setting("without biases")
    found = attribute(InfluenceLRP(rules=PLUS), function(case), case.train.images)
    assert_equal(found.total, found.explained, rtol=1e-5)
    other = InfluenceLRP(rules=ZERO)(function(case), case.train.images)
    assert not torch.allclose(found.values, other, rtol=0.1)


def test_relevance_is_handed_down_from_what_every_layer_reads(setting):
    """Restated for a network of two convolutions and a linear layer, rule by rule."""
    case = setting("relus")
    f = function(case, GradDot())
    images, labels = case.train.images, case.train.labels
    one, _, two, _, _, last = case.model
    query = {n: v[0] for n, v in f.terms[0].member.queries.dense().items()}
    first = one(images)
    second = two(first.relu())
    flat = second.relu().flatten(1)
    logits = last(flat)
    wanted = [first, second, logits]
    d = torch.autograd.grad(Margin(labels)(logits).sum(), wanted)
    first, second, flat = first.detach(), second.detach(), flat.detach()

    def read(index, gradient, shape):
        weight = query[f"{index}.weight"]
        if weight.ndim == 2:
            return gradient @ weight
        return torch.nn.grad.conv2d_input(shape, weight, gradient)

    def plus(layer, source, relevance):
        parts, total = [], 0
        for sign in (1, -1):
            weight = (sign * layer.weight.detach()).clamp(min=0) * sign
            signal = (sign * source).clamp(min=0) * sign
            parts.append((weight, signal))
            total = total + functional.conv2d(signal, weight)
        total = total + layer.bias.detach().clamp(min=0).view(1, -1, 1, 1)
        share = torch.where(total > 0, relevance / total, torch.zeros_like(total))
        return sum(
            signal * torch.nn.grad.conv2d_input(source.shape, weight, share)
            for weight, signal in parts
        )

    relevance = (flat * read(5, d[2], flat.shape)).view(second.shape)
    activation = first.relu()
    relevance = plus(two, activation, relevance) + activation * read(2, d[1], first.shape)
    relevance = plus(one, images, relevance) + images * read(0, d[0], images.shape)
    weights = f.weights[:, 0].view(-1, 1, 1, 1)
    found = InfluenceLRP(rules=PLUS)(f, images)
    assert_equal(found, relevance * weights, rtol=1e-6)


@pytest.mark.parametrize("name", ["convolutions", "resnet", "convnext"])
def test_relevance_of_larger_networks_is_finite_and_depends_on_the_query(setting, name):
    case = setting(name)
    maps = [InfluenceLRP()(function(case, query=q), case.train.images) for q in range(2)]
    assert all(m.isfinite().all() and m.abs().max() > 0 for m in maps)
    assert not torch.allclose(maps[0], maps[1], rtol=0.1)


def test_several_networks_add_up(setting):
    case = setting("without biases")
    state = case.model.state_dict()
    other = {name: 1.1 * value for name, value in state.items()}
    moments = [Checkpoint(weights=w, learning_rate=r) for w, r in ((state, 1.0), (other, 0.5))]
    target = Margin(case.classes)

    def scored(*checkpoints):
        return influence(
            case.network,
            case.train,
            case.images,
            target,
            scorer=TracIn(),
            checkpoints=list(checkpoints),
        )

    for method in (InfluenceLRP(rules=ZERO), Additive(), InfluenceXGradient()):
        whole, *parts = (
            training_features(s, 0, case.train, [0, 3], method, hold_weights=True).attribution
            for s in (scored(*moments), *(scored(m) for m in moments))
        )
        assert_equal(whole.values, parts[0].values + parts[1].values)
        assert_equal(whole.total, whole.explained, rtol=1e-6)


# ------------------------------------------------------------------------------ neutral queries


def test_beyond_neutral_nothing_is_left_along_the_mean_direction_of_the_label(setting):
    case = setting("convolutions")
    scores = case.influence(GradDot())
    kept = neutral(scores, case.train, labels=[0])
    rows = torch.tensor([0])
    f = kept.beyond(influence_fn(scores, 0, case.train.labels[rows]), 0)
    query = {n: v[0] for n, v in f.terms[0].member.queries.dense().items()}
    own = scores.recorder.record(case.train.images[rows], Margin(case.train.labels[rows]))
    mean = {n: v[0] / own.norm()[0] for n, v in own.materialise().items()}
    assert kept.counts == {0: 1}
    for name, value in kept.vectors[0][0].items():
        assert_equal(value, mean[name])
    assert abs(sum(float((query[n] * mean[n]).sum()) for n in mean)) < 1e-10
    with torch.no_grad():
        assert abs(float(f(case.train.images[rows])[0])) < 1e-9 * float(scores.scores[0, 0].abs())


def test_the_mean_is_over_unit_gradients_of_images_of_the_label(setting):
    case = setting("convolutions")
    train = TensorData(images=case.train.images, labels=torch.tensor([0, 1, 0, 1]))
    scores = influence(case.network, train, case.images, Margin(case.classes), scorer=GradDot())
    kept = neutral(scores, train, batch_size=1)
    own = scores.recorder.record(train.images, Margin(train.labels))
    units = {n: v.flatten(1) / own.norm()[:, None] for n, v in own.materialise().items()}
    for label in (0, 1):
        for name, value in kept.vectors[0][label].items():
            assert_equal(value.flatten(), units[name][train.labels == label].mean(dim=0))


def test_missing_neutral_queries_are_named(setting):
    case = setting()
    scores = case.influence()
    kept = neutral(scores, case.train, labels=[0, 3])
    with pytest.raises(
        SettingError, match="no neutral query for the label 1; there are some for 0, 3"
    ):
        kept.beyond(influence_fn(scores, 0, case.train.labels), 1)
    with pytest.raises(DataError, match="No training image has the label 7"):
        neutral(scores, case.train, labels=[7])
    with pytest.raises(SettingError, match="samples"):
        neutral(scores, case.train, samples=0)


# ------------------------------------------------------------------------------ shared evidence


def test_shared_evidence_is_the_default_and_adds_up_to_the_influence(setting):
    case = setting("convolutions")
    scores = case.influence()
    found = training_features(scores, 0, case.train, [0, 1, 2, 3])
    assert isinstance(found.attribution.method, SharedEvidence)
    assert_equal(found.attribution.explained, scores.scores[:, 0])
    assert_equal(found.attribution.total, scores.scores[:, 0])
    assert (found.maps * scores.scores[:, :1, None].sign() >= 0).all()


@pytest.mark.parametrize("agreement", [Additive(), InfluenceLRP()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("floor", [0.0, 1.0, 2.5])
def test_shared_evidence_is_the_product_of_label_and_influence(setting, agreement, floor):
    case = setting("convolutions")
    f = function(case)
    label = ModelScalar(case.network, Margin(case.train.labels))
    evidence = LRP()(label, case.train.images).sum(dim=1).clamp(min=0)
    agreeing = agreement(f, case.train.images).sum(dim=1).detach()
    with torch.no_grad():
        sign = f(case.train.images).sign().view(-1, 1, 1)
    raised = evidence + floor * evidence.mean(dim=(1, 2), keepdim=True)
    product = raised * (sign * agreeing).clamp(min=0)
    method = SharedEvidence(window=0, floor=floor, agreement=agreement)
    found = method(f, case.train.images)[:, 0]
    expected = product / product.sum(dim=(1, 2), keepdim=True)
    assert_equal(found / found.sum(dim=(1, 2), keepdim=True), expected)


def test_the_default_is_the_additive_map_with_half_of_the_weight_left_to_it(setting):
    method = SharedEvidence()
    assert method.agreement == Additive()
    assert method.floor == 1
    case = setting("convolutions")
    f = function(case)
    assert 2 <= attribute(method, f, case.train.images).cost <= 4


def test_the_window_averages_the_gate_and_not_the_evidence(setting):
    case = setting("convolutions")
    f = function(case)
    sharp, wide = (SharedEvidence(window=w, floor=0)(f, case.train.images)[:, 0] for w in (0, 1.0))
    label = ModelScalar(case.network, Margin(case.train.labels))
    evidence = LRP()(label, case.train.images).sum(dim=1).clamp(min=0)
    flat = [v.flatten(1).abs() / v.flatten(1).abs().sum(dim=1, keepdim=True) for v in (wide, sharp)]
    truth = evidence.flatten(1) / evidence.flatten(1).sum(dim=1, keepdim=True)
    near, far = ((v - truth).abs().sum(dim=1) for v in flat)
    assert (near < far).all()


def test_without_a_pixel_in_common_the_influence_is_still_shared_out(setting):
    """By its own relevance alone, as in an untrained network without evidence for the label."""
    case = setting("resnet")
    f = function(case)
    label = ModelScalar(case.network, Margin(case.train.labels))
    evidence = LRP()(label, case.train.images).sum(dim=1).clamp(min=0)
    agreeing = InfluenceLRP()(f, case.train.images).sum(dim=1)
    with torch.no_grad():
        scores = f(case.train.images)
    gate = (scores.sign().view(-1, 1, 1) * agreeing).clamp(min=0)
    empty = (evidence * gate).sum(dim=(1, 2)) == 0
    assert empty.any()
    method = SharedEvidence(window=0, floor=0, agreement=InfluenceLRP())
    found = method(f, case.train.images)[:, 0]
    assert_equal(found.sum(dim=(1, 2)), scores)
    expected = scores.view(-1, 1, 1) * gate / gate.sum(dim=(1, 2), keepdim=True)
    assert_equal(found[empty], expected[empty])


def test_neutral_queries_close_the_gate_on_what_the_class_has_in_common(setting):
    case = setting("convolutions")
    scores = case.influence()
    f = influence_fn(scores, 0, case.train.labels, held_weights(scores, scores.indices))
    kept = neutral(scores, case.train)
    found = SharedEvidence(neutral=kept, window=0)(f, case.train.images)
    for row, label in enumerate(case.train.labels.tolist()):
        rows = torch.tensor([row])
        own = kept.beyond(f.at(rows), label)
        gate = Additive()(own, case.train.images[rows]).sum(dim=1)
        sign = float(scores.scores[row, 0].sign())
        assert (found[row][:, (sign * gate[0]) <= 0] == 0).all()


def test_an_image_without_a_gradient_has_an_empty_map(setting):
    case = setting("without biases")
    images = case.train.images.clone()
    images[1] = 0
    train = TensorData(images=images, labels=case.train.labels)
    scores = influence(case.network, train, case.images, Margin(case.classes))
    for name in ("shared-evidence", "influence-lrp", "additive", "x-gradient"):
        found = training_features(scores, 0, train, [1, 0], name)
        assert found.maps[0].abs().max() == 0
        assert found.maps[1].abs().max() > 0


def test_a_score_of_features_has_no_map_of_gradients(setting):
    case = setting("convolutions")
    scores = case.influence(RepresentationSimilarity())
    for name in ("shared-evidence", "influence-lrp", "additive", "x-gradient"):
        with pytest.raises(SettingError, match="Take"):
            training_features(scores, 0, case.train, [0], name)


def test_maps_of_scores_of_features_are_input_x_gradient_by_default(setting):
    case = setting("convolutions")
    scores = case.influence(RepresentationSimilarity())
    found = training_features(scores, 0, case.train, [0, 2])
    expected = training_features(scores, 0, case.train, [0, 2], "input-x-gradient")
    assert torch.equal(found.maps, expected.maps)
    assert found.maps.abs().max() > 0


def test_a_window_beyond_the_image_and_a_floor_below_zero_are_refused():
    with pytest.raises(SettingError, match="window"):
        SharedEvidence(window=1.5)
    for floor in (-0.1, float("nan")):
        with pytest.raises(SettingError, match="floor"):
            SharedEvidence(floor=floor)
