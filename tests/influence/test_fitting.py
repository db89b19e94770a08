from importlib.util import find_spec
from inspect import signature

import pytest
import torch
from torch import nn

from whence.core import Margin, TensorData
from whence.curvature import (
    EveryClass,
    KroneckerCurvature,
    Margins,
    RandomSigns,
    SampledLabels,
    TrueLabels,
    load_operator,
    save_operator,
)
from whence.errors import DataError, MismatchError, NumericsError, RecordError, SettingError
from whence.gradients import Projection, Recorder, flat
from whence.influence import fisher, fitting, solving
from whence.influence.batches import training_images
from whence.influence.fitting import kronecker
from whence.network import Network


def over(function):
    """A fit that is given a recorder and data, in the place of the images that are chosen."""
    own = signature(function).parameters

    def fit(recorder, train, *more, images=None, generator=None, **settings):
        passes = {
            name: settings.pop(name) for name in ("batch_size", "progress") if name in settings
        }
        chosen = training_images(recorder, train, images=images, generator=generator, **passes)
        if "generator" in own:
            settings["generator"] = generator
        return function(chosen, *more, **settings)

    return fit


kfac, ekfac = over(fitting.kfac), over(fitting.ekfac)
datainf, empirical_fisher = over(fisher.datainf), over(fisher.empirical_fisher)
projected_moment, projected_fisher = over(fisher.projected_moment), over(fisher.projected_fisher)
conjugate_gradient_inverse = over(solving.conjugate_gradient_inverse)
lissa, explicit, arnoldi = over(solving.lissa), over(solving.explicit), over(solving.arnoldi)


class Small(nn.Module):
    """A convolution and a linear layer, 3 classes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        return self.head(self.conv(images).tanh().flatten(1))


def made(scale=0.5):
    model = Small().double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.fixture(scope="module")
def train():
    generator = torch.Generator().manual_seed(4)
    return TensorData(
        images=torch.randn(12, 1, 3, 3, generator=generator, dtype=torch.float64),
        labels=torch.randint(3, (12,), generator=generator),
    )


@pytest.fixture(scope="module")
def recorder(train):
    return Recorder(Network.read(made(), train.images[:2]))


@pytest.fixture(scope="module")
def vectors(recorder):
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(2, *p.shape, generator=generator, dtype=p.dtype)
        for name, p in recorder.network.parameters.items()
    }


def rows_of(recorder, train, indices=None):
    """Gradients of the labels' loss, ``(n, p)`` by name."""
    places = list(range(len(train))) if indices is None else list(indices)
    recorded = recorder.record(train.images[places], Margin(train.labels[places]))
    residuals = torch.sigmoid(-Margin(train.labels[places])(recorded.logits))
    return residuals[:, None] * flat(recorded.materialise())


class Stages:
    """Notes the stages of a fit, and may stop it at one."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def __call__(self, stage, done, total):
        if stage not in self.seen:
            self.seen.append(stage)
        if self.stop == (stage, done):
            raise KeyboardInterrupt
        assert 0 <= done <= total


FITS = {
    "kfac": kfac,
    "ekfac": ekfac,
    "conjugate gradients": lambda r, t, **k: conjugate_gradient_inverse(r, t, **k, tolerance=1e-9),
    "lissa": lambda r, t, **k: lissa(r, t, **k, depth=20, step_size=4),
    "explicit": explicit,
    "arnoldi": lambda r, t, **k: arnoldi(r, t, **k, krylov=6, rank=4),
    "datainf": datainf,
    "empirical fisher": lambda r, t, **k: empirical_fisher(r, t, **{"damping": 0.1, **k}),
    "projected fisher": lambda r, t, **k: projected_fisher(
        r, t, Projection(dimension=9).projector(r.record(r.network.example, Margin(0))), **k
    ),
}

each_fit = pytest.mark.parametrize("name", list(FITS))


@each_fit
def test_a_fit_does_not_depend_on_how_the_images_are_cut(name, recorder, train, vectors):
    whole, parts = (FITS[name](recorder, train, batch_size=size)(vectors) for size in (12, 5))
    for parameter, value in whole.items():
        assert value.shape == vectors[parameter].shape
        torch.testing.assert_close(parts[parameter], value, rtol=1e-7, atol=1e-9)


@each_fit
def test_an_inverse_is_linear_and_symmetric(name, recorder, train, vectors):
    operator = FITS[name](recorder, train, damping=0.1)
    found, rows = flat(operator(vectors)), flat(vectors)
    if name != "lissa":  # its steps are symmetric, one after the other they are not
        torch.testing.assert_close(found[0] @ rows[1], rows[0] @ found[1], rtol=1e-6, atol=1e-9)
    doubled = operator({n: 2 * v[:1] + v[1:] for n, v in vectors.items()})
    torch.testing.assert_close(flat(doubled)[0], 2 * found[0] + found[1], rtol=1e-6, atol=1e-8)


@each_fit
def test_a_fit_on_some_images_is_a_fit_on_those_alone(name, recorder, train, vectors):
    chosen = training_images(recorder, train, images=5)
    assert len(chosen) == 5
    places = list(chosen.places)
    assert places == sorted(set(places))
    settings = {} if name == "lissa" else {"images": 5}
    if name in ("kfac", "ekfac"):
        settings["draws"] = EveryClass()
    if name in ("lissa", "arnoldi"):  # its random numbers are drawn after the images
        pytest.skip("the order of its draws is its own")
    found = FITS[name](recorder, train, **settings)(vectors)
    settings.pop("images")
    alone = TensorData(images=train.images[places], labels=train.labels[places])
    expected = FITS[name](recorder, alone, **settings)(vectors)
    for parameter, value in expected.items():
        torch.testing.assert_close(found[parameter], value, rtol=1e-7, atol=1e-9)


@each_fit
def test_a_model_comes_back_untouched(name, train, untouched):
    model = made()
    recorder = Recorder(Network.read(model, train.images[:2]))
    vectors = {n: p.detach()[None] for n, p in recorder.network.parameters.items()}
    with untouched(model):
        FITS[name](recorder, train)(vectors)


@each_fit
@pytest.mark.parametrize("damping", [-1.0, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_refused_before_any_pass(name, damping, recorder, train):
    stages = Stages()
    with pytest.raises(SettingError, match="damping"):
        FITS[name](recorder, train, damping=damping, progress=stages)
    assert stages.seen == [] or name == "arnoldi"


@each_fit
def test_no_images_or_less_than_one_are_refused(name, recorder, train):
    empty = TensorData(images=train.images[:0], labels=train.labels[:0])
    with pytest.raises(DataError, match="at least one training image"):
        FITS[name](recorder, empty)
    with pytest.raises(SettingError, match="at least one training image"):
        FITS[name](recorder, train, images=0)


@pytest.mark.parametrize("name", ["datainf", "empirical fisher", "projected fisher"])
def test_labels_that_are_needed_and_missing_are_refused(name, recorder, train):
    labels = train.labels.clone()
    labels[7] = -1
    with pytest.raises(DataError, match="'7' has no label"):
        FITS[name](recorder, TensorData(images=train.images, labels=labels))


def test_the_model_s_own_labels_need_no_others(recorder, train, vectors):
    unlabelled = TensorData(images=train.images)
    for draws in (SampledLabels(), RandomSigns(), EveryClass()):
        found = kfac(recorder, unlabelled, draws=draws)(vectors)
        torch.testing.assert_close(flat(found), flat(kfac(recorder, train, draws=draws)(vectors)))
    with pytest.raises(DataError, match="no label"):
        kfac(recorder, unlabelled, draws=TrueLabels())


def test_conjugate_gradients_and_lissa_come_to_the_explicit_inverse(recorder, train, vectors):
    expected = flat(explicit(recorder, train, damping=0.5)(vectors))
    solved = conjugate_gradient_inverse(recorder, train, damping=0.5, tolerance=1e-8)
    torch.testing.assert_close(flat(solved(vectors)), expected, rtol=1e-6, atol=1e-6)
    assert solved.solve(vectors).iterations < 40
    series = lissa(recorder, train, damping=0.5, depth=90, step_size=12)
    torch.testing.assert_close(flat(series(vectors)), expected, rtol=1e-4, atol=1e-4)
    rough = flat(lissa(recorder, train, damping=0.5, depth=60, repeats=4, step_size=4)(vectors))
    cosine = torch.nn.functional.cosine_similarity(rough, expected)
    assert bool((cosine > 0.95).all())


def test_ek_fac_preconditions_conjugate_gradients():
    """A softmax regression on pixels of very different scales, where it is nearly exact."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-2, 2, 25, dtype=torch.float64).reshape(1, 5, 5)
    images = scales * torch.randn(80, 1, 5, 5, generator=generator, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 3)).double().eval()
    with torch.no_grad():
        model[1].weight.mul_(0.01)
    recorder, train = Recorder(Network.read(model, images[:2])), TensorData(images=images)
    vectors = recorder.record(images[:2], Margin(0)).materialise()
    near = ekfac(recorder, train, damping=0.01, draws=EveryClass())
    plain, helped = (
        conjugate_gradient_inverse(
            recorder, train, damping=0.01, tolerance=1e-9, iterations=900, preconditioner=p
        ).solve(vectors)
        for p in (None, near)
    )
    assert helped.iterations < 0.7 * plain.iterations
    torch.testing.assert_close(flat(helped.vectors), flat(plain.vectors), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("draws", [TrueLabels(), Margins(), EveryClass()], ids=lambda d: d.name)
def test_the_empirical_fisher_inverse_is_the_matrix_s(draws, recorder, train, vectors):
    if isinstance(draws, TrueLabels):
        rows = rows_of(recorder, train)
        matrix = rows.T @ rows / 12
    elif isinstance(draws, Margins):
        rows = flat(recorder.record(train.images, Margin(train.labels)).materialise())
        matrix = rows.T @ rows / 12
    else:
        product = conjugate_gradient_inverse(recorder, train).operator
        order = sorted(vectors)
        size = sum(vectors[n][0].numel() for n in order)
        parts = torch.split(torch.eye(size).double(), [vectors[n][0].numel() for n in order], 1)
        one = {n: p.reshape(-1, *vectors[n].shape[1:]) for n, p in zip(order, parts, strict=True)}
        matrix = flat(product(one))
    found = flat(empirical_fisher(recorder, train, damping=0.3, draws=draws)(vectors))
    expected = torch.linalg.solve(matrix + 0.3 * torch.eye(len(matrix)).double(), flat(vectors).T)
    torch.testing.assert_close(found, expected.T)


def test_a_projection_that_keeps_everything_gives_the_empirical_fisher_inverse(
    recorder, train, vectors
):
    projector = Projection(dimension=10**4).projector(
        recorder.record(train.images[:1], Margin(train.labels[:1]))
    )
    found = projected_fisher(recorder, train, projector, damping=0.3)
    expected = empirical_fisher(recorder, train, damping=0.3)
    torch.testing.assert_close(flat(found(vectors)), flat(expected(vectors)))


def test_a_projected_inverse_scores_as_trak_does(recorder, train, vectors):
    """By hand: features, their damped second moment, inner products."""
    projector = Projection(dimension=8).projector(
        recorder.record(train.images[:1], Margin(train.labels[:1]))
    )
    margins = recorder.record(train.images, Margin(train.labels))
    features, asked = flat(projector.project(margins)), flat(projector(vectors))
    kernel = features.T @ features / 12
    damping = float(torch.linalg.eigvalsh(kernel).sum()) * (1 / 12 + 1 / len(kernel))
    kernel = kernel + damping * torch.eye(len(kernel)).double()
    expected = features @ torch.linalg.solve(kernel, asked.T)
    operator = projected_fisher(recorder, train, projector, draws=Margins())
    torch.testing.assert_close(margins.dot(operator(vectors)), expected)


def test_several_draws_of_an_image_are_one_image(recorder, train):
    projector = Projection(dimension=8).projector(
        recorder.record(train.images[:1], Margin(train.labels[:1]))
    )
    found = projected_moment(recorder, train, projector, draws=EveryClass()).matrix
    many = projected_moment(recorder, train, projector, draws=RandomSigns(600)).matrix
    assert (many - found).norm() < 0.1 * found.norm()


def test_what_does_not_fit_into_memory_is_refused_with_what_to_do(recorder, train):
    with pytest.raises(SettingError, match="Take fewer images"):
        empirical_fisher(recorder, train, damping=0.1, memory=1000)
    projector = Projection(dimension=8).projector(
        recorder.record(train.images[:1], Margin(train.labels[:1]))
    )
    with pytest.raises(SettingError, match="Project to fewer numbers"):
        projected_moment(recorder, train, projector, memory=1000)


def test_the_same_seed_gives_the_same_fit_and_another_another(recorder, train, vectors):
    def fitted(seed):
        generator = torch.Generator().manual_seed(seed)
        return flat(kfac(recorder, train, images=7, generator=generator)(vectors))

    torch.testing.assert_close(fitted(1), fitted(1), rtol=0, atol=0)
    assert not torch.allclose(fitted(1), fitted(2))


def test_a_cached_fit_is_read_and_not_made_again(recorder, train, vectors, tmp_path):
    path = tmp_path / "deep" / "ekfac.safetensors"
    first, second = Stages(), Stages()
    made_ = ekfac(recorder, train, cache=path, progress=first)
    read = ekfac(recorder, train, cache=path, progress=second)
    assert first.seen == [
        "curvature: factors",
        "curvature: eigenvectors",
        "curvature: eigenvalues",
    ]
    assert second.seen == []
    torch.testing.assert_close(flat(read(vectors)), flat(made_(vectors)), rtol=0, atol=0)
    assert [p.name for p in path.parent.iterdir()] == ["ekfac.safetensors"]
    other = ekfac(recorder, train, cache=path, damping=3.0)  # it is applied to what was read
    torch.testing.assert_close(
        flat(other(vectors)), flat(ekfac(recorder, train, damping=3.0)(vectors))
    )


def test_a_cached_fit_of_something_else_is_refused_by_name(recorder, train, tmp_path):
    path = tmp_path / "ekfac.safetensors"
    ekfac(recorder, train, cache=path)
    other = Recorder(Network.read(made(0.4), train.images[:2]))
    fewer = Recorder(recorder.network, ["head.weight"])
    shifted = TensorData(images=train.images + 1, labels=train.labels)
    for field, fit in {
        "model": lambda: ekfac(other, train, cache=path),
        "data": lambda: ekfac(recorder, shifted, cache=path),
        "parameters": lambda: ekfac(fewer, train, cache=path),
        "places": lambda: ekfac(recorder, train, cache=path, images=3),
        "draws": lambda: ekfac(recorder, train, cache=path, draws=EveryClass()),
        "random state": lambda: ekfac(
            recorder, train, cache=path, generator=torch.Generator().manual_seed(9)
        ),
    }.items():
        with pytest.raises(MismatchError, match=f"differs in .*{field}"):
            fit()


def test_an_interrupted_fit_keeps_its_first_pass(recorder, train, vectors, tmp_path):
    path = tmp_path / "ekfac.safetensors"
    stages = Stages(stop=("curvature: eigenvalues", 4))
    with pytest.raises(KeyboardInterrupt):
        ekfac(recorder, train, cache=path, batch_size=4, progress=stages)
    assert not path.exists()
    again = Stages()
    found = ekfac(recorder, train, cache=path, batch_size=4, progress=again)
    assert again.seen == ["curvature: eigenvalues"]
    torch.testing.assert_close(flat(found(vectors)), flat(ekfac(recorder, train)(vectors)))
    assert [p.name for p in tmp_path.iterdir()] == ["ekfac.safetensors"]


def test_a_first_pass_of_something_else_is_made_again(recorder, train, vectors, tmp_path):
    path = tmp_path / "ekfac.safetensors"
    with pytest.raises(KeyboardInterrupt):
        ekfac(recorder, train, cache=path, progress=Stages(stop=("curvature: eigenvalues", 0)))
    stages = Stages()
    draws = EveryClass()
    found = ekfac(recorder, train, cache=path, draws=draws, progress=stages)
    assert "curvature: factors" in stages.seen
    torch.testing.assert_close(
        flat(found(vectors)), flat(ekfac(recorder, train, draws=draws)(vectors))
    )


@pytest.mark.parametrize(
    "name", ["kfac", "explicit", "arnoldi", "empirical fisher", "projected fisher"]
)
def test_a_fitted_operator_is_written_and_read_back(name, recorder, train, vectors, tmp_path):
    operator = FITS[name](recorder, train, damping=0.1)
    if name == "projected fisher":
        projected = operator.projector(vectors)
        operator, vectors = operator.middle, projected
    path = tmp_path / "operator.safetensors"
    provenance = {"model": "a", "count": 3, "names": ["x", "y"], "none": None}
    save_operator(path, operator, provenance)
    read = load_operator(path, provenance)
    assert type(read) is type(operator)
    torch.testing.assert_close(flat(read(vectors)), flat(operator(vectors)), rtol=0, atol=0)
    with pytest.raises(MismatchError, match="differs in count"):
        load_operator(path, {**provenance, "count": 4})


def test_a_damaged_missing_or_foreign_file_is_refused(recorder, train, tmp_path):
    path = tmp_path / "operator.safetensors"
    save_operator(path, kfac(recorder, train), {})
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    (tmp_path / "flipped").write_bytes(content)
    (tmp_path / "short").write_bytes(path.read_bytes()[:50])
    (tmp_path / "text").write_text("no operator")
    for name, found in (
        ("flipped", "damaged"),
        ("short", "cannot be read"),
        ("text", "cannot be read"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(RecordError, match=found):
            load_operator(tmp_path / name, {})


def test_an_operator_without_numbers_of_its_own_is_not_written(recorder, train, tmp_path):
    for name in ("conjugate gradients", "datainf", "projected fisher"):
        with pytest.raises(SettingError, match="holds no fitted numbers"):
            save_operator(tmp_path / "x", FITS[name](recorder, train), {})


def test_a_cache_that_holds_another_kind_of_operator_is_refused(recorder, train, tmp_path):
    from whence.influence.fitting import as_kronecker

    with pytest.raises(RecordError, match="holds a ExplicitInverse"):
        as_kronecker(explicit(recorder, train))


def test_more_images_than_there_are_is_all_of_them(recorder, train):
    assert training_images(recorder, train, images=100).indices is None


def test_an_image_that_is_not_finite_is_named(recorder, train):
    images = train.images.clone()
    images[2] = torch.nan
    with pytest.raises(NumericsError, match=r"\['2'\] hold NaN"):
        ekfac(recorder, TensorData(images=images, labels=train.labels))


def test_a_curvature_that_is_neither_damped_nor_inverted(recorder, train, vectors):
    chosen = training_images(recorder, train)
    curvature = kronecker(chosen, draws=EveryClass())
    assert isinstance(curvature, KroneckerCurvature)
    inverse = ekfac(recorder, train, draws=EveryClass(), damping=0.4)
    back = inverse(curvature(vectors))
    damped = inverse({n: 0.4 * v for n, v in vectors.items()})
    torch.testing.assert_close(flat(back) + flat(damped), flat(vectors))


def test_lissa_refuses_settings_out_of_range(recorder, train):
    for name in ("depth", "repeats", "step_size"):
        with pytest.raises(SettingError, match=f"{name} must be at least 1"):
            lissa(recorder, train, **{name: 0})


def test_a_transformer_s_curvature_has_factors_but_for_norms_and_tokens():
    """Attention on a kernel without second derivatives is spelled out for exact products."""
    if find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    from whence.adapters.torchvision import open_torchvision

    generator = torch.Generator().manual_seed(0)
    model = (
        open_torchvision()
        .models.VisionTransformer(
            image_size=8,
            patch_size=4,
            num_layers=1,
            num_heads=2,
            hidden_dim=8,
            mlp_dim=8,
            num_classes=3,
        )
        .double()
        .eval()
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
    recorder, train = Recorder(Network.read(model, images[:2])), TensorData(images=images)
    chosen = training_images(recorder, train)
    curvature = kronecker(chosen, draws=EveryClass())
    assert all("ln" in n or n in ("class_token", "encoder.pos_embedding") for n in curvature.rest)
    assert sum("attention" in name for name in curvature.layers) == 2
    vectors = recorder.record(images[:2], Margin(0)).materialise()
    product = conjugate_gradient_inverse(recorder, train).operator
    along, by_class = product.by_vectors, product.by_classes
    held = {name: p.detach() for name, p in recorder.network.parameters.items()}
    expected = by_class(vectors)
    for name, value in along(vectors, held).items():
        torch.testing.assert_close(value.flatten(1), expected[name], rtol=1e-7, atol=1e-11)
    # The diagonal of its basis is that of the exact matrix, also for a layer used at every token.
    name = "encoder.layers.encoder_layer_0.mlp.0.weight"
    layer = curvature.layers[name]
    first = torch.zeros_like(layer.values)[None]
    first[0, 0, 1, 2] = 1
    back = layer.restored(first)
    one = {n: torch.zeros_like(p)[None] for n, p in held.items()}
    one[name] = back[..., :-1].reshape(1, *held[name].shape)
    one[layer.bias] = back[..., -1].reshape(1, -1)
    found = sum(float((along(one, held)[n] * one[n]).sum()) for n in (name, layer.bias))
    assert float(layer.values[0, 1, 2]) == pytest.approx(found, rel=1e-6)
