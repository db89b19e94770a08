"""The report in a real browser: keys, a narrow screen, the dark, paper, 500 images, bad names."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from whence.report import write_report

EVIL = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'.png"


@pytest.fixture(scope="module")
def report(fakes, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    record = fakes.fake_audit(queries=4, each=3, suspects=14)
    query = dataclasses.replace(record.queries[0], name=EVIL)
    image = dataclasses.replace(record.training_images[query.proponents[0].index], name=EVIL)
    images = {**record.training_images, image.index: image}
    record = dataclasses.replace(
        record, queries=(query, *record.queries[1:]), training_images=images
    )
    write_report(record, path)
    return path.as_uri(), record


def lightness(colour):
    red, green, blue = (int(part) for part in re.findall(r"\d+", colour)[:3])
    return 0.3 * red + 0.59 * green + 0.11 * blue


def test_a_file_name_with_a_script_in_it_is_only_a_name(tab, report):
    address, _ = report
    tab.goto(address)
    assert EVIL in tab.text_content("#image-1-title")
    assert tab.locator("img[src=x]").count() == 0


def test_keys_go_from_image_to_image_and_steer_the_maps(tab, report):
    address, _ = report
    tab.goto(address)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    for expected in ("image-1", "image-2"):
        tab.keyboard.press("j")
        assert tab.evaluate("document.activeElement.id") == expected
    tab.keyboard.press("k")
    assert tab.evaluate("document.activeElement.id") == "image-1"
    assert "one-scale" in tab.get_attribute("html", "class")
    tab.keyboard.press("s")
    assert "one-scale" not in tab.get_attribute("html", "class")
    before = tab.input_value("#opacity")
    tab.keyboard.press("[")
    assert int(tab.input_value("#opacity")) < int(before)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.getElementById('lens').open")
    tab.keyboard.press("Escape")
    assert not tab.evaluate("document.getElementById('lens').open")


def test_what_has_the_focus_can_be_seen(tab, report):
    tab.goto(report[0])
    for _ in range(4):
        tab.keyboard.press("Tab")
        style = "getComputedStyle(document.activeElement)"
        assert tab.evaluate(f"{style}.outlineStyle") == "solid"
        assert tab.evaluate(f"parseFloat({style}.outlineWidth)") >= 2


def test_the_value_under_the_pointer_is_the_maps(tab, report):
    address, record = report
    tab.goto(address)
    frame = tab.locator("#image-2 .test .frame")
    frame.scroll_into_view_if_needed()
    values = record.queries[1].attribution.values
    end = float(np.percentile(np.abs(values), 99))
    tried = 0
    for row, column in ((3, 4), (16, 16), (20, 9), (28, 30)):
        value = float(values[row, column])
        if abs(value) < 0.1 * end:
            continue
        told = ""
        for _ in range(50):  # scrolling, which may still go on, hides it
            box = frame.bounding_box()
            x = box["x"] + box["width"] * (column + 0.5) / values.shape[1]
            y = box["y"] + box["height"] * (row + 0.5) / values.shape[0]
            tab.mouse.move(x, y)
            told = tab.inner_text("#probe")
            if told:
                break
            tab.wait_for_timeout(100)
        tried += 1
        assert told.startswith("for" if value > 0 else "against")
        number = float(re.search(r"[\d.e-]+$", told)[0])
        assert abs(number - min(abs(value), end)) < 0.06 * end
    assert tried >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_systems_colours(tab, report, scheme):
    tab.emulate_media(color_scheme=scheme)
    tab.goto(report[0])
    back = lightness(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    ink = lightness(tab.evaluate("getComputedStyle(document.body).color"))
    assert (back > 200 and ink < 60) if scheme == "light" else (back < 40 and ink > 200)


def test_the_report_fits_a_narrow_screen(tab, report):
    tab.set_viewport_size({"width": 360, "height": 740})
    tab.goto(report[0])
    assert tab.evaluate("document.documentElement.scrollWidth") == 360


def test_printed_pages_have_the_content(tab, report):
    tab.goto(report[0])
    content = tab.pdf(format="A4")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 2 <= pages <= 12
    assert content.count(b"/Subtype /Image") + content.count(b"/Subtype/Image") >= 20
    tab.emulate_media(media="print")
    assert not tab.is_visible(".bar")
    for part in ("#image-4-title", "#made", ".brief"):
        assert tab.is_visible(part)


def test_pictures_and_tables_can_be_saved(tab, report):
    tab.goto(report[0])
    tab.click("#image-2 .test .frame")
    with tab.expect_download() as download:
        tab.click("#lens-save")
    with Path(download.value.path()).open("rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    tab.keyboard.press("Escape")
    with tab.expect_download() as download:
        tab.click(".csv a >> nth=0")
    with Path(download.value.path()).open(encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert len(lines) == 13
    assert '"Labelled"' in lines[0]


def test_500_images_are_laid_out_when_they_are_near(tab, fakes, tmp_path):
    record = fakes.fake_audit(queries=500, each=2, suspects=2)
    write_report(record, tmp_path / "report.html")
    tab.goto((tmp_path / "report.html").as_uri())
    assert tab.locator("article.query").count() == 500
    assert (
        tab.evaluate("getComputedStyle(document.querySelector('#image-400')).contentVisibility")
        == "auto"
    )
    for _ in range(3):
        tab.keyboard.press("j")
    assert tab.evaluate("document.activeElement.id") == "image-3"
    tab.emulate_media(reduced_motion="reduce")
    tab.evaluate("location.hash = 'image-400'")
    tab.wait_for_timeout(300)
    top = tab.evaluate("document.querySelector('#image-400').getBoundingClientRect().top")
    assert 0 <= top < 400
