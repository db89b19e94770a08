import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from whence.adapters import load_data
from whence.adapters.preprocessing import declared_preprocessing
from whence.errors import DataError, SettingError
from whence.recipes.evaluate_file import (
    EvaluationRequest,
    load_request,
    read_evaluation,
    request_text,
)
from whence.recipes.evaluate_masks import load_array, load_maps, load_object_masks
from whence.recipes.transfer_file import NetworkLine

FULL = """
data = "photos"
masks = "masks"
methods = ["gradient", "integrated-gradients:steps=64"]
count = 12
confidence = 0.9
target = 3

[metrics]
"deletion, black" = "deletion:fill=black"
near = "pointing-game:tolerance=2"

[metric_settings]
steps = 10
shares = [0.1, 0.5]

[maps]
theirs = "theirs.npy"

[[network]]
name = "one"
model = "model.py:one"
weights = "one.pt"
input = { size = 32 }

[[network]]
model = "torchvision/resnet18"
"""


@pytest.fixture
def study(tmp_path):
    for name in ("one.pt", "theirs.npy", "model.py"):
        (tmp_path / name).touch()
    (tmp_path / "photos").mkdir()
    path = tmp_path / "study.toml"
    path.write_text(FULL, encoding="utf-8")
    return path


def test_a_file_says_everything_that_options_say(study):
    found = read_evaluation(study)
    assert found.methods == ("gradient", "integrated-gradients:steps=64")
    assert found.metrics == {
        "deletion, black": "deletion:fill=black",
        "near": "pointing-game:tolerance=2",
    }
    assert (found.count, found.target, found.bootstrap.confidence) == (12, 3, 0.9)
    assert [one.name for one in found.networks] == ["one", "torchvision/resnet18"]
    assert found.networks[0].input == ("size=32",)
    assert found.settings()["metric_settings"] == {"steps": "10", "shares": "0.1 0.5"}


def test_sources_beside_the_file_are_found_from_anywhere(study):
    found = read_evaluation(study)
    here = study.parent
    assert found.data == str(here / "photos")
    assert found.masks == "masks"  # which is not beside the file
    assert found.maps == {"theirs": str(here / "theirs.npy")}
    assert found.networks[0].weights == str(here / "one.pt")


def test_options_given_beside_a_file_win(study):
    found = EvaluationRequest(count=3, methods=("grad-cam",)).over(read_evaluation(study))
    assert (found.count, found.methods) == (3, ("grad-cam",))
    assert found.confidence == 0.9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrisc = []", "Did you mean 'metrics'"),
        ("count = '3'", "count takes a value of type int"),
        ("count = true", "count takes a value of type int"),
        ("methods = [3]", "takes texts such as"),
        ("network = 3", "a section of its own"),
        ("[[network]]\nname = 'a'", "needs a model"),
        ("[[network]]\nmodle = 'a'", "no setting 'modle'"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_the_place(tmp_path, text, message):
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError, match=message) as caught:
        read_evaluation(path)
    assert "study.toml" in str(caught.value)


def test_what_is_no_toml_is_no_traceback(tmp_path):
    (tmp_path / "bad.toml").write_text("count = = 3")
    with pytest.raises(DataError, match="no readable TOML"):
        read_evaluation(tmp_path / "bad.toml")
    with pytest.raises(DataError, match="There is no file"):
        read_evaluation(tmp_path / "none.toml")


def test_a_request_without_networks_or_images_says_what_is_missing():
    with pytest.raises(SettingError, match="--model"):
        load_request(EvaluationRequest(data="digits"))
    line = NetworkLine(name="a", model="torchvision/resnet18")
    with pytest.raises(DataError, match="Give the images"):
        load_request(EvaluationRequest(networks=(line,)))


words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@given(
    methods=st.lists(words, min_size=1, max_size=3),
    maps=st.dictionaries(words, words, max_size=2),
    confidence=st.floats(0.01, 0.99),
    count=st.integers(1, 10**6),
    name=words,
)
def test_a_request_that_was_written_reads_back(
    tmp_path_factory, methods, maps, confidence, count, name
):
    request = EvaluationRequest(
        networks=(NetworkLine(name=name, model="timm/x", input=("size=3", "mean=0.5")),),
        methods=tuple(methods),
        maps=maps,
        confidence=confidence,
        count=count,
        download=True,
        metric_settings={"steps": 3, "fill": "black"},
    )
    path = tmp_path_factory.mktemp("written") / "a.toml"
    path.write_bytes(request_text(request).encode())
    assert read_evaluation(path) == request


@pytest.fixture
def photos(tmp_path):
    for name in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path)
    return load_data(tmp_path / "photos", declared_preprocessing({"size": 8}, "a test"))


def left_half(high):
    mask = np.zeros((8, 16), np.uint8)
    mask[:, :8] = high
    return mask


@pytest.mark.parametrize("high", [1, 255])
def test_masks_are_found_by_name_and_cropped_as_their_images(photos, tmp_path, high):
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(left_half(high)).save(path)
    found = load_object_masks(str(tmp_path / "masks"), photos, [0, 2])
    assert found.shape == (3, 1, 8, 8)
    assert found[0, 0, :, :4].min() == 1  # the centre crop keeps columns 4 to 11 of 16
    assert found[0, 0, :, 4:].max() == 0
    assert found[1].max() == 0  # it was not asked for


def test_a_mask_that_is_missing_is_named(photos, tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(left_half(255)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match=r"no mask for cat/b\.jpg"):
        load_object_masks(str(tmp_path / "masks"), photos, [0, 1])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
def test_masks_may_be_an_array(photos, tmp_path, kind):
    stack = np.stack([left_half(1)] * 3).astype(kind)
    np.savez(tmp_path / "m.npz", masks=stack, other=stack[:1])
    found = load_object_masks(f"{tmp_path / 'm.npz'}#masks", photos, [0, 1, 2])
    assert found.mean() == 0.5
    with pytest.raises(DataError, match="name one of them"):
        load_object_masks(str(tmp_path / "m.npz"), photos, [0])
    with pytest.raises(DataError, match="one mask for each of the 3"):
        load_object_masks(f"{tmp_path / 'm.npz'}#other", photos, [0])


def test_maps_are_read_from_arrays_and_nothing_else(tmp_path):
    np.save(tmp_path / "maps.npy", np.ones((2, 4, 4)))
    assert torch.equal(load_maps(str(tmp_path / "maps.npy")), torch.ones(2, 4, 4))
    np.savez(tmp_path / "one.npz", maps=np.ones((2, 1, 4, 4)))
    assert load_maps(str(tmp_path / "one.npz")).shape == (2, 1, 4, 4)
    np.save(tmp_path / "flat.npy", np.ones(4))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    (tmp_path / "text.txt").write_text("no")
    for name, message in (
        ("flat.npy", "must hold maps"),
        ("torn.npz", "torn"),
        ("none.npz", "There is no file"),
        ("text.txt", r"\.npy or"),
    ):
        with pytest.raises(DataError, match=message):
            load_array(str(tmp_path / name)) if name != "flat.npy" else load_maps(
                str(tmp_path / name)
            )
