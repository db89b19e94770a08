import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from whence.core import Margin, Statistic
from whence.curvature import FisherDiagonal, Gram
from whence.curvature import diagonal as module
from whence.errors import DataError, MismatchError, NumericsError, SettingError
from whence.gradients import DirectBlock, FactoredBlock, Recorder
from whence.gradients.operator import Operator
from whence.gradients.project import Projection, flat
from whence.network import Network

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


class Model(nn.Module):
    """A convolution, a norm, a linear layer used twice, and one used once."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)
        self.norm = nn.LayerNorm(3)
        self.twice = nn.Linear(3, 3)
        self.head = nn.Linear(3, 3)

    def forward(self, images):
        values = self.norm(self.conv(images).flatten(2).transpose(1, 2))
        return self.head(self.twice(self.twice(values).tanh()).mean(dim=1))


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture(scope="module")
def recorder():
    model = Model().double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return Recorder(Network.read(model, drawn(6, 1, 4, 4)))


@pytest.fixture(scope="module")
def gradients(recorder):
    return recorder.record(drawn(6, 1, 4, 4), Margin(LABELS))


@pytest.fixture(scope="module")
def rows(gradients):
    """The gradients as one matrix, (images, all parameters by name)."""
    return flat(gradients.materialise())


@pytest.fixture(scope="module")
def projector(gradients):
    return Projection(dimension=1000).projector(gradients)


def part(recorder, indices):
    return recorder.record(drawn(6, 1, 4, 4)[indices], Margin(LABELS[indices]))


def test_the_fisher_diagonal_is_the_mean_of_the_squares(gradients, rows):
    statistic = FisherDiagonal()
    statistic.update(gradients)
    found = statistic.result()
    assert {n: v.shape for n, v in found.values.items()} == {
        n: v.shape[1:] for n, v in gradients.materialise().items()
    }
    values = flat({name: v[None] for name, v in found.values.items()})[0]
    torch.testing.assert_close(values, rows.square().mean(dim=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-12, 1e-25, 1e-40])
def test_squares_of_tiny_gradients_in_single_precision_do_not_underflow(scale):
    generator = torch.Generator().manual_seed(0)
    output, source = torch.randn(3, 1, 2, 4, generator=generator), torch.randn(3, 1, 5, 4)
    blocks = [
        FactoredBlock(output=output * scale, input=source, shape=(2, 5)),
        FactoredBlock(output=output[..., :1] * scale, input=source[..., :1], shape=(2, 5)),
        DirectBlock(values=output.flatten(1) * scale, shape=(8,)),
    ]
    for block in blocks:
        expected = block.materialise().double().square().sum(dim=0)
        assert bool((expected > 0).all())
        found = module.squares([block])
        torch.testing.assert_close(found, expected, rtol=1e-4 if scale > 1e-30 else 0.1, atol=0)


def test_the_diagonal_and_its_inverse_are_those_of_matrices(gradients, rows):
    statistic = FisherDiagonal()
    statistic.update(gradients)
    operator = statistic.result()
    matrix = rows.square().mean(dim=0).diag()
    full = gradients.materialise()
    assert isinstance(operator, Operator)
    torch.testing.assert_close(flat(operator(full)), rows @ matrix)
    inverse = torch.linalg.inv(matrix + 0.2 * torch.eye(len(matrix)))
    torch.testing.assert_close(flat(operator.inverse(0.2)(full)), rows @ inverse)


def test_squares_are_the_same_however_few_images_are_formed_at_a_time(gradients, rows, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    statistic = FisherDiagonal()
    statistic.update(gradients)
    values = flat({name: v[None] for name, v in statistic.result().values.items()})[0]
    torch.testing.assert_close(values, rows.square().mean(dim=0))


def test_the_second_moment_of_exact_gradients_is_the_empirical_fisher_matrix(
    gradients, rows, projector
):
    statistic = Gram()
    statistic.update(projector.project(gradients))
    found = statistic.result()
    torch.testing.assert_close(found.matrix, rows.T @ rows / 6, rtol=1e-12, atol=1e-14)
    assert found.mean_eigenvalue == pytest.approx(torch.linalg.eigvalsh(found.matrix).mean().item())


def test_its_damped_inverse_solves(gradients, rows, projector):
    statistic = Gram()
    projected = projector.project(gradients)
    statistic.update(projected)
    operator = statistic.result()
    matrix = rows.T @ rows / 6
    torch.testing.assert_close(flat(operator(projected)), rows @ matrix)
    inverse = torch.linalg.inv(matrix + 0.5 * torch.eye(len(matrix)))
    found = operator.inverse(0.5)
    torch.testing.assert_close(flat(found(projected)), rows @ inverse, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(
        flat((found @ projector)(gradients.materialise())), rows @ inverse, rtol=1e-9, atol=1e-11
    )


def test_types_and_shapes_of_vectors_are_kept(gradients, projector):
    statistic = Gram()
    statistic.update(projector.project(gradients))
    single = {name: v.float()[:2, :, None] for name, v in projector.project(gradients).items()}
    found = statistic.result().inverse(0.5)(single)
    assert {n: (v.dtype, v.shape) for n, v in found.items()} == {
        n: (torch.float32, v.shape) for n, v in single.items()
    }


@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_whole_is_the_merger_of_its_parts_however_it_is_cut(
    recorder, gradients, projector, order, cut
):
    whole, moment = FisherDiagonal(), Gram()
    whole.update(gradients)
    moment.update(projector.project(gradients))
    diagonals, moments = [], []
    for indices in (order[:cut], order[cut:]):
        diagonals.append(FisherDiagonal())
        moments.append(Gram())
        if indices:
            own = part(recorder, list(indices))
            diagonals[-1].update(own)
            moments[-1].update(projector.project(own))
    merged = diagonals[0].merge(diagonals[1]).result()
    for name, value in whole.result().values.items():
        torch.testing.assert_close(merged.values[name], value)
    torch.testing.assert_close(moments[0].merge(moments[1]).result().matrix, moment.result().matrix)
    assert diagonals[0].count == moments[0].count == cut


def test_they_are_statistics():
    assert isinstance(FisherDiagonal(), Statistic)
    assert isinstance(Gram(), Statistic)


@pytest.mark.parametrize("statistic", [FisherDiagonal(), Gram()])
def test_nothing_has_no_curvature(statistic):
    with pytest.raises(DataError, match="at least one image"):
        statistic.result()
    with pytest.raises(DataError):
        statistic.merge(type(statistic)()).result()


def test_a_singular_matrix_names_a_damping_that_would_do(gradients, projector):
    statistic = Gram()
    statistic.update(projector.project(gradients))
    with pytest.raises(NumericsError, match="usual is"):
        statistic.result().inverse(0)
    statistic.result().inverse(statistic.result().usual_damping)


def test_other_parameters_are_refused(gradients, projector):
    statistic, one = Gram(), Gram()
    projected = projector.project(gradients)
    statistic.update(projected)
    fewer = {name: value for name, value in projected.items() if name != "norm.bias"}
    with pytest.raises(MismatchError, match=r"'norm\.bias' is only in one"):
        statistic.update(fewer)
    one.update(fewer)
    with pytest.raises(MismatchError, match=r"'norm\.bias' is only in one"):
        statistic.merge(one)
    with pytest.raises(MismatchError, match="same projection"):
        statistic.update({name: value[:, :2] for name, value in projected.items()})


def test_a_diagonal_of_other_parameters_is_refused(recorder, gradients):
    statistic, other = FisherDiagonal(), FisherDiagonal()
    statistic.update(gradients)
    fewer = Recorder(recorder.network, ["head.weight"]).record(drawn(6, 1, 4, 4), Margin(LABELS))
    other.update(fewer)
    for refused in (
        lambda: statistic.update(fewer),
        lambda: other.update(gradients),
        lambda: statistic.merge(other),
        lambda: other.result()(gradients.materialise()),
    ):
        with pytest.raises(MismatchError, match="only in one of them"):
            refused()
    assert statistic.count == other.count == 6


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_a_damping_out_of_range_is_refused(gradients, projector, damping):
    diagonal, gram = FisherDiagonal(), Gram()
    diagonal.update(gradients)
    gram.update(projector.project(gradients))
    with pytest.raises(SettingError, match="damping"):
        diagonal.result().inverse(damping)
    if damping != 0:
        with pytest.raises(SettingError, match="damping"):
            gram.result().inverse(damping)
