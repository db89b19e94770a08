"""The shared real data: networks that others trained reach the accuracies that were measured."""

from pathlib import Path

import pytest
import torch

from whence.adapters import load_data, load_model

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.reproduction


def accuracy(model, data, places=None):
    right = 0
    count = 0
    with torch.no_grad():
        for batch in data.batches(50, places):
            right += int((model.module(batch.images).argmax(1) == batch.labels).sum())
            count += len(batch.labels)
    assert data.skipped == ()
    return right / count


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [("resnet20", "resnet20-12fca82f.th", 0.910), ("resnet56", "resnet56-4bfd9763.th", 0.940)],
)
def test_the_cifar_networks_are_as_right_as_measured(name, weights, expected, shared_data):
    model = load_model(
        f"{EXAMPLES / 'cifar_resnet.py'}:{name}", weights=shared_data / "weights" / weights
    )
    data = load_data(
        shared_data / "cifar10_lossless.npz",
        model.preprocessing,
        classes=model.classes,
        split="test",
    )
    assert len(data) == 500
    assert accuracy(model, data) == pytest.approx(expected)


@pytest.fixture
def mobilenet(shared_data):
    return load_model(
        f"{EXAMPLES / 'mobilenet_v2_tf.py'}:mobilenet_v2_tf",
        weights=shared_data / "weights" / "mobilenet_v2_tf2_torchvision.pt",
    )


def test_mobilenet_is_about_as_right_on_photographs_as_measured(mobilenet, shared_data):
    data = load_data(
        shared_data / "imagenet_samples.zip",
        mobilenet.preprocessing,
        classes=mobilenet.classes,
        labels=Path("labels.json"),
    )
    assert len(data) == 500
    # Every fifth photograph; 84.6 % of all were measured with another resize.
    assert accuracy(mobilenet, data, range(0, 500, 5)) == pytest.approx(0.846, abs=0.05)


def test_folders_named_by_wordnet_ids_have_imagenets_classes(mobilenet, shared_data):
    data = load_data(
        shared_data / "imagenet_boxes.zip", mobilenet.preprocessing, classes=mobilenet.classes
    )
    assert data.mapping == "by WordNet id"
    assert data.classes[data.label(0)] == "tench"
    assert accuracy(mobilenet, data, range(0, 250, 5)) == pytest.approx(0.636, abs=0.1)


def test_thirty_thousand_pictures_in_an_archive_are_listed_and_read_in_place(shared_data):
    model = load_model(
        f"{EXAMPLES / 'cifar_resnet.py'}:resnet20",
        weights=shared_data / "weights" / "resnet20-12fca82f.th",
    )
    data = load_data(
        f"{shared_data / 'cifar10_jpeg.zip'}#test", model.preprocessing, classes=model.classes
    )
    assert (len(data), data.mapping) == (5000, "by name")
    # The network was trained on lossless pictures; JPEG costs it about ten points.
    assert accuracy(model, data, range(0, 5000, 10)) == pytest.approx(0.81, abs=0.05)
