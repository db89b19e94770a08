import pytest
import torch
from torch import nn

from whence.core import Margin, TensorData
from whence.errors import DataError, MismatchError
from whence.gradients import Projection
from whence.index import verify
from whence.influence import GradCos, influence
from whence.influence.build import index_gradients, repair_gradients, search_gradients
from whence.network import Network


def network_of(seed):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return Network.read(model, torch.zeros(2, 1, 6, 6))


@pytest.fixture
def network():
    return network_of(0)


@pytest.fixture
def train(generator):
    return TensorData(
        images=torch.randn(40, 1, 6, 6, generator=generator), labels=torch.arange(40) % 3
    )


@pytest.fixture
def queries(generator):
    return torch.randn(3, 1, 6, 6, generator=generator)


TARGET = Margin(torch.tensor([0, 1, 2]))


def by_place(found):
    return found.scores.gather(1, found.indices.argsort(dim=1))


def test_an_index_that_keeps_everything_gives_the_exact_scores(network, train, queries, tmp_path):
    projection = Projection(dimension=10_000)
    manifest = index_gradients(
        network, train, tmp_path / "index", projection=projection, batch_size=7, shard_size=16
    )
    assert [s.rows for s in manifest.shards] == [16, 16, 8]
    assert manifest.dimension == sum(p.numel() for p in network.parameters.values())
    exact = influence(network, train, queries, TARGET, scorer=GradCos())
    found = search_gradients(network, tmp_path / "index", queries, TARGET, count=40)
    torch.testing.assert_close(by_place(found), exact.scores.T, atol=2e-3, rtol=0)
    best = search_gradients(network, tmp_path / "index", queries, TARGET, count=3)
    assert torch.equal(best.indices, exact.proponents(3).indices)
    assert torch.equal(best.labels, train.labels[best.indices])


def test_dot_products_are_those_of_the_margins_gradients(network, train, queries, tmp_path):
    index_gradients(network, train, tmp_path / "index", projection=Projection(dimension=10_000))
    found = search_gradients(network, tmp_path / "index", queries, TARGET, count=40, score="dot")
    rows = []
    for images, labels in ((train.images, train.labels), (queries, TARGET.labels)):
        grads = []
        for image, label in zip(images, labels, strict=True):
            value = Margin(label[None])(network(image[None]))
            parts = torch.autograd.grad(value.sum(), list(network.parameters.values()))
            grads.append(torch.cat([p.flatten() for p in parts]))
        rows.append(torch.stack(grads))
    torch.testing.assert_close(by_place(found), rows[1] @ rows[0].T, rtol=5e-3, atol=5e-3)


def test_a_projected_index_finds_nearly_the_same_images(network, train, queries, tmp_path):
    index_gradients(network, train, tmp_path / "index", projection=Projection(dimension=144))
    exact = influence(network, train, queries, TARGET, scorer=GradCos())
    found = search_gradients(network, tmp_path / "index", queries, TARGET, count=40)
    for estimated, true in zip(by_place(found), exact.scores.T, strict=True):
        assert torch.corrcoef(torch.stack([estimated, true]))[0, 1] > 0.9


def test_some_parameters_can_be_chosen(network, train, queries, tmp_path):
    names = ["5.weight", "5.bias"]
    index_gradients(
        network, train, tmp_path / "i", projection=Projection(dimension=99), parameters=names
    )
    exact = influence(network, train, queries, TARGET, parameters=names)
    found = search_gradients(network, tmp_path / "i", queries, TARGET, count=40)
    torch.testing.assert_close(by_place(found), exact.scores.T, atol=2e-3, rtol=0)


def test_another_model_other_data_and_other_settings_are_refused(network, train, queries, tmp_path):
    folder = tmp_path / "index"
    index_gradients(network, train, folder)
    with pytest.raises(MismatchError, match="differs in model"):
        index_gradients(network_of(1), train, folder)
    with pytest.raises(MismatchError, match="another model"):
        search_gradients(network_of(1), folder, queries, TARGET, count=1)
    other = TensorData(images=train.images.flip(0), labels=train.labels)
    with pytest.raises(MismatchError, match="differs in data"):
        index_gradients(network, other, folder)
    with pytest.raises(MismatchError, match="differs in data"):
        repair_gradients(network, other, folder)
    with pytest.raises(MismatchError, match=r"differs in settings\.seed"):
        index_gradients(network, train, folder, projection=Projection(seed=3))


def test_a_damaged_shard_is_rebuilt_as_it_was(network, train, tmp_path):
    folder = tmp_path / "index"
    manifest = index_gradients(network, train, folder, shard_size=16, batch_size=4)
    path = folder / manifest.shards[1].file
    before = path.read_bytes()
    path.write_bytes(before[:-1])
    assert repair_gradients(network, train, folder, batch_size=4) == (path.name,)
    assert path.read_bytes() == before
    assert verify(folder) == ()


def test_an_image_without_a_label_is_refused(network, train, tmp_path):
    with pytest.raises(DataError, match="'0' has no label"):
        index_gradients(network, TensorData(images=train.images), tmp_path / "index")
