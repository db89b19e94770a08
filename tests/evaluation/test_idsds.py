"""IDSDS and its fine-tune, against scipy over a loop, and the closed cases of its definition."""

from functools import partial

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from whence.attribution import InputXGradient, XGradient
from whence.convert import x_dnn
from whence.core import ModelScalar, TensorData, logit
from whence.errors import NumericsError, SettingError, ShapeError
from whence.evaluation import IDSDS, CellDeletion, CellDropout, Cells, Mean, cells_of
from whence.network import Network
from whence.priors import fit

LABELS = torch.tensor([0, 2, 1, 2, 0, 1])


def drawn(net, seed=3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net.double().eval()


@pytest.fixture(scope="module")
def model():
    parts = nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 8 * 12, 3)
    return drawn(nn.Sequential(*parts))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(6, 2, 8, 12, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def f(model):
    return ModelScalar(model, logit(LABELS))


@pytest.fixture(scope="module")
def noise(images):
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(5)).double()


def drops_as_a_map(f, images, grid=4):
    """A map of which every cell sums to its true drop, all of it in one pixel of one channel."""
    drops = IDSDS(grid=grid).drops(f, images)
    own = cells_of(images, grid).flatten()
    values = torch.zeros_like(images).flatten(2)
    for cell in range(grid**2):
        values[:, 0, (own == cell).nonzero()[0, 0]] = drops[:, cell]
    return values.view_as(images)


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_a_score_is_scipys_correlation_in_a_loop_over_images_and_cells(
    batch_size, f, model, images, noise
):
    found = IDSDS(batch_size=batch_size)(f, images, noise)
    for k in range(len(images)):
        sums, drops = [], []
        with torch.no_grad():
            before = model(images[k : k + 1])[0, LABELS[k]].item()
            for row in range(4):
                for column in range(4):
                    at = slice(2 * row, 2 * row + 2), slice(3 * column, 3 * column + 3)
                    sums.append(noise[k][:, *at].sum().item())
                    changed = images[k : k + 1].clone()
                    changed[:, :, *at] = 0
                    drops.append(before - model(changed)[0, LABELS[k]].item())
        assert found[k].item() == pytest.approx(spearmanr(sums, drops).statistic, abs=1e-12)


def test_cells_that_tie_share_their_rank_as_in_scipy():
    generator = torch.Generator().manual_seed(1)
    sums = torch.randint(4, (20, 16), generator=generator).double()
    drops = torch.randint(5, (20, 16), generator=generator).double()
    found = Cells(sums=sums, drops=drops).correlation
    wanted = [spearmanr(a, b).statistic for a, b in zip(sums, drops, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_22_true_drops_get_one_and_their_opposite_minus_one(grid, f, images):
    truth = drops_as_a_map(f, images, grid)
    ones = torch.ones(6, dtype=torch.float64)
    torch.testing.assert_close(IDSDS(grid=grid)(f, images, truth), ones)
    torch.testing.assert_close(IDSDS(grid=grid)(f, images, -truth), -ones)
    torch.testing.assert_close(IDSDS(grid=grid)(f, images, truth * 1e-6), ones)


def test_22_a_constant_map_ranks_nothing_and_gets_zero(f, images, noise):
    values = noise.clone()
    values[1], values[4] = 0, 0.25
    cells = IDSDS().cells(f, images, values)
    assert cells.constant.tolist() == [False, True, False, False, True, False]
    assert cells.correlation[[1, 4]].tolist() == [0, 0]
    assert cells.correlation[[0, 2, 3, 5]].abs().min() > 0


def test_22_an_image_that_no_deletion_changes_is_undefined_and_counted(images, noise):
    f = ModelScalar(lambda x: x.new_tensor([[1.0, 2.0, 3.0]]).expand(len(x), -1), logit(LABELS))
    found = IDSDS()(f, images, noise)
    assert found.isnan().all()
    scores = Mean()
    scores.update(torch.arange(7), torch.cat([found, torch.ones(1).double()]))
    assert scores.result().undefined == 6


@pytest.mark.parametrize("grid", [2, 4])
def test_23_on_a_linear_x_dnn_x_gradient_is_the_drop_of_every_cell(grid, images):
    body = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(5 * 4 * 6, 3, bias=False),
    )  # fmt: skip
    network = Network.read(drawn(body), images)
    f = ModelScalar(network, logit(LABELS))
    cells = IDSDS(grid=grid).cells(f, images, XGradient()(f, images))
    torch.testing.assert_close(cells.sums, cells.drops, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cells.correlation, torch.ones(6, dtype=torch.float64))


def test_a_bias_changes_no_score_of_a_linear_network(images):
    body = drawn(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    f = ModelScalar(body, logit(LABELS))
    torch.testing.assert_close(
        IDSDS()(f, images, InputXGradient()(f, images)), torch.ones(6, dtype=torch.float64)
    )


def test_cells_cover_the_image_row_by_row_and_differ_by_a_pixel_at_most():
    found = cells_of(torch.zeros(1, 1, 10, 4), 4)
    assert found[:, 0].tolist() == [0, 0, 0, 4, 4, 8, 8, 8, 12, 12]
    assert found[0].tolist() == [0, 1, 2, 3]
    even = cells_of(torch.zeros(1, 3, 224, 224), 4)
    assert even.flatten().bincount().tolist() == [56 * 56] * 16
    assert (even[:56, 56:112] == 1).all()


def test_half_of_the_images_lose_one_cell_each_drawn_for_itself():
    ones = torch.ones(4000, 1, 8, 8)
    found = CellDeletion()(ones, torch.Generator().manual_seed(0))
    lost = (found == 0).flatten(1).sum(1)
    assert set(lost.tolist()) == {0, 4}
    assert (lost > 0).double().mean().item() == pytest.approx(0.5, abs=0.03)
    per_cell = (found[lost > 0] == 0).float().mean(0)[0, ::2, ::2].flatten()
    assert per_cell.tolist() == pytest.approx([1 / 16] * 16, abs=0.02)
    assert (CellDeletion()(ones, torch.Generator().manual_seed(0)) == found).all()
    assert (CellDeletion()(ones, torch.Generator().manual_seed(1)) != found).any()
    assert (CellDeletion(share=0.0)(ones) == ones).all()


def test_dropping_cells_belongs_to_training_and_leaves_an_x_dnn_one(images, untouched):
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 96, 3)
    )
    net = x_dnn(drawn(net), images).model
    data = TensorData(images=images, labels=LABELS)
    whole = nn.Sequential(CellDropout(CellDeletion(share=1.0)), net).eval()
    assert torch.equal(whole(images), net(images))
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=()), untouched(net):
        tuned = fit(
            whole, data, epochs=3, optimiser=partial(torch.optim.SGD, lr=0.1), generator=generator
        ).model
    assert list(tuned.state_dict()) == [f"1.{name}" for name in net.state_dict()]
    assert not torch.equal(tuned(images), net(images))
    network = Network.read(tuned[1], images)
    assert network.homogeneity().degree == 1
    with torch.random.fork_rng(devices=()):
        deleted = tuned.train()[0](images)
    assert ((deleted == 0).flatten(1).sum(1) == 12).all()


def test_no_graph_is_kept(f, images, noise):
    assert not IDSDS()(f, images.clone().requires_grad_(), noise).requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(IDSDS, grid=1), "2 or more; got 1"),
        (partial(IDSDS, batch_size=0), "batch_size must be at least 1; got 0"),
        (partial(CellDeletion, grid=0), "2 or more; got 0"),
        (partial(CellDeletion, share=1.5), "from 0 to 1; got 1.5"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_maps_that_do_not_fit_images_that_are_too_small_and_nan_are_refused(f, images, noise):
    with pytest.raises(ShapeError, match=r"one map per image.*\(6, 2, 12, 8\)"):
        IDSDS()(f, images, noise.transpose(2, 3))
    with pytest.raises(ShapeError, match="9 x 9 cells needs images of 9 x 9 pixels or more"):
        IDSDS(grid=9)(f, images, noise)
    with pytest.raises(NumericsError, match="NaN or infinite"):
        IDSDS()(f, images, noise / 0)
