import pytest
import torch

from whence.core import Margin, TensorData
from whence.curvature import EveryClass, TrueLabels
from whence.errors import DataError, SettingError
from whence.gradients import Recorder
from whence.influence import (
    TRAK,
    Projected,
    ProjectedFisher,
    TrackStar,
    influence,
)
from whence.influence.projected import projector_for

EXACT = Projected(dimension=10**6)
SMALL = Projected(dimension=400, seed=3)


def assert_equal(found, expected, rtol=1e-9):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


def scores(case, scorer):
    return influence(case.network, case.train, case.images, case.target, scorer=scorer)


def margins(case):
    """The margins' gradients of training images and queries, and the residuals, by brute force."""
    training, queries = case.gradients()
    with torch.no_grad():
        p = case.model(case.train.images).softmax(dim=1)[range(9), case.train.labels]
        p_q = case.model(case.images).softmax(dim=1)[range(3), case.classes]
    return -training / (1 - p)[:, None], -queries / (1 - p_q)[:, None], 1 - p, 1 - p_q


def projected(case, space, rows):
    """Rows of gradients, parameters side by side as the model has them, projected."""
    projector = projector_for(Recorder(case.network), space)
    parameters = dict(case.model.named_parameters())
    pieces = rows.split([p.numel() for p in parameters.values()], dim=1)
    vectors = {
        name: piece.reshape(len(rows), *p.shape)
        for (name, p), piece in zip(parameters.items(), pieces, strict=True)
    }
    found = projector(vectors)
    return torch.cat([found[name].flatten(1) for name in parameters], dim=1)


def kernel(training, queries, moment, damping):
    identity = torch.eye(len(moment), dtype=torch.float64)
    return training @ torch.linalg.solve(moment + damping * identity, queries.T)


@pytest.mark.parametrize("kind", ["factored", "sketch"])
@pytest.mark.parametrize("damping", [None, 0.3])
def test_trak_is_its_formula_on_projected_margins(setting, kind, damping):
    case = setting()
    space = Projected(dimension=400, kind=kind, seed=1)
    training, queries, residuals, _ = margins(case)
    left, right = projected(case, space, training), projected(case, space, queries)
    assert left.shape[1] <= 400
    moment = left.T @ left / 9
    usual = float(moment.trace()) * (1 / 9 + 1 / len(moment))
    chosen = usual if damping is None else damping
    expected = residuals[:, None] * kernel(left, right, moment, chosen)
    assert_equal(scores(case, TRAK(space=space, damping=damping)).scores, expected)


def test_trak_takes_no_damping_where_there_are_more_images_than_numbers(setting):
    case = setting("softmax regression", count=40)
    space = Projected(dimension=9)
    assert sum(projector_for(Recorder(case.network), space).sizes.values()) <= 9
    without, little = (scores(case, TRAK(space=space, damping=d)).scores for d in (0.0, 1e-9))
    assert_equal(without, little, rtol=1e-4)


@pytest.mark.parametrize("space", [EXACT, SMALL], ids=["exact", "projected"])
def test_the_empirical_fisher_matrix_is_that_of_the_losses(setting, space):
    case = setting()
    training, queries = case.gradients()
    left, right = projected(case, space, training), projected(case, space, queries)
    expected = kernel(left, right, left.T @ left / 9, 0.02)
    scorer = ProjectedFisher(space=space, draws=TrueLabels(), damping=0.02)
    assert_equal(scores(case, scorer).scores, expected)


def test_every_class_by_its_probability_makes_the_gauss_newton_matrix(setting):
    case = setting()
    parameters = list(case.model.parameters())
    size = sum(p.numel() for p in parameters)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for image in case.train.images:
        logits = case.model(image[None])[0]
        rows = torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(z, parameters, retain_graph=True)]
                )
                for z in logits
            ]
        )
        p = logits.softmax(dim=0).detach()
        matrix += rows.T @ (torch.diag(p) - torch.outer(p, p)) @ rows / 9
    training, queries = case.gradients()
    expected = kernel(training, queries, matrix, 0.05)
    scorer = ProjectedFisher(space=EXACT, draws=EveryClass(), damping=0.05)
    assert_equal(scores(case, scorer).scores, expected, rtol=1e-8)
    _, _, _, residuals = margins(case)
    asked = scores(
        case, ProjectedFisher(space=EXACT, draws=EveryClass(), damping=0.05, output="margin")
    )
    assert_equal(asked.scores, expected / residuals[None], rtol=1e-8)


@pytest.mark.parametrize("mix", [0.0, 0.7, 1.0])
def test_trackstar_measures_lengths_after_preconditioning(setting, mix):
    case = setting()
    training, queries = case.gradients()
    left, right = projected(case, SMALL, training), projected(case, SMALL, queries)
    moment = mix * left.T @ left / 9 + (1 - mix) * right.T @ right / 3
    damped = moment + 0.03 * torch.eye(len(moment), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(damped)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    sides = [torch.nn.functional.normalize(side @ root) for side in (left, right)]
    reference = TensorData(images=case.images, labels=case.classes, classes=tuple("abcd"))
    scorer = TrackStar(space=SMALL, reference=reference, mix=mix, damping=0.03)
    found = scores(case, scorer)
    assert_equal(found.scores, sides[0] @ sides[1].T, rtol=1e-8)
    assert found.scores.abs().max() <= 1


def test_trackstar_without_a_reference_takes_the_training_images_alone(setting):
    case = setting()
    whole = scores(case, TrackStar(space=SMALL, damping=0.03))
    reference = TensorData(images=case.images, labels=case.classes, classes=tuple("abcd"))
    alone = TrackStar(space=SMALL, reference=reference, mix=1.0, damping=0.03)
    assert_equal(whole.scores, scores(case, alone).scores)


def test_without_projection_the_choice_of_signs_changes_nothing(setting):
    case = setting()
    found = [
        scores(case, TRAK(space=Projected(dimension=10**6, seed=seed), damping=0.1)).scores
        for seed in (0, 1)
    ]
    assert_equal(*found)
    rough = [
        scores(case, TRAK(space=Projected(dimension=60, seed=seed), damping=0.1)).scores
        for seed in (0, 1)
    ]
    assert not torch.allclose(*rough)


@pytest.mark.parametrize("dimension", [8, 50, 333, 10**6])
def test_a_space_has_at_most_the_numbers_that_were_asked_for(setting, dimension):
    case = setting()
    for kind in ("factored", "sketch"):
        space = Projected(dimension=dimension, kind=kind)
        sizes = projector_for(Recorder(case.network), space).sizes
        assert len(sizes) <= sum(sizes.values()) <= max(dimension, len(sizes))
    total = sum(p.numel() for p in case.model.parameters())
    assert dimension < total or sum(sizes.values()) == total


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingError, match="dimension of at least 1"):
        Projected(dimension=0)
    with pytest.raises(SettingError, match=r"mix is a share from 0 to 1; got 1\.5"):
        TrackStar(mix=1.5)


@pytest.mark.parametrize("scorer", [TRAK(), TrackStar()], ids=lambda s: s.name)
def test_a_missing_label_is_named_before_a_pass_is_made(setting, scorer):
    case = setting()
    labels = case.train.labels.clone()
    labels[5] = -1
    train = TensorData(images=case.train.images, labels=labels, classes=tuple("abcd"))
    with pytest.raises(DataError, match="'5' has no label"):
        influence(case.network, train, case.images, Margin(case.classes), scorer=scorer)
