import pytest
import torch

from whence.core import TensorData
from whence.curvature import EveryClass, RandomSigns
from whence.errors import DataError, MismatchError, SettingError
from whence.gradients import Recorder
from whence.influence import (
    EKFAC,
    KFAC,
    Arnoldi,
    DataInf,
    ExplicitInfluence,
    GradCos,
    GradDot,
    InfluenceFunction,
    LiSSA,
    Projected,
    ProjectedFisher,
    RelatIF,
    influence,
)
from whence.influence.batches import training_images
from whence.influence.fitting import kronecker


def assert_equal(found, expected, rtol=1e-9):
    top = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * top)


def checked_with(settings, **changes):
    """Check settings that a type checker would not let pass."""
    for name, value in changes.items():
        object.__setattr__(settings, name, value)
    settings.__post_init__()


def scores(case, scorer, **settings):
    return influence(
        case.network, case.train, case.images, case.target, scorer=scorer, **settings
    ).scores


def matrix_of(operator, network):
    """A scoring's map as a matrix, column by column."""
    sizes = {n: p.numel() for n, p in network.parameters.items()}
    total, columns = sum(sizes.values()), []
    for i in range(total):
        row = torch.zeros(1, total, dtype=torch.float64)
        row[0, i] = 1
        pieces = row.split(list(sizes.values()), dim=1)
        vectors = {
            n: piece.view(1, *network.parameters[n].shape)
            for n, piece in zip(sizes, pieces, strict=True)
        }
        mapped = operator(vectors)
        columns.append(torch.cat([mapped[n].flatten() for n in sizes]))
    return torch.stack(columns, dim=1).detach()


@pytest.mark.parametrize("relative", ["loss", "parameters"])
def test_relatif_divides_by_what_an_image_changes(setting, relative):
    case = setting()
    inner = EKFAC(damping=0.05, draws=EveryClass())
    inverse = matrix_of(inner.fit(Recorder(case.network), case.train).operator, case.network)
    training, queries = case.gradients()
    plain = training @ inverse @ queries.T
    assert_equal(scores(case, inner), plain)
    if relative == "loss":
        length = (training * (training @ inverse)).sum(dim=1).sqrt()
    else:
        length = (training @ inverse).norm(dim=1)
    found = scores(case, RelatIF(influence=inner, relative=relative))
    assert_equal(found, plain / length[:, None])


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
def test_solvers_agree_on_the_inverse_of_one_curvature(setting, curvature):
    case = setting()
    settings = {"damping": 0.5, "curvature": curvature}
    given = {"parameters": "6.*"}
    exact = scores(case, ExplicitInfluence(**settings), **given)
    solved = InfluenceFunction(tolerance=1e-11, iterations=200, **settings)
    assert_equal(scores(case, solved, **given), exact, rtol=1e-7)
    faster = InfluenceFunction(tolerance=1e-11, iterations=200, preconditioned=True, **settings)
    assert_equal(scores(case, faster, **given), exact, rtol=1e-7)
    every = LiSSA(depth=60, step_size=9, scale=3.0, **settings)
    assert_equal(scores(case, every, **given), exact, rtol=1e-3)
    steep = scores(case, Arnoldi(krylov=30, rank=30, damping=0.5, curvature=curvature), **given)
    assert float(torch.corrcoef(torch.stack([steep.flatten(), exact.flatten()]))[0, 1]) > 0.99


def test_the_explicit_inverse_is_that_of_the_gauss_newton_matrix(setting):
    case = setting()
    scorer = ProjectedFisher(space=Projected(dimension=10**6), draws=EveryClass(), damping=0.2)
    found, expected = (
        scores(case, s, parameters="6.*") for s in (ExplicitInfluence(damping=0.2), scorer)
    )
    assert_equal(found, expected, rtol=1e-8)


def test_datainf_is_its_formula_for_each_layer(setting):
    case = setting()
    training, queries = case.gradients()
    layers = [part for part in case.model if list(part.parameters())]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    expected = torch.zeros(9, 3, dtype=torch.float64)
    for left, right in zip(training.split(sizes, dim=1), queries.split(sizes, dim=1), strict=True):
        damping = 0.1 * left.square().mean()
        norms = left.square().sum(dim=1)
        pulled = (right @ left.T) / (damping + norms)
        mapped = (right - pulled @ left / 9) / damping
        expected += left @ mapped.T
    assert_equal(scores(case, DataInf()), expected)


@pytest.mark.parametrize(
    "kind", [KFAC, EKFAC, DataInf, ExplicitInfluence, GradDot], ids=lambda k: k.__name__
)
def test_the_change_of_the_margin_is_asked_for_without_the_querys_residual(setting, kind):
    case = setting()
    with torch.no_grad():
        p = case.model(case.images).softmax(dim=1)[range(3), case.classes]
    loss = scores(case, kind(), parameters="6.*")
    margin = scores(case, kind(output="margin"), parameters="6.*")
    assert_equal(margin * (1 - p), loss, rtol=1e-8)
    with pytest.raises(SettingError, match="output is 'loss' or 'margin'; got 'p'"):
        checked_with(kind(), output="p")


def test_kfac_and_ekfac_differ_and_both_change_the_ranking(setting):
    case = setting()
    plain, kfac, ekfac = (scores(case, s) for s in (GradDot(), KFAC(), EKFAC()))
    assert not torch.allclose(kfac, ekfac, rtol=1e-2)
    assert not torch.equal(plain.argsort(dim=0), ekfac.argsort(dim=0))


def test_sampled_labels_repeat_with_their_seed(setting):
    case = setting()
    one, again, other = (scores(case, EKFAC(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, rtol=1e-3)


def test_a_part_of_the_images_may_make_the_curvature(setting):
    case = setting()
    whole = scores(case, EKFAC(images=9))
    assert_equal(whole, scores(case, EKFAC()))
    assert not torch.allclose(whole, scores(case, EKFAC(images=4)), rtol=1e-3)


@pytest.mark.parametrize(("kind", "values"), [(KFAC, "product"), (EKFAC, "corrected")])
def test_the_damping_is_a_share_of_one_images_curvature_unless_layers_have_their_own(
    setting, kind, values
):
    case = setting()
    recorder = Recorder(case.network)
    curvature = kronecker(training_images(recorder, case.train), eigenvalues=values)
    every = [layer.values.sum() for layer in curvature.layers.values()]
    every += [value.sum() for value in curvature.rest.values()]
    assert float(sum(every)) == pytest.approx(curvature.trace)
    by_default, as_number = (
        scores(case, kind(damping=d)) for d in (None, 0.03 * curvature.trace / 9)
    )
    assert_equal(by_default, as_number)
    assert isinstance(kind().draws, RandomSigns)
    inverse = matrix_of(curvature.inverse(None), case.network)
    training, queries = case.gradients()
    assert_equal(scores(case, kind(damping="layer")), training @ inverse @ queries.T)


def test_a_kept_ekfac_fit_is_read_again_and_refused_for_other_data(setting, tmp_path):
    case = setting()
    path = tmp_path / "fit.safetensors"
    first = scores(case, EKFAC(cache=path))
    kept = path.read_bytes()
    assert torch.equal(scores(case, EKFAC(cache=str(path))), first)
    assert torch.equal(first, scores(case, EKFAC()))
    assert path.read_bytes() == kept
    other = TensorData(images=case.train.images + 1, labels=case.train.labels)
    with pytest.raises(MismatchError, match="differs in data"):
        influence(case.network, other, case.images, case.target, scorer=EKFAC(cache=path))


@pytest.mark.parametrize("inner", [GradDot(), GradCos(), RelatIF()], ids=lambda s: s.name)
def test_relatif_needs_an_influence_function(setting, inner):
    case = setting()
    with pytest.raises(SettingError, match="RelatIF needs an influence function"):
        scores(case, RelatIF(influence=inner))
    with pytest.raises(SettingError, match="'loss' or 'parameters'; got 'query'"):
        checked_with(RelatIF(), relative="query")


def test_datainf_names_an_image_without_a_label(setting):
    case = setting()
    labels = case.train.labels.clone()
    labels[2] = -1
    train = TensorData(images=case.train.images, labels=labels, classes=tuple("abcd"))
    with pytest.raises(DataError, match="'2' has no label"):
        influence(case.network, train, case.images, case.target, scorer=DataInf())


@pytest.mark.parametrize("kind", [KFAC, EKFAC, InfluenceFunction, LiSSA, DataInf])
def test_a_damping_below_zero_is_refused(setting, kind):
    case = setting()
    with pytest.raises(SettingError, match="damping"):
        scores(case, kind(damping=-1.0))
