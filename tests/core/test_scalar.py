"""ModelScalar and the checks at the door."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from whence.core import (
    Custom,
    ModelScalar,
    ScalarFn,
    check_finite_images,
    check_images,
    check_logits,
    check_mode,
    logit,
    logits_of,
)
from whence.errors import ModeError, NumericsError, SettingError, ShapeError

LOGITS = torch.arange(6.0).reshape(2, 3)


@pytest.fixture
def model(generator):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, generator=generator)
    return net


def test_a_model_and_a_target_make_a_scalar_function(model, generator, untouched):
    images = torch.randn(4, 3, 2, 2, generator=generator)
    with untouched(model):
        f = ModelScalar(model, logit(torch.tensor([0, 1, 2, 0])))
        values = f(images)
    assert isinstance(f, ScalarFn)
    expected = torch.stack([model(images)[i, k] for i, k in enumerate([0, 1, 2, 0])])
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("rows", [[0], [2, 2, 0], [3, 1, 2, 0]])
def test_at_rows_is_the_same_function_of_those_rows(rows, model, generator):
    images = torch.randn(4, 3, 2, 2, generator=generator)
    at = torch.tensor(rows)
    for target in (logit(torch.tensor([0, 1, 2, 0])), Custom(lambda logits: logits.amax(dim=1))):
        f = ModelScalar(model, target)
        torch.testing.assert_close(f.at(at)(images[at]), f(images)[at])


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        SimpleNamespace(logits=LOGITS),
        {"logits": LOGITS},
        (LOGITS, "auxiliary"),
        [LOGITS],
        (SimpleNamespace(logits=LOGITS),),
    ],
)
def test_logits_are_found_in_what_models_return(output):
    assert logits_of(output) is LOGITS


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (None, "it returned NoneType"),
        ({"scores": LOGITS}, "it returned dict"),
        (torch.zeros(2), r"shape \(2, classes\).*returned \(2,\)"),
        (torch.zeros(3, 4), r"shape \(2, classes\).*returned \(3, 4\)"),
        (torch.zeros(2, 4, 7, 7), r"returned \(2, 4, 7, 7\)"),
    ],
)
def test_an_output_that_is_no_row_of_scores_per_image_is_refused(output, says):
    with pytest.raises(ShapeError, match=says):
        check_logits(logits_of(output), 2)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([[1.0]], "got list"),
        (torch.zeros(3, 8, 8), r"got \(3, 8, 8\)\. Add the batch axis with images\[None\]"),
        (torch.zeros(0, 3, 8, 8), r"got \(0, 3, 8, 8\)"),
        (torch.zeros(2, 3), r"got \(2, 3\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"torch\.uint8.*images\.float\(\) / 255"),
    ],
)
def test_images_that_are_no_float_batch_are_refused_with_the_cure(images, says):
    with pytest.raises(ShapeError, match=says):
        check_images(images)


def test_a_float_batch_is_returned_as_it_is():
    images = torch.zeros(1, 3, 8, 8, dtype=torch.float16)
    assert check_images(images) is images


def test_a_model_in_train_mode_is_refused_and_told_why():
    with pytest.raises(ModeError, match=r"but it is in train mode.*Call model\.eval\(\) first"):
        ModelScalar(nn.Sequential(nn.Linear(2, 2)), logit(0))


def test_a_part_in_train_mode_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout())).eval()
    model[1][0].train()
    with pytest.raises(ModeError, match=r"its part '1\.0' \(Dropout\) is in train mode"):
        check_mode(model)


def test_a_plain_callable_has_no_mode():
    f = ModelScalar(lambda images: images.flatten(1)[:, :2], logit(1))
    assert f(torch.arange(8.0).reshape(2, 1, 2, 2)).tolist() == [1.0, 5.0]


class Returns(nn.Module):
    """A model that returns what it is given to return."""

    def __init__(self, output):
        super().__init__()
        self.output = output
        self.eval()

    def forward(self, images):
        return self.output(images)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (lambda x: x, r"returned \(2, 3, 2, 2\).*\.mean\(dim=\(2, 3\)\)"),
        (lambda x: x.sum((1, 2, 3)), r"returned \(2,\).*by \[:, None\]"),
        (lambda x: {"out": x, "aux": x}, r"returned dict with 'out', 'aux'.*Wrap the model"),
        (lambda x: (x, x.flatten(1)), r"of several outputs, the first"),
        (lambda x: None, r"returned NoneType"),
    ],
)
def test_an_output_that_is_no_row_per_image_is_refused_with_the_cure(output, says):
    with pytest.raises(ShapeError, match=says):
        ModelScalar(Returns(output), logit(0))(torch.ones(2, 3, 2, 2))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda x: x[:, :2], ShapeError, r"cannot take images of shape \(4, 2, 2, 2\): mat1"),
        (lambda x: x.double(), SettingError, r"weights are torch\.float32.*torch\.float64"),
        (lambda x: x.half(), SettingError, r"weights are torch\.float32.*torch\.float16"),
        (lambda x: x.to("meta"), SettingError, r"'1\.weight' is on cpu.*images are on meta"),
    ],
)
def test_images_that_a_model_cannot_take_are_refused_naming_both(change, error, says, model):
    with pytest.raises(error, match=says) as caught:
        ModelScalar(model, logit(0))(change(torch.ones(4, 3, 2, 2)))
    assert isinstance(caught.value.__context__, RuntimeError)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, NotImplementedError, KeyError])
def test_what_is_not_the_images_fault_keeps_its_error(kind):
    def fails(images):
        raise kind

    with pytest.raises(kind):
        ModelScalar(Returns(fails), logit(0))(torch.ones(2, 3, 2, 2))


def test_a_functions_own_error_is_its_own():
    def fails(images):
        message = "mine"
        raise ValueError(message)

    with pytest.raises(ValueError, match=r"^mine$"):
        ModelScalar(fails, logit(0))(torch.ones(2, 3, 2, 2))


def test_images_with_nothing_in_them_are_refused():
    for shape in ((0, 3, 8, 8), (2, 3, 0, 8), (2, 0, 8, 8)):
        with pytest.raises(ShapeError, match="nothing in it: give one image at least"):
            check_images(torch.zeros(shape))


def test_images_without_values_are_refused():
    with pytest.raises(SettingError, match="'meta', which holds shapes but no values"):
        check_images(torch.zeros(1, 3, 8, 8, device="meta"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_images_that_are_not_finite_are_counted_and_the_first_is_named(bad):
    images = torch.zeros(4, 3, 2, 2)
    check_finite_images(images)
    images[1, 2, 0, 1] = images[3, 0, 0, 0] = bad
    with pytest.raises(NumericsError, match="in 2 of 4 images, first in image 1"):
        check_finite_images(images)


def test_a_data_parallel_wrapper_has_no_mode_but_what_it_wraps_has(model):
    check_mode(nn.DataParallel(model))
    model[1].train()
    with pytest.raises(ModeError, match=r"its part 'module\.1' \(Linear\)"):
        check_mode(nn.DataParallel(model))
