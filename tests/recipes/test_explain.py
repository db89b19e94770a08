"""Explain gives what the methods give, with the figures that say whether to trust it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from whence.adapters import LoadedModel, declared_preprocessing
from whence.attribution import (
    GradCAM,
    Gradient,
    IntegratedGradients,
    SmoothGrad,
    attribute,
    cards,
)
from whence.core import Contrast, Logit, ModelScalar, TensorData
from whence.errors import OutputError, SettingError, ShapeError, TargetError, WhenceError
from whence.network import Network
from whence.recipes import explain
from whence.results import load_explanation


def small(*, bias=True):
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 4, bias=bias),
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 2)
    return model.eval()


@pytest.fixture
def model():
    return small()


@pytest.fixture
def images(generator):
    return torch.randn(3, 3, 8, 8, generator=generator)


def test_the_values_are_the_methods_own_to_the_bit(model, images):
    method = IntegratedGradients(steps=8)
    result = explain(model, images, method=method)
    predicted = model(images).argmax(dim=1)
    assert torch.equal(result.values, method(ModelScalar(model, Logit(predicted)), images))
    assert torch.equal(result.predictions, predicted)
    assert torch.equal(result.confidences, model(images).softmax(dim=1).amax(dim=1))
    assert torch.equal(result.explained, model(images).amax(dim=1))


@pytest.mark.parametrize("method", ["gradient", "grad-cam", "lrp"])
def test_fast_gives_the_same_maps_to_rounding(method, images, monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), small()[1], nn.Conv2d(5, 3, 1))
    model = nn.Sequential(*model, *small()[:1], *small()[1:]).eval()
    model[1].running_mean.fill_(0.3)
    plain = explain(model, images, method=method)
    folded = []
    tuned = Network.tuned
    monkeypatch.setattr(Network, "tuned", lambda network: folded.append(1) or tuned(network))
    quick = explain(model, images, method=method, fast=True)
    assert folded == [1]
    torch.testing.assert_close(quick.values, plain.values, rtol=1e-4, atol=1e-6)
    assert torch.equal(quick.predictions, plain.predictions)


def test_a_name_with_settings_is_the_method_with_these_settings(model, images):
    named = explain(model, images, method="integrated-gradients", settings={"steps": "8"})
    assert named.method == IntegratedGradients(steps=8)
    assert torch.equal(
        named.values, explain(model, images, method=IntegratedGradients(steps=8)).values
    )


def test_black_is_black_in_the_models_units(model, images):
    units = declared_preprocessing({"size": 8, "mean": (0.2, 0.4, 0.6), "std": 0.5}, "a test")
    settings = {"steps": 4, "baseline": "black"}
    result = explain(model, images, settings=settings, preprocessing=units)
    black = units.normalisation.to_model(torch.zeros(1, 3, 1, 1)).expand(1, 3, 8, 8)
    assert torch.equal(result.method.baseline(images[:1]), black)


def test_without_biases_integrated_gradients_conserve_the_logit(images):
    result = explain(small(bias=False).double(), images.double(), settings={"steps": 3})
    assert torch.allclose(result.conservation, torch.ones(3, dtype=torch.float64), atol=1e-12)
    assert result.gap.max() < 1e-12


def test_conservation_is_the_sum_over_the_explained_number(model, images):
    result = explain(model, images, method="input-x-gradient")
    expected = result.values.flatten(1).sum(dim=1, dtype=torch.float64) / model(images).amax(dim=1)
    assert torch.allclose(result.conservation, expected, rtol=1e-6)
    assert result.gap is None


def test_a_map_that_is_zero_everywhere_says_so(images):
    model = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(192, 2, bias=False)).eval()
    images = torch.cat([images[:1], -images[:1].abs()])
    result = explain(model, images, target=0, method="input-x-gradient")
    assert result.blank.tolist() == [False, True]
    assert result.conservation[1].isnan()


def test_versus_explains_the_difference(model, images):
    result = explain(model, images, versus="runner-up", method="gradient")
    first, second = model(images).topk(2, dim=1).indices.T
    wanted = Gradient()(ModelScalar(model, Contrast(first, second)), images)
    assert torch.equal(result.values, wanted)


@pytest.mark.parametrize("target", ["label", [2, 0, 3], torch.tensor([2, 0, 3])])
def test_each_image_may_have_its_own_class(model, images, target):
    labels = torch.tensor([2, 0, 3])
    result = explain(model, images, target=target, labels=labels, method="gradient")
    assert torch.equal(result.explained, model(images)[torch.arange(3), labels])


def test_many_images_are_explained_as_each_alone(model, generator):
    images = torch.randn(70, 3, 8, 8, generator=generator)
    told = []
    result = explain(
        model,
        images,
        method=SmoothGrad(samples=3),
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    alone = explain(model, images[66:67], method=SmoothGrad(samples=3))
    assert torch.allclose(result.values[66:67], alone.values, atol=1e-6)
    assert [entry for entry in told if entry[0] == "explain"] == [
        ("explain", done, 70) for done in (0, 32, 64, 70)
    ]


def test_an_activation_map_reads_the_network_and_a_network_is_taken_as_it_is(model, images):
    network = Network.read(model, images)
    predicted = model(images).argmax(dim=1)
    wanted = attribute(GradCAM(), ModelScalar(network, Logit(predicted)), images).values
    for subject in (model, network):
        assert torch.equal(explain(subject, images, method="grad-cam").values, wanted)
    inner = explain(model, images, method=SmoothGrad(samples=1, sigma=0.0, method=GradCAM()))
    assert torch.allclose(inner.values, wanted)


@pytest.mark.parametrize("method", ["integrated-gradients", "grad-cam"])
def test_the_model_comes_back_untouched(model, images, untouched, method):
    with untouched(model):
        explain(model, images, method=method)


def test_a_batch_size_reaches_the_method(model, images):
    result = explain(model, images, method="gradient", batch_size=2)
    assert result.method == Gradient(batch_size=2)
    assert torch.allclose(result.values, explain(model, images, method="gradient").values)


def test_a_method_of_the_users_own_is_run(model, images):
    class Ones:
        def __call__(self, f, images):
            return torch.ones_like(images)

    result = explain(model, images, method=Ones())
    assert result.total.tolist() == [192.0] * 3
    assert np.isnan(result.cost)
    with pytest.raises(SettingError, match="Ones has no batch_size"):
        explain(model, images, method=Ones(), batch_size=2)


def test_what_is_saved_is_what_was_found(model, images, tmp_path):
    result = explain(model, images, classes=tuple("abcd"), names=("x", "y", "z"))
    result.save(tmp_path / "out")
    record = load_explanation(tmp_path / "out")
    assert record.names == ("x", "y", "z")
    assert record.model.classes == tuple("abcd")
    assert record.predictions == tuple(result.predictions.tolist())
    for at, one in enumerate(record.maps):
        assert np.allclose(one.values, result.values[at].sum(dim=0).numpy(), rtol=1e-5)
        assert one.gap == float(result.gap[at])
        assert one.total == float(result.total[at])
    with pytest.raises(OutputError):
        result.save(tmp_path / "out")
    result.save(tmp_path / "out", overwrite=True)


def test_a_figure_has_a_column_for_each_image(model, images, tmp_path):
    def size(count):
        explain(model, images[:count], method="gradient").plot(tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as picture:
            return picture.size

    (one, height), (three, same) = size(1), size(3)
    assert (three, same) == (3 * one, height)
    with pytest.raises(SettingError, match=r"\.png"):
        explain(model, images, method="gradient").plot(tmp_path / "figure.gif")


def test_a_figure_may_be_a_pdf_for_a_paper(model, images, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra 'figures'")
    result = explain(model, images, method="gradient")
    path = result.plot(tmp_path / "figure.pdf")
    assert path.read_bytes() == result.figure().content("pdf")
    assert path.read_bytes().startswith(b"%PDF")


def test_pictures_go_through_the_preprocessing(model):
    units = declared_preprocessing({"size": 8, "mean": 0.5, "std": 0.25}, "a test")
    pixels = torch.full((1, 3, 8, 8), 51 / 255)
    loaded = LoadedModel(module=model, name="m", classes=tuple("abcd"), preprocessing=units)
    result = explain(loaded, units.normalisation.to_model(pixels), method="gradient")
    assert (result.pictures[0] == 51).all()
    assert result.model.preprocessing["std"] == [0.25]
    assert result.model.name == "m"


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_unknown_units_are_stretched_for_display_only(channels):
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * 4, 2)).eval()
    images = torch.tensor([-2.0, 0.0, 1.0, 2.0]).view(1, 1, 2, 2).expand(1, channels, 2, 2)
    (picture,) = explain(model, images, method="gradient").pictures
    assert picture[..., 0].tolist() == [[0, 128], [191, 255]]
    flat = explain(model, torch.full((1, channels, 2, 2), 5.0), method="gradient").pictures[0]
    assert (flat == 0).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": "label"}, TargetError, "labels="),
        ({"target": 4}, TargetError, "classes run from 0 to 3"),
        ({"method": "gradcam"}, SettingError, "Did you mean grad-cam"),
        ({"method": Gradient(), "settings": {"steps": 3}}, SettingError, "given by name"),
        ({"names": ("one",)}, SettingError, "3 images need 3 names"),
    ],
)
def test_what_does_not_fit_is_refused(model, images, options, error, message):
    with pytest.raises(error, match=message):
        explain(model, images, **options)


def test_images_that_are_no_batch_are_refused(model, images):
    with pytest.raises(ShapeError, match=r"images\[None\]"):
        explain(model, images[0])


def test_data_and_tensors_are_explained_alike(model, images):
    (batch,) = TensorData(images=images).batches(8)
    assert torch.equal(explain(model, batch.images).values, explain(model, images).values)


TRANSFORMERS_ONLY = {"attention-rollout", "transformer-attribution"}


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_every_method_of_the_catalogue_explains_a_small_network_by_name(card):
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    if card.name in TRANSFORMERS_ONLY:
        with pytest.raises(WhenceError, match="attention"):
            explain(small(), images, method=card.name)
        return
    if card.name == "x-gradient":
        with pytest.raises(WhenceError, match="needs an X-DNN"):
            explain(small(), images, method=card.name)
        return
    result = explain(small(), images, method=card.name)
    assert result.values.shape[0] == 2
    assert result.values.isfinite().all()
