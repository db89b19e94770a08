"""Second moments of an optimiser, and TrackStar with them."""

import pytest
import torch
from torch import nn

from whence.errors import MismatchError
from whence.gradients import Recorder
from whence.influence import Projected, TrackStar, influence, second_moments
from whence.influence.projected import projector_for

SPACE = Projected(dimension=400, seed=3)


def stepped(model, kind, **settings):
    optimiser = kind(model.parameters(), lr=1e-3, **settings)
    for p in model.parameters():
        p.grad = torch.ones_like(p) * (1 + p.numel() % 5)
    optimiser.step()
    optimiser.zero_grad()
    return optimiser


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        (torch.optim.Adam, 1e-3),
        (torch.optim.AdamW, 1e-3),
        (torch.optim.RMSprop, 1e-2),
        (torch.optim.Adagrad, 1.0),
    ],
)
def test_moments_have_the_parameters_names_from_an_optimiser_or_its_state(model, kind, share):
    optimiser = stepped(model, kind)
    for found in (second_moments(optimiser, model), second_moments(optimiser.state_dict(), model)):
        assert list(found) == [name for name, _ in model.named_parameters()]
        for name, p in model.named_parameters():
            expected = torch.full_like(p, share * (1 + p.numel() % 5) ** 2)
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-7)


def test_an_optimiser_of_some_parameters_or_in_another_order_is_read_by_identity(model):
    groups = [{"params": [model[1].bias]}, {"params": [model[0].weight]}]
    optimiser = torch.optim.Adam(groups)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimiser.step()
    assert set(second_moments(optimiser, model)) == {"1.bias", "0.weight"}


def test_an_optimiser_without_moments_or_of_another_model_is_refused(model):
    with pytest.raises(MismatchError, match="keeps no second moments"):
        second_moments(stepped(model, torch.optim.SGD), model)
    with pytest.raises(MismatchError, match="once they have made a step"):
        second_moments(torch.optim.Adam(model.parameters()), model)
    state = stepped(model, torch.optim.Adam).state_dict()
    with pytest.raises(MismatchError, match=r"second moment of shape \(4, 3\)"):
        second_moments(state, nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)))


def test_trackstar_divides_gradients_by_the_roots_before_it_projects(setting, generator):
    case = setting()
    training, queries = case.gradients()
    parameters = dict(case.model.named_parameters())
    moments = {
        name: torch.rand(p.shape, generator=generator).double() for name, p in parameters.items()
    }
    root = torch.cat([moments[name].flatten() for name in parameters]).sqrt() + 1e-8
    projector = projector_for(Recorder(case.network), SPACE)

    def projected(rows):
        pieces = (rows / root).split([p.numel() for p in parameters.values()], dim=1)
        named = {
            n: piece.reshape(len(rows), *p.shape)
            for (n, p), piece in zip(parameters.items(), pieces, strict=True)
        }
        found = projector(named)
        return torch.cat([found[name].flatten(1) for name in parameters], dim=1)

    left, right = projected(training), projected(queries)
    moment = left.T @ left / 9
    scale = float(moment.trace()) * (1 / 9 + 1 / len(moment))
    values, vectors = torch.linalg.eigh(moment + scale * torch.eye(len(moment)).double())
    half = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    expected = (
        torch.nn.functional.normalize(left @ half) @ torch.nn.functional.normalize(right @ half).T
    )
    scorer = TrackStar(space=SPACE, second_moment=moments)
    found = influence(case.network, case.train, case.images, case.target, scorer=scorer).scores
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    plain = influence(
        case.network, case.train, case.images, case.target, scorer=TrackStar(space=SPACE)
    ).scores
    assert not torch.allclose(found, plain, rtol=1e-2)


def test_a_parameter_without_a_second_moment_is_named(setting):
    case = setting()
    scorer = TrackStar(second_moment={"0.weight": torch.ones(5, 3, 3, 3)})
    with pytest.raises(MismatchError, match=r"no second moment for '0\.bias'"):
        influence(case.network, case.train, case.images, case.target, scorer=scorer)
