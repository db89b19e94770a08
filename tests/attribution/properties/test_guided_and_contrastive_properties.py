"""Properties 26 to 31: guided back-propagation, and explanations that compare classes."""

import pytest
import torch
from torch import nn

from whence.attribution import (
    ClassContrast,
    Deconvnet,
    GradCAM,
    Gradient,
    GuidedBackpropagation,
    GuidedGradCAM,
    InputXGradient,
    PertinentNegatives,
    PertinentPositives,
    attribute,
)
from whence.core import Colour, Custom, ModelScalar, logit
from whence.errors import UnsupportedOperation
from whence.network import Network


class Difference(nn.Module):
    """``relu(x1) - relu(x2)``."""

    def forward(self, images):
        values = images.relu().flatten(1)
        return torch.stack([values[:, 0] - values[:, 1], values[:, 0]], 1)


def test_property_26_at_one_and_one_the_gradient_is_1_and_minus_1_the_guided_one_1_and_0(ask):
    images = torch.ones(2, 1, 1, 2)
    assert ask(Gradient(), Difference().eval(), images, 0).values[0].flatten().tolist() == [1, -1]
    guided = ask(GuidedBackpropagation(), Difference().eval(), images, 0).values
    assert guided[0].flatten().tolist() == [1, 0]


def test_property_27_with_positive_weights_behind_every_relu_it_is_the_gradient(
    four_layers, images, classes, ask
):
    model = four_layers()
    with torch.no_grad():
        for parameter in [p for p in model.parameters() if p.ndim > 1][1:]:
            parameter.abs_()
    guided, gradient = (
        ask(m, model, images, classes).values for m in (GuidedBackpropagation(), Gradient())
    )
    torch.testing.assert_close(guided, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", [GuidedBackpropagation(), Deconvnet(), GuidedGradCAM()], ids=str)
def test_property_28_on_a_network_of_gelus_it_raises(method, smooth, images, ask):
    """It would equal the gradient there, and be called something else."""
    with pytest.raises(UnsupportedOperation, match=r"has 'gelu' in 1.*plain gradient"):
        ask(method, smooth, images, 0)


LINEAR = {
    "gradient": Gradient(),
    "input x gradient": InputXGradient(),
    "grad-cam": GradCAM(relu=False),
}
"""Explanations that are linear in the gradient of the logits."""


def probability(classes):
    """The softmax probability of each image's class, as a target."""
    return Custom(lambda z: z.softmax(1).gather(1, classes[: len(z), None])[:, 0])


@pytest.mark.parametrize("name", LINEAR)
def test_property_29_the_probability_is_explained_by_the_weighted_contrast(
    name, smooth, images, classes
):
    network = Network.read(smooth, images)
    chance = smooth(images).detach().softmax(1).gather(1, classes[:, None])
    direct = LINEAR[name](ModelScalar(network, probability(classes)), images)
    contrast = ClassContrast(method=LINEAR[name])(ModelScalar(network, logit(classes)), images)
    expected = (chance * (1 - chance))[:, :, None, None] * contrast
    assert (direct - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("name", LINEAR)
def test_property_29_its_weights_are_the_softmax_of_the_others_and_add_up_to_one(
    name, smooth, images, classes
):
    network = Network.read(smooth, images)
    parts = torch.stack([LINEAR[name](ModelScalar(network, logit(k)), images) for k in range(4)])
    chance = smooth(images).detach().softmax(1)
    alphas = chance / (1 - chance.gather(1, classes[:, None]))
    alphas = alphas.scatter(1, classes[:, None], 0.0)
    torch.testing.assert_close(alphas.sum(dim=1), torch.ones(5).double())
    own = parts[classes, torch.arange(5)]
    expected = own - torch.einsum("bk,kbchw->bchw", alphas, parts)
    actual = ClassContrast(method=LINEAR[name])(ModelScalar(network, logit(classes)), images)
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()


def test_property_29_of_two_classes_one_is_the_negative_of_the_other(images, fill):
    model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 2)))
    one, other = (ClassContrast()(ModelScalar(model, logit(k)), images) for k in (0, 1))
    plain = [Gradient()(ModelScalar(model, logit(k)), images) for k in (0, 1)]
    torch.testing.assert_close(one, -other)
    torch.testing.assert_close(one, plain[0] - plain[1])


def with_logits(smooth, biases):
    """The network, whose logits are almost these, and whose gradients are as they were."""
    with torch.no_grad():
        smooth[5].weight.mul_(1e-6)
        smooth[5].bias.copy_(torch.tensor(biases))
    return smooth


@pytest.mark.parametrize(
    ("biases", "foils"),
    [([2.0, 1.0, 1.0, 1.0], "mean"), ([2.0, 50.0, 1.0, 1.0], "strongest")],
)
def test_property_30_equal_rivals_give_the_mean_and_a_dominant_one_the_strongest(
    biases, foils, smooth, images
):
    f = ModelScalar(with_logits(smooth, biases), logit(0))
    weighted, expected = (ClassContrast(foils=kind)(f, images) for kind in ("weighted", foils))
    other = ClassContrast(foils="mean" if foils == "strongest" else "strongest")(f, images)
    size = expected.abs().max()
    assert (weighted - expected).abs().max() <= 1e-5 * size
    assert (weighted - other).abs().max() > 0.1 * size


def lead(model, images, classes):
    """By how much the logit of the class is above all others."""
    logits = model(images).detach()
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
    return logits.gather(1, classes[:, None])[:, 0] - others


SEARCH = {"margin": 0.1, "steps": 80, "searches": 5}


def test_property_31_a_pertinent_negative_is_feasible_and_stays_in_its_box(smooth, images):
    """Another class leads by the margin; pixels only move away from the base, inside the range."""
    classes = smooth(images).argmax(dim=1)
    found = PertinentNegatives(sparsity=0.01, **SEARCH).search(
        ModelScalar(smooth, logit(classes)), images
    )
    assert found.success.any()
    after = images + found.values
    assert (lead(smooth, after, classes)[found.success] <= -0.1).all()
    assert (found.values * images >= 0).all()
    assert (after.amax(dim=(2, 3)) <= images.amax(dim=(2, 3)).clamp(min=0)).all()
    assert (after.amin(dim=(2, 3)) >= images.amin(dim=(2, 3)).clamp(max=0)).all()
    assert (found.values[~found.success] == 0).all()


def test_property_31_a_pertinent_positive_is_feasible_and_lies_inside_the_image(smooth, images):
    """Between the base and the image, the class leads by the margin."""
    classes = smooth(images).argmax(dim=1)
    method = PertinentPositives(baseline=Colour(value=(-3.0,)), **SEARCH)
    found = method.search(ModelScalar(smooth, logit(classes)), images)
    assert found.success.any()
    assert (lead(smooth, found.values - 3, classes)[found.success] >= 0.1).all()
    inside = found.values * (images + 3).sign()
    assert (inside >= 0).all()
    assert (inside <= (images + 3).abs()).all()


def test_property_31_more_weight_on_sparsity_keeps_no_more_pixels(smooth, images):
    classes = smooth(images).argmax(dim=1)
    f = ModelScalar(smooth, logit(classes))
    kept = [
        (PertinentPositives(sparsity=s, steps=60, searches=4)(f, images) != 0).float().mean()
        for s in (0.01, 1.0)
    ]
    assert kept[1] < kept[0]


def test_property_31_a_search_that_fails_is_an_empty_map_and_says_so(images):
    always = ModelScalar(
        lambda x: torch.stack([9 + 0 * x.sum((1, 2, 3)), x.mean((1, 2, 3))], 1), logit(0)
    )
    method = PertinentNegatives(steps=5, searches=2)
    found = method.search(always, images)
    assert not found.success.any()
    assert (found.values == 0).all()
    assert attribute(method, always, images).blank.all()
