import pytest
import torch
from torch import nn

from whence.core import Colour, Logit, ModelScalar, Normalisation, Probability
from whence.errors import SettingError
from whence.evaluation import IROF, Deletion, Hit, Mean, NoisyLinear, Squares
from whence.evaluation.catalogue import METRICS, TRAINED, metric_named, metric_settings
from whence.evaluation.controls import RandomMap

GREY = Normalisation(mean=(0.5,), std=(0.25,))


@pytest.fixture(scope="module")
def setting():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(36, 3),
    ).eval()  # fmt: skip
    images = torch.randn(3, 3, 24, 24, generator=generator)
    return model, images, torch.tensor([0, 2, 1])


def called(name, setting):
    """Call a metric as its form says it is called."""
    model, images, classes = setting
    metric, entry = metric_named(name), METRICS[name]
    reads = {"probability": Probability, "value": Probability, "hit": Hit, "explained": Logit}
    f = ModelScalar(model, reads[entry.reads](classes))
    values = RandomMap()(f, images)
    masks = torch.zeros(len(images), 1, 24, 24)
    masks[:, :, 4:12, 4:12] = 1
    method = RandomMap()
    if entry.form == "sanity":
        result = metric(model, images, Logit(classes), method)
        return result.score if hasattr(result, "score") else result.correlations.nanmean(dim=0)
    return {
        "function": lambda: metric(f, images, values),
        "map": lambda: metric(values),
        "mask": lambda: metric(values, masks),
        "pair": lambda: metric(values, -values),
        "method": lambda: metric(f, images, values, method),
    }[entry.form]()


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_can_be_called_as_its_form_says(name, setting):
    found = called(name, setting)
    assert found.shape == (3,)
    assert found.isfinite().all()
    card = metric_named(name).card
    assert (found >= card.low - 1e-6).all()
    assert (found <= card.high + 1e-6).all()


def part(setting, rows):
    model, images, classes = setting
    return model, images[rows], classes[rows]


@pytest.mark.parametrize("name", METRICS)
def test_the_whole_of_every_metric_is_the_merger_of_its_parts(name, setting):
    every = torch.arange(3)
    whole, left, right = (Mean(draws=20) for _ in range(3))
    whole.update(every, called(name, setting))
    left.update(every[:2], called(name, part(setting, every[:2])))
    right.update(every[2:], called(name, part(setting, every[2:])))
    merged, found = left.merge(right).result(), whole.result()
    assert merged.count == found.count == 3
    for one, other in ((merged.mean, found.mean), (merged.low, found.low)):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)


def test_metrics_that_need_trained_networks_say_what_they_need():
    forms = {name: (entry.form, entry.needs) for name, entry in TRAINED.items()}
    assert forms == {
        "data-randomisation": ("sanity", "a network and the method"),
        "roar": ("retraining", "a network, the method and training images"),
    }


@pytest.mark.parametrize("name", METRICS)
def test_settings_read_back_as_they_are_written(name):
    settings = metric_settings(name)
    inner = {key: text for key, text in settings.items() if not key.startswith("fill.")}
    assert metric_named(name, inner) == METRICS[name].make()


def test_black_is_black_and_noise_spans_the_pixels_of_the_model():
    made = metric_named("deletion", {"fill": "black"}, normalisation=GREY)
    assert made.fill == Colour(value=(0.0,), normalisation=GREY)
    assert made.fill(torch.zeros(1, 1, 2, 2)).unique().tolist() == [-2.0]
    noise = metric_named("region-perturbation", normalisation=GREY).fill(torch.zeros(1, 1, 9, 9))
    assert noise.min() < -1
    assert noise.max() > 1


def test_texts_are_read_by_the_type_of_the_field():
    road = metric_named("road", {"shares": "0.2 0.4", "fill": "blur", "order": "least"})
    assert (road.shares, road.order) == ((0.2, 0.4), "least")
    assert metric_named("road", {"fill": "noisy-linear"}).fill == NoisyLinear()
    assert metric_named("irof", {"segments": "squares:4"}) == IROF(segments=Squares(size=4))
    assert metric_named("deletion", {"batch-size": 8}) == Deletion(batch_size=8)
    assert metric_named("mprt", {"agreement.absolute": "true"}).agreement.absolute


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("insertions", {}, "Did you mean insertion"),
        ("deletion", {"stesp": "3"}, "Did you mean 'steps'"),
        ("completeness", {"fill": "noise-linear"}, "there is no fill"),
        ("deletion", {"steps": "0.5"}, "takes a whole number"),
        ("road", {"shares": "a b"}, "takes numbers"),
        ("irof", {"segments": "hexagons"}, "Unknown segments"),
        ("spearman", {"absolute": "perhaps"}, "true or false"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_closest(name, settings, message):
    with pytest.raises(SettingError, match=message):
        metric_named(name, settings)
