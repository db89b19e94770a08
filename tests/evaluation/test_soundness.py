"""Completeness and soundness: property 44, and the definition in a loop."""

import pytest
import torch

from whence.core import Custom, Mean, ModelScalar, Zero, logit
from whence.errors import SettingError
from whence.evaluation import Completeness, Soundness


def answers(*, whole, partly):
    """The probability of a whole image of ones, and of an image that is partly hidden."""
    return ModelScalar(
        lambda x: torch.where(x.flatten(1).min(dim=1).values == 1, whole, partly)[:, None], logit(0)
    )


@pytest.fixture
def bright():
    """An image of ones with 1000 pixels, whose order is given by a map."""
    return torch.ones(1, 1, 25, 40).double()


@pytest.mark.parametrize(
    ("whole", "partly", "completeness", "soundness"),
    [
        (0.6, 0.6, 1.0, 1.0),
        (0.1, 1.0, 1.0, 0.1),
        (1.0, 0.0, 0.1, 1.0),
        (0.05, 0.05, 1.0, 1.0),
        (0.0, 0.0, 1.0, 1.0),
        (0.5, 0.25, 0.5, 1.0),
    ],
)
def test_property_44_of_probabilities_that_are_known(
    whole, partly, completeness, soundness, bright, generator
):
    f = answers(whole=whole, partly=partly)
    values = torch.rand(bright.shape, generator=generator).double()
    kept = Completeness(steps=500)(f, bright, values).item()
    sound = Soundness(steps=500)(f, bright, values).item()
    # The last of the steps is the whole image.
    assert kept == pytest.approx(completeness, abs=0.004)
    assert sound == pytest.approx(soundness, abs=0.004)


def test_both_are_their_definition_in_a_loop(generator):
    weights = torch.randn(3, 2, 4, 5, generator=generator).double()

    def model(images):
        return torch.einsum("bchw,kchw->bk", images, weights)

    images = torch.randn(4, 2, 4, 5, generator=generator).double()
    values = torch.randn(4, 1, 4, 5, generator=generator).double()
    f = ModelScalar(model, Custom(lambda z: z.softmax(dim=1)[:, 1]))
    fill = Mean()(images)
    for i in range(4):
        order = values[i].flatten().argsort(descending=True)
        chances = []
        for count in (5, 10, 15, 20):
            image = fill[i].clone().flatten(1)
            image[:, order[:count]] = images[i].flatten(1)[:, order[:count]]
            chances.append(model(image.view(1, 2, 4, 5)).softmax(dim=1)[0, 1].item())
        area, whole = sum(chances) / 4, f(images)[i].item()
        settings = {"steps": 4, "fill": Mean(), "batch_size": 3}
        kept = Completeness(**settings)(f, images, values)[i].item()
        sound = Soundness(**settings)(f, images, values)[i].item()
        assert kept == pytest.approx(min(max(0.1, area) / whole, 1))
        assert sound == pytest.approx(min(max(0.1, whole) / area, 1))


def test_what_is_no_probability_is_refused(bright):
    f = ModelScalar(lambda x: 7 * x.mean(dim=(2, 3)), logit(0))
    for metric in (Completeness(fill=Zero()), Soundness()):
        with pytest.raises(SettingError, match=r"probabilities, from 0 to 1; .* from 0 to 7\. Exp"):
            metric(f, bright, bright)
    for made in (Completeness, Soundness):
        with pytest.raises(SettingError, match=r"usually 0\.1; got 0"):
            made(least=0.0)
        with pytest.raises(SettingError, match="steps must be at least 1"):
            made(steps=0)
