"""Compiled and wrapped models: taken off for what needs the graph, kept for what does not."""

import pytest
import torch
from torch import nn

from whence.attribution import Gradient, GuidedBackpropagation, IntegratedGradients
from whence.core import ModelScalar, logit
from whence.errors import SettingError
from whence.network import Network

# The compiler looks at the .grad of the inputs that it is given.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(scope="module")
def compiled(make):
    """A compiled network, and it is run once, so that it is."""
    model = torch.compile(make("reused"), backend="eager")
    model(torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    return model


def test_a_compiled_model_gives_every_method_the_clean_twins_map(
    convolutional_method, compiled, held, explained, untouched, images, classes
):
    with untouched(compiled):
        if "compiled" not in held:
            held["compiled"] = Network.read(compiled, images)
        f = ModelScalar(held["compiled"], logit(classes))
        actual = convolutional_method(f, images)
    torch.testing.assert_close(actual, explained("clean", convolutional_method))


@pytest.mark.parametrize("method", [Gradient(), IntegratedGradients(steps=3)], ids=str)
def test_gradient_methods_run_the_compiled_graph_itself(
    method, compiled, explained, images, classes
):
    actual = method(ModelScalar(compiled, logit(classes)), images)
    torch.testing.assert_close(actual, explained("clean", method))


def test_a_compiled_model_in_train_mode_is_refused(images, make):
    from whence.errors import ModeError

    model = torch.compile(make("clean"), backend="eager")
    model.train()
    with pytest.raises(ModeError, match="is in train mode"):
        Network.read(model, images)
    with pytest.raises(ModeError, match="is in train mode"):
        ModelScalar(model, logit(0))


def test_a_compiled_function_has_no_graph_for_rules_and_says_so(make, images, classes):
    model = make("clean")
    f = ModelScalar(torch.compile(model.forward, backend="eager"), logit(classes))
    assert Gradient()(f, images).any()
    with pytest.raises(SettingError, match=r"replaces the backward pass.*Network\.read"):
        GuidedBackpropagation()(f, images)


def test_a_model_whose_forward_was_compiled_in_place_is_read_as_well(
    make, explained, images, classes
):
    model = make("functional")
    model.compile(backend="eager")
    actual = GuidedBackpropagation()(
        ModelScalar(Network.read(model, images), logit(classes)), images
    )
    torch.testing.assert_close(actual, explained("clean", GuidedBackpropagation()))


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m, backend="eager"))],
    ids=["data parallel", "compiled inside data parallel"],
)
def test_other_wrappers_are_taken_off_too(wrap, make, explained, images, classes):
    wrapped = wrap(make("in-place")).eval()
    actual = GuidedBackpropagation()(
        ModelScalar(Network.read(wrapped, images), logit(classes)), images
    )
    torch.testing.assert_close(actual, explained("clean", GuidedBackpropagation()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_model_is_not_read_and_keeps_the_methods_that_need_no_graph(
    make, images, classes
):
    from whence.errors import ReadError

    traced = torch.jit.trace(make("clean"), images)
    with pytest.raises(ReadError, match="The model is TorchScript"):
        Network.read(traced, images)
    assert Gradient()(ModelScalar(traced, logit(classes)), images).any()
