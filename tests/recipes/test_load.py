"""Lines of text become a model and its data."""

from importlib.util import find_spec

import numpy as np
import pytest

from whence.core import Normalisation
from whence.errors import DataError, SettingError
from whence.recipes import load_architecture, load_case, load_subject
from whence.recipes.load import load_classes, pairs, read_input, spread

FACTORY = """
from torch import nn

def make():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    net.preprocessing = {"size": 4}
    return net
"""


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model.py").write_text(FACTORY, encoding="utf-8")
    return load_subject(f"{tmp_path / 'model.py'}:make")


def arrays(path, labels=None, count=3):
    images = np.zeros((count, 4, 4, 3), dtype=np.uint8)
    extra = {} if labels is None else {"y": np.array(labels)}
    np.savez(path, x=images, **extra)
    return path


def test_training_and_test_data_share_the_classes_of_the_training_data(model, tmp_path):
    train = arrays(tmp_path / "train.npz", labels=["a", "c", "b"])
    test = arrays(tmp_path / "test.npz", labels=["c", "c", "c"])
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    named = load_subject(f"{tmp_path / 'model.py'}:make", classes=tmp_path / "names.txt")
    case = load_case(named, train, test)
    assert case.model.classes == case.train.classes == case.test.classes == ("a", "b", "c")
    assert case.test.labels == (2, 2, 2)


def test_labels_may_be_in_a_file_of_their_own(model, tmp_path):
    images = arrays(tmp_path / "images.npz")
    np.save(tmp_path / "labels.npy", np.array([2, 1, 0]))
    case = load_case(model, images, images, train_labels=tmp_path / "labels.npy")
    assert case.train.labels == (2, 1, 0)
    assert case.test.labels is None


def test_training_data_without_labels_are_refused(model, tmp_path):
    images = arrays(tmp_path / "images.npz")
    with pytest.raises(DataError, match="no labels"):
        load_case(model, images, images)


def test_the_input_is_read_from_settings():
    found = read_input(["size=32,48", "mean=0.5", "std=0.1,0.2,0.3", "crop=false", "resize=none"])
    assert found.size == (32, 48)
    assert found.normalisation == Normalisation(mean=(0.5,), std=(0.1, 0.2, 0.3))
    assert (found.crop, found.resize, found.source) == (False, None, "command line")
    assert read_input([]) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [(["steps"], "key=value"), (["=3"], "key=value"), (["a=1", "a=2"], "given twice")],
)
def test_settings_that_cannot_be_read_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        pairs(settings, "steps=64")


def test_a_setting_may_hold_an_equals_sign():
    assert pairs(["a = b=c"], "x=1") == {"a": "b=c"}


def test_class_names_are_lines(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("tench, Tinca tinca\n  goldfish \n\n", encoding="utf-8")
    assert load_classes(path) == ("tench, Tinca tinca", "goldfish")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no file"), (b"", "is empty"), (b"a\n\nb\n", "line 2"), (b"\xff\xfe\xfa", "as text")],
)
def test_a_file_that_holds_no_class_names_is_refused(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_classes(path)


@pytest.mark.parametrize(("total", "count", "places"), [(10, 4, [0, 2, 5, 7]), (2, 5, [0, 1])])
def test_places_are_spread_evenly(total, count, places):
    assert spread(total, count) == places


def test_an_architecture_is_built_without_touching_global_randomness(model):
    import torch

    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    state = torch.get_rng_state()
    found = load_architecture("torchvision/squeezenet1_1", ["size=64"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in found.module.modules())
    assert (len(found.classes), found.preprocessing.size) == (1000, (64, 64))
