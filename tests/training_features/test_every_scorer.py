"""The map of every scorer: the slope of the very score, as a finite difference finds it."""

from dataclasses import replace

import pytest
import torch

from whence.attribution import Gradient
from whence.core import Margin
from whence.influence import (
    SCORERS,
    Arnoldi,
    InfluenceFunction,
    LiSSA,
    RelatIF,
    influence,
)
from whence.training_features import influence_fn, training_features

SETTINGS = {
    "influence": InfluenceFunction(iterations=10),
    "lissa": LiSSA(depth=8, scale=5.0),
    "arnoldi": Arnoldi(krylov=8, rank=4),
}
EVERY = pytest.mark.parametrize(
    "scorer", [SETTINGS.get(s.name, s) for s in SCORERS], ids=[s.name for s in SCORERS]
)


def assert_equal(found, expected, rtol=1e-9):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


def scored(case, scorer):
    parameters = "6.*" if scorer.name == "explicit" else "all"
    return influence(
        case.network,
        case.train,
        case.images,
        Margin(case.classes),
        scorer=scorer,
        parameters=parameters,
    )


@EVERY
def test_a_map_is_the_slope_of_the_score(setting, scorer):
    case = setting()
    scores = scored(case, scorer)
    places = [3, 1]
    maps = training_features(scores, 1, case.train, places, Gradient()).attribution
    assert_equal(maps.explained, scores.scores[places, 1])
    f = influence_fn(scores, 1, case.train.labels[places])
    step = 1e-6 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    images = case.train.images[places]
    with torch.no_grad():
        slopes = (f(images + step) - f(images - step)) / 2
    assert_equal((maps.values * step).sum(dim=(1, 2, 3)), slopes, rtol=1e-6)


@EVERY
def test_with_held_weights_the_score_stays_and_the_inner_product_answers(setting, scorer):
    case = setting()
    scores = scored(case, scorer)
    held = training_features(
        scores, 0, case.train, [2, 0], Gradient(), hold_weights=True
    ).attribution
    assert_equal(held.explained, scores.scores[[2, 0], 0])
    f = influence_fn(scores, 0, case.train.labels[[2, 0]])
    images = case.train.images[[2, 0]].clone().requires_grad_()
    products = torch.stack(
        [term(images, Margin(f.labels), held=True)[0] * term.member.factor for term in f.terms]
    )
    (slopes,) = torch.autograd.grad(products.sum(), images)
    assert_equal(held.values, slopes * scores.weights[[2, 0], 0].view(2, 1, 1, 1), rtol=1e-8)


@pytest.mark.parametrize("relative", ["loss", "parameters"])
def test_relatif_differentiates_its_own_norm(setting, relative):
    """With the norm's slope left out, the map would be another one."""
    case = setting()
    scores = scored(case, RelatIF(relative=relative))
    whole = training_features(scores, 0, case.train, [2], Gradient()).attribution.values
    held = training_features(
        scores, 0, case.train, [2], Gradient(), hold_weights=True
    ).attribution.values
    assert not torch.allclose(whole, held, rtol=1e-2)
    members = tuple(replace(m, scoring=replace(m.scoring, metric=None)) for m in scores.members)
    euclidean = replace(scores, members=members)
    other = training_features(euclidean, 0, case.train, [2], Gradient()).attribution.values
    assert not torch.allclose(whole / whole.norm(), other / other.norm(), rtol=1e-2)


@EVERY
def test_the_map_of_a_difference_is_the_difference_of_maps(setting, scorer):
    case = setting()
    scores = scored(case, scorer)
    rather = scores.combined(torch.tensor([1.0, -1.0]))
    found = training_features(rather, 0, case.train, [1], Gradient()).attribution.values
    first, second = (
        training_features(scores, q, case.train, [1], Gradient()).attribution.values for q in (0, 1)
    )
    assert_equal(found, first - second, rtol=1e-8)
