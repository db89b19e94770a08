"""Execution: every way gives the scores of brute force, and the cheapest one is taken."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from whence.core import Loss, Margin, TensorData
from whence.errors import SettingError
from whence.gradients import DirectBlock, FactoredBlock, Recorder
from whence.influence import FeatureRecorder, GradCos, GradDot, influence
from whence.influence.execution import EXAMPLE_GRADIENTS, FORWARD_MODE, plan
from whence.network import Network


class Convolutional(nn.Module):
    """Batch norm, a grouped, a depthwise and a pointwise convolution."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=2),
            nn.GELU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Conv2d(8, 12, 1, stride=2),
        )
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


class Attentive(nn.Module):
    """Patches, a class token, positions, attention and layer norm: a vision transformer."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.positions = nn.Parameter(0.1 * torch.randn(1, 5, 12))
        self.norm = nn.LayerNorm(12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 3)

    def forward(self, images):
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), tokens], dim=1)
        tokens = tokens + self.positions
        normal = self.norm(tokens)
        tokens = tokens + self.attention(normal, normal, normal, need_weights=False)[0]
        return self.head((tokens + self.mlp(tokens))[:, 0])


class Shared(nn.Module):
    """One convolution and one linear layer, each used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.square = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, images):
        values = functional.gelu(self.again(functional.gelu(self.first(images))))
        pooled = functional.gelu(self.again(values)).mean(dim=(2, 3))
        return self.head(self.square(functional.gelu(self.square(pooled))))


MODELS = [Convolutional, Attentive, Shared]


@pytest.fixture(params=MODELS, ids=lambda m: m.__name__.lower())
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = request.param().double().eval()
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(9, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (9,), generator=generator)
    train = TensorData(images=images[:6], labels=labels[:6], classes=("a", "b", "c"))
    return train, images[6:], labels[6:]


def gradients(model, images, labels):
    """Loss gradients, one image at a time, flat."""
    rows = []
    for image, label in zip(images, labels, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]))
    return torch.stack(rows)


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def test_every_way_gives_the_scores_of_brute_force(model, data):
    train, images, labels = data
    ours, theirs = gradients(model, train.images, train.labels), gradients(model, images, labels)
    network = Network.read(model, images)
    ways = [
        {},
        {"way": EXAMPLE_GRADIENTS},
        {"way": FORWARD_MODE, "norms": False},
        {"tolerance": 1e-14},
        {"norms": False},
    ]
    for settings in ways:
        for batch in (2, 6):
            found = influence(
                network,
                train,
                images,
                Margin(labels),
                scorer=GradDot(),
                batch_size=batch,
                **settings,
            )
            assert relative(found.scores, ours @ theirs.T) < 1e-12
            assert found.route.queries == 3
    cosines = influence(network, train, images, Margin(labels), scorer=GradCos())
    assert cosines.route.way == EXAMPLE_GRADIENTS
    expected = functional.normalize(ours) @ functional.normalize(theirs).T
    assert relative(cosines.scores, expected) < 1e-12
    norms = cosines.residuals.square() * cosines.squared_norms
    assert relative(norms, ours.square().sum(dim=1)) < 1e-12


def test_frozen_parameters_are_compared_too(model, data, untouched):
    train, images, labels = data
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(requires_grad=False)
    with untouched(model):
        network = Network.read(model, images)
        settings = {"scorer": GradDot(), "norms": False}
        one, two = (
            influence(network, train, images, Margin(labels), way=way, **settings)
            for way in (EXAMPLE_GRADIENTS, FORWARD_MODE)
        )
    for parameter in model.parameters():
        parameter.requires_grad_(requires_grad=True)
    ours, theirs = gradients(model, train.images, train.labels), gradients(model, images, labels)
    assert relative(one.scores, ours @ theirs.T) < 1e-12
    assert relative(two.scores, one.scores) < 1e-12


def test_scores_of_some_parameters_agree_too(model, data):
    train, images, labels = data
    network = Network.read(model, images)
    settings = {"scorer": GradDot(), "norms": False, "parameters": "head.*"}
    one, two = (
        influence(network, train, images, Margin(labels), way=way, **settings)
        for way in (EXAMPLE_GRADIENTS, FORWARD_MODE)
    )
    assert relative(two.scores, one.scores) < 1e-12


def test_one_query_without_norms_goes_in_forward_mode_and_many_do_not(data):
    train, images, labels = data
    network = Network.read(Shared().double().eval(), images)
    found = {
        (count, norms): influence(
            network,
            train,
            images[:count],
            Margin(labels[:count]),
            scorer=GradDot(),
            norms=norms,
        )
        for count in (1, 3)
        for norms in (True, False)
    }
    assert found[1, False].route.way == FORWARD_MODE
    assert found[3, False].route.way == EXAMPLE_GRADIENTS
    assert found[1, True].route.way == EXAMPLE_GRADIENTS
    route = found[3, False].route
    assert route.costs[FORWARD_MODE] == 9
    assert route.costs[EXAMPLE_GRADIENTS] == min(route.costs.values())
    assert "forward mode" in str(route)
    assert "example gradients, 3 queries at once" in str(route)


def test_what_forward_mode_does_not_give_is_refused_and_not_made_up(model, data):
    train, images, labels = data
    network = Network.read(model, images)
    asked = (network, train, images[:1], Margin(labels[:1]))
    with pytest.raises(SettingError, match="no norms"):
        influence(*asked, scorer=GradDot(), way=FORWARD_MODE)
    with pytest.raises(SettingError, match="no norms"):
        influence(*asked, scorer=GradCos(), way=FORWARD_MODE, norms=False)
    found = influence(*asked, scorer=GradDot(), norms=False)
    with pytest.raises(SettingError, match="norms=True"):
        _ = found.self_influence
    with pytest.raises(SettingError, match="norms=True"):
        _ = found.zero_gradients


def test_the_cheaper_form_of_a_layers_products_is_chosen(data):
    _, images, _ = data
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wide = nn.Sequential(
            nn.Conv2d(3, 40, 3), nn.GELU(), nn.Flatten(), nn.Linear(40 * 36, 50), nn.Linear(50, 3)
        ).double()
    recorder = Recorder(Network.read(wide.eval(), images))
    recorded = recorder.record(images, Loss(torch.zeros(3, dtype=torch.int64)))
    kinds = plan(recorder, recorded.settled(3)).route.layers
    assert kinds["0.weight"] == "tiles"
    assert kinds["3.weight"] == "ghost"
    assert kinds["0.bias"] == "direct"
    values = torch.outer(torch.ones(40, dtype=torch.float64), torch.randn(27, dtype=torch.float64))
    flat = DirectBlock(values=values.flatten()[None], shape=(40, 3, 3, 3))
    queries = {n: b.rows(0, 1) for n, b in recorded.settled(3).items()} | {"0.weight": flat}
    short = plan(recorder, queries, tolerance=1e-9)
    assert short.route.layers["0.weight"] == "low rank"
    assert "low-rank" in str(short.route)
    target = Margin(torch.zeros(3, dtype=torch.int64))
    plain = plan(recorder, queries)(images, target)
    assert relative(short(images, target).products, plain.products) < 1e-12
    assert isinstance(queries["3.weight"], FactoredBlock)


def test_features_have_one_way(data):
    train, images, labels = data
    model = Shared().double().eval()
    network = Network.read(model, images)
    node = next(n.name for n in network.graph.nodes if "linear" in n.name)
    recorder = FeatureRecorder(network=network, node=node)
    features = recorder.record(images, Margin(labels))
    queries = {n: blocks[0] for n, blocks in features.blocks.items()}
    work = plan(recorder, queries)
    assert work.route.way == EXAMPLE_GRADIENTS
    found = work(train.images, Margin(train.labels))
    ours = recorder.record(train.images, Margin(train.labels)).materialise()["features"]
    theirs = features.materialise()["features"]
    assert relative(found.products, ours @ theirs.T) < 1e-12
    with pytest.raises(SettingError, match="features"):
        plan(recorder, queries, way=FORWARD_MODE, norms=False)
