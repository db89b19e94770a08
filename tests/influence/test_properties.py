"""Numeric properties of data attribution, numbered as in the list of the issue.

1 one score by every route; 7 loss and margin agree; 8 softmax regression in closed form; 9 ridge;
13 a step of training; 14 invariances; 16 scorers that coincide; 18 saturation; 19 no gradient.
"""

from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional

from whence.attribution import Gradient
from whence.core import Margin, TensorData
from whence.curvature import EveryClass
from whence.gradients import Identity, Recorder
from whence.influence import (
    EKFAC,
    GAS,
    KFAC,
    SCORERS,
    TRAK,
    Arnoldi,
    Checkpoint,
    GradCos,
    GradDot,
    InfluenceFunction,
    LiSSA,
    Projected,
    ProjectedFisher,
    RepresenterPoints,
    Scoring,
    TracIn,
    influence,
)
from whence.network import Network
from whence.training_features import training_features

SETTINGS = {
    "influence": InfluenceFunction(tolerance=1e-12, iterations=400),
    "lissa": LiSSA(depth=8, scale=5.0),
    "arnoldi": Arnoldi(krylov=12, rank=8, damping=1e-3),
}
EVERY = pytest.mark.parametrize(
    "scorer", [SETTINGS.get(s.name, s) for s in SCORERS], ids=[s.name for s in SCORERS]
)
EXACT = Projected(dimension=10**6)


def assert_equal(found, expected, rtol=1e-10):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


# ------------------------------------------------------------------------------------------- 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_1_forward_mode_per_sample_gradients_and_a_loop_give_one_score(setting):
    case = setting()
    found = influence(case.network, case.train, case.images, case.target, scorer=GradDot()).scores
    training, queries = case.gradients()
    parameters = {n: p.detach() for n, p in case.model.named_parameters()}
    buffers = dict(case.model.named_buffers())

    def losses(some, images, labels):
        logits = functional_call(case.model, (some, buffers), (images,))
        return functional.cross_entropy(logits, labels, reduction="none")

    def loss(some, image, label):
        return losses(some, image[None], label[None])[0]

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))(
        parameters, case.train.images, case.train.labels
    )
    rows = torch.cat([v.flatten(1) for v in per_sample.values()], dim=1)
    sizes = [p.numel() for p in parameters.values()]
    forward = []
    for query in queries:
        pieces = query.split(sizes)
        along = {n: v.view_as(parameters[n]) for n, v in zip(parameters, pieces, strict=True)}
        forward.append(
            jvp(lambda p: losses(p, case.train.images, case.train.labels), (parameters,), (along,))[
                1
            ]
        )
    assert_equal(found, training @ queries.T, rtol=1e-12)
    assert_equal(found, rows @ queries.T, rtol=1e-12)
    assert_equal(found, torch.stack(forward, dim=1), rtol=1e-12)


# ------------------------------------------------------------------------------------------- 7


def test_7_losses_and_margins_have_the_same_cosines_and_the_same_maps(setting):
    case = setting()
    scores = influence(case.network, case.train, case.images, case.target, scorer=GradCos())
    parameters = list(case.model.parameters())

    def loss_gradient(image, label, **keep):
        loss = functional.cross_entropy(case.model(image[None]), label[None])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, **keep)])

    x = case.train.images[4].clone().requires_grad_()
    g = loss_gradient(x, case.train.labels[4], create_graph=True)
    cosine = torch.cosine_similarity(g, loss_gradient(case.images[1], case.classes[1]), dim=0)
    (pixels,) = torch.autograd.grad(cosine, x)
    found = training_features(scores, 1, case.train, [4], Gradient()).attribution
    assert_equal(scores.scores[4, 1], cosine.detach(), rtol=1e-12)
    assert_equal(found.values[0], pixels, rtol=1e-10)


# ------------------------------------------------------------------------------------------- 8


def test_8_softmax_regression_is_a_product_of_residuals_and_of_inputs(setting):
    case = setting("softmax regression")
    eye = torch.eye(4, dtype=torch.float64)

    def sides(images, labels):
        residuals = (case.model(images).softmax(dim=1) - eye[labels]).detach()
        ones = torch.ones(len(images), 1).double()
        return residuals, torch.cat([images.flatten(1), ones], dim=1)

    r, x = sides(case.train.images, case.train.labels)
    r_q, x_q = sides(case.images, case.classes)
    dot = influence(case.network, case.train, case.images, case.target, scorer=GradDot())
    cos = influence(case.network, case.train, case.images, case.target, scorer=GradCos())
    assert_equal(dot.scores, (r @ r_q.T) * (x @ x_q.T))
    outputs = functional.normalize(r) @ functional.normalize(r_q).T
    inputs = functional.normalize(x) @ functional.normalize(x_q).T
    assert_equal(cos.scores, outputs * inputs)
    p = case.model(case.train.images[2][None])[0].softmax(dim=0).detach()
    jacobian = torch.diag(p) - torch.outer(p, p)
    weight = case.model[1].weight.detach()
    expected = (r[2] @ r_q[0]) * x_q[0, :-1] + (x[2] @ x_q[0]) * (weight.T @ jacobian @ r_q[0])
    found = training_features(dot, 0, case.train, [2], Gradient()).attribution.values[0]
    assert_equal(found.flatten(), expected)


# ------------------------------------------------------------------------------------------- 9


def refit(images, labels, penalty):
    """Return softmax regression, at the minimum of its penalised loss."""
    model = nn.Sequential(nn.Flatten(), nn.Identity(), nn.Linear(12, 3, bias=False)).double().eval()
    with torch.no_grad():
        model[2].weight.zero_()
    network = Network.read(model, images[:2])
    scorer = RepresenterPoints(penalty=penalty, tolerance=1e-13)
    return scorer.fit(Recorder(network), TensorData(images=images, labels=labels)).recorder.network


def test_9_the_map_of_influence_is_the_slope_of_the_refitted_prediction():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (11,), generator=generator)
    penalty, target = 0.05, Margin(torch.tensor([1]))
    train = TensorData(images=images[:11], labels=labels)
    exact = ProjectedFisher(space=EXACT, draws=EveryClass(), damping=2 * penalty, output="margin")
    network = refit(train.images, labels, penalty)
    scores = influence(network, train, images[11:], target, scorer=exact)
    found = training_features(scores, 0, train, [3], Gradient()).attribution.values[0] / 11
    slopes = []
    for pixel in range(12):
        sides = []
        for step in (1e-4, -1e-4):
            moved = train.images.clone()
            moved[3].view(-1)[pixel] += step
            sides.append(target(refit(moved, labels, penalty)(images[11:]).detach())[0])
        slopes.append((sides[0] - sides[1]) / 2e-4)
    assert_equal(torch.stack(slopes), found.flatten(), rtol=1e-6)


# ------------------------------------------------------------------------------------------ 13


def test_13_a_small_step_of_training_changes_the_loss_by_the_score(setting):
    case = setting()
    scores = influence(case.network, case.train, case.images, case.target, scorer=GradDot()).scores

    def change(step):
        changes = []
        for image, label in zip(case.train.images, case.train.labels, strict=True):
            model = deepcopy(case.model)
            functional.cross_entropy(model(image[None]), label[None]).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p.sub_(step * p.grad)
                after = functional.cross_entropy(model(case.images), case.classes, reduction="none")
                before = functional.cross_entropy(
                    case.model(case.images), case.classes, reduction="none"
                )
            changes.append((before - after) / step)
        return torch.stack(changes)

    errors = [float((change(step) - scores).abs().max()) for step in (1e-3, 1e-4)]
    assert errors[1] < 1e-2 * float(scores.abs().max())
    assert 8 < errors[0] / errors[1] < 12


# ------------------------------------------------------------------------------------------ 14


@EVERY
def test_14_scores_do_not_depend_on_batches_or_on_the_order_of_queries(setting, scorer):
    case = setting()
    given = {"scorer": scorer, "parameters": "6.*" if scorer.name == "explicit" else "all"}
    whole = influence(case.network, case.train, case.images, case.target, **given)
    cut = influence(case.network, case.train, case.images, case.target, batch_size=2, **given)
    turned = influence(
        case.network, case.train, case.images[[2, 0]], Margin(case.classes[[2, 0]]), **given
    )
    assert_equal(cut.scores, whole.scores, rtol=1e-7)
    assert_equal(turned.scores, whole.scores[:, [2, 0]], rtol=1e-7)
    maps = [
        training_features(whole, 0, case.train, places, Gradient(), batch_size=size)
        for places, size in (([5, 1, 3], 3), ([1, 3, 5], 1))
    ]
    first, second = (m.attribution.values for m in maps)
    assert_equal(first[[1, 2, 0]], second, rtol=1e-9)


@EVERY
def test_14_scores_are_symmetric_where_both_sides_are_treated_alike(setting, scorer):
    case = setting()
    target = Margin(case.train.labels)
    found = influence(case.network, case.train, case.train.images, target, scorer=scorer)
    if scorer.name in ("trak", "relatif", "relatif-parameters", "representer"):
        assert not torch.allclose(found.scores, found.scores.T, rtol=1e-3)
        weights = found.weights[:, 0]
        member = found.members[0]
        factor = member.scoring.factors(torch.ones_like(weights), found.residuals.to(weights))
        kernel = found.scores / weights[:, None] / factor[None]
    else:
        kernel = found.scores
    assert_equal(kernel, kernel.T.clone(), rtol=1e-8)


# ------------------------------------------------------------------------------------------ 16


def checkpoint(model, rate=1.0):
    return Checkpoint(weights=model.state_dict(), learning_rate=rate)


def test_16_tracin_with_one_checkpoint_and_rate_one_is_grad_dot(setting):
    case = setting()
    dot = influence(case.network, case.train, case.images, case.target, scorer=GradDot())
    for scorer, plain in ((TracIn(), dot.scores), (GradDot(), dot.scores)):
        one = influence(
            case.network,
            case.train,
            case.images,
            case.target,
            scorer=scorer,
            checkpoints=[checkpoint(case.model)],
        )
        assert_equal(one.scores, plain, rtol=1e-12)
    cos = influence(case.network, case.train, case.images, case.target, scorer=GradCos())
    gas = influence(
        case.network,
        case.train,
        case.images,
        case.target,
        scorer=GAS(),
        checkpoints=[checkpoint(case.model, 0.5), checkpoint(case.model, 0.25)],
    )
    assert_equal(gas.scores, 0.75 * cos.scores, rtol=1e-12)


@dataclass(frozen=True)
class WithoutCurvature:
    name: str = "identity"

    def fit(self, recorder, train, *, batch_size=32, progress=None):
        return Scoring(recorder=recorder, operator=Identity())


def test_16_influence_without_curvature_and_damping_is_grad_dot(setting):
    case = setting()
    plain = influence(case.network, case.train, case.images, case.target, scorer=GradDot())
    found = influence(case.network, case.train, case.images, case.target, scorer=WithoutCurvature())
    assert_equal(found.scores, plain.scores, rtol=1e-12)


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_16_kronecker_factors_are_exact_where_inputs_and_slopes_are_independent(setting, kind):
    """A linear layer whose logits do not depend on its input: slopes are the same for all."""
    case = setting("softmax regression")
    with torch.no_grad():
        case.model[1].weight.zero_()
    probabilities = case.model(case.images[:1])[0].softmax(dim=0).detach()
    output = torch.diag(probabilities) - torch.outer(probabilities, probabilities)
    ones = torch.ones(9, 1).double()
    inputs = torch.cat([case.train.images.flatten(1), ones], dim=1)
    matrix = torch.kron(output, inputs.T @ inputs / 9)
    damped = matrix + 0.01 * torch.eye(len(matrix), dtype=torch.float64)

    def rows(gradients):
        weight, bias = gradients[:, : 4 * 192], gradients[:, 4 * 192 :]
        return torch.cat([weight.view(-1, 4, 192), bias[:, :, None]], dim=2).flatten(1)

    training, queries = (rows(g) for g in case.gradients())
    expected = training @ torch.linalg.solve(damped, queries.T)
    scorer = kind(damping=0.01, draws=EveryClass())
    found = influence(case.network, case.train, case.images, case.target, scorer=scorer)
    assert_equal(found.scores, expected, rtol=1e-8)


def test_16_trak_without_projection_weights_and_ensemble_is_the_fisher_kernel(setting):
    case = setting()
    damping = 0.02
    scorer = TRAK(space=EXACT, damping=damping)
    found = influence(case.network, case.train, case.images, case.target, scorer=scorer)
    with torch.no_grad():
        p = case.model(case.train.images).softmax(dim=1)[range(9), case.train.labels]
        p_q = case.model(case.images).softmax(dim=1)[range(3), case.classes]
    training, queries = case.gradients()
    margins, asked = -training / (1 - p)[:, None], -queries / (1 - p_q)[:, None]
    gram = margins @ margins.T  # by Woodbury: no matrix over parameters
    inner = torch.linalg.solve(gram + 9 * damping * torch.eye(9).double(), margins @ asked.T)
    kernel = (margins @ asked.T - gram @ inner) / damping
    assert_equal(found.scores / found.residuals[:, None], kernel, rtol=1e-8)


# ------------------------------------------------------------------------------------------ 18


ROUNDED = ("arnoldi", "trackstar")
"""Undamped eigenvalues, and norms under an inverse of squares near 1e-35: their maps are finite in
single precision, but rounding decides of their direction."""


@EVERY
def test_18_a_saturated_network_has_the_scores_and_maps_of_double_precision(scorer):
    scores, maps = [], []
    for dtype in (torch.float64, torch.float32):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(8, 3, 4, 4, generator=generator).to(dtype)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.GELU(), nn.Linear(6, 4)).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) / 3)
            model[3].bias.copy_(torch.tensor([40.0, 0.0, 0.0, 0.0]))
        network = Network.read(model.to(dtype), images[:2])
        train = TensorData(images=images[:6], labels=torch.zeros(6, dtype=torch.int64))
        target = Margin(torch.tensor([0, 1]))
        found = influence(network, train, images[6:], target, scorer=scorer)
        attribution = training_features(found, 1, train, [0, 5], Gradient()).attribution
        scores.append(found.scores.double())
        maps.append(attribution.values.flatten(1).double())
    assert scores[1].isfinite().all()
    assert maps[1].isfinite().all()
    if scorer.name in ROUNDED:
        return
    one, other = (values / values.norm(dim=1, keepdim=True) for values in maps)
    cosines = (one * other).sum(dim=1)
    assert bool((1 - cosines < 1e-5).all()), cosines


# ------------------------------------------------------------------------------------------ 19


class Dead(nn.Module):
    """A network without biases: a black image changes nothing, whatever its weights."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.head(torch.relu(self.convolution(x)).mean((2, 3)))


@EVERY
def test_19_without_a_gradient_the_score_is_zero_and_it_is_reported(scorer, generator):
    images = torch.randn(6, 3, 8, 8, generator=generator).double()
    images[1] = 0
    model = Dead().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator).double())
    network = Network.read(model, images[2:])
    train = TensorData(images=images, labels=torch.tensor([0, 1, 2, 0, 1, 2]))
    found = influence(network, train, images[:2], Margin(torch.tensor([0, 1])), scorer=scorer)
    assert found.zero_gradients == 1
    assert found.zero_queries.tolist() == [False, True]
    assert found.scores[1].tolist() == [0, 0]
    assert found.scores[:, 1].tolist() == [0] * 6
    assert (found.scores[[0, 2, 3], 0] != 0).all()
    maps = training_features(found, 0, train, [0, 1], Gradient()).attribution
    assert maps.values.isfinite().all()
    assert maps.explained[1] == 0
