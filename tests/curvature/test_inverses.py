import pytest
import torch

from whence.core import Margin, TensorData
from whence.curvature import (
    ConjugateGradient,
    CurvatureProduct,
    DataInf,
    Lissa,
    Sandwich,
    TrainingImages,
    datainf_dampings,
    dense_matrix,
    explicit_inverse,
    largest_eigenvalue,
    ritz,
    woodbury,
)
from whence.curvature import datainf as datainf_module
from whence.curvature import dense as dense_module
from whence.curvature import products as products_module
from whence.curvature.datainf import layers_of
from whence.curvature.rows import sizes_of
from whence.errors import DataError, MismatchError, NumericsError, SettingError
from whence.gradients import Damped, Projection
from whence.gradients.operator import Operator

KINDS = ["gauss-newton", "hessian"]


def exact(subject, kind):
    return subject.gauss_newton if kind == "gauss-newton" else subject.hessian


def solved(matrix, rows, damping):
    return torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), rows.T).T


@pytest.mark.parametrize("size", [1, 4, 6])
@pytest.mark.parametrize("way", [*KINDS, "gauss-newton by classes"])
@pytest.mark.parametrize("which", ["mixed", "linear"])
def test_products_are_those_of_the_matrix(which, way, size, request, monkeypatch):
    monkeypatch.setattr(products_module, "PER_CLASS", 0.0 if "classes" in way else 1e9)
    monkeypatch.setattr(products_module, "CHUNK_BYTES", 1000)
    subject, kind = request.getfixturevalue(which), way.split()[0]
    operator = CurvatureProduct(data=subject.chosen(batch_size=size), kind=kind)
    vectors = subject.vectors()
    expected = subject.flat(vectors) @ exact(subject, kind)
    torch.testing.assert_close(subject.flat(operator(vectors)), expected, rtol=1e-9, atol=1e-12)


def test_products_over_some_images_and_for_some_parameters(mixed):
    from whence.gradients import Recorder

    recorder = Recorder(mixed.network, ["tokens.weight", "norm.bias"])
    data = TrainingImages(recorder=recorder, data=mixed.train, batch_size=2)
    operator = CurvatureProduct(data=data).at((4, 1, 2))
    vectors = {name: mixed.vectors()[name] for name in recorder.names}
    g, p = mixed.class_gradients[[1, 2, 4]], mixed.chances[[1, 2, 4]]
    places = torch.cat([torch.arange(10**4)[mixed.places[n]] for n in recorder.names])
    matrix = (torch.einsum("nk,nkp,nkq->pq", p, g, g) / 3)[places][:, places]
    rows = torch.cat([v.flatten(1) for v in vectors.values()], dim=1)
    found = torch.cat([v.flatten(1) for v in operator(vectors).values()], dim=1)
    torch.testing.assert_close(found, rows @ matrix)


def test_a_softmax_regression_s_gauss_newton_matrix_is_its_hessian(linear):
    torch.testing.assert_close(linear.gauss_newton, linear.hessian)


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_conjugate_gradients_solve_and_report_their_residuals(mixed, damping):
    operator = CurvatureProduct(data=mixed.chosen())
    vectors = mixed.vectors(3)
    vectors = {
        n: v * torch.tensor([1.0, 1e-5, 0.0]).view(3, *[1] * (v.ndim - 1)).double()
        for n, v in vectors.items()
    }
    solver = ConjugateGradient(operator=operator, damping=damping, tolerance=1e-9, iterations=200)
    found = solver.solve(vectors)
    expected = solved(mixed.gauss_newton, mixed.flat(vectors), damping)
    rows = mixed.flat(found.vectors)
    torch.testing.assert_close(rows[0], expected[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rows[1], expected[1], rtol=1e-6, atol=1e-11)
    assert not rows[2].any()
    left = mixed.flat(vectors) - rows @ mixed.gauss_newton - damping * rows
    size = mixed.flat(vectors).norm(dim=1).clamp(min=1e-300)
    assert bool((found.residuals <= 1e-9).all())
    assert bool((left.norm(dim=1) / size <= 2e-9).all())
    assert found.iterations < 200
    torch.testing.assert_close(mixed.flat(solver(vectors)), rows)


def test_several_systems_at_once_are_those_one_by_one(mixed):
    solver = ConjugateGradient(
        operator=CurvatureProduct(data=mixed.chosen()), damping=0.01, tolerance=1e-8
    )
    vectors = mixed.vectors(2)
    both = mixed.flat(solver(vectors))
    for row in range(2):
        one = mixed.flat(solver({n: v[row : row + 1] for n, v in vectors.items()}))
        torch.testing.assert_close(both[row : row + 1], one, rtol=1e-6, atol=1e-6)


def test_conjugate_gradients_that_are_cut_short_say_how_far_they_came(mixed):
    solver = ConjugateGradient(
        operator=CurvatureProduct(data=mixed.chosen()), damping=1e-4, iterations=2
    )
    found = solver.solve(mixed.vectors())
    rows = mixed.flat(found.vectors)
    left = mixed.flat(mixed.vectors()) - rows @ mixed.gauss_newton - 1e-4 * rows
    expected = left.norm(dim=1) / mixed.flat(mixed.vectors()).norm(dim=1)
    torch.testing.assert_close(found.residuals, expected)
    assert found.iterations == 2
    assert bool((found.residuals > 1e-3).all())


def test_a_preconditioner_saves_iterations_and_keeps_the_solution(mixed):
    operator = CurvatureProduct(data=mixed.chosen())
    near = explicit_inverse(
        mixed.gauss_newton + 1e-3 * torch.eye(len(mixed.gauss_newton)).double(),
        1e-2,
        sizes_of(mixed.vectors()),
    )
    plain, helped = (
        ConjugateGradient(
            operator=operator, damping=1e-2, tolerance=1e-8, iterations=300, preconditioner=p
        ).solve(mixed.vectors())
        for p in (None, near)
    )
    assert helped.iterations < plain.iterations / 2
    torch.testing.assert_close(
        mixed.flat(helped.vectors), mixed.flat(plain.vectors), rtol=1e-5, atol=1e-5
    )


def test_a_negative_direction_is_an_error_that_names_what_to_do(mixed):
    lowest = float(torch.linalg.eigvalsh(mixed.hessian)[0])
    assert lowest < -1e-3
    operator = CurvatureProduct(data=mixed.chosen(), kind="hessian")
    solver = ConjugateGradient(operator=operator, damping=1e-6, iterations=200, tolerance=1e-9)
    with pytest.raises(NumericsError, match="take the Gauss-Newton matrix"):
        solver.solve(mixed.vectors())
    enough = ConjugateGradient(operator=operator, damping=0.1 - lowest, tolerance=1e-9)
    expected = solved(mixed.hessian, mixed.flat(mixed.vectors()), 0.1 - lowest)
    torch.testing.assert_close(mixed.flat(enough(mixed.vectors())), expected, rtol=1e-6, atol=1e-6)


def test_lissa_over_all_images_approaches_the_solution(linear):
    every = tuple(range(6))
    operator = CurvatureProduct(data=linear.chosen())
    top = float(torch.linalg.eigvalsh(linear.gauss_newton)[-1])
    solver = Lissa(operator=operator, steps=[[every] * 60], damping=0.5, scale=0.6 * (top + 0.5))
    expected = solved(linear.gauss_newton, linear.flat(linear.vectors()), 0.5)
    torch.testing.assert_close(
        linear.flat(solver(linear.vectors())), expected, rtol=1e-6, atol=1e-6
    )


def test_lissa_after_some_steps_is_the_series_and_the_mean_of_its_repeats(linear):
    steps = [[(0, 1), (5, 2)], [(3,), (4,)]]
    operator = CurvatureProduct(data=linear.chosen(batch_size=1))
    solver = Lissa(operator=operator, steps=steps, damping=0.1, scale=3.0)
    rows = linear.flat(linear.vectors())
    expected = 0
    for places in steps:
        found = rows
        for some in places:
            g, p = linear.class_gradients[list(some)], linear.chances[list(some)]
            matrix = torch.einsum("nk,nkp,nkq->pq", p, g, g) / len(some)
            found = rows + found - (found @ matrix + 0.1 * found) / 3.0
        expected = expected + found / 6.0
    torch.testing.assert_close(linear.flat(solver(linear.vectors())), expected)


def test_lissa_that_diverges_asks_for_a_larger_scale(linear):
    operator = CurvatureProduct(data=linear.chosen())
    solver = Lissa(operator=operator, steps=[[tuple(range(6))] * 300], damping=0.05, scale=0.05)
    with pytest.raises(NumericsError, match="Give a larger scale"):
        solver(linear.vectors())


def test_the_largest_eigenvalue_is_found_by_powers(mixed):
    operator = CurvatureProduct(data=mixed.chosen())
    found = largest_eigenvalue(operator, mixed.vectors(1), iterations=60)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(mixed.gauss_newton)[-1]), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_is_formed_and_inverted(mixed, kind):
    operator = CurvatureProduct(data=mixed.chosen(), kind=kind)
    matrix = dense_matrix(operator, mixed.vectors())
    torch.testing.assert_close(matrix, exact(mixed, kind), rtol=1e-8, atol=1e-11)
    inverse = explicit_inverse(matrix, 2.0, sizes_of(mixed.vectors()))
    expected = solved(exact(mixed, kind), mixed.flat(mixed.vectors()), 2.0)
    torch.testing.assert_close(mixed.flat(inverse(mixed.vectors())), expected)
    assert isinstance(inverse, Operator)


def test_a_matrix_that_is_too_large_names_what_else_there_is(mixed, monkeypatch):
    monkeypatch.setattr(dense_module, "MOST", 10)
    with pytest.raises(SettingError, match="conjugate gradients or EK-FAC"):
        dense_matrix(CurvatureProduct(data=mixed.chosen()), mixed.vectors())


def test_an_indefinite_matrix_says_how_low_it_goes(mixed):
    lowest = float(torch.linalg.eigvalsh(mixed.hessian)[0])
    with pytest.raises(NumericsError, match=f"lowest eigenvalue is {lowest:.3g}"):
        explicit_inverse(mixed.hessian, -lowest / 2, sizes_of(mixed.vectors()))


@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_woodbury_inverts_the_empirical_fisher_matrix(mixed, damping):
    inverse = woodbury(mixed.label_gradients, damping, sizes_of(mixed.vectors()))
    expected = solved(mixed.empirical, mixed.flat(mixed.vectors()), damping)
    torch.testing.assert_close(mixed.flat(inverse(mixed.vectors())), expected)


def test_woodbury_without_enough_damping_for_its_precision_says_so():
    twice = torch.tensor([[1e6, 1.0], [1e6, 1.0]])
    with pytest.raises(NumericsError, match="Give more damping, such as"):
        woodbury(twice, 1e-20, {"w": 2})


@pytest.mark.parametrize("krylov", [1, 7, 12])
def test_arnoldi_is_a_rayleigh_ritz_projection_onto_the_krylov_space(mixed, krylov):
    """The oracle: powers of the matrix, orthonormalised, and the matrix between them."""
    found = ritz(
        CurvatureProduct(data=mixed.chosen()), mixed.vectors(1), krylov=krylov, rank=krylov
    )
    powers = [mixed.flat(mixed.vectors(1))[0]]
    for _ in range(krylov - 1):
        powers.append(mixed.gauss_newton @ powers[-1])
        powers[-1] = powers[-1] / powers[-1].norm()
    space = torch.linalg.qr(torch.stack(powers, dim=1)).Q
    small = torch.linalg.eigvalsh(space.T @ mixed.gauss_newton @ space).flip(0)
    torch.testing.assert_close(found.values[:4], small[: min(4, krylov)], rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        found.basis @ found.basis.T, torch.eye(len(found.basis)).double(), rtol=0, atol=1e-10
    )


def test_arnoldi_finds_the_largest_eigenvalues_and_inverts_on_them(mixed):
    """The Gauss-Newton matrix of 6 images and 3 classes has rank 12 at most."""
    full = ritz(CurvatureProduct(data=mixed.chosen()), mixed.vectors(1), krylov=40, rank=5)
    values, vectors = torch.linalg.eigh(mixed.gauss_newton)
    values, vectors = values.flip(0)[:5], vectors.flip(1)[:, :5]
    torch.testing.assert_close(full.values, values, rtol=1e-8, atol=1e-12)
    rows = mixed.flat(mixed.vectors())
    for damping in (0.0, 0.3):
        expected = (rows @ vectors / (values + damping)) @ vectors.T
        found = mixed.flat(full.inverse(damping)(mixed.vectors()))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_arnoldi_stops_where_the_krylov_space_ends(mixed):
    found = ritz(CurvatureProduct(data=mixed.chosen()), mixed.vectors(1), krylov=100, rank=100)
    assert len(found.values) <= 13


def test_arnoldi_of_no_curvature_is_an_error(mixed):
    class Nothing(Operator):
        def __call__(self, vectors):
            return {name: 0 * value for name, value in vectors.items()}

    with pytest.raises(NumericsError, match="all gradients are zero"):
        ritz(Nothing(), mixed.vectors(1), krylov=3, rank=2)
    with pytest.raises(NumericsError, match="has length 0"):
        ritz(Nothing(), Nothing()(mixed.vectors(1)), krylov=3, rank=2)
    with pytest.raises(SettingError, match="from 1 to the Krylov dimension"):
        ritz(Nothing(), mixed.vectors(1), krylov=3, rank=4)


@pytest.mark.parametrize("chunk", [1, 2**26])
def test_datainf_is_the_mean_of_each_image_s_inverse(mixed, chunk, monkeypatch):
    monkeypatch.setattr(datainf_module, "CHUNK_BYTES", chunk)
    chosen = mixed.chosen(batch_size=4)
    dampings = datainf_dampings(chosen)
    found = DataInf(data=chosen, dampings=dampings)(mixed.vectors())
    assert set(dampings) == {n.split(".")[0] for n in mixed.names}
    for layer in dampings:
        names = [n for n in mixed.names if n.startswith(f"{layer}.")]
        g = torch.cat([mixed.label_gradients[:, mixed.places[n]] for n in names], dim=1)
        v = torch.cat([mixed.vectors()[n].flatten(1) for n in names], dim=1)
        damping = 0.1 * g.square().mean()
        assert dampings[layer] == pytest.approx(float(damping))
        identity = torch.eye(g.shape[1], dtype=torch.float64)
        inverses = [torch.linalg.inv(torch.outer(row, row) + damping * identity) for row in g]
        expected = v @ torch.stack(inverses).mean(dim=0)
        mapped = torch.cat([found[n].flatten(1) for n in names], dim=1)
        torch.testing.assert_close(mapped, expected)


def test_datainf_s_damping_for_a_parameter_without_gradients_is_one(mixed):
    model = type(mixed.model)().double().eval()
    model.load_state_dict(mixed.model.state_dict())
    with torch.no_grad():
        model.head.weight.zero_()
    from whence.gradients import Recorder
    from whence.network import Network

    recorder = Recorder(Network.read(model, mixed.images))
    chosen = TrainingImages(recorder=recorder, data=mixed.train)
    dampings = datainf_dampings(chosen)
    assert dampings["stem"] == 1.0
    assert dampings["head"] != 1.0
    found = DataInf(data=chosen, dampings=dampings)(mixed.vectors())
    assert all(value.isfinite().all() for value in found.values())


def test_a_sandwich_scores_as_the_projected_space_does(mixed):
    from whence.curvature import Gram

    gradients = mixed.recorder.record(mixed.images, Margin(mixed.labels))
    projector = Projection(dimension=12).projector(gradients)
    gram = Gram()
    gram.update(projector.project(gradients))
    middle = gram.result().inverse(0.2)
    found = gradients.dot(Sandwich(projector=projector, middle=middle)(mixed.vectors()))
    projected = projector.project(gradients)
    asked = middle(projector(mixed.vectors()))
    expected = sum(projected[name] @ asked[name].T for name in projected)
    torch.testing.assert_close(found, expected)


def test_the_root_of_a_second_moment_is_its_inverse_s_root(mixed):
    from whence.curvature import Gram

    projected = {"a": torch.randn(30, 4, generator=torch.Generator().manual_seed(1)).double()}
    gram = Gram()
    gram.update(projected)
    moment = gram.result()
    root = moment.inverse_root(0.1)
    torch.testing.assert_close((root @ root)(projected)["a"], moment.inverse(0.1)(projected)["a"])
    singular = Gram()
    singular.update({"a": projected["a"][:2]})
    with pytest.raises(NumericsError, match="usual is"):
        singular.result().inverse_root(0.0)
    with pytest.raises(SettingError, match="damping"):
        moment.inverse_root(-1.0)


def test_the_usual_damping_is_what_one_image_and_the_projection_give_a_direction():
    """Rows without a direction in common: each alone makes its eigenvalue."""
    from whence.curvature import Gram

    gram = Gram()
    gram.update({"a": 3 * torch.eye(6, dtype=torch.float64)[:4]})
    moment = gram.result()
    assert torch.linalg.eigvalsh(moment.matrix).tolist()[-1] == pytest.approx(9 / 4)
    assert moment.usual_damping == pytest.approx(9 / 4 + 9 / 6)


def test_two_second_moments_are_mixed(mixed):
    from whence.curvature import Gram

    grams = [Gram(), Gram(), Gram()]
    for gram, shape in zip(grams, ((5, 3), (4, 3), (4, 2)), strict=True):
        gram.update({"a": torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()})
    first, second, other = (gram.result() for gram in grams)
    torch.testing.assert_close(
        first.mixed(second, 0.25).matrix, 0.25 * first.matrix + 0.75 * second.matrix
    )
    assert first.mixed(second, 0.25).count == pytest.approx(1 / (0.25**2 / 5 + 0.75**2 / 4))
    assert first.mixed(second, 1.0).count == 5
    with pytest.raises(MismatchError, match="same projection"):
        first.mixed(other, 0.5)
    with pytest.raises(SettingError, match="from 0 to 1"):
        first.mixed(second, 1.5)


def test_operators_are_composed_with_the_others(mixed):
    operator = CurvatureProduct(data=mixed.chosen())
    damped = Damped(operator=operator, damping=0.3)
    inverse = explicit_inverse(mixed.gauss_newton, 0.3, sizes_of(mixed.vectors()))
    found = (inverse @ damped)(mixed.vectors())
    torch.testing.assert_close(mixed.flat(found), mixed.flat(mixed.vectors()))


def test_settings_out_of_range_are_refused(mixed):
    operator = CurvatureProduct(data=mixed.chosen())
    for settings in ({"damping": 0.0}, {"damping": 0.1, "tolerance": -1.0}):
        with pytest.raises(SettingError, match="must be over 0"):
            ConjugateGradient(operator=operator, **settings)
    with pytest.raises(SettingError, match="at least one iteration"):
        ConjugateGradient(operator=operator, damping=1.0, iterations=0)
    with pytest.raises(SettingError, match="must be over 0"):
        Lissa(operator=operator, steps=[[(0,)]], damping=1.0, scale=0.0)
    with pytest.raises(SettingError, match="damping over 0"):
        DataInf(data=mixed.chosen(), dampings={"head": 0.0})
    with pytest.raises(SettingError, match="batch_size must be at least 1"):
        mixed.chosen(batch_size=0)
    with pytest.raises(SettingError, match="damping is 0 or more"):
        ritz(operator, mixed.vectors(1), krylov=3, rank=2).inverse(-1.0)


def test_vectors_that_are_not_finite_are_refused(mixed):
    operator = CurvatureProduct(data=mixed.chosen())
    vectors = mixed.vectors()
    vectors["head.bias"][1, 0] = torch.nan
    for solver in (
        ConjugateGradient(operator=operator, damping=0.1),
        Lissa(operator=operator, steps=[[(0,)]], damping=1.0, scale=1.0),
    ):
        with pytest.raises(NumericsError, match=r"vectors \[1\] hold NaN"):
            solver(vectors)
    with pytest.raises(NumericsError, match="times a vector is NaN"):
        operator(vectors)
    with pytest.raises(NumericsError, match=r"map of 'head\.weight' is NaN"):
        DataInf(data=mixed.chosen(), dampings=dict.fromkeys(layers_of(mixed.names), 1.0))(vectors)


def test_images_that_are_not_finite_are_named(mixed):
    images = mixed.images.clone()
    images[4, 0, 0, 0] = torch.inf
    data = TrainingImages(
        recorder=mixed.recorder, data=TensorData(images=images, names=tuple("abcdef"))
    )
    with pytest.raises(NumericsError, match=r"\['e'\] hold NaN or infinity"):
        CurvatureProduct(data=data)(mixed.vectors())


def test_no_images_and_missing_labels_are_refused(mixed):
    with pytest.raises(DataError, match="at least one training image"):
        TrainingImages(recorder=mixed.recorder, data=TensorData(images=mixed.images[:0]))
    labels = mixed.labels.clone()
    labels[3] = -1
    for given, found in ((None, "no label"), (labels, "no label"), (mixed.labels + 1, "label 3")):
        data = TrainingImages(
            recorder=mixed.recorder, data=TensorData(images=mixed.images, labels=given)
        )
        with pytest.raises(DataError, match=found):
            data.check_labels()


def test_inverses_and_vectors_of_other_parameters_are_refused(mixed):
    inverse = woodbury(mixed.label_gradients, 1.0, sizes_of(mixed.vectors()))
    fewer = {n: v for n, v in mixed.vectors().items() if n != "head.bias"}
    with pytest.raises(MismatchError, match=r"'head\.bias' has 0 elements"):
        inverse(fewer)
