import io

import numpy as np
import pytest
from PIL import Image

from whence.adapters import images as images_module
from whence.adapters import load_image
from whence.adapters.images import decode_image, is_image_name
from whence.errors import ImageError


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data):
    image = decode_image(data, "x.png")
    assert image.mode == "RGB"
    return np.asarray(image)


def test_a_colour_picture_comes_back_to_the_bit(tmp_path, picture):
    picture().save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(picture()))


def test_grey_fills_all_three_channels(picture):
    grey = picture(mode="L")
    assert np.array_equal(pixels(encoded(grey)), np.asarray(grey)[:, :, None].repeat(3, 2))


def test_black_and_white_becomes_0_and_255(picture):
    two = picture(mode="1")
    assert np.array_equal(pixels(encoded(two))[:, :, 1], np.asarray(two) * 255)


def test_16_bits_are_divided_by_65535_whatever_the_brightest_value():
    values = np.array([[0, 257, 25700, 32896]], dtype=np.uint16)
    assert pixels(encoded(Image.fromarray(values)))[0, :, 0].tolist() == [0, 1, 100, 128]


def test_16_bit_tiff_is_read_like_16_bit_png():
    values = np.array([[0, 25700, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(values), "TIFF")
    assert pixels(data)[0, :, 2].tolist() == [0, 100, 255]


def test_floating_point_in_0_to_1_is_scaled_and_beyond_it_is_named():
    inside = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert pixels(encoded(inside, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    outside = Image.fromarray(np.array([[0.0, 7.5]], dtype=np.float32))
    with pytest.raises(ImageError, match=r"x\.png holds floating point from 0 to 7\.5"):
        pixels(encoded(outside, "TIFF"))
    broken = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(ImageError, match="floating point"):
        pixels(encoded(broken, "TIFF"))


def test_32_bit_integers_beyond_16_bits_are_named():
    deep = Image.fromarray(np.array([[0, 70000]], dtype=np.int32))
    with pytest.raises(ImageError, match="integers from 0 to 70000"):
        pixels(encoded(deep, "TIFF"))


def test_transparency_is_laid_over_white():
    clear = Image.new("RGBA", (1, 1), (200, 0, 0, 0))
    half = Image.new("RGBA", (1, 1), (200, 0, 0, 128))
    assert pixels(encoded(clear))[0, 0].tolist() == [255, 255, 255]
    # 200 * 128/255 + 255 * 127/255 = 227.4; 0 + 127 = 127
    assert pixels(encoded(half))[0, 0].tolist() == [227, 127, 127]


def test_a_palette_with_a_transparent_colour_is_laid_over_white(picture):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert pixels(encoded(image, transparency=0))[0].tolist() == [[255] * 3, [200, 100, 50]]


def test_cmyk_becomes_rgb():
    ink = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    seen = pixels(encoded(ink, "JPEG", quality=95))[4, 4].astype(int)
    assert np.abs(seen - [0, 255, 255]).max() <= 3


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels(data)[0, 0].tolist() == [255, 0, 0]


def test_the_orientation_in_exif_is_applied(picture):
    image = picture(size=(2, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter, clockwise
    shown = pixels(encoded(image, exif=exif))
    assert np.array_equal(shown, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("part", [0.95, 0.5, 0.05])
def test_a_truncated_file_of_any_kind_is_named(kind, part, picture):
    data = encoded(picture(size=(64, 64)), kind)
    with pytest.raises(ImageError, match=r"^holiday\.jpg (is truncated or corrupt|is no image)"):
        decode_image(data[: int(part * len(data))], "holiday.jpg")


def test_an_empty_file_is_named():
    with pytest.raises(ImageError, match=r"a\.png is empty \(0 bytes\)"):
        decode_image(b"", "a.png")


def test_a_web_page_and_a_git_lfs_pointer_are_named():
    with pytest.raises(ImageError, match=r"a\.png is a web page"):
        decode_image(b"<!DOCTYPE html><html>no such file</html>", "a.png")
    with pytest.raises(ImageError, match=r"Git LFS pointer.*git lfs pull"):
        decode_image(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a.png")
    with pytest.raises(ImageError, match="is no image, or its beginning is corrupt"):
        decode_image(b"once upon a time", "a.png")


def test_a_decompression_bomb_is_named(monkeypatch, picture):
    monkeypatch.setattr(images_module, "MAXIMUM_PIXELS", 63)
    with pytest.raises(ImageError, match="more than 63 pixels"):
        decode_image(encoded(picture()), "bomb.png")


@pytest.mark.parametrize("limit", [40, 20])
def test_pillows_own_alarm_about_bombs_is_translated(limit, monkeypatch, picture):
    data = encoded(picture())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"bomb\.png has more than"):
        decode_image(data, "bomb.png")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(ImageError, match="There is no image file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


def test_endings_count_in_any_case_and_hidden_files_do_not():
    names = ["a.JPEG", "b/c.tIf", "x.txt", "b/.a.png", "._a.jpg", "jpg"]
    assert [is_image_name(n) for n in names] == [True, True, False, False, False, False]
