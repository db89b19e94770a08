"""A model that others change is read again when it is another, and only then."""

import gc
import weakref

import pytest
import torch
from torch import nn

from whence.attribution import LRP, GradCAM, Gradient, method_named
from whence.attribution.readings import CHUNK, Readings, checksum, weighted_sum
from whence.core import ModelScalar, logit
from whence.network import Network


class Named(nn.Module):
    """A network with a batch norm, a plain number, and a mask, which may be no buffer."""

    def __init__(self, *, constant=False):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(4, 3)
        self.temperature = 1.0
        if constant:
            self.mask = torch.ones(4, 1, 1)
        else:
            self.register_buffer("mask", torch.ones(4, 1, 1))

    def forward(self, images):
        x = self.norm(self.first(images)).relu()
        x = (self.second(x) * self.mask).relu().mean(dim=(2, 3))
        return self.head(x) / self.temperature


class Cached(nn.Module):
    """A network that keeps what it made of its weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 3, 3))
        self.cache = {}

    def forward(self, images):
        if "double" not in self.cache:
            self.cache["double"] = (2 * self.weight).detach()
        return nn.functional.conv2d(images, self.cache["double"]).relu().mean(dim=(2, 3))


def made(**options):
    torch.manual_seed(0)
    model = Named(**options)
    model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def model():
    return made()


@pytest.fixture
def images(generator):
    return torch.randn(2, 3, 8, 8, generator=generator)


@pytest.fixture
def reads(monkeypatch):
    """The models that were read, in order."""
    found = []
    read = Network.read

    def counted(model, images):
        found.append(model)
        return read(model, images)

    monkeypatch.setattr(Network, "read", staticmethod(counted))
    return found


def lrp(model, images):
    return LRP()(ModelScalar(model, logit(1)), images)


def written_in_place(model):
    with torch.no_grad():
        model.first.weight.add_(0.1)


def written_through_data(model):
    model.first.weight.data.normal_(generator=torch.Generator().manual_seed(5))


def data_replaced(model):
    model.first.weight.data = torch.randn_like(model.first.weight)


def reset(model):
    model.second.reset_parameters()


def loaded(model):
    model.load_state_dict({k: v * 0.9 for k, v in model.state_dict().items()})


def statistics_moved(model):
    model.norm.running_mean.add_(0.3)


def mask_written(model):
    model.mask.mul_(torch.tensor([1.0, -1.0, 1.0, 1.0]).view(4, 1, 1))


def permuted_through_data(model):
    model.first.weight.data.copy_(model.first.weight.data.flip(0))


SHOWN = [
    written_in_place,
    written_through_data,
    data_replaced,
    reset,
    loaded,
    statistics_moved,
    mask_written,
    permuted_through_data,
]


@pytest.mark.parametrize("change", SHOWN, ids=lambda change: change.__name__)
def test_weights_that_change_in_place_show_without_reading_again(change, model, images, reads):
    readings = Readings()
    before = lrp(readings.ready(model, images, graph=True), images)
    change(model)
    after = lrp(readings.ready(model, images, graph=True), images)
    assert len(reads) == 1
    assert not torch.allclose(after, before)
    assert torch.equal(after, lrp(Network.read(model, images), images))


def parameter_replaced(model):
    model.first.weight = nn.Parameter(torch.randn_like(model.first.weight))


def module_replaced(model):
    model.norm = nn.Identity()


def number_changed(model):
    model.temperature = 2.0


def mask_replaced(model):
    model.mask = torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)


def weights_beside_a_constant(model):
    written_in_place(model)


def buffer_replaced(model):
    model.norm.running_var = torch.ones(6)


def hooked(model):
    model.second.register_forward_hook(lambda module, inputs, output: 2 * output)


OTHER = [
    parameter_replaced,
    module_replaced,
    number_changed,
    mask_written,
    mask_replaced,
    weights_beside_a_constant,
    buffer_replaced,
    hooked,
]


@pytest.mark.parametrize("change", OTHER, ids=lambda change: change.__name__)
def test_a_model_that_became_another_is_read_again(change, images, reads):
    model, readings = made(constant=True), Readings()
    before = lrp(readings.ready(model, images, graph=True), images)
    change(model)
    network = readings.ready(model, images, graph=True)
    assert len(reads) == 2
    after = lrp(network, images)
    assert not torch.allclose(after, before)
    assert torch.equal(network(images), model(images))


def test_what_a_model_made_of_its_weights_is_made_again(images, reads):
    model, readings = Cached().eval(), Readings()
    model(images)
    lrp(readings.ready(model, images, graph=True), images)
    with torch.no_grad():
        model.weight.mul_(-1)
    model.cache.clear()
    network = readings.ready(model, images, graph=True)
    assert torch.equal(network(images), model(images))
    assert len(reads) == 2


def test_nothing_is_read_twice_or_without_need(model, images, reads):
    readings = Readings()
    assert readings.ready(model, images, graph=False) is model
    assert reads == []
    first = readings.ready(model, images, graph=True)
    model(images)
    assert readings.ready(model, images, graph=True) is first
    assert readings.ready(model, images, graph=False) is model
    assert reads == [model]


def test_other_sizes_and_types_are_read_anew(model, images, reads):
    readings = Readings()
    for given in (images, images[..., :7], images.double()):
        network = readings.ready(model.to(given.dtype), given, graph=True)
        assert network(given).dtype == given.dtype
    assert len(reads) == 3


@pytest.mark.parametrize("method", [LRP(), GradCAM(), Gradient()], ids=lambda m: type(m).__name__)
def test_a_model_in_train_mode_is_explained_as_in_eval_mode_and_left_in_it(
    method, model, images, untouched
):
    graph = not isinstance(method, Gradient)
    expected = method(ModelScalar(Network.read(model, images), logit(1)), images)
    model.train()
    readings = Readings()
    with untouched(model):
        for _ in range(2):
            ready = readings.ready(model, images, graph=graph)
            values = method(ModelScalar(ready, logit(1)), images)
            torch.testing.assert_close(values, expected)
    written_in_place(model)
    ready = readings.ready(model, images, graph=graph)
    moved = method(ModelScalar(ready, logit(1)), images)
    again = method(ModelScalar(Network.read(model.eval(), images), logit(1)), images)
    torch.testing.assert_close(moved, again)


def test_a_model_that_is_gone_is_not_kept(images):
    readings, model = Readings(), Named().eval()
    readings.ready(model, images, graph=True)
    method_named("lrp")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert len(readings.held) == 0


EVERY_TYPE = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.int64,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", EVERY_TYPE, ids=str)
def test_a_checksum_sees_a_single_value_and_the_order(dtype):
    values = torch.tensor([0, 1, 0, 0, 1, 1]).to(dtype).view(2, 3)
    other = values.clone()
    other[1, 2] = 0
    sums = {checksum(v) for v in (values, other, values.flip(1), values.T.contiguous())}
    assert len(sums) == 4
    assert checksum(values) == checksum(values.clone().T.contiguous().T)
    assert isinstance(checksum(values[0, 0]), int)
    assert isinstance(checksum(values[:, :0]), int)


def test_words_are_summed_with_their_places_modulo_two_to_the_64(generator):
    words = torch.randint(-(2**31), 2**31, (CHUNK + 5,), generator=generator).to(torch.int32)
    total = 0
    for start in (0, CHUNK):
        part = words[start : start + CHUNK].tolist()
        total = total * (2 * CHUNK + 1) + sum((2 * i + 1) * w for i, w in enumerate(part))
    assert weighted_sum(words) % 2**64 == total % 2**64
    assert weighted_sum(words[:0]) == 0
