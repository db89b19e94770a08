import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from whence.core import Margin, Statistic, TensorData
from whence.curvature import (
    EigenvalueCorrection,
    EveryClass,
    KroneckerCurvature,
    KroneckerFactors,
    Margins,
    TrainingImages,
    joined_biases,
)
from whence.curvature import kronecker as module
from whence.errors import DataError, MismatchError, NumericsError, SettingError
from whence.gradients import Recorder
from whence.gradients.operator import Operator
from whence.network import Network

DRAWS = EveryClass()
LAYERS = {  # weight: groups, outputs, inputs with the bias
    "stem.weight": (1, 4, 9),
    "grouped.weight": (2, 2, 8),
    "depthwise.weight": (4, 1, 5),
    "tokens.weight": (1, 3, 5),
    "twice.weight": (1, 3, 4),
    "head.weight": (1, 3, 4),
}


def factors_of(chosen, draws=DRAWS):
    factors = KroneckerFactors(biases=joined_biases(chosen.recorder))
    for batch in chosen.batches("factors"):
        factors.update(chosen.draws(batch, draws, chosen.numbers(draws, None)))
    return factors


def corrected(chosen, basis, draws=DRAWS):
    statistic = EigenvalueCorrection(basis=basis)
    for batch in chosen.batches("eigenvalues"):
        statistic.update(chosen.draws(batch, draws, chosen.numbers(draws, None)))
    return statistic


@pytest.fixture(scope="module")
def kfac(mixed):
    return factors_of(mixed.chosen(batch_size=4)).result()


@pytest.fixture(scope="module")
def ekfac(mixed, kfac):
    return corrected(mixed.chosen(batch_size=4), kfac).result()


def layer_places(subject, name, layer):
    """Places in a flat vector of a layer's elements, ``(g, o, i)``, its bias last."""
    places = torch.arange(len(subject.gauss_newton))
    weight = places[subject.places[name]].reshape(*layer.values.shape[:2], -1)
    if layer.bias is None:
        return weight
    bias = places[subject.places[layer.bias]].reshape(*layer.values.shape[:2], 1)
    return torch.cat([weight, bias], dim=2)


def test_every_layer_has_its_factors_and_its_bias_and_the_norm_a_diagonal(mixed, kfac):
    assert {n: tuple(layer.values.shape) for n, layer in kfac.layers.items()} == LAYERS
    assert {n: layer.bias for n, layer in kfac.layers.items()} == {
        n: None if n.startswith("grouped") else n.replace("weight", "bias") for n in LAYERS
    }
    assert set(kfac.rest) == {"norm.weight", "norm.bias"}
    assert set(kfac.names) == set(mixed.names)


def caught(subject):
    """Inputs of every layer's uses, and gradients of its outputs for every class."""
    found = {name: [] for name, m in subject.model.named_modules() if hasattr(m, "weight")}
    outputs = []

    def note(name):
        def hook(module, inputs, output):
            del module
            outputs.append(output)
            found[name].append((inputs[0].detach(), len(outputs) - 1))

        return hook

    handles = [
        m.register_forward_hook(note(n)) for n, m in subject.model.named_modules() if n in found
    ]
    log = subject.model(subject.images).log_softmax(dim=1)
    for handle in handles:
        handle.remove()
    gradients = [
        torch.autograd.grad(-log[:, k].sum(), outputs, retain_graph=True)
        for k in range(log.shape[1])
    ]
    return found, gradients


@pytest.mark.parametrize("name", ["stem", "grouped", "depthwise"])
def test_the_factors_of_a_convolution_are_second_moments_over_patches_group_by_group(mixed, name):
    factors = factors_of(mixed.chosen(batch_size=5))
    layer = getattr(mixed.model, name)
    found, gradients = caught(mixed)
    ((source, place),) = found[name]
    groups, _, deep = LAYERS[f"{name}.weight"]
    count, n = layer.in_channels // groups, len(mixed.images)
    for g in range(groups):
        total = torch.zeros(deep, deep, dtype=torch.float64)
        outer = torch.zeros(layer.out_channels // groups, layer.out_channels // groups).double()
        part = source[:, g * count : (g + 1) * count]
        for i in range(n):
            patches = nn.functional.unfold(
                part[i : i + 1], layer.kernel_size, 1, layer.padding, layer.stride
            )[0].T
            for patch in patches:
                row = patch if layer.bias is None else torch.cat([patch, torch.ones(1).double()])
                total += torch.outer(row, row)
            for k, of_class in enumerate(gradients):
                for d in of_class[place][i].flatten(1).T:
                    own = d.reshape(groups, -1)[g]
                    outer += mixed.chances[i, k] * torch.outer(own, own)
        torch.testing.assert_close(factors.inputs[f"{name}.weight"][g], total)
        torch.testing.assert_close(factors.outputs[f"{name}.weight"][g], outer)
    assert factors.positions[f"{name}.weight"] == len(patches)


@pytest.mark.parametrize("name", ["tokens", "twice", "head"])
def test_the_factors_of_a_linear_layer_add_up_over_tokens_and_uses(mixed, name):
    factors = factors_of(mixed.chosen(batch_size=2))
    found, gradients = caught(mixed)
    inputs = outputs = 0
    for source, place in found[name]:
        rows = nn.functional.pad(source.reshape(-1, source.shape[-1]), (0, 1), value=1.0)
        inputs = inputs + rows.T @ rows
        for k, of_class in enumerate(gradients):
            d = of_class[place].reshape(len(mixed.images), -1, of_class[place].shape[-1])
            outputs = outputs + torch.einsum("nto,ntp,n->op", d, d, mixed.chances[:, k])
    torch.testing.assert_close(factors.inputs[f"{name}.weight"][0], inputs)
    torch.testing.assert_close(factors.outputs[f"{name}.weight"][0], outputs)


@pytest.mark.parametrize("name", list(LAYERS))
def test_k_fac_is_the_kronecker_product_of_its_factors(mixed, kfac, name):
    factors = factors_of(mixed.chosen())
    layer = kfac.layers[name]
    matrix = mixed.matrix_of(kfac)
    n, uses = len(mixed.images), factors.positions[name]
    for g, places in enumerate(layer_places(mixed, name, layer)):
        block = matrix[places.flatten()][:, places.flatten()]
        inputs, outputs = factors.inputs[name][g] / n, factors.outputs[name][g] / (n * uses)
        torch.testing.assert_close(block, torch.kron(outputs, inputs))


@pytest.mark.parametrize("name", list(LAYERS))
def test_ek_fac_has_the_gauss_newton_matrix_on_the_diagonal_of_its_basis(mixed, ekfac, name):
    layer = ekfac.layers[name]
    for g, places in enumerate(layer_places(mixed, name, layer)):
        block = mixed.gauss_newton[places.flatten()][:, places.flatten()]
        basis = torch.kron(layer.outputs[g], layer.inputs[g])
        expected = (basis.T @ block @ basis).diagonal()
        torch.testing.assert_close(layer.values[g].flatten(), expected, rtol=1e-8, atol=1e-12)


def test_parameters_without_factors_have_the_gauss_newton_matrix_s_own_diagonal(mixed, ekfac):
    for name in ("norm.weight", "norm.bias"):
        expected = mixed.gauss_newton.diagonal()[mixed.places[name]]
        torch.testing.assert_close(ekfac.rest[name], expected)


@pytest.mark.parametrize("name", list(LAYERS))
def test_no_diagonal_in_its_basis_is_nearer_to_the_gauss_newton_matrix(mixed, kfac, ekfac, name):
    for places in layer_places(mixed, name, kfac.layers[name]):
        far, near = (
            (mixed.matrix_of(c) - mixed.gauss_newton)[places.flatten()][:, places.flatten()].norm()
            for c in (kfac, ekfac)
        )
        assert near < 0.999 * far


@pytest.mark.parametrize("form", ["kfac", "ekfac"])
def test_both_are_exact_where_inputs_and_gradients_are_independent(even, form):
    """One linear layer, used at one position, whose probabilities are the same everywhere."""
    curvature = factors_of(even.chosen()).result()
    if form == "ekfac":
        curvature = corrected(even.chosen(), curvature).result()
    torch.testing.assert_close(even.matrix_of(curvature), even.gauss_newton)


@pytest.mark.parametrize("damping", [1e-3, 2.0])
def test_inverse_and_roots_are_those_of_the_matrix(mixed, ekfac, damping):
    matrix = mixed.matrix_of(ekfac)
    damped = matrix + damping * torch.eye(len(matrix), dtype=torch.float64)
    inverse = mixed.matrix_of(ekfac.inverse(damping))
    torch.testing.assert_close(inverse, torch.linalg.inv(damped))
    root = ekfac.inverse_root(damping)
    torch.testing.assert_close(mixed.matrix_of(root @ root), inverse)
    torch.testing.assert_close(mixed.matrix_of(root), mixed.matrix_of(root).T)
    torch.testing.assert_close(mixed.matrix_of(ekfac.root() @ ekfac.root()), matrix)


def test_the_usual_damping_is_a_tenth_of_each_layer_s_mean_eigenvalue(mixed, ekfac):
    matrix = mixed.matrix_of(ekfac)
    inverse = mixed.matrix_of(ekfac.inverse())
    for name, layer in ekfac.layers.items():
        places = layer_places(mixed, name, layer).flatten()
        block = matrix[places][:, places]
        damping = 0.1 * block.diagonal().mean()
        damped = block + damping * torch.eye(len(block), dtype=torch.float64)
        torch.testing.assert_close(inverse[places][:, places], torch.linalg.inv(damped))


def test_a_layer_has_the_same_squares_whichever_way_it_is_rotated(mixed, kfac, monkeypatch):
    """Its factors first, or its gradient; a few images at a time, or many."""
    expected = corrected(mixed.chosen(), kfac).squares
    rotated = module.rotated_gradients
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    found = corrected(mixed.chosen(), kfac).squares
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    recorded = mixed.recorder.record(mixed.images, Margin(mixed.labels))
    for name, layer in kfac.layers.items():
        blocks = recorded.blocks[name]
        pairs = [module.factors(block, layer) for block in blocks]
        by_factors = sum(d @ a.transpose(2, 3) for d, a in pairs)
        torch.testing.assert_close(rotated(blocks, layer), by_factors)


@settings(max_examples=8)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(mixed, kfac, order, cut):
    whole = factors_of(mixed.chosen())
    parts, corrections = [], []
    for indices in (tuple(order[:cut]), tuple(order[cut:])):
        some = indices and mixed.chosen(indices=indices)
        parts.append(factors_of(some) if some else KroneckerFactors(biases=whole.biases))
        corrections.append(corrected(some, kfac) if some else EigenvalueCorrection(basis=kfac))
    merged = parts[0].merge(parts[1])
    assert (merged.count, parts[0].count) == (6, cut)
    for name in LAYERS:
        torch.testing.assert_close(merged.inputs[name], whole.inputs[name])
        torch.testing.assert_close(merged.outputs[name], whole.outputs[name])
    found, expected = merged.result(), whole.result()
    torch.testing.assert_close(mixed.matrix_of(found), mixed.matrix_of(expected))
    found = corrections[0].merge(corrections[1]).result()
    expected = corrected(mixed.chosen(), kfac).result()
    torch.testing.assert_close(mixed.matrix_of(found), mixed.matrix_of(expected))


def test_a_merger_with_nothing_is_a_statistic_of_its_own(mixed, kfac):
    batch = [mixed.recorder.record(mixed.images, Margin(mixed.labels))]
    for whole, nothing, parts in (
        (factors_of(mixed.chosen()), KroneckerFactors(), ("inputs", "outputs")),
        (corrected(mixed.chosen(), kfac), EigenvalueCorrection(basis=kfac), ("squares",)),
    ):
        before = {p: {n: v.clone() for n, v in getattr(whole, p).items()} for p in parts}
        for merged in (whole.merge(nothing), nothing.merge(whole)):
            merged.update(batch)
        assert whole.count == 6
        for part, values in before.items():
            for name, value in values.items():
                torch.testing.assert_close(getattr(whole, part)[name], value, rtol=0, atol=0)


def test_sums_of_a_network_in_single_precision_are_kept_in_double(mixed):
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).eval()
    images = mixed.images.float()
    recorder = Recorder(Network.read(model, images))
    chosen = TrainingImages(recorder=recorder, data=TensorData(images=images))
    factors = factors_of(chosen)
    assert {v.dtype for v in (*factors.inputs.values(), *factors.outputs.values())} == {
        torch.float64
    }
    found = corrected(chosen, factors.result()).result()
    (layer,) = found.layers.values()
    assert (layer.values.dtype, layer.inputs.dtype) == (torch.float64, torch.float32)
    vectors = {n: p.detach()[None] for n, p in recorder.network.parameters.items()}
    assert {v.dtype for v in found.inverse()(vectors).values()} == {torch.float32}


def test_they_are_statistics_and_operators(kfac):
    assert isinstance(KroneckerFactors(), Statistic)
    assert isinstance(EigenvalueCorrection(basis=kfac), Statistic)
    assert isinstance(kfac, Operator)


def test_a_weight_that_is_shared_with_other_biases_leaves_them_their_own_diagonal():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.head = nn.Linear(4, 2)

        def forward(self, images):
            return self.head(self.two(self.one(images.flatten(1)).tanh()))

    images = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    recorder = Recorder(Network.read(Tied().eval(), images))
    assert joined_biases(recorder) == {"head.weight": "head.bias"}
    chosen = TrainingImages(recorder=recorder, data=TensorData(images=images))
    found = corrected(chosen, factors_of(chosen).result()).result()
    assert set(found.layers) == {"one.weight", "head.weight"}
    assert set(found.rest) == {"one.bias", "two.bias"}


def test_weights_alone_or_biases_alone_may_be_chosen(mixed):
    for names in (["stem.weight", "head.weight"], ["stem.bias", "norm.weight"]):
        recorder = Recorder(mixed.network, names)
        chosen = TrainingImages(recorder=recorder, data=mixed.train)
        assert joined_biases(recorder) == {}
        found = corrected(chosen, factors_of(chosen).result()).result()
        assert set(found.names) == set(names)
        assert set(found.layers) == {n for n in names if n in LAYERS}


def test_a_layer_that_is_too_large_gets_a_diagonal(mixed, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 7)
    found = factors_of(mixed.chosen()).result()
    assert "stem.weight" not in found.layers  # 8 inputs
    assert {"stem.weight", "stem.bias"} <= set(found.rest)
    expected = mixed.gauss_newton.diagonal()
    for name in ("stem.weight", "stem.bias"):
        torch.testing.assert_close(found.rest[name].flatten(), expected[mixed.places[name]])


def dead(mixed):
    """A network whose head sees nothing of the layers before it."""
    model = type(mixed.model)().double().eval()
    model.load_state_dict(mixed.model.state_dict())
    with torch.no_grad():
        model.head.weight.zero_()
    recorder = Recorder(Network.read(model, mixed.images))
    return TrainingImages(recorder=recorder, data=mixed.train)


def test_a_layer_without_curvature_gives_zero_and_is_named(mixed):
    found = factors_of(dead(mixed)).result()
    inverse = corrected(dead(mixed), found).result().inverse()
    assert set(inverse.empty) == {*LAYERS, *found.rest} - {"head.weight"}
    mapped = inverse(mixed.vectors())
    for name, value in mapped.items():
        assert bool(value.any()) == name.startswith("head"), name
        assert value.isfinite().all()


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_refused(kfac, damping):
    for function in (kfac.inverse, kfac.inverse_root):
        with pytest.raises(SettingError, match="damping over 0"):
            function(damping)


def test_nothing_has_no_curvature(kfac):
    for statistic in (KroneckerFactors(), EigenvalueCorrection(basis=kfac)):
        with pytest.raises(DataError, match="at least one image"):
            statistic.result()


def test_one_image_is_enough(mixed):
    one = mixed.chosen(indices=(3,))
    inverse = corrected(one, factors_of(one).result()).result().inverse()
    assert all(v.isfinite().all() for v in inverse(mixed.vectors()).values())


def test_a_gradient_that_is_not_finite_names_the_layer(mixed):
    factors = factors_of(mixed.chosen())
    factors.inputs["tokens.weight"][0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"'tokens\.weight' is NaN or infinite"):
        factors.result()
    correction = corrected(mixed.chosen(), factors_of(mixed.chosen()).result())
    correction.squares["head.weight"][0, 0, 0] = torch.inf
    with pytest.raises(NumericsError, match=r"'head\.weight'"):
        correction.result()


def test_other_layers_parts_and_vectors_are_refused(mixed, kfac):
    fewer = Recorder(mixed.network, ["head.weight"])
    some = TrainingImages(recorder=fewer, data=mixed.train)
    statistic = factors_of(mixed.chosen())
    with pytest.raises(MismatchError, match="only in one of them"):
        statistic.merge(factors_of(some))
    with pytest.raises(MismatchError, match="only in one of them"):
        statistic.update([fewer.record(mixed.images, Margin(mixed.labels))])
    with pytest.raises(MismatchError, match="lack the layer"):
        EigenvalueCorrection(basis=kfac).update([fewer.record(mixed.images, Margin(mixed.labels))])
    with pytest.raises(MismatchError, match="same basis"):
        corrected(mixed.chosen(), kfac).merge(
            corrected(mixed.chosen(), factors_of(mixed.chosen()).result())
        )
    with pytest.raises(MismatchError, match="only in one of them"):
        kfac({"head.weight": torch.zeros(1, 3, 3)})
    wrong = {**mixed.vectors(), "head.weight": torch.zeros(2, 3, 4, dtype=torch.float64)}
    with pytest.raises(MismatchError, match="is for 9 elements"):
        kfac(wrong)


def test_margins_are_a_curvature_too(mixed):
    found = factors_of(mixed.chosen(), Margins()).result()
    rows = mixed.flat(mixed.recorder.record(mixed.images, Margin(mixed.labels)).materialise())
    for name in found.rest:
        expected = rows.square().mean(dim=0)[mixed.places[name]]
        torch.testing.assert_close(found.rest[name], expected)


def confident(gap):
    """A network whose logits are far apart, in single precision, and the same in double."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).eval()
    images = torch.randn(5, 1, 3, 3, generator=generator)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
        logits = model(images)
        model[3].weight.mul_(gap / (logits.max(dim=1).values - logits.min(dim=1).values).mean())
    double = nn.Sequential(nn.Conv2d(1, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()
    double.load_state_dict(model.state_dict())
    return [(m.eval(), images.to(m[3].weight.dtype)) for m in (model, double)]


@pytest.mark.parametrize("gap", [10.0, 60.0, 110.0])
@pytest.mark.parametrize("form", ["product", "corrected"])
def test_a_confident_network_in_single_precision_has_the_curvature_of_double(form, gap):
    found = []
    for model, images in confident(gap):
        chosen = TrainingImages(
            recorder=Recorder(Network.read(model, images)), data=TensorData(images=images)
        )
        curvature = factors_of(chosen).result()
        if form == "corrected":
            curvature = corrected(chosen, curvature).result()
        top = max(float(layer.values.max()) for layer in curvature.layers.values())
        vectors = {n: p.detach()[None] for n, p in chosen.network.parameters.items()}
        mapped = curvature.inverse()({n: v * top for n, v in vectors.items()})
        assert curvature.inverse().empty == ()
        found.append(torch.cat([mapped[n].flatten().double() for n in sorted(mapped)]))
    assert bool(found[0].isfinite().all())
    cosine = torch.nn.functional.cosine_similarity(*found, dim=0)
    assert cosine > 1 - 1e-5
    torch.testing.assert_close(found[0].norm(), found[1].norm(), rtol=1e-3, atol=0)


def test_an_overflow_says_that_damping_or_precision_would_help():
    tiny = KroneckerCurvature(
        layers={}, rest={"scale": torch.full((3,), 1e-90, dtype=torch.float64)}
    )
    with pytest.raises(NumericsError, match=r"'scale' overflows torch\.float32"):
        tiny.inverse()({"scale": torch.ones(1, 3)})
    assert tiny.inverse()({"scale": torch.ones(1, 3).double()})["scale"].isfinite().all()
