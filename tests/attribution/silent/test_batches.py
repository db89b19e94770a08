"""A batch in is a batch out, whatever its neighbours and however the work is cut."""

from dataclasses import replace

import pytest
import torch

from whence.attribution import (
    IntegratedGradients,
    PertinentNegatives,
    PertinentPositives,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)
from whence.core import ModelScalar, logit

CUT = [1, 2, 3]


def test_every_image_has_its_map(convolutional_method, explained, images):
    values = explained("clean", convolutional_method)
    assert len(values) == len(images)
    assert values.shape[2:] == images.shape[2:]
    searches = isinstance(convolutional_method, (PertinentNegatives, PertinentPositives))
    assert values.any() or searches  # a search of five steps may find nothing


def test_an_image_alone_has_the_map_that_it_has_in_the_batch(
    convolutional_method, explained, read, images, classes
):
    whole = explained("clean", convolutional_method)
    f = ModelScalar(read("clean")[1], logit(classes))
    for i in (0, 3):
        alone = convolutional_method(f.at(torch.tensor([i])), images[i : i + 1])
        torch.testing.assert_close(alone, whole[i : i + 1])


def test_one_class_for_all_is_that_class_for_each(convolutional_method, read, images):
    network = read("clean")[1]
    one, each = (
        convolutional_method(ModelScalar(network, logit(k)), images)
        for k in (2, torch.full((5,), 2))
    )
    torch.testing.assert_close(one, each)


@pytest.mark.parametrize("size", CUT)
def test_the_internal_batch_changes_nothing_not_even_below_the_number_of_images(
    size, convolutional_method, explained, read, images, classes
):
    cut = replace(convolutional_method, batch_size=size)
    values = cut(ModelScalar(read("clean")[1], logit(classes)), images)
    torch.testing.assert_close(values, explained("clean", convolutional_method))


@pytest.mark.parametrize("kind", [SmoothGrad, SmoothGradSquared, VarGrad])
def test_noise_does_not_depend_on_how_many_copies_run_at_a_time(kind, read, images, classes):
    f = ModelScalar(read("clean")[1], logit(classes))
    values = [kind(samples=10, seed=3, batch_size=size)(f, images) for size in (1, 7, 50, None)]
    for other in values[1:]:
        torch.testing.assert_close(other, values[0])
    assert not torch.allclose(kind(samples=10, seed=4)(f, images), values[0])


class Widest:
    """A linear model that notes the most images it was given at a time."""

    def __init__(self):
        self.rows = 0

    def __call__(self, images):
        self.rows = max(self.rows, len(images))
        return images.flatten(1)[:, :4]


def test_no_more_rows_than_asked_for_run_at_a_time(images):
    model = Widest()
    IntegratedGradients(steps=50, batch_size=2)(ModelScalar(model, logit(1)), images)
    assert model.rows == 2
