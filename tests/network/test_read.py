"""Reading a model: what it may look like, what is refused, and that it stays as it was."""

import threading
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from whence.errors import (
    ModeError,
    NumericsError,
    ReadError,
    SettingError,
    ShapeError,
    UnsupportedOperation,
)
from whence.network import Network


class Small(nn.Module):
    """A small classifier whose forward pass is given."""

    def __init__(self, forward, **parts):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 6, 3, padding=1)
            self.second = nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6, 4)
        for name, part in parts.items():
            setattr(self, name, part)
        self.body = forward
        self.eval()

    def forward(self, images):
        return self.body(self, images)


def pooled(model, maps):
    return model.head(maps.mean((2, 3)))


def functional_relu(m, x):
    return pooled(m, functional.relu(m.second(torch.relu(m.first(x)))))


def reused_relu(m, x):
    return pooled(m, m.act(m.second(m.act(m.first(x)))))


def residual_in_place(m, x):
    hidden = m.act(m.first(x))
    out = m.second(hidden)
    out += hidden
    return pooled(m, out.relu_())


def branch_in_place(m, x):
    maps = m.first(x)
    left, right = maps.clone(), maps * 2
    left.mul_(right).sub_(1)
    return pooled(m, left + right)


def overwritten_and_used_twice(m, x):
    maps = m.first(x)
    maps.relu_()
    return pooled(m, m.second(maps) + maps * 2)


def shared_layer(m, x):
    hidden = m.second(m.second(m.first(x)).relu()).relu()
    return m.head(hidden.mean((2, 3))) + m.again(hidden.amax((2, 3)))


def checkpointed(m, x):
    return pooled(m, checkpoint(lambda y: m.second(m.first(y).relu()), x, use_reentrant=False))


def constant_only(m, x):
    return pooled(m, m.first((x - m.mean) / m.std).relu() + torch.tensor([0.5]))


def without_gradient(m, x):
    with torch.no_grad():
        stem = m.first(x).relu()
    return pooled(m, m.second(stem))


def writes_images(m, x):
    x.sub_(0.5)
    return pooled(m, m.first(x).relu())


def counts_calls(m, x):
    m.calls.add_(1)
    maps = m.first(x)
    m.last.copy_(maps.detach().mean((0, 2, 3)))
    return pooled(m, maps.relu() * m.calls)


FORMS = {
    "functional ReLU": lambda: Small(functional_relu),
    "reused ReLU": lambda: Small(reused_relu, act=nn.ReLU()),
    "reused in-place ReLU": lambda: Small(reused_relu, act=nn.ReLU(inplace=True)),
    "residual added in place": lambda: Small(residual_in_place, act=nn.ReLU(inplace=True)),
    "branches changed in place": lambda: Small(branch_in_place),
    "overwritten, then used twice": lambda: Small(overwritten_and_used_twice),
    "a layer used twice": lambda: Small(shared_layer, again=nn.Linear(6, 4)),
    "gradient checkpoint": lambda: Small(checkpointed),
    "a part without gradient": lambda: Small(without_gradient),
    "a dictionary": lambda: Small(lambda m, x: {"logits": functional_relu(m, x), "extra": x}),
    "a tuple": lambda: Small(lambda m, x: (functional_relu(m, x), m.first(x))),
    "a list in a tuple": lambda: Small(lambda m, x: ([functional_relu(m, x)], x)),
    "switched-off dropout": lambda: Small(
        lambda m, x: functional_relu(m, m.drop(x)), drop=nn.Dropout(0.5, inplace=True)
    ),
    "weight norm": lambda: Small(
        reused_relu,
        act=nn.LeakyReLU(),
        first=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3)),
    ),
    "parameter scalars": lambda: Small(
        lambda m, x: functional_relu(m, x) * m.scale, scale=nn.Parameter(torch.tensor(1.5))
    ),
}


def eager(model, images):
    output = model(images.clone())
    while not isinstance(output, torch.Tensor):
        output = output["logits"] if isinstance(output, dict) else output[0]
    return output


def images_like(count=3, size=8, **kind):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7)).to(**kind)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_of_any_form_is_the_same_function(form, untouched):
    model, images = FORMS[form](), images_like()
    with untouched(model):
        network = Network.read(model, images)
        network(images)
        network.function()
    for count in (1, 2, 3):
        assert torch.equal(network(images[:count]), eager(model, images[:count]))
    function = network.function()
    assert torch.equal(function(network.parameters, images)[0], network(images))
    assert torch.equal(network.under([])(images), network(images))


def test_an_output_object_with_logits_is_read():
    from dataclasses import dataclass

    @dataclass
    class Output:
        logits: torch.Tensor
        extra: torch.Tensor

    torch.export.register_dataclass(Output, serialized_type_name="whence.tests.Output")
    model = Small(lambda m, x: Output(logits=functional_relu(m, x), extra=x))
    images = images_like()
    assert torch.equal(Network.read(model, images)(images), model(images).logits)


def test_buffers_and_constants_are_part_of_the_function():
    model = Small(constant_only)
    model.register_buffer("mean", torch.rand(3, 1, 1))
    model.register_buffer("std", torch.rand(3, 1, 1) + 0.5, persistent=False)
    images = images_like()
    network = Network.read(model, images)
    assert torch.equal(network(images), model(images))
    assert "mean" not in network.parameters


def test_images_are_never_overwritten_even_if_the_model_does():
    model, images = Small(writes_images), images_like()
    before = images.clone()
    network = Network.read(model, images)
    logits = network(images)
    assert torch.equal(images, before)
    assert torch.equal(logits, model(before.clone()))
    assert torch.equal(network(images), logits)


def test_the_example_is_not_the_users_memory():
    model, images = Small(functional_relu), images_like()
    network = Network.read(model, images)
    images.zero_()
    assert network.example.any()


def test_buffers_that_the_model_overwrites_stay_as_they_were(untouched):
    model = Small(counts_calls)
    model.register_buffer("calls", torch.zeros(()))
    model.register_buffer("last", torch.zeros(6))
    images = images_like()
    with untouched(model):
        network = Network.read(model, images)
        first = network(images)
        second = network.function()(network.parameters, images)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, model(images))


def test_caches_that_a_forward_pass_leaves_are_left_on_a_copy(untouched):
    def caching(m, x):
        if "scale" not in m.cache:
            m.cache["scale"] = m.gain * 2
            m.filled = True
        return functional_relu(m, x) * m.cache["scale"]

    model = Small(caching, cache={}, filled=False, gain=nn.Parameter(torch.ones(4)))
    with untouched(model):
        network = Network.read(model, images_like())
    assert model.cache == {}
    assert "gain" in network.parameters


class Uncopied:
    """An object that refuses to be copied, as a lock or a generator does."""

    def __deepcopy__(self, memo):
        message = "not to be copied"
        raise TypeError(message)


def test_what_cannot_be_copied_on_a_model_is_shared(untouched):
    held = {
        "lock": threading.Lock(),
        "draws": (i for i in range(3)),
        "nested": {"of": [Uncopied(), {"cache": 1}]},
    }
    model = Small(functional_relu, **held, act=nn.Sequential(nn.ReLU(), nn.ReLU()))
    model.act[0].lock = threading.Lock()
    images = images_like()
    with untouched(model):
        network = Network.read(model, images)
    assert torch.equal(network(images), model(images))
    assert list(network.parameters) == [name for name, _ in model.named_parameters()]


def test_caches_stay_untouched_also_beside_what_cannot_be_copied(untouched):
    def caching(m, x):
        m.cache["seen"] = True
        return functional_relu(m, x)

    model = Small(caching, cache={"lock": threading.Lock()})
    with untouched(model):
        Network.read(model, images_like())
    assert list(model.cache) == ["lock"]


def test_shared_weights_have_one_name_which_is_the_first():
    model = Small(shared_layer, again=nn.Linear(6, 4))
    model.again.weight = model.head.weight
    images = images_like()
    network = Network.read(model, images)
    assert list(network.parameters) == [name for name, _ in model.named_parameters()]
    assert "head.weight" in network.parameters
    assert network.unread == ()
    zeros = dict(network.parameters) | {"head.weight": torch.zeros_like(model.head.weight)}
    logits, _ = network.function()(zeros, images)
    expected = (model.head.bias + model.again.bias).expand(3, 4)
    torch.testing.assert_close(logits, expected)


def test_parameters_that_do_nothing_are_listed():
    model = Small(functional_relu, spare=nn.Linear(2, 2))
    network = Network.read(model, images_like())
    assert network.unread == ("spare.weight", "spare.bias")
    assert "spare.weight" not in network.parameters


def test_later_training_shows_through():
    model, images = Small(functional_relu), images_like()
    network = Network.read(model, images)
    before = network(images)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    model(images).square().sum().backward()
    optimiser.step()
    assert not torch.equal(network(images), before)
    assert torch.equal(network(images), model(images))


def test_frozen_parameters_stay_frozen_and_are_read(untouched):
    model = Small(functional_relu)
    model.first.requires_grad_(requires_grad=False)
    with untouched(model):
        network = Network.read(model, images_like())
    assert not network.parameters["first.weight"].requires_grad
    assert network.parameters["head.weight"].requires_grad


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_other_precisions_are_read(kind):
    model, images = Small(functional_relu).to(kind), images_like(dtype=kind)
    network = Network.read(model, images)
    assert network(images).dtype == kind
    assert torch.equal(network(images), model(images))
    assert network.cut().plane.height == 8


def test_channels_last_is_read():
    model = Small(functional_relu).to(memory_format=torch.channels_last)
    images = images_like().to(memory_format=torch.channels_last)
    network = Network.read(model, images)
    assert torch.equal(network(images), model(images))
    torch.testing.assert_close(network(images.contiguous()), model(images))


def test_reading_inside_no_grad_loses_no_gradient():
    model, images = Small(functional_relu), images_like()
    with torch.no_grad():
        network = Network.read(model, images)
    assert torch.equal(network(images), model(images))
    assert network(images).requires_grad


def test_one_image_is_enough_to_read_with():
    model, images = Small(functional_relu), images_like()
    assert torch.equal(Network.read(model, images[:1])(images), model(images))


def test_a_compiled_model_is_unwrapped(untouched):
    model, images = Small(functional_relu), images_like()
    compiled = torch.compile(model, backend="eager")
    with untouched(model):
        network = Network.read(compiled, images)
    assert torch.equal(network(images), model(images))
    assert "first.weight" in network.parameters


def test_a_model_that_compiled_itself_in_place_is_read():
    model, images = Small(functional_relu), images_like()
    expected = model(images)
    model.compile(backend="eager")
    assert torch.equal(Network.read(model, images)(images), expected)


def test_a_data_parallel_model_is_unwrapped():
    model, images = Small(functional_relu), images_like()
    network = Network.read(nn.DataParallel(model), images)
    assert torch.equal(network(images), model(images))
    assert "first.weight" in network.parameters


def test_two_networks_of_one_model_have_one_fingerprint_and_training_changes_it():
    model, images = Small(functional_relu), images_like()
    one, two = (Network.read(model, images) for _ in range(2))
    before = one.fingerprint()
    assert two.fingerprint() == before
    with torch.no_grad():
        model.head.bias += 1
    assert one.fingerprint() == two.fingerprint() != before


# What is refused, and in which words.


def test_a_part_in_train_mode_is_named(untouched):
    model = Small(reused_relu, act=nn.Dropout(0.5))
    model.act.train()
    with untouched(model), pytest.raises(ModeError, match=r"'act' \(Dropout\) is in train mode"):
        Network.read(model, images_like())


def test_dropout_that_ignores_eval_mode_is_refused():
    def noisy(m, x):
        return pooled(m, functional.dropout(m.first(x), 0.5))

    with pytest.raises(ModeError, match=r"its forward drops values at random"):
        Network.read(Small(noisy), images_like())


def test_batch_norm_without_running_statistics_is_refused():
    model = Small(reused_relu, act=nn.BatchNorm2d(6, track_running_stats=False).eval())
    with pytest.raises(ModeError, match=r"'act' normalises with the statistics of the batch"):
        Network.read(model, images_like())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad, untouched):
    model = Small(functional_relu)
    with torch.no_grad():
        model.second.weight[0, 0, 0] = bad
    with untouched(model), pytest.raises(NumericsError, match=r"3 of 324 values.*'second.weight'"):
        Network.read(model, images_like())


def test_a_buffer_that_is_not_finite_is_named():
    model = Small(reused_relu, act=nn.BatchNorm2d(6).eval())
    model.act.running_var[2] = float("nan")
    with pytest.raises(NumericsError, match=r"1 of 6 values.*'act.running_var'"):
        Network.read(model, images_like())


def test_logits_that_are_not_finite_are_refused():
    model = Small(lambda m, x: functional_relu(m, x) / 0)
    with pytest.raises(NumericsError, match="logits for the given images"):
        Network.read(model, images_like())


def test_control_flow_on_pixels_is_refused_with_what_still_works(untouched):
    def branching(m, x):
        return functional_relu(m, x) if x.sum() > 0 else pooled(m, m.first(x))

    model = Small(branching)
    with untouched(model), pytest.raises(ReadError, match="depends on pixel values") as caught:
        Network.read(model, images_like())
    assert "Small" in str(caught.value)
    assert "integrated-gradients" in str(caught.value)


def test_a_batch_size_that_the_model_fixes_is_refused():
    def fixed(m, x):
        return functional_relu(m, x).reshape(2, 4)

    with pytest.raises(ReadError, match="fixes the batch size"):
        Network.read(Small(fixed), images_like(2))


def test_taking_the_batch_size_by_len_is_refused_with_the_cure():
    def counted(m, x):
        return functional_relu(m, x) + m.head.bias.expand(len(x), 4)

    with pytest.raises(ReadError, match=r"len\(images\) does; images.shape\[0\] does not"):
        Network.read(Small(counted), images_like())


def test_an_output_without_logits_is_refused():
    with pytest.raises((ReadError, ShapeError), match="logits"):
        Network.read(Small(lambda m, x: {"scores": functional_relu(m, x)}), images_like())


def test_an_output_that_is_no_row_per_image_is_refused():
    with pytest.raises(ShapeError, match="one row per image"):
        Network.read(Small(lambda m, x: m.first(x)), images_like())


def test_logits_that_ignore_the_images_are_refused():
    def blind(m, x):
        return pooled(m, m.first(torch.zeros_like(x)))

    with pytest.raises(ReadError, match="do not depend on its images"):
        Network.read(Small(blind), images_like())


def test_images_with_other_channels_are_refused_in_the_models_words():
    with pytest.raises(ShapeError, match=r"cannot take images of shape \(2, 1, 8, 8\)"):
        Network.read(Small(functional_relu), images_like()[:, :1])


def test_images_of_another_type_than_the_weights_are_refused_naming_both():
    with pytest.raises(SettingError, match=r"torch.float64, but the images are torch.float32"):
        Network.read(Small(functional_relu).double(), images_like())


def test_a_model_on_another_device_is_refused_naming_both():
    with pytest.raises(SettingError, match=r"'first.weight' is on meta, but the images are on cpu"):
        Network.read(Small(functional_relu).to("meta"), images_like())


def test_a_network_refuses_images_of_another_size():
    network = Network.read(Small(functional_relu), images_like())
    with pytest.raises(ShapeError, match=r"shape \(3, 8, 8\); these are \(3, 9, 9\)"):
        network(images_like(size=9))


def test_a_network_refuses_images_of_another_type():
    network = Network.read(Small(functional_relu), images_like())
    with pytest.raises(SettingError, match=r"torch.float32 on cpu; these are torch.float64"):
        network(images_like(dtype=torch.float64))


def test_overwriting_a_tensor_that_is_seen_elsewhere_is_refused():
    def through_a_view(m, x):
        maps = m.first(x)
        flat = maps.flatten(2)
        flat.mul_(2)
        return pooled(m, maps)

    model, images = Small(through_a_view), images_like()
    network = Network.read(model, images)
    assert torch.equal(network(images), model(images))
    for question in (network.function, network.cut, network.homogeneity, network.folded):
        with pytest.raises(UnsupportedOperation, match=r"'mul_' in the model's forward"):
            question()


def test_an_in_place_operation_without_another_form_is_named():
    def rare(m, x):
        return pooled(m, m.first(x).tanh().mul(0.5).erfinv_())

    network = Network.read(Small(rare), images_like())
    with pytest.raises(UnsupportedOperation, match=r"'erfinv_' .* not supported yet"):
        network.function()


def test_nothing_is_warned_or_logged_while_reading(capfd, caplog):
    def warning(m, x):
        warnings.warn("from the model", UserWarning, stacklevel=1)
        return functional_relu(m, x)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Network.read(Small(warning), images_like())
    assert caught == []
    assert capfd.readouterr() == ("", "")
    assert [r for r in caplog.records if r.levelname not in ("DEBUG", "INFO")] == []


def test_nothing_but_the_error_comes_of_a_model_that_cannot_be_read(capfd):
    def branching(m, x):
        return functional_relu(m, x) if x.sum() > 0 else pooled(m, m.first(x))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ReadError):
            Network.read(Small(branching), images_like())
    assert caught == []
    assert capfd.readouterr().out == ""


def test_attributes_of_any_kind_on_a_model_do_no_harm(untouched):
    model = Small(functional_relu, config=SimpleNamespace(width=6), names=("a", "b"))
    model.cached = model.first.weight * 2
    with untouched(model):
        network = Network.read(model, images_like())
    assert torch.equal(network(images_like()), model(images_like()))
