"""The page of a study of harmony: one file, names escaped, numbers as in the record."""

import html
import io
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from whence.display import diverging
from whence.report.transfer import heat_png, heat_svg, render_transfer, write_transfer
from whence.results import DatasetCard, ModelCard, RunCard
from whence.results.transfer import (
    IntervalRecord,
    TransferMethod,
    TransferNetworkCard,
    TransferRecord,
    TransferRow,
)

HOSTILE = "<b>a</b>&"
NAMES = (HOSTILE, "b")


def about(value, half=0.02):
    return IntervalRecord(value=value, low=value - half, high=value + half)


def row(evaluator, shown, value, generator="", gain=None):
    return TransferRow(
        generator=generator,
        evaluator=evaluator,
        method="gc" if generator else "",
        shown=shown,
        mask="soft" if generator else "",
        fill="zero" if generator else "",
        count=50,
        accuracy=about(value),
        probability=about(value),
        agreement=about(value),
        kept=about(value),
        of_original=about(value),
        advantage=gain,
        agreement_advantage=gain,
    )


def network(name):
    card = ModelCard(
        name=name, fingerprint="0" * 64, classes=("x",), parameters=3, preprocessing={}
    )
    return TransferNetworkCard(name=name, family="CNN", model=card, size=(8, 8), right=40, count=50)


@pytest.fixture
def record():
    rows = [row(name, "original", 0.8) for name in NAMES]
    for generator in NAMES:
        for evaluator in NAMES:
            clear = generator == evaluator
            gain = about(0.31) if clear else about(0.013)
            rows.append(row(evaluator, "features", 0.55, generator, gain))
            rows.append(row(evaluator, "shuffled", 0.24, generator))
    return TransferRecord(
        networks=tuple(map(network, NAMES)),
        methods=(
            TransferMethod(name="gc", settings="GradCAM()", scale="maximum", blank={}, coverage={}),
        ),
        masks=("soft",),
        fills=("zero",),
        target="predicted",
        data=DatasetCard(name="noise", count=50, fingerprint="1" * 64),
        rows=tuple(rows),
        run=RunCard(
            command="whence transfer <script>", settings={"seed": 0}, versions={}, created=""
        ),
        notes=("A <note>.",),
    )


def test_the_page_is_one_file_that_loads_and_runs_nothing(record, tmp_path):
    write_transfer(record, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page == render_transfer(record)
    assert "default-src 'none'" in html.unescape(page)
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert " style=" not in page  # the policy would block it


def test_names_notes_and_commands_are_shown_as_they_are(record):
    page = render_transfer(record)
    assert "<b>a</b>" not in page
    for text in ("&lt;b&gt;a&lt;/b&gt;&amp;", "A &lt;note&gt;.", "whence transfer &lt;script&gt;"):
        assert text in page


def test_the_heat_map_has_every_number_and_its_colour(record):
    tree = ET.fromstring(heat_svg(record))  # noqa: S314 - our own drawing
    words = [node.text for node in tree.iter() if node.tag.endswith("text")]
    assert words.count("80") == 2
    assert words.count("55") == 4
    assert words.count("24") == 2  # the shuffled masks, a mean for each evaluator
    assert words.count("+31") == 2
    assert words.count("(+1)") == 2  # the interval holds 0
    fills = [node.get("fill") for node in tree.iter() if node.tag.endswith("rect")][1:]
    red, green, blue = diverging(np.array([0.55]))[0]
    assert fills.count(f"#{red:02x}{green:02x}{blue:02x}") == 4


def test_the_picture_is_twice_the_size_of_the_drawing_and_shows_the_same_colours(record):
    tree = ET.fromstring(heat_svg(record))  # noqa: S314 - our own drawing
    image = Image.open(io.BytesIO(heat_png(record)))
    assert image.size == (2 * float(tree.get("width")), 2 * float(tree.get("height")))
    boxes = [node for node in tree.iter() if node.tag.endswith("rect")][1:]
    for box in boxes:
        at = (2 * float(box.get("x")) + 12, 2 * float(box.get("y")) + 6)
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel(at)) == box.get("fill")


def test_a_cell_that_was_not_judged_is_a_dash(record):
    fewer = replace(record, rows=record.rows[:-2])
    tree = ET.fromstring(heat_svg(fewer))  # noqa: S314 - our own drawing
    words = [node.text for node in tree.iter() if node.tag.endswith("text")]
    assert words.count("-") == 2
    assert "-" in render_transfer(fewer)
