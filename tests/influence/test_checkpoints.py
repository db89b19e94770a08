from copy import deepcopy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from whence.attribution import Gradient
from whence.core import Margin
from whence.errors import DataError, MismatchError, NumericsError, SettingError, WeightsError
from whence.influence import (
    GAS,
    TRAK,
    Checkpoint,
    GradCos,
    GradDot,
    Projected,
    TracIn,
    influence,
    network_at,
)
from whence.network import Network
from whence.training_features import held_weights, influence_fn, training_features


def assert_equal(found, expected, rtol=1e-10):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


def moved(model, seed):
    """The model at another moment of training: other weights, other running statistics."""
    generator = torch.Generator().manual_seed(seed)
    other = deepcopy(model)
    with torch.no_grad():
        for value in (*other.parameters(), *other.buffers()):
            if value.is_floating_point():
                value.add_(0.2 * torch.rand(value.shape, generator=generator).to(value))
    return other


@pytest.fixture
def moments(setting):
    case = setting()
    models = [moved(case.model, seed) for seed in (1, 2, 3)]
    return case, models


def gradients_of(case, models):
    for model in models:
        other = deepcopy(case)
        object.__setattr__(other, "model", model)
        yield other.gradients()


def scored(case, models, scorer, rates=(0.1, 0.5, 0.2), **settings):
    checkpoints = [
        Checkpoint(weights=m.state_dict(), learning_rate=rate)
        for m, rate in zip(models, rates, strict=True)
    ]
    return influence(
        case.network,
        case.train,
        case.images,
        case.target,
        scorer=scorer,
        checkpoints=checkpoints,
        **settings,
    )


def test_a_network_at_a_checkpoint_is_the_model_then(moments, untouched):
    case, models = moments
    with untouched(case.model):
        found = network_at(case.network, Checkpoint(weights=models[0].state_dict()))
    torch.testing.assert_close(found(case.images), models[0](case.images), rtol=0, atol=0)
    assert not torch.allclose(case.network(case.images), models[0](case.images))
    assert list(found.parameters) == list(case.network.parameters)


def test_tracin_adds_inner_products_times_learning_rates(moments):
    case, models = moments
    expected = sum(
        rate * training @ queries.T
        for rate, (training, queries) in zip(
            (0.1, 0.5, 0.2), gradients_of(case, models), strict=True
        )
    )
    found = scored(case, models, TracIn())
    assert_equal(found.scores, expected)
    assert len(found.members) == 3
    assert found.passes == 1
    margins = scored(case, models, TracIn(output="margin")).scores
    assert not torch.allclose(margins, expected)


@pytest.mark.parametrize(
    ("scorer", "factors"), [(GAS(), (0.1, 0.5, 0.2)), (GradCos(), (1 / 3, 1 / 3, 1 / 3))]
)
def test_cosines_are_added_by_rate_or_averaged(moments, scorer, factors):
    case, models = moments
    expected = sum(
        factor * torch.nn.functional.normalize(training) @ torch.nn.functional.normalize(queries).T
        for factor, (training, queries) in zip(factors, gradients_of(case, models), strict=True)
    )
    assert_equal(scored(case, models, scorer).scores, expected)


def test_other_scorers_average_and_do_not_look_at_rates(moments):
    case, models = moments
    one = scored(case, models, GradDot())
    other = scored(case, models, GradDot(), rates=(1.0, 2.0, 3.0))
    expected = sum(a @ b.T for a, b in gradients_of(case, models)) / 3
    assert_equal(one.scores, expected)
    assert_equal(other.scores, expected)


def test_trak_averages_products_and_weights_apart(moments):
    case, models = moments
    scorer = TRAK(space=Projected(dimension=10**6), damping=0.1)
    found = scored(case, models, scorer)
    weights, products = [], []
    for model in models:
        with torch.no_grad():
            p = model(case.train.images).softmax(dim=1)[range(9), case.train.labels]
        one = scored(case, [model], scorer, rates=(1.0,))
        weights.append(1 - p)
        products.append(one.scores / (1 - p)[:, None])
    expected = (sum(weights) / 3)[:, None] * (sum(products) / 3)
    assert_equal(found.scores, expected)
    apiece = torch.stack(weights)[:, :, None] * torch.stack(products)
    assert not torch.allclose(found.scores, apiece.mean(dim=0))


@pytest.mark.parametrize("scorer", [TracIn(), GAS(), TRAK(damping=0.1)], ids=lambda s: s.name)
def test_maps_add_up_over_checkpoints(moments, scorer):
    case, models = moments
    found = scored(case, models, scorer)
    maps = training_features(found, 1, case.train, [2, 4], Gradient()).attribution
    assert_equal(maps.explained, found.scores[[2, 4], 1])
    f = influence_fn(found, 1, case.train.labels[[2, 4]])
    step = 1e-6 * torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    images = case.train.images[[2, 4]]
    with torch.no_grad():
        slopes = (f(images + step) - f(images - step)) / 2
    assert_equal((maps.values * step).sum(dim=(1, 2, 3)), slopes, rtol=1e-6)
    if scorer.name != "trak":
        alone = [
            training_features(
                scored(case, [m], scorer, rates=(rate,)), 1, case.train, [2, 4], Gradient()
            ).attribution.values
            for m, rate in zip(models, (0.1, 0.5, 0.2), strict=True)
        ]
        assert_equal(maps.values, sum(alone))


@pytest.mark.parametrize("scorer", [GAS(), TRAK(damping=0.1)], ids=lambda s: s.name)
def test_held_weights_are_those_of_every_checkpoint(moments, scorer):
    case, models = moments
    found = scored(case, models, scorer)
    weights = held_weights(found, torch.tensor([5, 1]))
    assert weights.shape == (2, 3)
    f = influence_fn(found, 0, case.train.labels[[5, 1]], weights)
    with torch.no_grad():
        assert_equal(f(case.train.images[[5, 1]]), found.scores[[5, 1], 0])
        assert_equal(f.at(torch.tensor([1]))(case.train.images[[1]]), found.scores[[1], 0])


def test_facts_are_those_of_the_last_checkpoint(moments):
    case, models = moments
    found = scored(case, models, TracIn())
    with torch.no_grad():
        p = models[-1](case.train.images).softmax(dim=1)
    assert torch.equal(found.predictions, p.argmax(dim=1))
    assert_equal(found.residuals, 1 - p[range(9), case.train.labels])


def test_queries_in_several_passes_give_the_same_scores(moments):
    case, models = moments
    one = sum(p.numel() for p in case.model.parameters()) * 8
    whole, cut = (scored(case, models, TracIn(), memory=m) for m in (2**30, 3 * one))
    assert (whole.passes, cut.passes) == (1, 3)
    assert_equal(cut.scores, whole.scores)


def test_combinations_of_queries_are_combinations_for_every_checkpoint(moments):
    case, models = moments
    found = scored(case, models, TracIn())
    matrix = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.5, 0.0]])
    mixed = found.combined(matrix)
    assert_equal(mixed.scores, found.scores @ matrix.double().T)
    difference = training_features(mixed, 0, case.train, [3], Gradient()).attribution
    sides = [training_features(found, q, case.train, [3], Gradient()).attribution for q in (0, 1)]
    assert_equal(difference.values, sides[0].values - sides[1].values)
    with pytest.raises(SettingError, match="Combining 3 queries needs 3 coefficients"):
        found.combined(torch.ones(2))


def test_another_network_may_be_a_member(moments):
    case, models = moments
    other = Network.read(models[0], case.images)
    (found,) = (
        influence(
            case.network,
            case.train,
            case.images,
            case.target,
            scorer=TracIn(),
            checkpoints=[Checkpoint(weights=other)],
        ),
    )
    assert_equal(found.scores, scored(case, models[:1], TracIn(), rates=(1.0,)).scores)


def changed(state, **changes):
    return {**state, **changes}


def test_weights_that_do_not_fit_are_refused_with_a_name(setting):
    case = setting()
    state = case.model.state_dict()
    network = case.network
    without = {n: v for n, v in state.items() if n != "3.bias"}
    with pytest.raises(MismatchError, match=r"has no '3\.bias' \(1 of 10 weights"):
        network_at(network, Checkpoint(weights=without))
    statistics = {n: v for n, v in state.items() if "running" not in n}
    with pytest.raises(MismatchError, match=r"has no '1\.running_mean'"):
        network_at(network, Checkpoint(weights=statistics))
    wrong = changed(state, **{"6.weight": torch.zeros(5, 54).double()})
    with pytest.raises(MismatchError, match=r"'6\.weight' has shape \(5, 54\)"):
        network_at(network, Checkpoint(weights=wrong))
    strange = changed(state, **{"7.weight": torch.zeros(5, 54).double()})
    with pytest.raises(MismatchError, match=r"'7\.weight' is none of its weights"):
        network_at(network, Checkpoint(weights=strange))
    bad = changed(state, **{"6.bias": torch.full((4,), torch.nan).double()})
    with pytest.raises(NumericsError, match=r"'6\.bias' holds NaN"):
        network_at(network, Checkpoint(weights=bad))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).eval()
    small = Network.read(model, torch.zeros(2, 3, 1, 1))
    with pytest.raises(MismatchError, match="takes images of shape"):
        network_at(network, Checkpoint(weights=small))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_learning_rate_is_over_zero(rate):
    with pytest.raises(SettingError, match="A learning rate is over 0"):
        Checkpoint(weights={}, learning_rate=rate)


def test_an_empty_list_of_checkpoints_is_refused(setting):
    case = setting()
    with pytest.raises(DataError, match="checkpoints needs at least one"):
        influence(case.network, case.train, case.images, case.target, checkpoints=[])


def test_a_shared_weight_may_stand_under_both_names(generator):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(12, 12)
            self.second = self.first

        def forward(self, x):
            return self.second(torch.tanh(self.first(x.flatten(1))))

    model = Tied().eval()
    images = torch.randn(2, 3, 2, 2, generator=generator)
    network = Network.read(model, images)
    found = network_at(network, Checkpoint(weights=model.state_dict()))
    assert torch.equal(found(images), model(images))


def test_margins_of_a_query_are_asked_of_every_network(moments):
    case, models = moments
    found = scored(case, models, TracIn())
    single = [scored(case, [m], TracIn(), rates=(1.0,)) for m in models]
    for member, one in zip(found.members, single, strict=True):
        for name, value in one.queries.dense().items():
            assert_equal(member.queries.dense()[name], value)
    assert isinstance(case.target, Margin)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_checkpoint_may_be_a_file(moments, tmp_path, ending):
    case, models = moments
    files = []
    for number, model in enumerate(models):
        state = {f"module.{n}": v.clone() for n, v in model.state_dict().items()}
        files.append(tmp_path / f"{number}{ending}")
        save_file(state, files[-1]) if ending == ".safetensors" else torch.save(state, files[-1])
    checkpoints = [Checkpoint(weights=file) for file in (str(files[0]), *files[1:])]
    found = influence(
        case.network,
        case.train,
        case.images,
        case.target,
        scorer=TracIn(),
        checkpoints=checkpoints,
    )
    assert_equal(found.scores, scored(case, models, TracIn(), rates=(1.0, 1.0, 1.0)).scores)
    with pytest.raises(WeightsError, match="no weight file"):
        network_at(case.network, Checkpoint(weights=tmp_path / "other.pt"))
