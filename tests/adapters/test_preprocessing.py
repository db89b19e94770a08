import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from whence.adapters import Preprocessing, declared_preprocessing
from whence.adapters.timm import build_timm, open_timm, timm_preprocessing
from whence.adapters.torchvision import open_torchvision, torchvision_preprocessing
from whence.adapters.transformers import from_processor, open_transformers
from whence.core import Normalisation
from whence.errors import ImageError, SettingError

SHAPES = [(300, 400), (401, 333), (100, 80), (224, 224), (230, 37)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "efficientnet_b0", "swin_t"])
def test_torchvisions_own_transforms_make_the_same_input(name, shape, picture):
    image = picture(size=shape)
    models = open_torchvision().models
    oracle = models.get_model_weights(name).DEFAULT.transforms()(image)
    ours = torchvision_preprocessing(name)
    assert torch.equal(ours.tensor(image), oracle)
    assert ours.source == "weights' own transforms"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "levit_128s"])
def test_timms_own_transforms_make_the_same_input(name, shape, picture):
    timm = open_timm()
    model = build_timm(name, 3)
    config = timm.data.resolve_data_config({}, model=model)
    image = picture(size=shape)
    oracle = timm.data.create_transform(**config)(image)
    assert torch.allclose(timm_preprocessing(model).tensor(image), oracle, atol=1e-6)


@pytest.mark.parametrize(
    ("processor", "options"),
    [
        ("ViTImageProcessor", {}),
        ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 1.0, 1.0]}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
        ("CLIPImageProcessor", {}),
        ("BitImageProcessor", {"size": {"shortest_edge": 60}, "crop_size": 48}),
    ],
)
@pytest.mark.parametrize("shape", [(90, 70), (64, 64)])
def test_transformers_own_processors_make_the_same_input(processor, options, shape, picture):
    kind = getattr(open_transformers(), processor)(**options)
    image = picture(size=shape)
    ours = from_processor(kind.to_dict()).tensor(image)
    oracle = torch.as_tensor(np.asarray(kind(image)["pixel_values"][0]))
    # Theirs resizes tensors, ours pictures: they round differently, by one or two of 256 steps.
    steps = (ours - oracle).abs().flatten() * 255 * 0.3
    assert ours.shape == oracle.shape
    assert steps.mean() < 0.5
    assert steps.max() < 6


def test_a_processor_that_swaps_colours_is_refused():
    with pytest.raises(SettingError, match="swaps red and blue"):
        from_processor({"do_flip_channel_order": True})


def test_bytes_are_divided_by_255_and_normalised(plain):
    pre = dataclasses.replace(plain, normalisation=Normalisation(mean=(0.5,), std=(0.25,)))
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    expected = (torch.arange(64.0).reshape(8, 8) / 255 - 0.5) / 0.25
    assert torch.allclose(pre.tensor(values), expected.expand(3, 8, 8))


def test_arrays_and_pictures_of_the_same_bytes_give_the_same_input(plain, picture):
    pre = dataclasses.replace(plain, resize=(5, 6), size=(5, 6), interpolation="bicubic")
    image = picture()
    assert torch.equal(pre.tensor(np.asarray(image)), pre.tensor(image))
    grey = picture(mode="L")
    assert torch.equal(pre.tensor(np.asarray(grey)[:, :, None]), pre.tensor(grey))


def test_floating_point_arrays_are_resized_without_rounding_to_bytes(plain):
    pre = dataclasses.replace(plain, resize=(2, 2), size=(2, 2))
    flat = np.full((8, 8, 3), 0.1234567, dtype=np.float64)
    assert torch.allclose(pre.tensor(flat), torch.full((3, 2, 2), 0.1234567), atol=1e-6)
    with pytest.raises(ImageError, match="NaN or infinity"):
        pre.tensor(np.full((8, 8), np.nan))


def test_one_channel_takes_the_luminance_of_colours(plain):
    pre = dataclasses.replace(plain, channels=1)
    red = np.zeros((8, 8, 3), dtype=np.float32)
    red[:, :, 0] = 1
    assert pre.tensor(red).shape == (1, 8, 8)
    assert torch.allclose(pre.tensor(red), torch.tensor(0.299))
    bytes_ = (red * 255).astype(np.uint8)
    assert torch.allclose(pre.tensor(bytes_), torch.tensor(76 / 255))


def test_the_picture_of_an_input_is_the_file_again(plain, picture):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    pre = dataclasses.replace(plain, normalisation=Normalisation(mean=mean, std=std))
    assert np.array_equal(pre.picture(pre.tensor(picture())), np.asarray(picture()))


def test_the_picture_of_a_grey_input_has_three_equal_channels(plain, picture):
    pre = dataclasses.replace(plain, channels=1)
    shown = pre.picture(pre.tensor(picture(mode="L")))
    assert np.array_equal(shown, np.asarray(picture(mode="L"))[:, :, None].repeat(3, 2))


def test_values_beyond_the_pixels_are_clamped_for_display(plain):
    assert plain.picture(torch.full((3, 8, 8), 7.0)).max() == 255
    assert plain.picture(torch.full((3, 8, 8), -7.0)).max() == 0


def test_a_picture_smaller_than_the_crop_is_filled_with_black(plain):
    pre = dataclasses.replace(plain, crop=True)
    seen = pre.tensor(np.full((4, 6), 255, dtype=np.uint8))[0]
    expected = torch.zeros(8, 8)
    expected[2:6, 1:7] = 1
    assert torch.equal(seen, expected)


def test_a_picture_of_another_size_that_nothing_resizes_is_named(plain, picture):
    with pytest.raises(ImageError, match="9 x 7 pixels and the model takes 8 x 8"):
        plain.tensor(picture(size=(9, 7)))


@pytest.mark.parametrize("shape", [(8, 8, 4), (2, 8, 8, 3), (8,), (3, 8, 8)])
def test_an_array_of_another_shape_is_named(shape, plain):
    with pytest.raises(ImageError, match=r"A picture is an array \(h, w\)"):
        plain.tensor(np.zeros(shape, dtype=np.uint8))


def test_an_array_of_another_type_is_named(plain):
    with pytest.raises(ImageError, match="int64"):
        plain.tensor(np.zeros((8, 8), dtype=np.int64))


def test_what_is_declared_is_described():
    pre = declared_preprocessing({"size": [4, 6], "mean": 0.5, "std": [1, 2, 3]}, "command line")
    assert pre.describe() == {
        "size": [4, 6],
        "resize": [4, 6],
        "crop": False,
        "interpolation": "bilinear",
        "channels": 3,
        "mean": [0.5],
        "std": [1.0, 2.0, 3.0],
        "source": "command line",
    }


def test_a_square_size_resizes_the_shorter_side_and_crops():
    pre = declared_preprocessing({"size": 32}, "x")
    assert (pre.size, pre.resize, pre.crop) == ((32, 32), 32, True)
    assert pre.normalisation.mean == (0.485, 0.456, 0.406)


def test_two_equal_preprocessings_are_equal_and_hash_alike():
    one, two = (declared_preprocessing({"size": 32}, "x") for _ in range(2))
    assert one == two
    assert isinstance(one, Preprocessing)
    assert hash(one) == hash(two)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"means": 1}, "no setting 'means'.*channels, crop"),
        ({"size": "big"}, "size is a whole number or two"),
        ({"size": 0}, "Sizes must be positive"),
        ({"mean": "dark"}, "mean is a number or one for each channel"),
        ({"std": 0}, "positive deviations"),
        ({"mean": (0.1, 0.2)}, "3 channels need 1 or 3 values of mean; got 2"),
        ({"interpolation": "fractal"}, "no interpolation 'fractal'.*bicubic"),
        ({"channels": 4}, "1 or 3 channels; got 4"),
        ({"channels": "rgb"}, "channels is 1 or 3"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(SettingError, match=message):
        declared_preprocessing(settings, "x")


def test_nearest_keeps_the_values_that_occur(plain):
    pre = dataclasses.replace(plain, resize=(16, 16), size=(16, 16), interpolation="nearest")
    values = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    doubled = torch.from_numpy(values.repeat(2, 0).repeat(2, 1)).float() / 255
    assert torch.equal(pre.tensor(Image.fromarray(values))[0], doubled)
