"""Pictures as files, and figures."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from whence.display import (
    Panel,
    data_uri,
    enlarge,
    figure_of_query,
    grey,
    is_pixel_art,
    jpeg_bytes,
    overlay,
    picture_uri,
    png_bytes,
    shrink,
)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_a_png_holds_the_picture_exactly():
    picture = noise(5, 7, 3)
    assert (np.asarray(Image.open(io.BytesIO(png_bytes(picture)))) == picture).all()


def test_a_small_picture_stays_exact_in_its_uri():
    picture = noise(8, 8, 3)
    assert (np.asarray(read(picture_uri(picture))) == picture).all()


def test_a_large_picture_becomes_a_small_jpeg():
    image = read(picture_uri(noise(600, 300, 3), 200))
    assert image.format == "JPEG"
    assert image.size == (100, 200)


def test_a_uri_names_its_kind():
    assert data_uri(jpeg_bytes(noise(4, 4, 3)), "jpeg").startswith("data:image/jpeg;base64,")


def test_shrinking_keeps_the_proportions_and_never_enlarges():
    assert shrink(noise(300, 100, 3), 150).shape == (150, 50, 3)
    assert shrink(noise(1000, 1, 3), 100).shape == (100, 1, 3)
    small = noise(20, 30, 3)
    assert shrink(small, 30) is small


def test_enlarging_repeats_each_pixel():
    picture = noise(2, 3, 3)
    large = enlarge(picture, 7)
    assert large.shape == (8, 12, 3)
    assert (large[::4, ::4] == picture).all()
    assert (large[3::4, 3::4] == picture).all()
    assert enlarge(picture, 1).shape == picture.shape


@pytest.mark.parametrize(("side", "expected"), [(8, True), (96, True), (97, False)])
def test_small_pictures_show_their_pixels(side, expected):
    assert is_pixel_art(noise(side, side, 3)) is expected
    assert is_pixel_art(noise(4, side, 3)) is expected


def panel(side, value, title="a title", note="a note"):
    picture = np.full((side, side, 3), 90, np.uint8)
    return Panel(
        picture=picture, values=np.full((side, side), value, np.float32), title=title, note=note
    )


def test_grey_keeps_the_light_and_drops_the_colours():
    picture = noise(6, 6, 3)
    found = grey(picture)
    assert (found[..., 0] == found[..., 1]).all()
    assert (found[..., 0] == found[..., 2]).all()
    luma = picture @ np.array([0.299, 0.587, 0.114])
    assert np.abs(found[..., 0] - (0.6 * luma + 0.4 * 127.5)).max() <= 1.5


def colours_of(figure):
    return {tuple(colour) for colour in np.unique(figure.reshape(-1, 3), axis=0)}


def mapped(value, limit=1.0, opacity=1.0):
    below = grey(np.full((1, 1, 3), 90, np.uint8))
    return tuple(overlay(below, np.full((1, 1), value), limit, opacity=opacity)[0, 0])


def test_a_figure_shows_pictures_and_maps_of_both_signs():
    figure = figure_of_query(panel(8, 1.0), [panel(8, 1.0), panel(8, -1.0)], opacity=1.0)
    assert {(90, 90, 90), mapped(1.0), mapped(-1.0)} <= colours_of(figure)
    assert mapped(-1.0) not in colours_of(figure_of_query(panel(8, 1.0), [], opacity=1.0))


def test_each_map_of_a_figure_has_its_own_scale():
    weak, strong = panel(8, 0.1), panel(8, -1.0)
    figure = figure_of_query(panel(8, 7.0), [weak, strong], opacity=1.0)
    assert (figure == mapped(1.0)).all(axis=-1).sum() > 2 * 170**2
    assert (figure == mapped(-1.0)).all(axis=-1).sum() > 170**2


def test_a_figure_of_photographs_sums_their_maps_over_cells():
    checks = (np.indices((224, 224)).sum(axis=0) % 2 * 2.0 - 1).astype(np.float32)
    checks[:112, :112] = 0.1
    photograph = Panel(picture=np.full((224, 224, 3), 90, np.uint8), values=checks, title="")
    figure = figure_of_query(photograph, [], opacity=1.0)
    assert (figure == mapped(1.0)).all(axis=-1).sum() > 80**2
    assert tuple(mapped(-1.0)) not in colours_of(figure)


def test_a_figure_grows_with_its_training_images_and_takes_long_names():
    long = panel(100, 1.0, title="a very long name of a class " * 5, note="x" * 500)
    widths = [figure_of_query(long, [long] * count).shape[1] for count in (0, 1, 5)]
    assert widths[0] < widths[1] < widths[2]


def test_a_figure_keeps_the_proportions_of_its_pictures():
    wide = Panel(
        picture=np.zeros((50, 200, 3), np.uint8), values=np.zeros((50, 200)), title="", note=""
    )
    black = (figure_of_query(wide, []) == 0).all(axis=-1)
    rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
    assert len(columns) == pytest.approx(4 * len(rows), rel=0.05)
