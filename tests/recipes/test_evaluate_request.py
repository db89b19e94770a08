import numpy as np
import pytest
import torch
from PIL import Image

from whence.adapters import load_data
from whence.adapters.preprocessing import declared_preprocessing
from whence.errors import DataError, SettingError
from whence.recipes.evaluate_masks import load_array, load_maps, load_object_masks
from whence.recipes.evaluate_request import EvaluationRequest, load_request
from whence.recipes.transfer_request import NetworkLine, named_texts


def test_a_request_without_networks_or_images_says_what_is_missing():
    with pytest.raises(SettingError, match="--model"):
        load_request(EvaluationRequest(data="digits"))
    line = NetworkLine(name="a", model="torchvision/resnet18")
    with pytest.raises(DataError, match="Give the images"):
        load_request(EvaluationRequest(networks=(line,)))


def test_methods_and_metrics_may_have_names():
    assert named_texts(["gradient", "deletion:steps=3"]) == ("gradient", "deletion:steps=3")
    assert named_texts(["mine = deletion:steps=3", "gini"]) == {
        "mine": "deletion:steps=3",
        "gini": "gini",
    }
    with pytest.raises(SettingError, match="'a' is given twice"):
        named_texts(["a=gini", "a=deletion"])


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
