"""What metrics make of maps and masks that say nothing: refused, left out or valued, and said so.

Every metric of the catalogue is asked in each case: maps of another size, a map that is zero
everywhere, one that is constant, one that is not finite among good ones, too few images, and an
empty mask.
"""

import inspect
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from whence.core import Logit, ModelScalar, Probability
from whence.errors import DataError, NumericsError, SettingError, ShapeError
from whence.evaluation import (
    DataRandomisation,
    FaithfulnessEstimate,
    Gini,
    Hit,
    Judged,
    Mean,
    PointingGame,
    Retraining,
    Spearman,
    Squares,
    judge,
)
from whence.evaluation.catalogue import METRICS, metric_named
from whence.evaluation.controls import RandomMap
from whence.evaluation.judged import CONSTANT, NO_MASK, NOT_FINITE, ZERO

FEW = {"block": "1", "samples": "2", "subsets": "6", "steps": "4"}
FORMS = {name: entry.form for name, entry in METRICS.items()}
OF_MAPS = [name for name in METRICS if FORMS[name] != "sanity"]
OF_MORE_THAN_MAPS = [name for name in OF_MAPS if FORMS[name] != "map"]
WITH_MASKS = [name for name in METRICS if FORMS[name] == "mask"]

UNDEFINED_ON_ZERO = {
    *("relevance-mass", "energy-pointing", "threshold-iou", "focus"),
    *("gini", "entropy", "effective-pixels", "participation", "mass-area"),
    *("faithfulness-correlation", "faithfulness-estimate", "sensitivity-n"),
    *("monotonicity-correlation", "max-sensitivity", "average-sensitivity"),
    *("spearman", "ssim", "hog"),
}
"""The metrics that have no value for a map of zeros."""

UNDEFINED_ON_CONSTANT = {
    *("faithfulness-correlation", "sensitivity-n", "monotonicity-correlation"),
    *("faithfulness-estimate", "spearman", "ssim", "hog"),
}
"""The metrics that have no value for a map that is the same everywhere, but not zero."""


@dataclass(frozen=True, kw_only=True)
class Spoiled:
    """A method whose map of the image that begins with a 9 is not finite."""

    def __call__(self, f, images):
        values = RandomMap()(f, images)
        bad = (images[:, :1, :1, :1] > 8).expand_as(values)
        return values.masked_fill(bad, torch.nan)


@pytest.fixture(scope="module")
def model():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(36, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 14, 14, generator=torch.Generator().manual_seed(1))


def made(name):
    known = {one for one in vars(metric_named(name)) if one in FEW}
    return metric_named(name, {key: FEW[key] for key in known})


def material(name, model, images, values=None, masks=None):
    """Everything that any metric may ask for, of these images."""
    classes = torch.tensor([0, 2, 1])[: len(images)]
    reads = {"probability": Probability, "value": Probability, "hit": Hit, "explained": Logit}
    f = ModelScalar(model, reads[METRICS[name].reads](classes))
    generator = torch.Generator().manual_seed(2)
    every = torch.randn(3, 1, 14, 14, generator=generator)
    if masks is None:
        masks = torch.zeros(len(images), 1, 14, 14)
        masks[:, :, 2:9, 3:8] = 1
    return {
        "values": every[: len(images)] if values is None else values,
        "f": f,
        "images": images,
        "masks": masks,
        "others": every[: len(images)].flip(2),
        "model": model,
        "target": Logit(classes),
        "method": RandomMap(),
    }


def direct(metric, given):
    """Call a metric by itself."""
    needed = inspect.signature(metric).parameters
    found = metric(*(given[name] for name in needed))
    return found if isinstance(found, torch.Tensor) else found.score


@pytest.mark.parametrize("name", METRICS)
def test_good_maps_get_what_the_metric_says_and_no_reason(name, model, images):
    given = material(name, model, images)
    found = judge(made(name), **given)
    torch.testing.assert_close(found.values, direct(made(name), given).double())
    assert found.reasons == found.faults == ("", "", "")
    assert found.undefined == {}


@pytest.mark.parametrize("name", OF_MAPS)
def test_one_map_that_is_not_finite_is_refused_by_name_and_left_out_by_judge(name, model, images):
    given = material(name, model, images)
    good = direct(made(name), given)
    spoiled = given["values"].clone()
    spoiled[1, 0, 4, 5] = torch.inf
    given["values"] = spoiled
    with pytest.raises(NumericsError, match=r"in image 1 of the batch.*judge\(\) does"):
        direct(made(name), given)
    found = judge(made(name), **given)
    assert found.reasons == ("", NOT_FINITE, "")
    assert found.faults == ("", NOT_FINITE, "")
    assert found.values[1].isnan()
    rest = torch.tensor([0, 2])
    torch.testing.assert_close(found.values[rest], good[rest].double(), rtol=1e-4, atol=1e-5)
    mean = Mean()
    mean.update(torch.arange(3), found.values, found.reasons)
    estimate = mean.result()
    assert (estimate.count, estimate.undefined) == (2, 1)
    assert estimate.reasons == {NOT_FINITE: 1}
    assert str(estimate).endswith("2 images, 1 undefined (1: the map is not finite)")


@pytest.mark.parametrize("name", [n for n in METRICS if FORMS[n] in ("sanity", "method")])
def test_a_method_whose_map_of_one_image_is_not_finite_costs_that_image_alone(name, model, images):
    spoiled = images.clone()
    spoiled[1, 0, 0, 0] = 9.0
    given = {**material(name, model, spoiled), "method": Spoiled()}
    found = judge(made(name), **given)
    assert found.reasons[0] == found.reasons[2] == ""
    assert "are NaN or infinite" in found.reasons[1]
    assert found.values.isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("name", OF_MAPS)
@pytest.mark.parametrize(("level", "fault"), [(0.0, ZERO), (0.7, CONSTANT)])
def test_a_map_of_zeros_or_of_one_value_is_treated_as_documented(name, level, fault, model, images):
    given = material(name, model, images)
    values = given["values"].clone()
    values[1] = level
    given["values"] = values
    found = judge(made(name), **given)
    assert found.faults == ("", fault, "")
    assert found.values[[0, 2]].isfinite().all()
    undefined = name in (UNDEFINED_ON_ZERO if fault == ZERO else UNDEFINED_ON_CONSTANT)
    assert bool(found.values[1].isnan()) == undefined
    assert found.reasons == ("", fault if undefined else "", "")
    assert torch.equal(found.values.isnan(), direct(made(name), given).isnan())


@pytest.mark.parametrize("name", OF_MAPS)
def test_a_metric_that_may_be_undefined_says_when(name):
    written = inspect.getdoc(type(made(name)))
    if name in UNDEFINED_ON_ZERO | UNDEFINED_ON_CONSTANT:
        assert "NaN" in written


@pytest.mark.parametrize("name", OF_MORE_THAN_MAPS)
def test_maps_of_another_size_are_refused(name, model, images):
    given = material(name, model, images)
    given["values"] = given["values"][:, :, :10]
    for call in (direct, lambda metric, every: judge(metric, **every)):
        with pytest.raises(ShapeError, match="10, 14"):
            call(made(name), given)


@pytest.mark.parametrize("name", OF_MORE_THAN_MAPS)
def test_maps_of_another_number_are_refused(name, model, images):
    given = material(name, model, images)
    given["values"] = given["values"][:2]
    with pytest.raises(ShapeError):
        direct(made(name), given)
    with pytest.raises(ShapeError, match=r"one of everything for each image; got .*2 values"):
        judge(made(name), **given)


@pytest.mark.parametrize("name", WITH_MASKS)
def test_an_empty_mask_is_refused_by_its_image_and_left_out_by_judge(name, model, images):
    masks = material(name, model, images)["masks"]
    masks[2] = 0
    given = material(name, model, images, masks=masks)
    with pytest.raises(DataError, match=r"The mask of image 2 of the batch is empty.*judge\(\)"):
        direct(made(name), given)
    found = judge(made(name), **given)
    assert found.reasons == ("", "", NO_MASK)
    assert found.faults == ("", "", "")
    assert found.values.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("name", METRICS)
def test_one_image_gets_its_value_and_a_mean_without_an_interval(name, model, images):
    found = judge(made(name), **material(name, model, images[:1]))
    assert found.reasons == ("",)
    mean = Mean()
    mean.update(torch.arange(1), found.values, found.reasons)
    assert str(mean.result()).endswith("1 image, which has no interval")


def test_nothing_but_bad_maps_is_named_and_no_mean():
    found = judge(Gini(), torch.full((2, 1, 4, 4), torch.nan))
    assert found.undefined == {NOT_FINITE: 2}
    mean = Mean()
    mean.update(torch.arange(2), found.values, found.reasons)
    with pytest.raises(DataError, match=r"2 values, all NaN\. 2: the map is not finite"):
        mean.result()


def test_what_a_metric_needs_and_was_not_given_is_named():
    values = torch.rand(2, 1, 4, 4)
    with pytest.raises(SettingError, match=r"called with values, masks\. .*masks: mas"):
        judge(PointingGame(), values)
    with pytest.raises(SettingError, match=r"f: the function that is explained.*; images: the im"):
        judge(FaithfulnessEstimate(), values)
    with pytest.raises(SettingError, match=r"Retraining cannot be called with maps.*ROAR"):
        judge(Retraining(), values)
    with pytest.raises(SettingError, match="takes 'strange'; a metric takes some of values"):
        judge(lambda strange: strange, values)


def test_a_function_with_the_names_is_a_metric_too():
    values = torch.rand(3, 1, 4, 4)
    found = judge(lambda values, others: (values - others).flatten(1).sum(1), values, others=values)
    assert isinstance(found, Judged)
    assert found.values.tolist() == [0, 0, 0]
    with pytest.raises(ShapeError, match=r"one value per image, \(3,\); got \(\)"):
        judge(lambda values: values.sum(), values)


def test_an_infinite_value_is_no_value():
    found = judge(
        lambda values: 1 / values.flatten(1)[:, 0], torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    )
    assert found.undefined == {"its value is infinite": 1}
    assert found.values[1] == 0.5


def test_the_other_map_of_a_pair_is_named(model, images):
    values = torch.rand(4, 1, 4, 4)
    others = torch.rand(4, 1, 4, 4)
    others[0], others[2, 0, 0, 0] = 3.0, torch.nan
    found = judge(Spearman(), values, others=others)
    assert found.reasons == ("the other map is constant", "", "the other map is not finite", "")
    assert found.faults == ("",) * 4


def test_segments_that_are_too_few_on_one_image_cost_that_image_and_on_all_are_refused(images):
    def segments(images):
        labels = Squares(size=7)(images).clone()
        labels[images[:, 0, 0, 0] == 9] %= 2
        return labels

    f = ModelScalar(lambda x: x.mean(dim=(2, 3)), Logit(0))
    spoiled = images.clone()
    spoiled[1, 0, 0, 0] = 9.0
    metric = FaithfulnessEstimate(segments=segments)
    found = judge(metric, torch.rand(3, 1, 14, 14), f=f, images=spoiled)
    assert found.values.isnan().tolist() == [False, True, False]
    assert "at least 3 segments per image" in found.reasons[1]
    with pytest.raises(ShapeError, match="3 of 3 images have fewer"):
        judge(FaithfulnessEstimate(segments=Squares(size=14)), images[:, :1], f=f, images=images)


def test_a_sanity_check_with_a_second_network_is_called_by_name_too(model, images):
    found = judge(
        DataRandomisation(permuted=model),
        model=model,
        images=images,
        target=Logit(torch.tensor([0, 2, 1])),
        method=RandomMap(),
    )
    torch.testing.assert_close(found.values, torch.ones(3).double())
