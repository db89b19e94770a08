"""Pertinent positives and negatives: what is promised holds, and what is known of linear models."""

import pytest
import torch
from torch import nn

from whence.attribution import PertinentNegatives, PertinentPositives, attribute
from whence.attribution.evidence import unlikely_slope
from whence.core import Colour, Custom, ModelScalar, logit
from whence.errors import ModeError, SettingError, ShapeError

METHODS = [PertinentNegatives(steps=60, searches=4), PertinentPositives(steps=60, searches=4)]
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


def leads(model, images, classes):
    """By how much the logit of the class is above all others."""
    logits = model(images).detach()
    others = logits.scatter(1, classes[:, None], -torch.inf).amax(dim=1)
    return logits.gather(1, classes[:, None])[:, 0] - others


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_what_is_added_makes_it_another_class_with_the_margin(margin, smooth, images):
    classes = smooth(images).argmax(dim=1)
    method = PertinentNegatives(margin=margin, steps=100, searches=5, sparsity=0.01)
    found = method.search(ModelScalar(smooth, logit(classes)), images)
    assert found.success.all()
    lead = leads(smooth, images + found.values, classes)
    torch.testing.assert_close(-lead, found.margin)
    assert (-lead >= margin).all()
    # It only adds: away from zero, and inside the range of the channel and zero.
    after = images + found.values
    assert (found.values * images >= 0).all()
    assert (after.amax(dim=(2, 3)) <= images.amax(dim=(2, 3)).clamp(min=0)).all()
    assert (after.amin(dim=(2, 3)) >= images.amin(dim=(2, 3)).clamp(max=0)).all()


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_what_is_kept_suffices_with_the_margin_and_lies_inside_the_image(margin, smooth, images):
    classes = smooth(images).argmax(dim=1)
    method = PertinentPositives(
        margin=margin, steps=100, searches=5, baseline=Colour(value=(-3.0,))
    )
    found = method.search(ModelScalar(smooth, logit(classes)), images)
    possible = leads(smooth, images, classes) >= margin
    assert found.success[possible].all()
    lead = leads(smooth, found.values - 3, classes)
    torch.testing.assert_close(lead[found.success], found.margin[found.success])
    assert (lead[found.success] >= margin).all()
    whole = images + 3
    assert (found.values * whole >= 0).all()
    assert (found.values.abs() <= whole.abs()).all()
    assert (found.values.abs().sum() < 0.9 * whole.abs().sum()).all()


def test_the_least_evidence_in_a_linear_model_is_known():
    # The lead is the sum of w_i x_i less one half; the cheapest way is along the largest weight.
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=True)).double().eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0, 0, 0, 0], [4.0, 1, 1, 0]]))
        model[1].bias.copy_(torch.tensor([0.5, 0.0]))
    images = torch.ones(1, 1, 2, 2).double()
    settings = {"steps": 250, "searches": 6, "sparsity": 1.0, "rate": 0.05}
    kept = PertinentPositives(**settings).search(ModelScalar(model, logit(1)), images)
    assert kept.success.all()
    # One pixel suffices: 4 d = 1/2.
    expected = torch.tensor([[[[0.125, 0], [0, 0]]]]).double()
    torch.testing.assert_close(kept.values, expected, rtol=0, atol=0.01)
    dark = torch.tensor([[[[0.0, 0], [0, 1]]]]).double()
    added = PertinentNegatives(**settings).search(ModelScalar(model, logit(0)), dark)
    assert added.success.all()
    torch.testing.assert_close(added.values, expected, rtol=0, atol=0.01)


def test_more_weight_on_sparsity_leaves_fewer_pixels(rectifier, images):
    model = rectifier()
    classes = model(images).argmax(dim=1)
    f = ModelScalar(model, logit(classes))
    counts = []
    for sparsity in (0.0, 0.1, 2.0):
        method = PertinentPositives(sparsity=sparsity, steps=200, searches=3, rate=0.1)
        found = method.search(f, images)
        assert found.success.all()
        counts.append((found.values.abs() > 1e-6).double().sum().item())
    assert counts[0] > counts[1] > counts[2]


def test_where_nothing_helps_the_search_fails_and_says_so(images):
    f = ModelScalar(
        lambda x: torch.stack([x.sum(dim=(1, 2, 3)) * 0 + 9, x.mean(dim=(1, 2, 3))], dim=1),
        logit(torch.tensor([0, 1, 0, 1, 0])),
    )
    negative = PertinentNegatives(steps=5, searches=3).search(f, images)
    assert negative.success.tolist() == [False, True, False, True, False]
    assert (negative.values == 0).all()
    assert (negative.margin[[0, 2, 4]] < -5).all()
    positive = PertinentPositives(steps=5, searches=3).search(f, images)
    assert positive.success.tolist() == [True, False, True, False, True]
    assert (positive.values[[1, 3]] == 0).all()


def halves(images):
    """An auto-encoder that knows only images whose upper and lower halves are alike."""
    mean = (images[:, :, :4] + images[:, :, 4:]) / 2
    return torch.cat([mean, mean], dim=2)


@each_method
def test_an_auto_encoder_draws_the_evidence_towards_likely_images(method, smooth, images):
    from dataclasses import replace

    classes = smooth(images).argmax(dim=1)
    f = ModelScalar(smooth, logit(classes))
    base = Colour(value=(-3.0,)) if isinstance(method, PertinentPositives) else Colour()
    plain = replace(method, baseline=base, sparsity=0.01)
    origin = -3.0 if isinstance(method, PertinentPositives) else images
    unlike = []
    for weight in (0.0, 5.0):
        found = replace(plain, autoencoder=halves, plausibility=weight).search(f, images)
        seen = (origin + found.values)[found.success]
        assert len(seen) >= 3
        unlike.append((seen - halves(seen)).square().mean())
    assert unlike[1] < 0.97 * unlike[0]


def test_the_pull_of_the_auto_encoder_is_its_gradient(images):
    method = PertinentNegatives(autoencoder=halves, plausibility=3.0)
    # Halves are an orthogonal projection P, and the gradient of |x - Px|^2 is 2 (x - Px).
    expected = 6 * (images - halves(images))
    torch.testing.assert_close(unlikely_slope(method, images), expected)
    assert unlikely_slope(PertinentNegatives(), images) == 0
    wrong = PertinentNegatives(autoencoder=lambda x: x[:, :1])
    with pytest.raises(ShapeError, match=r"of the shape it was given, \(5, 3, 8, 8\); it returned"):
        unlikely_slope(wrong, images)
    with pytest.raises(ModeError):
        PertinentPositives(autoencoder=nn.Conv2d(3, 3, 1))


@each_method
def test_the_result_says_for_which_images_the_search_succeeded(method, images):
    f = ModelScalar(
        lambda x: torch.stack([x.sum(dim=(1, 2, 3)) * 0 + 9, x.mean(dim=(1, 2, 3))], dim=1),
        logit(torch.tensor([0, 1, 0, 1, 0])),
    )
    result = attribute(method, f, images)
    assert torch.equal(result.found, method.search(f, images).success)
    assert result.found.any()
    assert not result.found.all()


@each_method
def test_a_batch_gives_what_its_images_give_alone(method, rectifier, images, untouched):
    from dataclasses import replace

    model = rectifier()
    classes = model(images).argmax(dim=1)
    f = ModelScalar(model, logit(classes))
    with untouched(model), torch.inference_mode():
        result = attribute(method, f, images.clone())
    assert result.cost == 240.5
    whole = result.values.clone()
    torch.testing.assert_close(replace(method, batch_size=2)(f, images), whole)
    alone = method(f.at(torch.tensor([3])), images[3:4])
    torch.testing.assert_close(alone, whole[3:4])


@each_method
def test_what_is_no_search_is_refused(method, smooth, images):
    kind = type(method)
    with pytest.raises(SettingError, match=rf"{kind.__name__} weighs a class .* got Custom"):
        method(ModelScalar(smooth, Custom(lambda z: z[:, 0])), images)
    with pytest.raises(SettingError, match="two classes at least"):
        method(ModelScalar(lambda x: x[:, 0, 0, :1], logit(0)), images)
    with pytest.raises(SettingError, match="got 0 and 6"):
        kind(steps=0)
    with pytest.raises(SettingError, match="margin, sparsity and plausibility are at least 0"):
        kind(margin=-1.0)
